//! The runbook, followed: each of its commands runs while what its chapter is about is the case, and
//! shows what the page says.
//!
//! A block of `sh` is run as it stands. Each `# shows:` in it has to be found in what it prints, in
//! one line; `…` stands for anything.

mod support;

use std::{
    any::Any,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate};
use support::{
    Client, Fault, FaultyProxy, Server, Sse, eventually,
    programs::{is_there, runs},
};
use tempfile::TempDir;

const PAGE: &str = "docs/runbook-sse-drops.md";
/// What is seen may take a moment to be counted, and to be logged.
const ATTEMPTS: usize = 4;
const MIB: u64 = 1024 * 1024;

/// A block of commands, and what it shows.
struct Block {
    line: usize,
    commands: String,
    shows: Vec<String>,
}

/// The chapters that have commands, and all blocks of code by language.
fn chapters(page: &str) -> Vec<(String, Vec<Block>)> {
    let mut chapters: Vec<(String, Vec<Block>)> = Vec::new();
    let mut language = None;
    for (at, line) in page.lines().enumerate() {
        match (language, line.strip_prefix("```")) {
            (None, Some(name)) => {
                language = Some(name);
                if name == "sh" {
                    let block = Block { line: at + 1, commands: String::new(), shows: Vec::new() };
                    chapters.last_mut().expect("a chapter").1.push(block);
                }
            }
            (Some(_), Some(_)) => language = None,
            (Some("sh"), None) => {
                let block = chapters.last_mut().and_then(|(_, blocks)| blocks.last_mut());
                let block = block.expect("one has begun");
                match line.strip_prefix("# shows: ") {
                    Some(shown) => block.shows.push(shown.to_owned()),
                    None => block.commands.extend([line, "\n"]),
                }
            }
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
                    chapters.push((heading.to_owned(), Vec::new()));
                }
            }
            (Some(_), None) => {}
        }
    }
    chapters.retain(|(_, blocks)| !blocks.is_empty());
    chapters
}

/// Whether a line has these parts, in this order.
fn shows(output: &str, pattern: &str) -> bool {
    output.lines().any(|line| {
        let mut rest = line;
        pattern.split('…').all(|part| {
            let found = rest.find(part);
            rest = found.map_or("", |at| &rest[at + part.len()..]);
            found.is_some()
        })
    })
}

/// A server in which something is the case, and whatever that takes.
struct Scene {
    server: Server,
    proxy: FaultyProxy,
    disk: PathBuf,
    /// In this order they go, after the server.
    held: Vec<Box<dyn Any + Send>>,
}

impl Scene {
    fn new(server: Server, fault: Fault) -> Scene {
        let proxy = FaultyProxy::start(server.address(), fault);
        let disk = server.journal().to_owned();
        Scene { server, proxy, disk, held: Vec::new() }
    }

    fn with(arguments: &[&str], fault: Fault) -> Scene {
        Scene::new(Server::with(arguments), fault)
    }

    fn holding(mut self, held: impl Any + Send) -> Scene {
        self.held.push(Box::new(held));
        self
    }
}

/// A stream that has come, one that has gone, and one that has come back.
fn healthy(arguments: &[&str]) -> Scene {
    let server = Server::with(arguments);
    let run = server.new_run_with(r#"{"session":"s1"}"#);
    server.append(run, "STEP", "1");
    let target = format!("/runs/{run}/events/stream");
    server.stream(&target).ids(2);
    let mut resumed = server.stream_with(&target, &[("Last-Event-ID", "1")]);
    resumed.ids(1);
    server.append(run, "STEP", "1");
    resumed.ids(1);
    Scene::new(server, Fault::None).holding(resumed)
}

/// A subscriber that takes nothing of more than its connection holds.
fn stalled(server: &Server) -> Sse {
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let stream = Sse::open(Client::connect_frugally(server.address()), &target, &[]);
    let payload = format!("\"{}\"", "x".repeat(900_000));
    for _ in 0..5 {
        server.append(run, "A", &payload);
    }
    stream
}

/// Memory as a disk, unmounted when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(directory.path());
        let is_mounted =
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        is_there("the right to mount", is_mounted).then(|| SmallDisk(directory))
    }

    fn fill(&self) {
        let disk = rustix::fs::statvfs(self.0.path()).expect("it is mounted");
        let file =
            fs::File::create(self.0.path().join("filler")).expect("there is room for a name");
        fallocate(file, FallocateFlags::empty(), 0, disk.f_bavail * disk.f_frsize)
            .expect("so much is free");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// A server on a disk without room.
fn full_disk() -> Option<Scene> {
    let disk = SmallDisk::mount(64 * MIB)?;
    let server = Server::try_in(disk.0.path(), &[]).unwrap_or_else(|log| panic!("{log}"));
    disk.fill();
    let is_refused = |_| server.post("/runs", "{}").status == 507;
    assert!((0..100_000).any(is_refused), "there still is room");
    let path = disk.0.path().to_owned();
    Some(Scene { disk: path, ..Scene::new(server, Fault::None).holding(disk) })
}

/// What is the case in this chapter; nothing where that cannot be had.
fn scene(chapter: &str) -> Option<Scene> {
    let second = Duration::from_secs(1);
    Some(match chapter {
        "Idle timeouts" => {
            Scene::with(&["--keepalive-interval", "20s"], Fault::IdleTimeout(second))
        }
        "Keepalives that do not come" => Scene::with(&["--keepalive-interval", "1h"], Fault::None),
        "Buffering" => Scene::with(&[], Fault::Buffers(3600 * second)),
        "Exhaustion" => {
            let server = Server::with(&["--max-connections", "3"]);
            let held = [(); 3].map(|()| server.stream("/health/sse"));
            Scene::new(server, Fault::None).holding(held)
        }
        "Half-open peers" => {
            let flags = ["--client-timeout", "1s", "--keepalive-interval", "300ms"];
            let server = Server::with(&flags);
            let gone = stalled(&server);
            eventually("it is ended", || (server.open_streams() == 0).then_some(()));
            Scene::new(server, Fault::None).holding(gone)
        }
        "Six connections a browser" => {
            let server = Server::start();
            let held = [(); 6].map(|()| server.stream("/events/stream"));
            Scene::new(server, Fault::None).holding(held)
        }
        "An answer that ends an EventSource" => Scene::with(&[], Fault::Answers(502)),
        "Subscribers that are too slow" => {
            let server = Server::start();
            let slow = stalled(&server);
            Scene::new(server, Fault::None).holding(slow)
        }
        "Drains and rollouts" => {
            let mut scene = healthy(&[]);
            scene.server.restart();
            scene
        }
        "Events that are no longer kept" => {
            let server = Server::with(&["--max-events-per-run", "2"]);
            let run = server.new_run();
            for _ in 0..9 {
                server.append(run, "A", "1");
            }
            Scene::new(server, Fault::None)
        }
        "A full disk or a failed journal" => full_disk()?,
        chapter if chapter.starts_with("Step ") => healthy(&[]),
        "Timeouts of clients"
        | "A server that is overloaded"
        | "A cursor that is ahead"
        | "Escalation" => healthy(&[]),
        "Making sure" => healthy(&["--keepalive-interval", "1s"]),
        chapter => panic!("{PAGE} has commands under {chapter:?}, for which there is no scene"),
    })
}

/// What a block prints, and whether it ended well.
fn run(block: &Block, scene: &Scene) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let log = tempfile::NamedTempFile::new().expect("there is room");
    fs::write(log.path(), scene.server.log()).expect("there is room");
    let address = scene.server.address();
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-euc", &format!("exec 2>&1\n{}", block.commands)]);
    command.current_dir(root).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("TIDEWHEEL_") || name.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.env("TIDEWHEEL", env!("CARGO_BIN_EXE_tidewheel"));
    command.env("VALIDATE", root.join("deploy/validate-sse.sh"));
    command.env("URL", format!("http://{address}")).env("PORT", address.port().to_string());
    command.env("PUBLIC", scene.proxy.url()).env("PID", scene.server.pid().to_string());
    command.env("JOURNAL", &scene.disk).env("LOG", log.path()).env("WATCH", "3");
    let output = command.output().expect("timeout is there");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with a block, if anything.
fn tried(block: &Block, scene: &Scene) -> Option<String> {
    let mut wrong = String::new();
    for attempt in 0..ATTEMPTS {
        thread::sleep(attempt as u32 * Duration::from_millis(500));
        let (is_ok, output) = run(block, scene);
        let missing = block.shows.iter().filter(|shown| !shows(&output, shown));
        wrong =
            missing.fold(String::new(), |text, shown| text + "  does not show: " + shown + "\n");
        if !is_ok {
            wrong += "  does not end well\n";
        }
        if wrong.is_empty() {
            return None;
        }
        wrong += &output.lines().fold(String::new(), |text, line| text + "    | " + line + "\n");
    }
    Some(format!("{PAGE}:{}:\n{wrong}", block.line))
}

#[test]
fn commands_of_the_runbook_show_what_it_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    for program in ["curl", "ss", "nstat", "ps", "tar", "timeout"] {
        if !is_there(program, runs(program, &["--version"]) || runs(program, &["-V"])) {
            return;
        }
    }
    let chapters = chapters(&page);
    assert!(chapters.len() > 15, "{} chapters", chapters.len());
    let wrong = thread::scope(|scope| {
        let follow = |(chapter, blocks): &(String, Vec<Block>)| {
            let scene = scene(chapter)?;
            let wrong = blocks.iter().filter_map(|block| tried(block, &scene));
            Some(wrong.fold(String::new(), |all, one| all + chapter + ", " + &one))
        };
        let following: Vec<_> =
            chapters.iter().map(|chapter| scope.spawn(move || follow(chapter))).collect();
        let results =
            following.into_iter().map(|chapter| chapter.join().expect("it does not panic"));
        results.flatten().collect::<String>()
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_block_is_a_language_and_every_command_is_one_of_a_shell() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let mut shells = 0;
    for block in page.split("\n```").skip(1).step_by(2) {
        let (language, commands) = block.split_once('\n').expect("it has lines");
        assert!(["sh", "console", "nginx"].contains(&language), "{language}");
        if language != "nginx" {
            shells += 1;
            let output =
                Command::new("sh").args(["-nc", commands]).output().expect("there is a shell");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(shells > 20, "{shells}");
}

#[test]
fn scripts_are_clean() {
    if is_there("shellcheck", runs("shellcheck", &["--version"])) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/validate-sse.sh");
        let output = Command::new("shellcheck").arg(script).output().expect("it is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn what_is_shown_is_found_in_one_line_and_in_order() {
    assert!(shows("a\nFAILED  x: was cut, FIN\n", "FAILED …cut…FIN"));
    assert!(!shows("FAILED\ncut FIN\n", "FAILED…cut"));
    assert!(!shows("cut FAILED", "FAILED…cut"));
}
