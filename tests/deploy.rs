//! The files of `deploy/docker` and `deploy/kubernetes`: checkers of others accept them, settings in
//! them are settings of the server, what stands there twice is the same, and under the seccomp
//! profile the server lives. (Proxies are in `tests/proxies`.)

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use seccompiler::BpfProgram;
use serde_json::{Value, json};
use support::{
    Server,
    programs::{is_there, python, runs},
};
use tidewheel::limits;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a checker prints when it has nothing to complain of.
#[track_caller]
fn accepted(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program is there");
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
    said
}

/// A program of the tests' Python environment.
fn of_python(name: &str) -> PathBuf {
    python().with_file_name(name)
}

/// The documents of a YAML text.
fn yaml(text: &str) -> Vec<Value> {
    const SCRIPT: &str =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.argv[1]))))";
    let documents = accepted(Command::new(python()).args(["-c", SCRIPT, text]));
    serde_json::from_str(&documents).expect("Python writes JSON")
}

fn has_yaml() -> bool {
    is_there("Python's yaml", runs(python(), &["-c", "import yaml"]))
}

/// `20s` or `1m 15s` in seconds.
fn seconds(text: &str) -> u64 {
    let time = humantime::parse_duration(text);
    time.unwrap_or_else(|error| panic!("{text:?}: {error}")).as_secs()
}

/// What the server says to settings: those in force, name by name.
#[track_caller]
fn settings(file: Option<&Path>, environment: &[(String, String)]) -> BTreeMap<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewheel"));
    command.args(["serve", "--print-config"]);
    command.args(file.iter().flat_map(|path| [Path::new("--config"), path]));
    command.envs(environment.iter().cloned());
    let lines = accepted(&mut command);
    let pairs = lines.lines().filter_map(|line| {
        let (name, value) = line.split_once(" = ")?;
        let value = value.split(" # ").next().unwrap_or(value);
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    pairs.collect()
}

// ---- proxies ------------------------------------------------------------------------------------

/// The number after each of these words in a file, in the unit in which it stands there.
fn numbers_after(text: &str, word: &str) -> Vec<u64> {
    let rests = text.split(word).skip(1).map(str::trim_start);
    let digits = rests.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
    digits.map(|digits| digits.parse().expect("a number follows")).collect()
}

/// A stream that keeps its silence, and a poll that waits, are not ended by who passes them on; and
/// a connection that is kept is closed by the proxy first.
#[test]
fn proxies_have_more_patience_than_the_server() {
    let defaults = settings(None, &[]);
    let silence = seconds(&defaults["keepalive_interval"]).max(limits::WAIT_SECONDS_MAX);
    let readers = [
        ("nginx/tidewheel.conf", "proxy_read_timeout"),
        ("nginx/tidewheel-complete.conf", "proxy_read_timeout"),
        ("haproxy/haproxy.cfg", "timeout client"),
        ("haproxy/haproxy.cfg", "timeout server"),
        ("kubernetes/ingress.yaml", "proxy-read-timeout: \""),
    ];
    for (file, word) in readers {
        let found = numbers_after(&read(file), word);
        assert!(!found.is_empty(), "{file}: no {word}");
        assert!(found.iter().all(|found| *found > silence), "{file}: {word} {found:?}");
    }
    let idle = seconds(&defaults["idle_timeout"]);
    let keepers =
        [("caddy/Caddyfile", "\tkeepalive"), ("haproxy/haproxy.cfg", "timeout http-keep-alive")];
    for (file, word) in keepers {
        let found = numbers_after(&read(file), word);
        assert!(!found.is_empty(), "{file}: no {word}");
        assert!(found.iter().all(|found| *found < idle), "{file}: {word} {found:?}");
    }
}

// ---- Docker -------------------------------------------------------------------------------------

#[test]
fn the_dockerfile_is_accepted() {
    let hadolint = of_python("hadolint");
    if is_there("hadolint", runs(&hadolint, &["--version"])) {
        accepted(Command::new(hadolint).arg(deploy("docker/Dockerfile")));
    }
}

/// The build stage has what the build reads, and this Rust builds it.
#[test]
fn the_image_is_built_from_the_whole_workspace() {
    let ignored = read("docker/Dockerfile.dockerignore");
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest = fs::read_to_string(deploy("../Cargo.toml")).expect("it is there");
    let manifest: toml::Table = toml::from_str(&manifest).expect("it is TOML");
    let members = manifest["workspace"]["members"].as_array().expect("there are members");
    for member in members.iter().map(|member| member.as_str().expect("a path")) {
        assert!(kept.contains(&member), "{member}");
    }
    for always in ["Cargo.toml", "Cargo.lock", "src"] {
        assert!(kept.contains(&always), "{always}");
    }
    let version = manifest["workspace"]["package"]["rust-version"].as_str().expect("a version");
    let dockerfile = read("docker/Dockerfile");
    assert!(dockerfile.contains(&format!("ARG RUST={version}.")), "not Rust {version}");
}

#[test]
fn compose_accepts_its_file_and_waits_for_the_drain() {
    let compose = "docker-compose";
    if !is_there(compose, runs(compose, &["version"])) || !has_yaml() {
        return;
    }
    let mut command = Command::new(compose);
    let whole =
        accepted(command.current_dir(deploy("docker")).args(["-f", "compose.yaml", "config"]));
    let services = yaml(&whole).remove(0)["services"].take();
    let server = &services["tidewheel"];
    let environment = server["environment"].as_object().expect("there are variables");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let environment: Vec<(String, String)> =
        environment.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let settings = settings(None, &environment);
    let drain = seconds(&settings["drain_grace"]) + seconds(&settings["drain_window"]);
    assert!(seconds(&text(&server["stop_grace_period"])) > drain, "{server}");

    // nginx has the plain file, with the address that the server has here.
    let address = text(&server["networks"]["default"]["ipv4_address"]);
    let command = services["nginx"]["command"].to_string();
    assert!(command.contains(&format!("s/127.0.0.1:8000/{address}:8000/")), "{command}");
    assert!(read("nginx/tidewheel.conf").contains("http://127.0.0.1:8000;"));
    let files = services["nginx"]["volumes"].to_string();
    assert!(files.contains("nginx/tidewheel.conf:/tidewheel.conf:ro"), "{files}");
}

/// A profile as the kernel takes it: what it allows, and an error for everything else.
fn filter(profile: &Value) -> BpfProgram {
    let mut rules = Vec::new();
    for group in profile["syscalls"].as_array().expect("there are groups") {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        let conditions = group["args"].as_array().map(Vec::as_slice).unwrap_or_default();
        let conditions: Vec<Value> = conditions.iter().map(condition).collect();
        for name in group["names"].as_array().expect("there are names") {
            rules.push(match &conditions[..] {
                [] => json!({"syscall": name}),
                _ => json!({"syscall": name, "args": conditions}),
            });
        }
    }
    let error = json!({"errno": profile["defaultErrnoRet"]});
    let whole =
        json!({"main": {"mismatch_action": error, "match_action": "allow", "filter": rules}});
    let architecture = std::env::consts::ARCH.try_into().expect("seccompiler knows it");
    let filters = seccompiler::compile_from_json(whole.to_string().as_bytes(), architecture);
    filters.expect("the profile makes a filter").remove("main").expect("it is there")
}

fn condition(argument: &Value) -> Value {
    assert_eq!(argument["op"], "SCMP_CMP_MASKED_EQ");
    let operator = json!({"masked_eq": argument["value"]});
    json!({"index": argument["index"], "type": "qword", "op": operator, "val": argument["valueTwo"]})
}

/// Runs this on a thread on which, and on whose processes, a profile is in force.
fn under(profile: &Value, test: fn()) {
    let filter = filter(profile);
    let thread = thread::spawn(move || {
        seccompiler::apply_filter(&filter).expect("a filter may always be added");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

// It names calls that newer architectures never had, which is an error to this reader alone.
#[cfg(target_arch = "x86_64")]
#[test]
fn under_the_seccomp_profile_the_server_uses_io_uring() {
    let mut profile: Value = serde_json::from_str(&read("docker/seccomp-io-uring.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    under(&profile, || {
        for driver in ["uring", "epoll"] {
            let mut server = Server::with(&["--io", driver, "--workers", "2"]);
            let run = server.new_run();
            let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
            let id = server.append(run, "STEP", "null");
            assert_eq!(stream.ids(2), [id - 1, id]);
            let mut health = Command::new(env!("CARGO_BIN_EXE_tidewheel"));
            health.args(["health", "--ready", "--server"]);
            health.arg(format!("http://{}", server.address()));
            assert_eq!(accepted(&mut health), "ready\n");
            server.restart();
            assert_eq!(server.append(run, "STEP", "null"), id + 1);
        }
    });

    // Without its first group it is like all others.
    let groups = profile["syscalls"].as_array_mut().expect("there are groups");
    assert!(groups.remove(0)["names"].to_string().contains("io_uring_setup"));
    under(&profile, || {
        let Err(log) = Server::try_with(&["--io", "uring"]) else {
            panic!("the filter filters nothing")
        };
        assert!(log.contains("io_uring"), "{log}");
    });
}

// ---- Kubernetes ---------------------------------------------------------------------------------

/// What `kubectl apply -k` makes, but for the monitor, of whose kind Kubernetes itself knows nothing.
fn manifests() -> Vec<PathBuf> {
    let files = yaml(&read("kubernetes/kustomization.yaml")).remove(0)["resources"].take();
    let files = files.as_array().expect("there are resources").iter();
    let mut files: Vec<PathBuf> =
        files.map(|file| deploy("kubernetes").join(file.as_str().expect("a file"))).collect();
    files.sort();
    let apart = ["kustomization.yaml", "podmonitor.yaml"];
    let mut there: Vec<PathBuf> = fs::read_dir(deploy("kubernetes"))
        .expect("it is a directory")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| !apart.iter().any(|name| path.ends_with(name)))
        .collect();
    there.sort();
    assert_eq!(files, there);
    files
}

#[test]
fn kubernetes_knows_everything_in_the_manifests() {
    let checker = of_python("kubernetes-validate");
    if has_yaml() && is_there("kubernetes-validate", runs(&checker, &["--version"])) {
        accepted(Command::new(checker).arg("--strict").args(manifests()));
    }
}

#[test]
fn a_pod_has_time_to_drain_and_settings_that_the_server_knows() {
    if !has_yaml() {
        return;
    }
    let map = yaml(&read("kubernetes/configmap.yaml")).remove(0);
    let file = tempfile::NamedTempFile::new().expect("there is room");
    let text = map["data"]["tidewheel.toml"].as_str().expect("there are settings");
    fs::write(file.path(), text).expect("it is ours");
    let settings = settings(Some(file.path()), &[]);
    let drain = seconds(&settings["drain_grace"]) + seconds(&settings["drain_window"]);

    let set = yaml(&read("kubernetes/statefulset.yaml")).remove(0)["spec"].take();
    assert_eq!(set["replicas"], 1);
    let pod = &set["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
    assert!(grace > drain, "{grace} s for {drain} s");
    // Until the last proxy has heard that the pod is not ready, it serves on.
    let container = &pod["containers"][0];
    let number = |name: &str| container["readinessProbe"][name].as_u64().expect("a number");
    let unready = number("periodSeconds") * number("failureThreshold");
    assert!(seconds(&settings["drain_grace"]) > unready, "{unready} s until it is not ready");
    let mounted = container["volumeMounts"].to_string();
    for argument in container["args"].as_array().expect("there are arguments") {
        let argument = argument.as_str().expect("a text");
        let is_there = !argument.starts_with('/') || mounted.contains("\"/etc/tidewheel\"");
        assert!(is_there, "{argument}: {mounted}");
    }
    // The image says where the journal is, and the volume is there.
    let journal = "TIDEWHEEL_JOURNAL=/var/lib/tidewheel/journal";
    assert!(read("docker/Dockerfile").contains(journal));
    assert!(mounted.contains("\"/var/lib/tidewheel\""), "{mounted}");
}

#[test]
fn the_front_is_the_plain_nginx() {
    if !has_yaml() {
        return;
    }
    let front = yaml(&read("kubernetes/front.yaml")).remove(0);
    let plain = read("nginx/tidewheel.conf");
    let moved =
        plain.replace("127.0.0.1:8000", "tidewheel:8000").replace("listen 80;", "listen 8080;");
    assert_eq!(front["data"]["default.conf"], moved);
}
