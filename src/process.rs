//! What the system says of this process (`proc(5)`): processor time, memory, files.

use std::fs;

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// What could be found out: where `/proc` is not mounted, little.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Of the user and of the system.
    pub cpu_seconds: Option<f64>,
    /// Memory that is in use.
    pub resident_bytes: Option<u64>,
    /// Addresses that are in use.
    pub virtual_bytes: Option<u64>,
    /// Seconds since 1970.
    pub started_at: Option<f64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// As many as there may be; none when there is no limit.
    pub files_max: Option<u64>,
}

impl Process {
    /// Asks the system.
    pub fn read() -> Process {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        Process {
            open_files: open_files(),
            files_max: getrlimit(Resource::Nofile).current,
            ..parse(&stat, &boot, clock_ticks_per_second(), page_size() as u64)
        }
    }
}

/// Linux 6.2 and later say it as the size of the directory; before that each is counted.
fn open_files() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        files => Some(files),
    }
}

fn parse(stat: &str, boot: &str, ticks_per_second: u64, page_bytes: u64) -> Process {
    // The name of the program may have spaces and parentheses in it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let field = |number: usize| -> Option<u64> {
        // The first one here is number 3 in the manual.
        fields.split(' ').nth(number - 3)?.trim().parse().ok()
    };
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
    let booted_at = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok());
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| seconds(user + system)),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * page_bytes),
        started_at: booted_at.zip(field(22)).map(|(at, ticks)| at as f64 + seconds(ticks)),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_manual() {
        let stat = "77 (a ) b) S 4 5 6 7 8 9 10 11 12 13 150 50 16 17 18 19 20 21 2200 23000 24\n";
        let found = parse(stat, "cpu 1\nbtime 1000\n", 100, 4_096);
        let expected = Process {
            cpu_seconds: Some(2.0),
            started_at: Some(1_022.0),
            virtual_bytes: Some(23_000),
            resident_bytes: Some(24 * 4_096),
            ..Process::default()
        };
        assert_eq!(found, expected);
        assert_eq!(parse("", "", 100, 4_096), Process::default());
    }

    #[test]
    fn this_process_is_alive() {
        let process = Process::read();
        assert!(process.resident_bytes < process.virtual_bytes, "{process:?}");
        assert!(process.open_files > Some(2) && process.open_files < process.files_max);
        assert!(process.started_at > Some(1.6e9), "{process:?}");
    }
}
