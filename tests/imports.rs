//! The code's imports keep to the direction that `docs/architecture.md` draws.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// From the bottom up: a file may name modules of its own layer and of those below.
const LAYERS: [(&str, &[&str]); 4] = [
    ("words", &["client_address", "config", "event", "limits"]),
    ("pure", &["histogram", "tail", "timer_wheel", "wire"]),
    ("behaviour", &["admission", "api", "connection", "hub", "journal", "route"]),
    (
        "shell",
        &[
            "allocator",
            "arrivals",
            "cli",
            "client",
            "clock",
            "deadlines",
            "driver",
            "event_loop",
            "exchange",
            "followers",
            "history_readers",
            "journal_keeper",
            "journal_tools",
            "journal_writer",
            "lib",
            "logging",
            "mailbox",
            "main",
            "metrics",
            "process",
            "replay",
            "server",
            "service_manager",
            "shared",
            "status",
            "stream_ring",
            "worker",
        ],
    ),
];

/// Names that only these files may use; a path ends with `/` when it stands for a directory.
const RESERVED: [(&str, &[&str]); 9] = [
    ("redb::", &["journal/disk.rs", "journal/fake_disk.rs", "journal/redb.rs", "journal/redb/"]),
    ("monoio::", &["driver.rs"]),
    ("io_uring::", &["driver.rs", "stream_ring.rs"]),
    ("unsafe ", &["allocator.rs", "driver.rs", "service_manager.rs", "stream_ring.rs"]),
    (
        "rustix::net",
        &[
            "arrivals.rs",
            "deadlines.rs",
            "exchange/",
            "server.rs",
            "service_manager.rs",
            "stream_ring.rs",
        ],
    ),
    (
        "std::thread",
        &[
            "client/",
            "history_readers.rs",
            "journal_keeper.rs",
            "journal_writer.rs",
            "logging/",
            "server.rs",
        ],
    ),
    (
        "Instant::now",
        &["client/", "journal_keeper.rs", "journal_writer.rs", "server.rs", "worker.rs"],
    ),
    ("sd_notify::", &["service_manager.rs"]),
    ("SystemTime::now", &["client/", "clock.rs"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file without its tests and comments, by its path in `src`.
fn files() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![source()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source()).unwrap().to_str().unwrap().to_owned();
                found.insert(name, code(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

fn code(text: &str) -> String {
    let without_tests = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    without_tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Files that are tests as a whole: declared under `#[cfg(test)]`.
fn is_test(name: &str, files: &BTreeMap<String, String>) -> bool {
    let stem = Path::new(name).file_stem().unwrap().to_str().unwrap();
    files.values().any(|text| text.contains(&format!("#[cfg(test)]\nmod {stem};")))
}

fn module(name: &str) -> &str {
    name.split(['/', '.']).next().unwrap_or_default()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

/// The modules of this crate that a text names, by `crate::name` or in a `use crate::{…}`.
fn named_modules(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for start in text.match_indices("crate::").map(|(at, found)| at + found.len()) {
        let rest = &text[start..];
        match rest.strip_prefix('{') {
            None => names.push(leading_word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut word_starts = true;
                for (at, character) in list.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => word_starts = true,
                        _ if word_starts && character.is_alphabetic() => {
                            names.push(leading_word(&list[at..]));
                            word_starts = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn leading_word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn every_module_has_a_layer() {
    for name in files().keys() {
        assert!(layer(module(name)).is_some(), "{name} is in no layer");
    }
}

#[test]
fn imports_point_down() {
    let files = files();
    for (name, text) in files.iter().filter(|(name, _)| !is_test(name, &files)) {
        let own = layer(module(name)).unwrap();
        for other in named_modules(text) {
            if let Some(theirs) = layer(&other) {
                let (own_name, their_name) = (LAYERS[own].0, LAYERS[theirs].0);
                assert!(theirs <= own, "{name} ({own_name}) names {other} ({their_name})");
            }
        }
    }
}

#[test]
fn wire_knows_no_journal_and_the_journal_no_stream() {
    let files = files();
    for (name, text) in &files {
        let forbidden: &[&str] = match module(name) {
            "wire" | "tail" | "timer_wheel" => &["journal", "hub", "connection"],
            "journal" => &["hub", "api", "route", "connection", "wire", "tail"],
            "hub" => &["api", "route", "connection"],
            "connection" => &["hub", "api", "route", "journal"],
            _ => &[],
        };
        for other in named_modules(text) {
            assert!(!forbidden.contains(&other.as_str()), "{name} names {other}");
        }
    }
}

#[test]
fn what_is_reserved_stays_where_it_belongs() {
    let files = files();
    for (name, text) in files.iter().filter(|(name, _)| !is_test(name, &files)) {
        for (word, allowed) in RESERVED {
            let is_allowed = allowed.iter().any(|place| match place.strip_suffix('/') {
                Some(_) => name.starts_with(place),
                None => name == place,
            });
            let uses = text.match_indices(word).any(|(at, _)| {
                // `crate::journal::redb::…` is our own module.
                !text[..at].ends_with("::") && !text[..at].ends_with(char::is_alphanumeric)
            });
            assert!(is_allowed || !uses, "{name} uses {word}");
        }
    }
}

#[test]
fn the_reader_of_imports_finds_them() {
    let text = "use crate::{\n    api::{self, query},\n    hub::Hub,\n};\nlet x = crate::tail::Tail::new();";
    assert_eq!(named_modules(text), ["api", "hub", "tail"]);
}
