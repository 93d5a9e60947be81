//! What Linux says of processes: memory, processor time, who listens; and this one's limits.

use std::{collections::BTreeSet, fs, io, net::SocketAddr, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside the connections: standard streams, epoll, pipes to other processes.
const FILES_BESIDE: u64 = 40;

/// Lifts this process's limit of open files as far as it may, and says how many connections it
/// can hold then.
pub fn connections_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // When it is refused, the limit stays what it was.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(FILES_BESIDE)
}

/// Processor time of this process in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    cpu_ns(std::process::id())
}

/// Anonymous memory of this process in bytes.
pub fn own_anonymous_memory() -> u64 {
    Memory::of(std::process::id()).anonymous
}

/// A server's processes: some that are known, and all that descend from them.
#[derive(Clone, Debug)]
pub struct ServerProcesses {
    roots: Vec<u32>,
}

/// Resident memory of processes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `RssAnon`: what they have allocated.
    pub anonymous: u64,
    /// `RssShmem`: shared memory, where some servers keep their messages.
    pub shared: u64,
}

impl ServerProcesses {
    /// Those processes and their descendants.
    pub fn of(roots: Vec<u32>) -> Self {
        Self { roots }
    }

    /// The processes that listen at an address of this machine, as far as this user may see.
    pub fn listening_at(address: SocketAddr) -> Option<Self> {
        let sockets = listening_sockets(address.port());
        let holds = |pid: &u32| {
            let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            files.flatten().any(|file| {
                fs::read_link(file.path())
                    .is_ok_and(|link| sockets.contains(&*link.to_string_lossy()))
            })
        };
        let roots: Vec<u32> =
            if sockets.is_empty() { Vec::new() } else { all().filter(holds).collect() };
        (!roots.is_empty()).then_some(Self { roots })
    }

    /// The processes as they are now.
    pub fn pids(&self) -> BTreeSet<u32> {
        let parents: Vec<(u32, u32)> = all().filter_map(|pid| Some((pid, parent(pid)?))).collect();
        let mut found: BTreeSet<u32> = self.roots.iter().copied().collect();
        loop {
            let before = found.len();
            for (pid, parent) in &parents {
                // The load tester is no part of the server that started it.
                if found.contains(parent) && *pid != std::process::id() {
                    found.insert(*pid);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Whether any of them is still there.
    pub fn are_alive(&self) -> bool {
        self.roots.iter().any(|pid| Path::new(&format!("/proc/{pid}/fd")).exists())
    }

    /// Their memory in all.
    pub fn memory(&self) -> Memory {
        self.pids().into_iter().map(Memory::of).fold(Memory::default(), |sum, one| Memory {
            anonymous: sum.anonymous + one.anonymous,
            shared: sum.shared + one.shared,
        })
    }

    /// Their processor time in all, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.pids().into_iter().map(cpu_ns).sum()
    }
}

impl Memory {
    /// Both together.
    pub fn total(self) -> u64 {
        self.anonymous + self.shared
    }

    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Self { anonymous: kilobytes(&status, "RssAnon:"), shared: kilobytes(&status, "RssShmem:") }
    }
}

/// The kernel's memory for objects of its own, sockets among them, of the whole machine: of both
/// ends of each connection when both are here.
pub fn system_slab() -> u64 {
    kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "Slab:")
}

/// The kernel's memory for what is in the buffers of TCP sockets, of the whole machine.
pub fn system_tcp_memory() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    tcp_pages(&text).unwrap_or(0) * rustix::param::page_size() as u64
}

/// How often so far the kernel had less of that than it wants (`net.ipv4.tcp_mem`): then it lets
/// all connections of the machine wait.
pub fn tcp_memory_shortages() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    shortages(&text).unwrap_or(0)
}

/// `TCP: inuse 12 orphan 0 tw 3 alloc 14 mem 2`: the last.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// A line of names and then one of their values, each beginning with `TcpExt:`.
fn shortages(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "TCPMemoryPressures")?.1.parse().ok()
}

/// A line like `RssAnon:    1234 kB`, in bytes; 0 without it.
fn kilobytes(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// From the scheduler's own count in nanoseconds where the kernel has it, summed over the threads
/// there are; else in clock ticks.
fn cpu_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let run = |thread: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let sum: u64 = threads.flatten().filter_map(run).sum();
    if sum > 0 { sum } else { ticks_ns(pid).unwrap_or(0) }
}

fn ticks_ns(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = after_name(&stat)?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_name(&stat)?.split_whitespace().nth(1)?.parse().ok()
}

/// The fields after the name, which is in parentheses and may hold any byte.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, fields)| fields)
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `socket:[inode]` of each TCP socket that listens at the port.
fn listening_sockets(port: u16) -> BTreeSet<String> {
    let listen = |text: io::Result<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        let inode = |line: &str| -> Option<String> {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
            let listens = *fields.get(3)? == "0A";
            let here = u16::from_str_radix(local_port, 16).ok()? == port;
            (listens && here).then(|| format!("socket:[{}]", fields[9]))
        };
        text.lines().skip(1).filter_map(inode).collect()
    };
    let files = ["/proc/net/tcp", "/proc/net/tcp6"];
    files.into_iter().flat_map(|file| listen(fs::read_to_string(file))).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        process::{Child, Command},
        time::{Duration, Instant},
    };

    use super::*;

    fn eventually(holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_mins(1));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn busy_process() -> Child {
        Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap()
    }

    #[test]
    fn who_listens_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = || ServerProcesses::listening_at(address).map(|found| found.roots);
        // What another test starts has this one's sockets until it is a program of its own.
        eventually(|| found() == Some(vec![std::process::id()]));
        drop(listener);
        eventually(|| found().is_none());
    }

    #[test]
    fn memory_and_processor_time_are_those_of_the_process() {
        let here = ServerProcesses::of(vec![std::process::id()]);
        let memory = here.memory().anonymous;
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        // Other tests give back some of theirs meanwhile.
        assert!(here.memory().anonymous >= memory + (40 << 20), "{memory}");
        drop(block);
        // Threads of other tests end here, and what they took is no more counted.
        let mut child = busy_process();
        let there = ServerProcesses::of(vec![child.id()]);
        let cpu = there.cpu_ns();
        eventually(|| there.cpu_ns() > cpu);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_the_kernel_says_of_tcp_is_read() {
        let sockstat =
            "sockets: used 30\nTCP: inuse 12 orphan 0 tw 3 alloc 14 mem 2\nUDP: inuse 0 mem 9\n";
        assert_eq!(tcp_pages(sockstat), Some(2));
        let netstat = "TcpExt: PruneCalled TCPMemoryPressures RcvPruned\nTcpExt: 1 7 3\n\
                       IpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(shortages(netstat), Some(7));
        assert_eq!((tcp_pages(""), shortages("TcpExt: RcvPruned\nTcpExt: 3\n")), (None, None));
    }

    #[test]
    fn children_belong_to_the_server() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        assert!(ServerProcesses::of(vec![std::process::id()]).pids().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
