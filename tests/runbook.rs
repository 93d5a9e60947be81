//! The runbook, followed: each of its commands runs while what its chapter is about is the case, and
//! shows what the page says.
//!
//! A block of `sh` is run as it stands. Each `# shows:` in it has to be found in what it prints, in
//! one line; `…` stands for anything. What stands below **Fix** is run once the fix was made, and shows
//! that it is one.

mod support;

use std::{
    any::Any,
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use support::{
    Client, Fault, FaultyProxy, Server, Sse, eventually,
    far_client::{FarClient, enter_network},
    nginx,
    programs::{Running, is_there, runs},
    small_disk::{MIB, SmallDisk},
};

const PAGE: &str = "docs/runbook-sse-drops.md";
/// What is seen may take a moment to be counted, and to be logged.
const PAUSE: Duration = Duration::from_millis(500);
/// For so long: some commands give a server two seconds, and all chapters are followed at once.
const PATIENCE: Duration = Duration::from_mins(2);

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).expect("it is there")
}

/// A block of commands, and what it shows.
struct Block {
    line: usize,
    commands: String,
    shows: Vec<String>,
    /// Whether what was wrong has been put right.
    is_after_fix: bool,
}

/// The chapters that have commands, and all blocks of code by language.
fn chapters(page: &str) -> Vec<(String, Vec<Block>)> {
    let mut chapters: Vec<(String, Vec<Block>)> = Vec::new();
    let mut language = None;
    let mut is_after_fix = false;
    for (at, line) in page.lines().enumerate() {
        match (language, line.strip_prefix("```")) {
            (None, Some(name)) => {
                language = Some(name);
                if name == "sh" {
                    let (commands, shows) = (String::new(), Vec::new());
                    let block = Block { line: at + 1, commands, shows, is_after_fix };
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
                let marks = line.find(' ').filter(|end| line[..*end].bytes().all(|c| c == b'#'));
                if let Some(marks @ 2..) = marks {
                    chapters.push((line[marks + 1..].to_owned(), Vec::new()));
                    is_after_fix = false;
                }
                is_after_fix |= line.starts_with("**Fix**") || line.starts_with("**Quick fix**");
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

/// What puts right what is wrong in a scene.
type Fix = Box<dyn FnOnce(Scene) -> Scene + Send>;

/// A server in which something is the case, and whatever that takes.
struct Scene {
    server: Server,
    /// Where its clients find it.
    public: String,
    fix: Option<Fix>,
    /// In this order they go, after the server.
    held: Vec<Box<dyn Any + Send>>,
    disk: Option<SmallDisk>,
}

impl Scene {
    fn new(server: Server, fault: Fault) -> Scene {
        let public = FaultyProxy::start(server.address(), fault).url();
        Scene { server, public, fix: None, held: Vec::new(), disk: None }
    }

    fn with(arguments: &[&str], fault: Fault) -> Scene {
        Scene::new(Server::with(arguments), fault)
    }

    fn holding(mut self, held: impl Any + Send) -> Scene {
        self.held.push(Box::new(held));
        self
    }

    /// Clients come through nginx with these settings, all in all and where the server is.
    fn behind(mut self, settings: &str, of_location: &str) -> Scene {
        let server = self.server.address();
        let nginx = nginx::start(|address, _| {
            let location = format!("location / {{ proxy_pass http://{server};\n{of_location} }}");
            format!("server {{ listen {address}; {settings}\n{location} }}")
        });
        self.public = format!("http://{}", nginx.address());
        self.holding(nginx)
    }

    /// It is put right by a restart with these flags.
    fn fixed_with(self, arguments: &'static [&'static str]) -> Scene {
        self.fixed_by(|mut scene| {
            scene.server.restart_with(arguments);
            scene
        })
    }

    fn fixed_by(self, fix: impl FnOnce(Scene) -> Scene + Send + 'static) -> Scene {
        Scene { fix: Some(Box::new(fix)), ..self }
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

/// The settings for nginx that the page has.
fn settings_for_nginx() -> String {
    let page = page();
    let (_, settings) = page.split_once("\n```nginx\n").expect("it has some");
    settings.split("```").next().expect("it has a beginning").to_owned()
}

/// A server behind nginx, which is set up so for all that it serves.
fn behind_nginx(server: Server, settings: &str) -> Option<Scene> {
    if !nginx::is_installed() {
        return None;
    }
    Some(Scene::new(server, Fault::None).behind(settings, ""))
}

/// The same, until it has the page's settings where the server is.
fn fixed_in_nginx(settings: &'static str) -> Option<Scene> {
    let fix = |scene: Scene| scene.behind(settings, &settings_for_nginx());
    Some(behind_nginx(Server::start(), settings)?.fixed_by(fix))
}

/// A kind of client that gives up after two seconds of silence, beside one that does not.
fn impatient_clients() -> Scene {
    let server = Server::with(&["--keepalive-interval", "1h"]);
    let patient = server.stream("/events/stream");
    let url = format!("http://{}/events/stream", server.address());
    let impatient = || {
        let mut curl = Command::new("curl");
        // So many bytes a second that the beginning of the stream is no more than a moment.
        curl.args(["-sN", "--noproxy", "*", "--speed-limit", "10", "--speed-time", "2"]);
        curl.args(["--interface", "127.0.0.2", &url]);
        Running::start(curl)
    };
    for gives_up in [(); 3].map(|()| impatient()) {
        gives_up.wait();
    }
    Scene::new(server, Fault::None).holding(patient)
}

/// Two clients that are gone without a word.
fn vanished_clients() -> Option<Scene> {
    if !enter_network() {
        return None;
    }
    // Time enough to see them before they are given up.
    let flags = ["--client-timeout", "20s", "--keepalive-interval", "300ms"];
    let server = Server::on_all_addresses(&flags);
    let port = server.address().port();
    let clients = [1, 2].map(|number| FarClient::follow(number, port, "/events/stream"));
    clients[0].vanish();
    clients[1].be_forgotten();
    Some(Scene::new(server, Fault::None).holding(clients))
}

/// How many observations of a histogram were of more than half a second.
fn slow(server: &Server, histogram: &str) -> u64 {
    let metrics = server.get("/metrics").expect(200).body;
    let metrics = String::from_utf8(metrics).expect("metrics are UTF-8");
    let value = |series: &str| -> u64 {
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(&format!("{histogram}_{series} ")));
        line.expect("it is served").parse().expect("it is a count")
    };
    value("count") - value("bucket{le=\"0.5\"}")
}

/// Longer than half a second, by far.
const HELD_UP: Duration = Duration::from_millis(1_200);

/// A server on a disk that has stood still in the middle of a commit.
fn slow_disk() -> Option<Scene> {
    let disk = SmallDisk::new(96 * MIB)?;
    let server = Server::try_in(&disk.path(), &[]).unwrap_or_else(|log| panic!("{log}"));
    let run = server.new_run();
    eventually("a commit takes long", || {
        let held = disk.hold(HELD_UP);
        server.append(run, "A", "1");
        assert!(held.wait().success(), "the disk goes on");
        (slow(&server, "journal_commit_seconds") > 0).then_some(())
    });
    Some(Scene { disk: Some(disk), ..Scene::new(server, Fault::None) })
}

/// A server that got no processor for a time while it had events to deliver.
fn starved_server() -> Scene {
    // It waits for nothing but the processor, so that it is delivering when it is stopped.
    let server = Server::with(&["--durability", "none"]);
    let run = server.new_run();
    let streams: Vec<Sse> = (0..300).map(|_| server.stream("/events/stream")).collect();
    eventually("a delivery takes long", || {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        server.append(run, "A", "1");
                    }
                });
            }
            thread::sleep(Duration::from_millis(30));
            server.signal(Signal::STOP);
            thread::sleep(HELD_UP);
            server.signal(Signal::CONT);
            is_over.store(true, Ordering::Relaxed);
        });
        (slow(&server, "sse_delivery_latency_seconds") > 0).then_some(())
    });
    Scene::new(server, Fault::None).holding(streams)
}

/// Writes until one is answered so.
fn write_until(server: &Server, status: u16) {
    let body = format!("{{\"metadata\":{{\"text\":\"{}\"}}}}", "x".repeat(10_000));
    let is_refused = |_| match server.post("/runs", &body).status {
        201 => false,
        refusal => {
            assert_eq!(refusal, status);
            true
        }
    };
    assert!((0..100_000).any(is_refused), "everything is taken");
}

/// A server on a disk without room.
fn full_disk() -> Option<Scene> {
    let disk = SmallDisk::in_memory(64 * MIB)?;
    let server = Server::try_in(&disk.path(), &[]).unwrap_or_else(|log| panic!("{log}"));
    disk.fill();
    write_until(&server, 507);
    let scene = Scene { disk: Some(disk), ..Scene::new(server, Fault::None) };
    Some(scene.fixed_by(|scene| {
        scene.disk.as_ref().expect("it has one").clear();
        scene
    }))
}

/// A server on a disk that has failed to sync.
fn failed_journal() -> Option<Scene> {
    let disk = SmallDisk::whose_syncs_can_fail()?;
    let server = Server::try_in(&disk.path(), &[]).unwrap_or_else(|log| panic!("{log}"));
    server.new_run();
    let stays = server.stream("/runs/1/events/stream");
    disk.fail_syncs();
    write_until(&server, 503);
    let scene = Scene { disk: Some(disk), ..Scene::new(server, Fault::None).holding(stays) };
    Some(scene.fixed_by(|mut scene| {
        scene.disk.as_ref().expect("it has one").mend_syncs();
        scene.server.restart();
        scene
    }))
}

/// What is the case in this chapter; nothing where that cannot be had.
fn scene(chapter: &str) -> Option<Scene> {
    Some(match chapter {
        "Idle timeouts" => {
            let server = Server::with(&["--keepalive-interval", "1h"]);
            behind_nginx(server, "proxy_read_timeout 7s;")?
                .fixed_with(&["--keepalive-interval", "500ms"])
        }
        "Keepalives that do not come" => Scene::with(&["--keepalive-interval", "1h"], Fault::None),
        "Buffering" => fixed_in_nginx("proxy_ignore_headers X-Accel-Buffering;")?,
        "Compression" => fixed_in_nginx("gzip on; gzip_proxied any; gzip_types *;")?,
        "Exhaustion" => {
            let server = Server::with(&["--max-connections", "3"]);
            let held = [(); 3].map(|()| server.stream("/health/sse"));
            Scene::new(server, Fault::None).holding(held)
        }
        "Half-open peers" => vanished_clients()?,
        "Six connections a browser" => {
            let server = Server::start();
            let held = [(); 6].map(|()| server.stream("/events/stream"));
            Scene::new(server, Fault::None).holding(held)
        }
        "An answer that ends an EventSource" => Scene::with(&[], Fault::Answers(502)),
        "Subscribers that are too slow" => {
            // So that it is there for as long as somebody looks.
            let server = Server::with(&["--client-timeout", "1h"]);
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
        "Timeouts of clients" => impatient_clients().fixed_with(&["--keepalive-interval", "500ms"]),
        "A slow disk" => slow_disk()?,
        "A busy processor" => starved_server(),
        "A full disk" => full_disk()?,
        "A failed journal" => failed_journal()?,
        chapter if chapter.starts_with("Step ") => healthy(&[]),
        "A cursor that is ahead" | "Escalation" => healthy(&[]),
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
    command.env("PUBLIC", &scene.public).env("PID", scene.server.pid().to_string());
    command.env("JOURNAL", scene.server.journal()).env("LOG", log.path()).env("WATCH", "3");
    let output = command.output().expect("timeout is there");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with a block, if anything.
fn tried(block: &Block, scene: &Scene) -> Option<String> {
    let started = Instant::now();
    loop {
        let (is_ok, output) = run(block, scene);
        let missing = block.shows.iter().filter(|shown| !shows(&output, shown));
        let mut wrong =
            missing.fold(String::new(), |text, shown| text + "  does not show: " + shown + "\n");
        if !is_ok {
            wrong += "  does not end well\n";
        }
        if wrong.is_empty() {
            return None;
        }
        if started.elapsed() > PATIENCE {
            let output = output.lines().fold(wrong, |text, line| text + "    | " + line + "\n");
            return Some(format!("{PAGE}:{}:\n{output}", block.line));
        }
        thread::sleep(PAUSE);
    }
}

/// What is wrong with a chapter, if anything.
fn followed(chapter: &str, blocks: &[Block]) -> Option<String> {
    let mut scene = scene(chapter)?;
    let (before, after): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| !block.is_after_fix);
    let wrong = |blocks: &[&Block], scene: &Scene| {
        let wrong = blocks.iter().filter_map(|block| tried(block, scene));
        wrong.fold(String::new(), |all, found| all + chapter + ", " + &found)
    };
    let mut found = wrong(&before, &scene);
    assert_eq!(scene.fix.is_some(), !after.is_empty(), "{chapter}: a fix, and what shows it");
    if let Some(fix) = scene.fix.take() {
        scene = fix(scene);
        found += &wrong(&after, &scene);
    }
    Some(found)
}

#[test]
fn commands_of_the_runbook_show_what_it_says() {
    let page = page();
    for program in ["curl", "ss", "nstat", "ps", "tar", "timeout"] {
        if !is_there(program, runs(program, &["--version"]) || runs(program, &["-V"])) {
            return;
        }
    }
    let chapters = chapters(&page);
    assert!(chapters.len() > 15, "{} chapters", chapters.len());
    let wrong = thread::scope(|scope| {
        let following: Vec<_> = chapters
            .iter()
            .map(|(chapter, blocks)| scope.spawn(move || followed(chapter, blocks)))
            .collect();
        let results =
            following.into_iter().map(|chapter| chapter.join().expect("it does not panic"));
        results.flatten().collect::<String>()
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_block_is_a_language_and_every_command_is_one_of_a_shell() {
    let page = page();
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
