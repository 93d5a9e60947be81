//! The files in `deploy/systemd`, as systemd itself and this kernel see them.
//!
//! Without `systemd-analyze` its tests are skipped, unless `TIDEWHEEL_TEST_ALL` is set: then they fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

const UNITS: [&str; 3] = ["tidewheel.service", "tidewheel.socket", "tidewheel-admin.socket"];
/// Tenths of what systemd calls exposure, from 0 to 100. The rest is what a server on a network needs.
const EXPOSURE_MAX: u32 = 15;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Whether there is systemd. Says so if not, or fails when it has to be there.
fn is_there() -> bool {
    let is_there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !is_there {
        let all = std::env::var_os("TIDEWHEEL_TEST_ALL").is_some_and(|value| !value.is_empty());
        assert!(!all, "systemd-analyze is missing, and TIDEWHEEL_TEST_ALL is set");
        eprintln!("skipped: systemd-analyze is missing");
    }
    is_there
}

/// The units with the server where it is here: one that is not there is an error.
fn units() -> (tempfile::TempDir, Vec<PathBuf>) {
    let copies = tempfile::tempdir().expect("there is room");
    let copy = |name: &str| {
        let text = read(name).replace("/usr/local/bin/tidewheel", env!("CARGO_BIN_EXE_tidewheel"));
        let path = copies.path().join(name);
        fs::write(&path, text).expect("there is room");
        path
    };
    let paths = UNITS.map(copy).into();
    (copies, paths)
}

fn analyze(arguments: &[&str], units: &[PathBuf]) -> Output {
    Command::new("systemd-analyze").args(arguments).args(units).output().expect("it is there")
}

#[test]
fn the_units_are_what_systemd_understands() {
    if !is_there() {
        return;
    }
    let (_copies, units) = units();
    let output = analyze(&["verify", "--man=no"], &units);
    // What it does not know it only warns of.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_server_is_shut_in() {
    if !is_there() {
        return;
    }
    let (_copies, units) = units();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    let output = analyze(&arguments, &units[..1]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The value of a setting of a unit that is there once.
fn value<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(values.next().is_none(), "{name} twice");
    value
}

fn seconds(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The settings that the server has by itself, as `--print-config` says them.
fn default_of(setting: &str) -> Duration {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewheel"))
        .args(["serve", "--print-config"])
        .env_clear()
        .output()
        .expect("the binary was built with the tests");
    let text = String::from_utf8(output.stdout).expect("it is text");
    let line = text.lines().find_map(|line| line.strip_prefix(setting)?.strip_prefix(" = "));
    seconds(line.and_then(|line| line.split('"').nth(1)).expect("it is a duration"))
}

#[test]
fn the_drain_has_the_time_that_it_takes() {
    let unit = read("tidewheel.service");
    let drain = default_of("drain_grace") + default_of("drain_window") + Duration::from_secs(5);
    assert!(seconds(value(&unit, "TimeoutStopSec")) > 2 * drain);
}

#[test]
fn the_names_of_kernel_settings_are_those_of_this_kernel() {
    for name in ["90-tidewheel-100k.conf", "90-tidewheel-1m.conf"] {
        let mut known = 0;
        for (line, before) in lines_with_reasons(&read(&format!("sysctl.d/{name}"))) {
            let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(before, "{name}: {key} has no reason above it");
            let numbers = value.split(' ').all(|number| number.parse::<u64>().is_ok());
            assert!(numbers, "{name}: {line}");
            let (key, may_be_missing) = match key.strip_prefix('-') {
                Some(key) => (key, true),
                None => (key, false),
            };
            let path = Path::new("/proc/sys").join(key.replace('.', "/"));
            if let Ok(now) = fs::read_to_string(&path) {
                assert_eq!(now.split_whitespace().count(), value.split(' ').count(), "{line}");
                known += 1;
                continue;
            }
            // Some are the first network namespace's alone, and this may be in another.
            eprintln!("{name}: {key} is not in this kernel, or not in this namespace");
            let is_elsewhere = may_be_missing || key.starts_with("net.core.");
            assert!(is_elsewhere, "{name}: {key} is not known");
        }
        assert!(known > 5, "{name}: only {known} are known");
    }
}

/// Every line that sets something, and whether a comment stands above it.
fn lines_with_reasons(text: &str) -> Vec<(&str, bool)> {
    let mut has_reason = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            has_reason = line.starts_with('#');
            continue;
        }
        lines.push((line, has_reason));
        has_reason = false;
    }
    lines
}
