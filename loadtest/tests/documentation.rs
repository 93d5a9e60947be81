//! The documents name the commands and options that exist, and all of them.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use tidewheel_loadtest::{compare::PEERS, preset::PRESETS};

const COMMANDS: [&str; 7] = ["append", "compare", "fanout", "idle", "slow", "soak", "storm"];
/// Documents that name options of the load tester alone, without the command before them.
const ABOUT_IT: [&str; 2] = ["docs/benchmarks.md", "docs/loadtest.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn options(command: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewheel-loadtest"))
        .args([command, "--help"])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{command}");
    flags(&String::from_utf8(output.stdout).expect("help is text"))
}

/// Words that begin with two hyphens.
fn flags(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let words = text.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

/// Command lines of the load tester in a text, without its name; those over several lines as one.
fn command_lines(text: &str) -> Vec<String> {
    let text =
        text.replace("\\\n", " ").replace("-p tidewheel-loadtest -- ", "tidewheel-loadtest ");
    let lines = text.lines().filter_map(|line| line.split_once("tidewheel-loadtest "));
    lines.map(|(_, rest)| rest.split(['|', '`', '#']).next().unwrap_or(rest).to_owned()).collect()
}

#[test]
fn every_command_line_in_the_documents_can_be_typed() {
    let mut documents: Vec<String> = vec!["README.md".into(), "CONTRIBUTING.md".into()];
    for entry in fs::read_dir(root().join("docs")).expect("the documents are there") {
        let name = entry.expect("it can be read").file_name().into_string().expect("it is text");
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            documents.push(format!("docs/{name}"));
        }
    }
    let mut seen = BTreeSet::new();
    for document in &documents {
        for line in command_lines(&read(document)) {
            let command = line.split_whitespace().next().unwrap_or_default();
            if !COMMANDS.contains(&command) {
                continue;
            }
            seen.insert(command.to_owned());
            let known = options(command);
            for flag in flags(&line) {
                assert!(known.contains(&flag), "{document}: {command} {flag}");
            }
        }
    }
    assert!(seen.contains("fanout") && seen.contains("compare"), "{seen:?}");
}

#[test]
fn every_option_is_described_and_every_described_one_exists() {
    let mut common = options("idle");
    let mut known = BTreeSet::new();
    for command in COMMANDS {
        let own = options(command);
        // A comparison has options of its own only.
        if command != "compare" {
            common.retain(|flag| own.contains(flag));
        }
        known.extend(own);
    }
    for document in ABOUT_IT {
        let text = read(document);
        for code in text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("--")) {
            for flag in flags(code) {
                assert!(known.contains(&flag), "{document}: {flag}");
            }
        }
    }
    let described = flags(&read("docs/loadtest.md"));
    // Presets and help are described in words.
    for flag in common.iter().filter(|flag| *flag != "--help") {
        assert!(described.contains(flag), "{flag}");
    }
}

#[test]
fn every_preset_and_every_peer_is_described() {
    let text = read("docs/loadtest.md");
    for preset in PRESETS {
        assert!(text.contains(preset.name), "{}", preset.name);
    }
    let text = read("docs/benchmarks.md");
    for peer in PEERS {
        assert!(text.contains(peer.name), "{}", peer.name);
        let script = root().join("loadtest/peers").join(peer.directory).join("peer");
        assert!(script.exists(), "{}", script.display());
    }
}
