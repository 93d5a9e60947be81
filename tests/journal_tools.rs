//! `tidewheel journal` on journals that a server has written: what is looked at, copied and put back
//! is what clients were told.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use support::{DEADLINE, Server, seeded};
use tempfile::TempDir;

/// So that a test's events are in several windows.
const SMALL_WINDOWS: [&str; 2] = ["--window-bytes", "200KB"];
/// With these, a log that has so many bytes is due.
const SMALL_WINDOW_BYTES: u64 = 200_000;

// ---- the program --------------------------------------------------------------------------------

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewheel"));
    command.arg("journal").args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// What a command says that must succeed.
fn done(args: &[&str]) -> String {
    let output = run(args);
    let err = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {err}{out}");
    out
}

fn done_json(args: &[&str]) -> Value {
    serde_json::from_str(&done(&[args, &["--json"]].concat())).unwrap()
}

/// What a command says that must fail with this exit code.
fn refused(args: &[&str], code: i32) -> String {
    let output = run(args);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    err
}

/// What verify finds: kinds, places and texts.
fn problems(journal: &str) -> Vec<Value> {
    let output = run(&["verify", "--journal", journal, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", output.status, String::from_utf8_lossy(&output.stderr))
    });
    let problems = report["problems"].as_array().unwrap().clone();
    assert_eq!(output.status.code(), Some(i32::from(!problems.is_empty())), "{report}");
    problems
}

fn is_whole(journal: &str) {
    assert_eq!(problems(journal), [] as [Value; 0]);
}

fn export(journal: &str, more: &[&str]) -> Vec<Value> {
    let lines = done(&[&["export", "--journal", journal], more].concat());
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A directory, and paths in it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn journal_of(server: &Server) -> String {
    server.journal().join("journal").to_str().unwrap().to_owned()
}

fn copy_journal(from: &str, to: &str) {
    fs::create_dir(to).unwrap();
    for name in ["log.redb", "store.redb"] {
        fs::copy(Path::new(from).join(name), Path::new(to).join(name)).unwrap();
    }
}

/// Runs with labels, events, keys, producers, ends and deletions. The runs that are left, the
/// first made before the others.
fn write_randomly(server: &Server, rng: &mut StdRng, requests: usize) -> Vec<u64> {
    let mut client = server.client();
    let mut post = |target: &str, headers: &[(&str, &str)], body: &str| {
        client.request("POST", target, headers, body)
    };
    let mut runs = Vec::new();
    let mut producers: Vec<u64> = Vec::new();
    for number in 0..requests {
        if runs.len() < 3 || rng.random_ratio(1, 20) {
            let project = ["p0", "p1"].choose(rng).unwrap();
            let body = json!({"project": project, "session": "s", "metadata": {"number": number}});
            let run = post("/runs", &[], &body.to_string()).expect(201).json();
            runs.push(run["id"].as_u64().unwrap());
            producers.push(0);
            continue;
        }
        let at = rng.random_range(0..runs.len());
        let run = runs[at];
        let events: Vec<Value> = (0..rng.random_range(1..30))
            .map(|_| json!({"type": "A", "payload": {"x": "ä".repeat(rng.random_range(0..300))}}))
            .collect();
        let events = Value::from(events).to_string();
        let target = format!("/runs/{run}/events");
        match rng.random_range(0..20) {
            // The first stays, so that something of every window stays.
            0 if at > 0 => {
                server.delete(&format!("/runs/{run}")).expect(204);
                runs.remove(at);
                producers.remove(at);
            }
            1..8 => {
                let key = format!("key-{number}");
                post(&target, &[("Idempotency-Key", &key)], &events).expect(201);
            }
            8..13 => {
                let seq = producers[at].to_string();
                let headers =
                    [("Producer-Id", "p"), ("Producer-Epoch", "1"), ("Producer-Seq", &seq)];
                post(&target, &headers, &events).expect(201);
                producers[at] += 1;
            }
            _ => drop(post(&target, &[], &events).expect(201)),
        }
    }
    runs
}

/// Waits until the keeper has made all the windows that are due, of which there are so many at least.
fn await_windows(server: &Server, count: u64) {
    support::eventually("windows are made", || {
        let journal = &server.json("/worker")["journal"];
        let number = |name: &str| journal[name].as_u64().unwrap();
        (number("windows") >= count && number("log_bytes") < SMALL_WINDOW_BYTES).then_some(())
    });
}

/// Whether there are so many windows.
fn has_windows(journal: &str, count: usize) -> bool {
    done_json(&["stats", "--journal", journal])["windows"].as_array().unwrap().len() >= count
}

// ---- backup and restore -------------------------------------------------------------------------

#[test]
fn a_backup_comes_back_as_it_was() {
    let mut rng = seeded();
    let place = Place::new();
    let mut server = Server::with(&SMALL_WINDOWS);
    // One key is moved out of the log with its event, the other is still there.
    let oldest = server.new_run();
    let append = |server: &Server, run: u64, key: &str| {
        let target = format!("/runs/{run}/events");
        let key = [("Idempotency-Key", key)];
        server.request("POST", &target, &key, r#"{"type":"A"}"#).expect(201).json()
    };
    let moved = append(&server, oldest, "the first");
    let runs = write_randomly(&server, &mut rng, 220);
    server.end(runs[0], "completed").expect(200);
    await_windows(&server, 2);
    let first = append(&server, runs[1], "the last");
    let before = server.json("/runs?limit=1000");
    server.terminate();
    let journal = journal_of(&server);
    is_whole(&journal);
    assert!(has_windows(&journal, 2));
    let files = |journal: &str| {
        ["log.redb", "store.redb"].map(|name| fs::read(Path::new(journal).join(name)).unwrap())
    };
    let untouched = files(&journal);

    let (backup, restored) = (place.path("backup"), place.path("restored"));
    let made = done_json(&["backup", "--journal", &journal, "-o", &backup]);
    let last_id = made["last_id"].as_u64().unwrap();
    let exported = export(&journal, &[]);
    assert!(files(&journal) == untouched, "a backup, a look and an export leave no trace");
    assert_eq!(made["bytes"], fs::metadata(&backup).unwrap().len());
    let put_back = done_json(&["restore", &backup, "--journal", &restored]);
    assert_eq!(put_back["next_id"], last_id + (1 << 32));
    is_whole(&restored);
    assert_eq!(export(&restored, &[]), exported);
    // The same backup again is the same bytes, but for its time.
    let again = done_json(&["backup", "--journal", &restored, "-o", &place.path("again")]);
    assert_eq!([&again["last_id"], &again["values"]], [&made["last_id"], &made["values"]]);

    // A server goes on with it: same runs, keys that still count, ids 2^32 higher.
    let server = Server::on(&restored, &SMALL_WINDOWS);
    assert_eq!(server.json("/runs?limit=1000"), before);
    assert_eq!(append(&server, runs[1], "the last"), first);
    assert_eq!(append(&server, oldest, "the first"), moved);
    let lost = last_id + 5;
    let reset_at = |cursor: u64| {
        let target = format!("/runs/{}/events?after_id={cursor}", runs[1]);
        let page = server.json(&target);
        let mut stream =
            server.stream(&format!("/runs/{}/events/stream?after_id={cursor}", runs[1]));
        let is_reset = stream.message().is_some_and(|frame| frame.name() == "stream.reset");
        assert_eq!(page["reset"], is_reset, "{cursor}");
        is_reset
    };
    assert!(reset_at(lost));
    let id = server.append(runs[1], "A", "1");
    assert_eq!(id, last_id + (1 << 32));
    // Newer events are there now, and the cursor is still of none of them.
    assert!(reset_at(lost) && reset_at(id - 1) && reset_at(id + 1));
    let stream = server.stream(&format!("/events/stream?after_id={last_id}")).event().unwrap();
    assert_eq!(stream.json()["id"], id);
}

/// Says so when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_backup_of_a_served_journal_has_everything_that_was_answered() {
    let mut rng = seeded();
    let place = Place::new();
    let admin = format!("unix:{}", place.path("admin"));
    let server = Server::with(&[&SMALL_WINDOWS[..], &["--admin-listen", &admin]].concat());
    let runs = write_randomly(&server, &mut rng, 120);
    let (is_over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        // Also if an assertion fails: the scope waits for its publisher.
        let over = Over(&is_over);
        let publisher = scope.spawn(|| {
            let mut client = server.client();
            let mut told: Vec<u64> = Vec::new();
            let body =
                format!("[{}]", vec![r#"{"type":"B","payload":"xxxxxxxxxxxxxxx"}"#; 50].join(","));
            while !is_over.load(SeqCst) {
                let round = rounds.fetch_add(1, SeqCst);
                let target = format!("/runs/{}/events", runs[round % runs.len()]);
                let answer = client.request("POST", &target, &[], &body).expect(201).json();
                told.extend(
                    answer.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()),
                );
                // All of it is read again and again, and not in an instant on a busy machine.
                thread::sleep(Duration::from_millis(2));
            }
            told
        });
        for round in 0..4 {
            let before = rounds.load(SeqCst);
            thread::sleep(Duration::from_millis(300));
            support::eventually("it publishes", || {
                (rounds.load(SeqCst) > before + 1).then_some(())
            });
            // Whatever this was answered is in the backup.
            let marker = server.append(runs[0], "MARKER", &round.to_string());
            let (backup, restored) =
                (place.path(&format!("backup-{round}")), place.path(&format!("restored-{round}")));
            let made = done_json(&["backup", "--server", &admin, "-o", &backup]);
            done(&["restore", &backup, "--journal", &restored]);
            is_whole(&restored);
            let events = export(&restored, &[]);
            let ids: BTreeSet<u64> =
                events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
            assert!(ids.contains(&marker));
            let last_id = made["last_id"].as_u64().unwrap();
            assert!(ids.last().is_some_and(|last| *last <= last_id) && marker <= last_id);
            // All that the server has up to there, and nothing else.
            for run in &runs {
                let of_run = |events: &[Value]| -> Vec<Value> {
                    let is_in = |event: &&Value| event["id"].as_u64().unwrap() <= last_id;
                    events
                        .iter()
                        .filter(|event| event["run_id"] == *run)
                        .filter(is_in)
                        .cloned()
                        .collect()
                };
                assert_eq!(of_run(&events), of_run(&server.events(*run)), "run {run}");
            }
        }
        drop(over);
        assert!(publisher.join().unwrap().len() > 100);
    });
    // The keeper is at work again.
    let before = server.log();
    assert!(!before.contains("cut off"), "{before}");
}

#[test]
fn what_a_slow_client_has_not_read_yet_stays_where_it_is() {
    let place = Place::new();
    let socket = place.path("admin");
    let admin = format!("unix:{socket}");
    let server = Server::with(&[&SMALL_WINDOWS[..], &["--admin-listen", &admin]].concat());
    let run = server.new_run();
    let body = |events: usize| {
        let event = format!("{{\"type\":\"A\",\"payload\":\"{}\"}}", "x".repeat(4_000));
        format!("[{}]", vec![event; events].join(","))
    };
    let publish = |events| server.post(&format!("/runs/{run}/events"), &body(events)).expect(201);
    let windows = || server.json("/worker")["journal"]["windows"].as_u64().unwrap();
    for _ in 0..10 {
        publish(200);
    }
    support::eventually("windows are made", || (windows() > 2).then_some(()));
    publish(10);
    let mut reader = UnixStream::connect(&socket).unwrap();
    reader.set_read_timeout(Some(DEADLINE)).unwrap();
    reader.write_all(b"GET /admin/backup HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut bytes = vec![0; 100_000];
    reader.read_exact(&mut bytes).unwrap();
    // So much that all of the log would be moved now, with what is in the backup.
    for _ in 0..5 {
        publish(200);
    }
    thread::sleep(Duration::from_millis(500));
    reader.read_to_end(&mut bytes).unwrap();
    let start = support::http::find(&bytes, b"\r\n\r\n").unwrap() + 4;
    let (backup, restored) = (place.path("backup"), place.path("restored"));
    fs::write(&backup, &bytes[start..]).unwrap();
    done(&["restore", &backup, "--journal", &restored]);
    is_whole(&restored);
    assert!(export(&restored, &[]).len() >= 2_011, "all that was answered before it began");
    // And then the keeper goes on.
    let made = windows();
    support::eventually("it catches up", || {
        publish(10);
        (windows() > made).then_some(())
    });
}

#[test]
fn a_backup_that_was_cut_off_is_no_backup() {
    let place = Place::new();
    let socket = place.path("admin");
    let admin = format!("unix:{socket}");
    let mut server = Server::with(&["--admin-listen", &admin]);
    let run = server.new_run();
    let body = format!(
        "[{}]",
        vec![format!("{{\"type\":\"A\",\"payload\":\"{}\"}}", "x".repeat(4_000)); 200].join(",")
    );
    for _ in 0..10 {
        server.post(&format!("/runs/{run}/events"), &body).expect(201);
    }
    let mut reader = UnixStream::connect(&socket).unwrap();
    reader.set_read_timeout(Some(DEADLINE)).unwrap();
    reader.write_all(b"GET /admin/backup HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut bytes = vec![0; 100_000];
    reader.read_exact(&mut bytes).unwrap();
    // It waits for this reader; the others do not.
    for _ in 0..20 {
        server.append(run, "A", "1");
        server.get("/health").expect(200);
    }
    server.kill();
    let _ = reader.read_to_end(&mut bytes);
    let start = support::http::find(&bytes, b"\r\n\r\n").unwrap() + 4;
    let (backup, restored) = (place.path("backup"), place.path("restored"));
    fs::write(&backup, &bytes[start..]).unwrap();
    assert!(bytes.len() < 8_000_000, "it was whole before the server was killed");
    let said = refused(&["restore", &backup, "--journal", &restored], 1);
    assert!(said.contains("cut off"), "{said}");
    assert!(
        !Path::new(&restored).exists() && !Path::new(&(restored.clone() + ".restoring")).exists()
    );
    server.start_again();

    // The client notices as well, and leaves nothing that looks like a backup.
    server.signal(rustix::process::Signal::STOP);
    let mut client = command(&["backup", "--server", &admin, "-o", &place.path("other")]);
    let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(200));
    server.kill();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!Path::new(&place.path("other")).exists());
    // What it was made of is whole.
    is_whole(&journal_of(&server));
}

#[test]
fn a_damaged_backup_and_a_full_directory_are_refused() {
    let place = Place::new();
    let mut server = Server::start();
    let run = server.new_run();
    server.append(run, "A", "\"needle\"");
    server.terminate();
    let journal = journal_of(&server);
    let backup = place.path("backup");
    done(&["backup", "--journal", &journal, "-o", &backup]);
    let said = refused(&["backup", "--journal", &journal, "-o", &backup], 1);
    assert!(said.contains("is there already"), "{said}");
    let said = refused(&["restore", &backup, "--journal", &journal], 1);
    assert!(said.contains("not empty"), "{said}");
    let restored = place.path("restored");
    let mut bytes = fs::read(&backup).unwrap();
    let at = support::http::find(&bytes, b"needle").unwrap();
    bytes[at] ^= 1;
    fs::write(&backup, &bytes).unwrap();
    let said = refused(&["restore", &backup, "--journal", &restored], 1);
    assert!(said.contains("damaged"), "{said}");
    assert!(!Path::new(&restored).exists());
    let said = refused(&["restore", "Cargo.toml", "--journal", &restored], 1);
    assert!(said.contains("no backup"), "{said}");
}

#[test]
fn only_the_address_for_administration_makes_backups() {
    let place = Place::new();
    let socket = place.path("admin");
    let server = Server::with(&["--admin-listen", &format!("unix:{socket}")]);
    for (method, target) in [
        ("GET", "/admin/backup"),
        ("OPTIONS", "/admin/backup"),
        ("POST", "/admin/backup"),
        ("GET", "/admin"),
    ] {
        server.request(method, target, &[], "").expect(404);
    }
    let local = || support::Client::try_connect_local(Path::new(&socket)).unwrap();
    local().request("POST", "/admin/backup", &[], "").expect(405);
    local().request("GET", "/admin/other", &[], "").expect(404);
    for target in ["/health", "/health/ready", "/metrics", "/worker"] {
        local().request("GET", target, &[], "").expect(200);
    }
    // What the public address has, and nothing from a page of a browser.
    for target in ["/runs", "/projects", "/events/stream", "/openapi.json", "/workers", "/"] {
        local().request("GET", target, &[], "").expect(404);
    }
    local().request("POST", "/runs", &[], "{}").expect(404);
    for target in ["/admin/backup", "/health", "/worker"] {
        local().request("GET", target, &[("Origin", "http://localhost")], "").expect(403);
    }
    let refuses = local().request("GET", "/admin/backup", &[("Accept", "text/html")], "");
    refuses.expect(406);
    let said = refused(
        &["backup", "--server", &format!("http://{}", server.address()), "-o", &place.path("b")],
        1,
    );
    assert!(said.contains("admin_listen"), "{said}");
    assert!(!Path::new(&place.path("b")).exists());
    assert!(Server::try_with(&["--admin-listen", "0.0.0.0:0"]).is_err());
}

#[test]
fn the_address_for_administration_is_not_reached_under_a_name_of_somebody_else() {
    // A port that is free now; who takes it meanwhile makes another attempt.
    let (server, admin) = support::eventually("an address for administration", || {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Server::try_with(&["--admin-listen", &free.to_string()]).ok()?;
        Some((server, free))
    });
    let ask = |host: &str, target: &str| {
        let mut client = support::Client::connect(admin);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer()
    };
    let port = admin.port();
    for host in ["localhost".to_owned(), format!("localhost:{port}"), admin.to_string()] {
        ask(&host, "/worker").expect(200);
    }
    for host in ["page.example", "localhost.page.example:80", "10.0.0.1", ""] {
        for target in ["/worker", "/health", "/admin/backup", "/admin/other"] {
            ask(host, target).expect(403);
        }
        ask(host, "/runs").expect(404);
    }
    // HTTP/1.0 without a Host is no browser's.
    let mut client = support::Client::connect(admin);
    client.send("GET /worker HTTP/1.0\r\n\r\n");
    client.answer().expect(200);
    let backup = Place::new();
    done(&["backup", "--server", &format!("http://{admin}"), "-o", &backup.path("b")]);
    // The public one is under any name.
    let mut client = server.client();
    client.send("GET /runs HTTP/1.1\r\nHost: page.example\r\nOrigin: http://x\r\n\r\n");
    client.answer().expect(200);
}

// ---- verify -------------------------------------------------------------------------------------

/// Flips a bit of the byte at this place of a file.
fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bit_that_is_flipped_in_a_file_is_found() {
    let mut rng = seeded();
    let place = Place::new();
    let mut server = Server::with(&SMALL_WINDOWS);
    let runs = write_randomly(&server, &mut rng, 150);
    // There is something in each file, and what is appended now stays in the log.
    await_windows(&server, 1);
    for _ in 0..3 {
        server.append(runs[0], "A", "\"needle\"");
    }
    server.terminate();
    let journal = journal_of(&server);
    is_whole(&journal);
    let mut found = 0;
    for (name, text) in [("log.redb", "needle"), ("store.redb", "RUN_CREATED")] {
        let copy = place.path(&format!("text-{name}"));
        copy_journal(&journal, &copy);
        let path = Path::new(&copy).join(name);
        let bytes = fs::read(&path).unwrap();
        // Old pages have it too; so all of them are changed.
        let mut changed = bytes.clone();
        let mut from = 0;
        while let Some(at) = support::http::find(&changed[from..], text.as_bytes()) {
            changed[from + at] ^= 4;
            from += at + 1;
        }
        assert!(from > 0);
        fs::write(&path, changed).unwrap();
        // It is said once, and not that all that was in it is missing.
        let problems = problems(&copy);
        assert_eq!(problems.len(), 1, "{:?}", &problems[..problems.len().min(5)]);
        assert_eq!([&problems[0]["place"], &problems[0]["kind"]], [name, "file"]);
        let said = refused(&["export", "--journal", &copy], 1);
        assert!(said.contains("verify"), "{said}");
        // Anywhere else it may be in what nobody uses; but whatever it is, it is said in words.
        for number in 0..12 {
            let copy = place.path(&format!("{name}-{number}"));
            copy_journal(&journal, &copy);
            flip(&Path::new(&copy).join(name), rng.random_range(0..bytes.len()));
            found += usize::from(!problems_in_words(&copy));
        }
        // A file that is cut off, or is none.
        for (number, bytes) in
            [&bytes[..bytes.len() / 2], &[], b"no database"].into_iter().enumerate()
        {
            let copy = place.path(&format!("{name}-cut-{number}"));
            copy_journal(&journal, &copy);
            fs::write(Path::new(&copy).join(name), bytes).unwrap();
            assert!(!problems_in_words(&copy), "{name} {number}");
        }
        let copy = place.path(&format!("{name}-missing"));
        copy_journal(&journal, &copy);
        fs::remove_file(Path::new(&copy).join(name)).unwrap();
        assert!(!problems_in_words(&copy), "{name} is missing");
    }
    assert!(found > 0, "no flipped bit was found");
}

/// Whether a journal is whole, by a verify that ends as it should.
fn problems_in_words(journal: &str) -> bool {
    problems(journal).is_empty()
}

#[test]
fn a_journal_that_was_killed_is_whole_and_stays_as_it_is() {
    let mut rng = seeded();
    let mut server = Server::with(&SMALL_WINDOWS);
    let runs = write_randomly(&server, &mut rng, 100);
    server.kill();
    let journal = journal_of(&server);
    let before = fs::read(Path::new(&journal).join("log.redb")).unwrap();
    is_whole(&journal);
    assert!(export(&journal, &[]).len() >= runs.len());
    assert!(fs::read(Path::new(&journal).join("log.redb")).unwrap() == before);
}

// ---- the others ---------------------------------------------------------------------------------

#[test]
fn a_journal_that_a_server_has_open_is_refused() {
    let place = Place::new();
    let server = Server::start();
    let journal = journal_of(&server);
    let lines = place.path("lines");
    fs::write(&lines, "").unwrap();
    let output = place.path("out");
    for args in [
        &["stats"][..],
        &["verify"],
        &["compact"],
        &["backup", "-o", &output],
        &["export"],
        &["import", &lines],
    ] {
        let said = refused(&[args, &["--journal", &journal]].concat(), 1);
        assert!(said.contains("in use") && said.contains("--server"), "{args:?}: {said}");
        let nowhere = place.path("nowhere");
        if args[0] != "import" {
            let said = refused(&[args, &["--journal", &nowhere]].concat(), 1);
            assert!(said.contains("no journal"), "{args:?}: {said}");
            assert!(!Path::new(&nowhere).exists(), "{args:?}");
        }
    }
    for args in [
        &[][..],
        &["dance"],
        &["stats", "--by", "size"],
        &["restore"],
        &["export", "--run", "1", "--project", "p"],
        &["backup", "-o", "x", "--server", "unix:/x", "--journal", "y"],
        &["backup", "-o", "/nowhere/x", "--server", "ftp://x", "--config", "/nowhere"],
    ] {
        let code = run(args).status.code();
        assert!(matches!(code, Some(1 | 2)), "{args:?}: {code:?}");
        if !args.contains(&"/nowhere/x") {
            assert_eq!(code, Some(2), "{args:?}");
        }
    }
}

#[test]
fn stats_say_what_is_there() {
    let mut rng = seeded();
    let mut server = Server::with(&SMALL_WINDOWS);
    let runs = write_randomly(&server, &mut rng, 150);
    let counts: Vec<(u64, u64)> = runs
        .iter()
        .map(|run| (*run, server.json(&format!("/runs/{run}"))["event_count"].as_u64().unwrap()))
        .collect();
    server.terminate();
    let journal = journal_of(&server);
    let stats = done_json(&["stats", "--journal", &journal, "--runs", "1000", "--by", "events"]);
    let events: u64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(stats["events"], events);
    assert_eq!(stats["runs_count"], runs.len());
    let shown = stats["runs"].as_array().unwrap();
    assert_eq!(shown.len(), runs.len());
    assert!(shown.is_sorted_by_key(|run| std::cmp::Reverse(run["events"].as_u64())));
    for (run, count) in counts {
        let one = done_json(&["stats", "--journal", &journal, "--run", &run.to_string()]);
        assert_eq!(one["runs"][0]["events"], count);
        assert!(shown.iter().any(|shown| shown == &one["runs"][0]));
    }
    let exported = export(&journal, &[]);
    assert_eq!(stats["first_id"], exported[0]["id"]);
    assert_eq!(stats["last_id"], exported[exported.len() - 1]["id"]);
    let text = done(&["stats", "--journal", &journal, "--windows", "--runs", "2"]);
    assert!(text.contains("format 2") && text.contains("FIRST ID"), "{text}");
    refused(&["stats", "--journal", &journal, "--run", "100000"], 1);
}

#[test]
fn an_export_has_what_it_is_asked_for() {
    let mut rng = seeded();
    let mut server = Server::with(&SMALL_WINDOWS);
    let runs = write_randomly(&server, &mut rng, 120);
    let other = server.new_run_with(r#"{"project":"other","session":"t"}"#);
    server.append(other, "A", r#"{"n":1.50,"text":"\u00e4"}"#);
    let served: Vec<Value> = server.events(runs[0]);
    server.terminate();
    let journal = journal_of(&server);
    let all = export(&journal, &[]);
    let id = |event: &Value| event["id"].as_u64().unwrap();
    assert!(all.is_sorted_by_key(id));
    assert_eq!(export(&journal, &["--run", &runs[0].to_string()]), served);
    let by_run = |runs: &[u64]| -> Vec<Value> {
        all.iter()
            .filter(|event| runs.contains(&event["run_id"].as_u64().unwrap()))
            .cloned()
            .collect()
    };
    assert_eq!(export(&journal, &["--project", "other"]), by_run(&[other]));
    assert_eq!(export(&journal, &["--session", "s"]), by_run(&runs));
    let middle = id(&all[all.len() / 2]);
    let rest: Vec<Value> = all.iter().filter(|event| id(event) > middle).cloned().collect();
    assert_eq!(export(&journal, &["--after-id", &middle.to_string()]), rest);
    let raw = done(&["export", "--journal", &journal, "--run", &other.to_string()]);
    assert!(raw.contains(r#""payload":{"n":1.50,"text":"\u00e4"},"created_at":""#), "{raw}");
    refused(&["export", "--journal", &journal, "--run", "100000"], 1);
}

#[test]
fn what_is_imported_is_what_was_exported_under_new_ids() {
    let mut rng = seeded();
    let place = Place::new();
    let mut server = Server::with(&SMALL_WINDOWS);
    let runs = write_randomly(&server, &mut rng, 120);
    // It has more than its beginning, whatever the seed draws.
    server.append(runs[1], "A", "1");
    server.end(runs[0], "failed").expect(200);
    let projects = |server: &Server| -> Vec<Value> {
        let page = server.json("/runs?limit=1000");
        page["runs"].as_array().unwrap().iter().map(|run| run["project"].clone()).collect()
    };
    let projects_before = projects(&server);
    server.terminate();
    let journal = journal_of(&server);
    let (lines, map) = (place.path("lines"), place.path("map"));
    done(&["export", "--journal", &journal, "-o", &lines]);
    let before = export(&journal, &[]);
    let last_id = done_json(&["stats", "--journal", &journal])["next_id"].as_u64().unwrap() - 1;

    // Into the same journal: every run once more.
    let said = done_json(&["import", &lines, "--journal", &journal, "--map", &map]);
    assert_eq!([&said["events"], &said["runs"]], [&json!(before.len()), &json!(runs.len())]);
    is_whole(&journal);
    let map = fs::read_to_string(map).unwrap();
    let map: Vec<(u64, u64)> = map
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["from"].as_u64().unwrap(), line["run_id"].as_u64().unwrap()))
        .collect();
    assert!(map.is_sorted_by_key(|(_, run)| *run) && map.len() == runs.len());
    let mut expected = before.clone();
    for (at, event) in expected.iter_mut().enumerate() {
        let run = event["run_id"].as_u64().unwrap();
        event["run_id"] = map.iter().find(|(from, _)| *from == run).unwrap().1.into();
        event["id"] = (last_id + (1 << 32) + at as u64).into();
    }
    let after = export(&journal, &["--after-id", &last_id.to_string()]);
    assert_eq!(after, expected);
    assert_eq!(export(&journal, &[])[..before.len()], before);
    let server = Server::on(&journal, &[]);
    let ended = map.iter().find(|(from, _)| *from == runs[0]).unwrap().1;
    assert_eq!(server.json(&format!("/runs/{ended}"))["status"], "failed");
    assert_eq!(projects(&server), [&projects_before[..], &projects_before].concat());
    drop(server);

    // What begins in the middle gets a beginning, and through a pipe it is the same.
    let part: Vec<String> = export(&journal, &["--run", &runs[1].to_string()])
        .iter()
        .skip(1)
        .map(Value::to_string)
        .collect();
    let other = place.path("other");
    let mut child = command(&["import", "-", "--journal", &other])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(part.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    is_whole(&other);
    let imported = export(&other, &[]);
    assert_eq!(imported.len(), part.len() + 1);
    assert_eq!(imported[0]["type"], "RUN_CREATED");
    assert_eq!(imported[0]["id"], 1_u64 << 32);
}

#[test]
fn a_line_that_is_wrong_is_named_and_nothing_of_its_batch_is_imported() {
    let place = Place::new();
    let event = |run: u64, seq: u64, event_type: &str, time: &str| {
        let payload = match event_type {
            "RUN_CREATED" => json!({"project": null, "session": null, "metadata": null}),
            _ => json!({"a": 1}),
        };
        json!({"id": 1, "run_id": run, "seq": seq, "type": event_type, "payload": payload,
               "created_at": format!("2026-01-01T00:00:0{time}.000Z")})
        .to_string()
    };
    let good = [event(7, 1, "RUN_CREATED", "1"), event(7, 2, "A", "2"), event(7, 3, "A", "2")];
    let bad = [
        ("{".to_owned(), "EOF"),
        ("[1]".to_owned(), "invalid"),
        (event(7, 4, "no type", "3"), "type"),
        (event(7, 5, "A", "3"), "seq must be 4"),
        (event(7, 4, "A", "1"), "created_at"),
        (event(7, 4, "RUN_CREATED", "3"), "created before"),
        (event(7, 4, "A", "x"), "created_at is no time"),
        (event(7, 4, "A", "3").replace("\"seq\"", "\"sec\""), "unknown field"),
        (event(8, 1, "RUN_CREATED", "3").replace("metadata", "metadatum"), "RUN_CREATED"),
        ([event(7, 4, "RUN_FAILED", "3"), event(7, 5, "A", "3")].join("\n"), "ended before"),
    ];
    for (number, (line, reason)) in bad.iter().enumerate() {
        let (lines, journal) = (place.path("lines"), place.path(&format!("journal-{number}")));
        let text = [&good[..], &[line.clone(), event(7, 4, "A", "4")]].concat().join("\n");
        fs::write(&lines, &text).unwrap();
        let said = refused(&["import", &lines, "--journal", &journal], 1);
        let at = if line.contains('\n') { 5 } else { 4 };
        assert!(said.contains(&format!("line {at}: ")) && said.contains(reason), "{said}");
        assert!(said.contains("Nothing is imported of line 1"), "{said}");
        assert_eq!(export(&journal, &[]).len(), 0);
        is_whole(&journal);
    }
    // What went before in batches of its own is there.
    let (lines, journal) = (place.path("lines"), place.path("journal-large"));
    let payload = "x".repeat(1 << 20);
    let mut text: Vec<String> = vec![good[0].clone()];
    for seq in 2..=20 {
        text.push(event(7, seq, "A", "2").replace(r#"{"a":1}"#, &format!("\"{payload}\"")));
    }
    text.push("{".to_owned());
    fs::write(&lines, text.join("\n")).unwrap();
    let said = refused(&["import", &lines, "--journal", &journal], 1);
    let kept = export(&journal, &[]).len();
    assert!(kept > 0 && kept < 20, "{kept}");
    assert!(said.contains("line 21: ") && said.contains(&format!("line {} ", kept + 1)), "{said}");
    is_whole(&journal);
    // It was long enough for a window.
    assert!(has_windows(&journal, 1) || kept < 17);
}

#[test]
fn an_import_of_nothing_leaves_the_journal_as_it_was() {
    let place = Place::new();
    let mut server = Server::start();
    server.new_run();
    server.terminate();
    let journal = journal_of(&server);
    for (lines, code) in [("", 0), ("\n\n", 0), ("{}\n", 1)] {
        let file = place.path("lines");
        fs::write(&file, lines).unwrap();
        let output = run(&["import", &file, "--journal", &journal]);
        assert_eq!(output.status.code(), Some(code), "{lines:?}");
        let next_id = &done_json(&["stats", "--journal", &journal])["next_id"];
        assert_eq!(*next_id, 2, "after {lines:?}");
    }
}

#[test]
fn compacting_packs_the_log_and_keeps_of_a_run_what_it_may_keep() {
    let place = Place::new();
    let mut server = Server::start();
    let (long, short) = (server.new_run(), server.new_run());
    let lines = "{\"type\":\"A\",\"payload\":\"x\"}\n".repeat(500);
    let ndjson = [("Content-Type", "application/x-ndjson")];
    server.request("POST", &format!("/runs/{long}/events"), &ndjson, &lines).expect(201);
    server.append(short, "B", "1");
    server.terminate();
    let journal = journal_of(&server);
    assert!(!has_windows(&journal, 1), "all of it is in the log");
    let before = export(&journal, &[]);

    let said = done_json(&["compact", "--journal", &journal]);
    assert_eq!(said["windows_made"], 1, "{said}");
    assert!(has_windows(&journal, 1));
    let stats = done_json(&["stats", "--journal", &journal]);
    assert_eq!(stats["log"]["events"], 0, "{stats}");
    is_whole(&journal);
    assert_eq!(export(&journal, &[]), before);

    // What was packed before is cut too.
    let config = place.path("settings.toml");
    fs::write(&config, "max_events_per_run = 3\n").unwrap();
    done(&["compact", "--journal", &journal, "--config", &config]);
    is_whole(&journal);
    let kept: Vec<_> = export(&journal, &["--run", &long.to_string()]);
    assert_eq!(kept.len(), 3);
    assert_eq!(kept[..], before[before.len() - 4..before.len() - 1]);
    assert_eq!(export(&journal, &["--run", &short.to_string()]).len(), 2);
    let server = Server::on(&journal, &[]);
    assert_eq!(server.json(&format!("/runs/{long}"))["event_count"], 501);
}

#[test]
fn compacting_gives_back_the_room_of_deleted_runs() {
    let mut server = Server::with(&["--max-bytes", "20MB"]);
    let keep = server.new_run();
    let gone = server.new_run();
    let body = format!(
        "[{}]",
        vec![format!("{{\"type\":\"A\",\"payload\":\"{}\"}}", "x".repeat(900)); 100].join(",")
    );
    for _ in 0..60 {
        server.post(&format!("/runs/{gone}/events"), &body).expect(201);
        server.append(keep, "A", "1");
    }
    let journal = journal_of(&server);
    // Most of it is in windows before it goes.
    support::eventually("windows are made", || {
        (server.json("/worker")["journal"]["windows"].as_u64() >= Some(2)).then_some(())
    });
    server.delete(&format!("/runs/{gone}")).expect(204);
    // Killed, since the keeper might have swept already.
    server.kill();
    let before = export(&journal, &[]);
    let said = done_json(&["compact", "--journal", &journal]);
    let [was, is] = ["bytes_before", "bytes_after"].map(|name| said[name].as_u64().unwrap());
    assert!(is < was / 2, "{said}");
    is_whole(&journal);
    assert_eq!(export(&journal, &[]), before);
    let files = ["log.redb", "store.redb"].map(|name| Path::new(&journal).join(name));
    assert!(files.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>() <= was);
}
