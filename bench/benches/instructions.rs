//! Instructions that the parts of a fan-out make, counted by valgrind and compared with
//! `bench/instructions.txt`: fails when one makes more than a tenth more.
//!
//! Times vary by that much from one minute to the next; counts do not. What they cannot show is
//! the kernel and the memory: a system call more, or a cache line, is for the other benches.
//!
//! Each piece runs in a process of its own, under callgrind, which counts only inside of
//! [`count_in_here`]. Under `cargo test` each runs once, uncounted, so that none can rot.
//!
//! Rejected: gungraun, which does the same for more. Its baselines are profiles in the build
//! directory, so that figures to be kept with the code need hard limits and a script to renew
//! them; its runner must be installed, in the same version, from 175 crates, which takes longer
//! than all that is counted here; and its benches do not run without it.

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use tidewheel::{
    connection::Connection,
    event::{EventId, Format, RunId, Scope},
    journal::memory::MemoryStore,
    tail::Tail,
    timer_wheel::{Tick, TimerWheel},
    wire::sse::{self, Frames},
};
use tidewheel_bench::figures::{Change, Figures};

mod scene {
    pub mod hub;
    pub mod journal;
    pub mod request;
    pub mod sse;
    pub mod tail;
    pub mod timer_wheel;
}

use scene::{
    hub::{BURST, RUNS, STREAMS, Streams, batch, run_of_its_own, runs},
    journal::Journal,
    request::{APPEND, BROWSER_GET, serve},
    tail::{EVENTS, LOOKUPS},
    timer_wheel::{ENTRIES, Entries},
};

const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
/// How this program asks itself to run one piece.
const PIECE_FLAG: &str = "--piece";
/// Every stream there is.
const ALL: u64 = STREAMS as u64;
/// Requests, or events, in a piece that does one at a time.
const TIMES: u64 = 100;
/// Rounds in which every small tail begins a segment, and gives one up.
const ROUNDS: u32 = 20;
/// Events of one commit.
const COMMIT_EVENTS: usize = 1_024;

/// Something whose instructions are counted.
struct Piece {
    name: &'static str,
    /// What it does so many times: the figure is for each.
    times: u64,
    run: fn(),
}

const PIECES: [Piece; 18] = [
    Piece {
        name: "hub: a stream comes, for everything",
        times: ALL,
        run: || streams_come(|_| Scope::All),
    },
    Piece {
        name: "hub: a stream comes, for one of 1,000 runs",
        times: ALL,
        run: || streams_come(run_of_its_own),
    },
    Piece {
        name: "hub: a stream comes back to one read of history",
        times: ALL,
        run: || {
            let (mut streams, history) = Streams::come_back();
            let sends = count_in_here(|| streams.fill(history));
            assert_eq!(sends, ALL);
        },
    },
    Piece {
        name: "hub: a stream hangs up",
        times: ALL,
        run: || {
            let mut streams = Streams::of_everything();
            let closed = count_in_here(|| streams.hang_up());
            assert_eq!(u64::from(closed), ALL);
        },
    },
    Piece {
        name: "hub: a delivery of an event to all",
        times: ALL,
        run: || deliveries(Streams::of_everything(), 1, 1, &[RunId(1)]),
    },
    Piece {
        name: "hub: a delivery of a burst of 20 to all",
        times: ALL,
        run: || deliveries(Streams::of_everything(), 1, BURST, &[RunId(1)]),
    },
    Piece {
        name: "hub: a delivery of an event to each of 1,000 runs",
        times: ROUNDS as u64 * ALL,
        run: || deliveries(Streams::of_runs(), ROUNDS, 1, &runs().collect::<Vec<_>>()),
    },
    Piece {
        name: "hub: a keepalive",
        times: ALL,
        run: || {
            let mut streams = Streams::at_rest();
            let sends = count_in_here(|| streams.keep_alive());
            assert_eq!(sends, ALL);
        },
    },
    Piece {
        name: "tail: append",
        times: EVENTS,
        run: || {
            let (mut tail, frames) = (Tail::new(EventId(0)), scene::tail::frames());
            count_in_here(|| scene::tail::append(&mut tail, &frames));
        },
    },
    Piece { name: "tail: read", times: LOOKUPS, run: || look(scene::tail::read) },
    Piece { name: "tail: place", times: LOOKUPS, run: || look(scene::tail::place) },
    Piece { name: "tail: offset_after", times: LOOKUPS, run: || look(scene::tail::offset_after) },
    Piece {
        name: "timer wheel: arm, move and come due",
        times: ENTRIES as u64,
        run: || {
            let (mut wheel, mut entries) = (TimerWheel::new(Tick(0)), Entries::new());
            let (mut moved, mut others) = scene::timer_wheel::armed();
            let mut due = Vec::new();
            let count = count_in_here(|| {
                scene::timer_wheel::arm(&mut wheel, &mut entries);
                scene::timer_wheel::move_all(&mut moved, &mut others);
                scene::timer_wheel::advance(&mut wheel, &mut entries, &mut due)
            });
            assert_eq!(count, ENTRIES as usize);
        },
    },
    Piece {
        name: "sse: encode an event of 150 bytes",
        times: TIMES,
        run: || {
            let event = scene::sse::event(1_234_567_890, 150);
            let mut out = Vec::new();
            count_in_here(|| {
                for _ in 0..TIMES {
                    out.clear();
                    sse::event(&mut out, black_box(&event.borrowed()), Format::Envelope);
                    black_box(&out);
                }
            });
        },
    },
    Piece {
        name: "sse: walk the frames of a segment",
        times: 1,
        run: || {
            let segment = scene::sse::segment(150);
            count_in_here(|| {
                Frames::new(black_box(&segment)).map(|frame| frame.end).sum::<usize>()
            });
        },
    },
    Piece {
        name: "request: a browser opens a stream",
        times: TIMES,
        run: || requests(BROWSER_GET),
    },
    Piece { name: "request: an append", times: TIMES, run: || requests(APPEND) },
    Piece {
        name: "journal: an event in a commit of 1,024",
        times: COMMIT_EVENTS as u64,
        run: || {
            let mut journal = Journal::open(MemoryStore::default(), RUNS.into());
            let writes = journal.appends(COMMIT_EVENTS);
            let answers = count_in_here(|| journal.commit(writes));
            assert_eq!(answers, COMMIT_EVENTS);
        },
    },
];

fn streams_come(scope: fn(u32) -> Scope) {
    let mut streams = Streams::none(EventId(0));
    let sends = count_in_here(|| streams.come(scope));
    assert_eq!(sends, ALL);
}

/// In each round so many events come before the first is delivered.
fn deliveries(mut streams: Streams, rounds: u32, burst: u32, runs: &[RunId]) {
    let mut batch = batch(runs.iter().copied());
    let sends = count_in_here(|| {
        let round = |_| {
            for _ in 0..burst {
                streams.append(&mut batch);
            }
            streams.deliver()
        };
        (0..rounds).map(round).sum::<u64>()
    });
    assert_eq!(sends, u64::from(rounds) * ALL);
}

fn look(look: fn(&Tail)) {
    let tail = scene::tail::full();
    count_in_here(|| look(&tail));
}

fn requests(request: &str) {
    let (mut connection, mut body) = (Connection::new(), Vec::new());
    count_in_here(|| {
        for _ in 0..TIMES {
            serve(&mut connection, &mut body, &[request.as_bytes()]);
        }
    });
}

/// What is called in here is counted; callgrind finds the function by its name.
#[inline(never)]
fn count_in_here<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == PIECE_FLAG
    {
        let piece = PIECES.iter().find(|piece| piece.name == name);
        (piece.expect("the name of a piece").run)();
        return ExitCode::SUCCESS;
    }
    let is_given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let pieces =
        || PIECES.iter().filter(|piece| filter.is_none_or(|text| piece.name.contains(text)));
    // Cargo says `--bench`, unless it is a test.
    let outcome = if !is_given("--bench") {
        pieces().for_each(|piece| (piece.run)());
        if filter.is_none() { rehearse() } else { Ok(()) }
    } else if is_given("--renew") {
        renew()
    } else {
        compare(pieces())
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Counts, and compares with the figures.
fn compare<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Result<(), String> {
    let figures = figures()?;
    let counted_with = counted_with()?;
    let mut lost = Vec::new();
    println!("{:>13} {:>13} {:>8}", "instructions", "before", "change");
    for piece in pieces {
        let count = count(piece)?;
        let before = figures.by_name.get(piece.name).copied().unwrap_or_default();
        let (change, remark) = match figures.change(piece.name, count) {
            Change::New => return Err(format!("{:?} has no figure yet: renew them", piece.name)),
            Change::Level(change) => (change, ""),
            Change::Gained(change) => (change, ": renew the figures, so that it is kept"),
            Change::Lost(change) => {
                let profile = profile(piece);
                let percent = change * 100.0;
                lost.push(format!("{} ({percent:+.1} %), {}", piece.name, profile.display()));
                (change, ": LOST")
            }
        };
        let percent = change * 100.0;
        println!("{count:>13.1} {before:>13.1} {percent:>+6.1} %  {}{remark}", piece.name);
    }
    if lost.is_empty() {
        return Ok(());
    }
    let before = figures.counted_with;
    let hint = if counted_with == before {
        String::new()
    } else {
        format!("\nThe figures are of {before}, and these are of {counted_with}.")
    };
    let lost = lost.join("\n  ");
    Err(format!(
        "\nmore than a tenth is lost, see `callgrind_annotate` of the profile for where:\n  {lost}{hint}"
    ))
}

/// Counts, and keeps what was counted.
fn renew() -> Result<(), String> {
    let counted_with = counted_with()?;
    let counted = PIECES.iter().map(|piece| Ok((piece.name.to_owned(), count(piece)?)));
    let by_name = counted.collect::<Result<BTreeMap<_, _>, String>>()?;
    let text = Figures { counted_with, by_name }.to_string();
    fs::write(FIGURES, &text).map_err(|error| format!("{FIGURES}: {error}"))?;
    print!("{text}");
    Ok(())
}

/// That a comparison would find every figure, and that counts can be compared: without valgrind,
/// which the tests do not ask for, the first alone.
fn rehearse() -> Result<(), String> {
    let figures = figures()?;
    let mut names: Vec<_> = PIECES.iter().map(|piece| piece.name).collect();
    names.sort_unstable();
    let kept: Vec<_> = figures.by_name.keys().collect();
    if names != kept {
        return Err(format!("{FIGURES} has figures of {kept:?}, and not of {names:?}"));
    }
    if let Err(reason) = counted_with() {
        println!("nothing is counted: {reason}");
        return Ok(());
    }
    let cheap = PIECES.iter().find(|piece| piece.name == "sse: encode an event of 150 bytes");
    let cheap = cheap.expect("it is a piece");
    let (first, second) = (count(cheap)?, count(cheap)?);
    if (first / second - 1.0).abs() > 0.001 || first < 100.0 {
        return Err(format!("{} makes {first} instructions, and then {second}", cheap.name));
    }
    Ok(())
}

fn figures() -> Result<Figures, String> {
    let text = fs::read_to_string(FIGURES).map_err(|error| format!("{FIGURES}: {error}"))?;
    text.parse().map_err(|error| format!("{FIGURES}: {error}"))
}

/// Instructions of one time of a piece.
fn count(piece: &Piece) -> Result<f64, String> {
    let profile = profile(piece);
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--toggle-collect=*count_in_here*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(this)
        .args([PIECE_FLAG, piece.name]);
    let output = valgrind.output().map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} under valgrind: {}\n{said}", piece.name, output.status));
    }
    let total = total(&profile).map_err(|error| format!("{}: {error}", profile.display()))?;
    Ok(total as f64 / piece.times as f64)
}

/// Where callgrind leaves what it has found.
fn profile(piece: &Piece) -> PathBuf {
    let name = piece.name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.callgrind"))
}

fn total(profile: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(profile)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.filter(|total| *total > 0).ok_or_else(|| io::Error::other("nothing was counted"))
}

/// Compiler, tool and processor.
fn counted_with() -> Result<String, String> {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok(format!("{}, {}, {}", version("rustc")?, version("valgrind")?, env::consts::ARCH))
}
