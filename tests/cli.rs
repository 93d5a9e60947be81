//! The program from outside: what it prints, and its exit codes.

use std::process::{Command, Output, Stdio};

fn tidewheel(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidewheel"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn check(args: &[&str], environment: &[(&str, &str)], code: i32, said: &str) {
    let output = tidewheel(args, environment);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    assert!(err.contains(said), "{args:?}: {err}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn what_makes_no_sense_is_exit_code_2() {
    check(&[], &[], 2, "Usage: tidewheel");
    check(&["dance"], &[], 2, "dance");
    check(&["serve", "--dance"], &[], 2, "--dance");
    check(&["serve", "--workers", "0"], &[], 2, "--workers: 0 is out of range");
    check(&["serve"], &[("TIDEWHEEL_WORKERS", "0")], 2, "TIDEWHEEL_WORKERS");
    check(&["serve"], &[("TIDEWHEEL_DANCE", "1")], 2, "TIDEWHEEL_DANCE");
    check(&["serve", "--config", "/nowhere/at/all"], &[], 2, "/nowhere/at/all");
    check(&["append"], &[], 2, "--new-run");
    check(&["runs"], &[("TIDEWHEEL_URL", "localhost")], 2, "localhost");
}

#[test]
fn what_fails_on_the_way_is_exit_code_1() {
    // Nothing listens on port 1 of this host.
    let away = [("TIDEWHEEL_URL", "http://127.0.0.1:1")];
    check(&["runs"], &away, 1, "http://127.0.0.1:1");
    check(&["append", "--new-run", "--retry-for", "0s", "-"], &away, 1, "cannot make a run");
    check(&["append", "7", "/nowhere/at/all"], &away, 1, "/nowhere/at/all");
}

#[test]
fn the_version_and_help_are_printed() {
    let version = tidewheel(&["--version"], &[]);
    assert!(version.status.success());
    let expected = format!("tidewheel {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
    assert!(tidewheel(&["append", "--help"], &[]).status.success());
}

#[test]
fn printed_settings_are_accepted_as_a_file() {
    let settings = |args: &[&str], environment: &[(&str, &str)]| {
        let args = [&["serve", "--print-config"], args].concat();
        let output = tidewheel(&args, environment);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let values = |printed: &str| {
        let value = |line: &str| line.split_once(" # ").unwrap().0.to_owned();
        printed.lines().map(value).collect::<Vec<String>>()
    };
    let first = settings(&["--listen=[::1]:0"], &[("TIDEWHEEL_IDLE_TIMEOUT", "90s")]);
    assert!(first.contains("listen = \"[::1]:0\" # flag --listen\n"), "{first}");
    assert!(
        first.contains("idle_timeout = \"90s\" # environment TIDEWHEEL_IDLE_TIMEOUT\n"),
        "{first}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &first).unwrap();
    let second = settings(&["--config", file.path().to_str().unwrap()], &[]);
    assert_eq!(values(&second), values(&first));
}
