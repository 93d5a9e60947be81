//! Asks the kernel which machine this is: a figure without its machine is no result.
//!
//! Nothing here fails. What the kernel does not tell (a sandbox may hide `/proc`) is `unknown` or
//! zero, for a measurement should not end on its footnote.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::system::{sysinfo, uname};

pub use crate::report::Machine;

impl Machine {
    /// The machine that this process runs on.
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: kernel(),
            cpu: cpu_name(&cpuinfo),
            cores: cores(&cpuinfo),
            memory_bytes: memory_bytes(),
            open_files_max: open_files_max(),
        }
    }
}

fn kernel() -> String {
    let name = uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

/// How many there are: this process may be kept to some of them.
fn cores(cpuinfo: &str) -> usize {
    let is_core = |line: &&str| line.split(':').next().is_some_and(|key| key.trim() == "processor");
    cpuinfo.lines().filter(is_core).count()
}

/// The first processor's name: `model name` on x86, `Model` or `Hardware` on most Arm boards.
fn cpu_name(cpuinfo: &str) -> String {
    let fields: Vec<(&str, &str)> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    ["model name", "Model", "Hardware"]
        .iter()
        .find_map(|name| fields.iter().find(|(key, value)| key == name && !value.is_empty()))
        .map_or_else(|| "unknown".into(), |(_, value)| (*value).to_owned())
}

fn memory_bytes() -> u64 {
    let info = sysinfo();
    #[allow(clippy::useless_conversion)] // `totalram` is 32 bits wide on 32-bit machines
    let units = u64::from(info.totalram);
    units * u64::from(info.mem_unit)
}

/// The hard limit: the load tester raises its soft one to it. No limit is `u64::MAX`.
fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_memory_and_files() {
        let machine = Machine::read();
        assert!(machine.kernel.starts_with("Linux "), "{}", machine.kernel);
        assert!(machine.cores > 0);
        assert!(machine.memory_bytes > 1 << 20);
        assert!(machine.open_files_max > 0);
    }

    #[test]
    fn the_name_of_a_processor_is_found_on_x86_and_on_arm() {
        let x86 = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Processor\n";
        assert_eq!(cpu_name(x86), "Intel(R) Xeon(R) Processor");
        let arm = "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 5 Model B\n";
        assert_eq!(cpu_name(arm), "Raspberry Pi 5 Model B");
        assert_eq!(cpu_name(""), "unknown");
    }
}
