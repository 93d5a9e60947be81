//! What the threads of a process have done, as the kernel counts it.

use std::fs;

/// One thread of a process, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `S` while it sleeps.
    pub state: char,
    /// How long it has run, in nanoseconds.
    pub run_nanos: u64,
    /// How often it has gone to sleep or was put aside.
    pub switches: u64,
}

/// All threads of a process.
pub fn threads(process: u32) -> Vec<Thread> {
    let directory = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let ids = directory.map(|entry| {
        let name = entry.expect("it can be read").file_name();
        name.to_string_lossy().parse().expect("its name is a number")
    });
    let mut threads: Vec<Thread> = ids.filter_map(|id| thread(process, id)).collect();
    threads.sort_unstable_by_key(|thread| thread.id);
    threads
}

/// A thread, unless it has just ended.
fn thread(process: u32, id: u32) -> Option<Thread> {
    let read = |file| fs::read_to_string(format!("/proc/{process}/task/{id}/{file}")).ok();
    let (status, schedule) = (read("status")?, read("schedstat")?);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("Linux says {name}")).trim()
    };
    let count = |name| field(name).parse::<u64>().expect("it is a number");
    Some(Thread {
        id,
        name: field("Name:").to_owned(),
        state: field("State:").chars().next().expect("it is a letter"),
        run_nanos: schedule.split(' ').next().and_then(|text| text.parse().ok()).expect("a number"),
        switches: count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:"),
    })
}

/// Those that have run between the two moments, with what they had done before.
pub fn that_ran<'a>(
    before: &'a [Thread],
    after: &'a [Thread],
) -> Vec<(Option<&'a Thread>, &'a Thread)> {
    after
        .iter()
        .map(|now| (before.iter().find(|then| then.id == now.id), now))
        .filter(|(then, now)| *then != Some(*now))
        .collect()
}
