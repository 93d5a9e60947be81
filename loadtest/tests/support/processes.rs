//! What the kernel says of processes.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("this is Linux").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(_, its)| its == parent)).collect()
}

/// `kill -9`.
pub fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("no process has number 0");
    kill_process(pid, Signal::KILL).expect("the process is ours");
}

/// Whether it runs: one that only waits for somebody to ask for its end does not.
pub fn is_running(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The anonymous memory of a process in bytes.
pub fn anonymous_memory(pid: u32) -> u64 {
    let memory = status(pid, "RssAnon:");
    let kilobytes = memory.strip_suffix(" kB").expect("a size");
    kilobytes.parse::<u64>().expect("a number") * 1024
}

/// Whether a process does something of its own when the signal comes.
pub fn catches(pid: u32, signal: Signal) -> bool {
    let caught = u64::from_str_radix(&status(pid, "SigCgt:"), 16).expect("a mask");
    caught >> (signal.as_raw() - 1) & 1 == 1
}

/// A line of the status of a process that runs.
fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the kernel says so").trim().to_owned()
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before stands in parentheses and may hold any byte.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
