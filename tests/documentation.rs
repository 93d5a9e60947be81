//! The documents say what the code says: routes, frames, errors, statuses, limits, commands, links.
//!
//! Each test reads names out of a document and finds them in the code, and the other way round, so
//! that neither can change alone. `UPDATE=1 cargo test --test documentation` writes what is made of
//! the code alone: the table of settings.
//!
//! The names of frames and of problems are literals in the code, and are read from its text;
//! everything else is asked of the code itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tidewheel::cli;
use tidewheel::config::SETTINGS;
use tidewheel::journal::verify::Kind;
use tidewheel::limits;
use tidewheel::route::{Route, TEMPLATES, route};
use tidewheel::wire::request::parse_head;
use tidewheel::wire::status::reason_phrase;

const COMMANDS: [&str; 14] = [
    "serve",
    "append",
    "tail",
    "runs",
    "check",
    "health",
    "journal",
    "journal stats",
    "journal verify",
    "journal compact",
    "journal backup",
    "journal restore",
    "journal export",
    "journal import",
];
/// Flags of other programs that the documents name alone.
const FLAGS_OF_OTHERS: [&str; 2] = ["--json", "--unix-socket"];

// ---- the documents ------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Documents about the load tester, whose options its own tests look for.
const OF_THE_LOAD_TESTER: [&str; 3] = ["benchmarks.md", "loadtest.md", "performance.md"];

/// Every document: those in the root, in `docs/` and in `deploy/`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in [root().to_owned(), root().join("docs"), root().join("deploy")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() >= 4, "{found:?}");
    found
}

/// The lines under a heading, to the next heading of any level.
fn section<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = document.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "there is no {heading:?}");
    lines.take_while(|line| !line.starts_with('#')).collect()
}

/// The cells of the tables under a heading, without what is above and in the ruled line. A `|` in a
/// cell is written `\|`.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = section(document, heading);
    let mut rows = Vec::new();
    let mut is_inside = false;
    for line in lines {
        is_inside = line.starts_with('|') && (is_inside || line.starts_with("| --- |"));
        if is_inside && !line.starts_with("| --- |") {
            let line = line.trim().trim_matches('|').replace("\\|", "\0");
            rows.push(line.split('|').map(|cell| cell.trim().replace('\0', "|")).collect());
        }
    }
    assert!(!rows.is_empty(), "there is no table under {heading:?}");
    rows
}

fn unquoted(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// What stands between backticks in running text, and the lines of blocks of code.
fn code_of(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut is_block = false;
    for line in document.lines() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            found.push(line.to_owned());
        } else {
            text.push_str(line);
            text.push(' ');
        }
    }
    found.extend(text.split('`').skip(1).step_by(2).map(str::to_owned));
    found
}

// ---- the code as text ---------------------------------------------------------------------------

/// The source files below `directory`, without their tests.
fn sources(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(without_tests(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

fn without_tests(source: &str) -> String {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// The longest text at the start of `text` of characters that a frame or a problem may have.
fn name_at(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '.' || c == '-';
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

// ---- routes -------------------------------------------------------------------------------------

/// The route of a request for a documented path.
fn ask(method: &str, path: &str) -> Option<Route> {
    let path = path.replace("{id}", "7").replace("{project}", "p").replace("{session}", "s");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let (head, _) = parse_head(request.as_bytes()).unwrap().expect("a whole head");
    route(&head).ok()
}

#[test]
fn the_table_of_routes_is_that_of_the_router() {
    let api = read("docs/api.md");
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(&api, "## Routes") {
        let (method, path) = unquoted(&row[0]).split_once(' ').expect("a method and a path");
        let found = ask(method, path).unwrap_or_else(|| panic!("{method} {path} is no route"));
        assert_eq!(found.template(), path, "{method} {path} is another route");
        let is_new = documented.entry(path.to_owned()).or_default().insert(method.to_owned());
        assert!(is_new, "{method} {path} stands there twice");
    }

    let source = without_tests(&read("src/route.rs"));
    let (_, templates) = source.split_once("fn template(").expect("routes have templates");
    let templates = templates.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    assert_eq!(set(documented.keys().map(String::as_str)), set(templates));
    // Those by which requests are counted.
    let paths = TEMPLATES.into_iter().filter(|template| template.starts_with('/'));
    assert_eq!(set(documented.keys().map(String::as_str)), set(paths));

    for (path, methods) in &documented {
        let known = ["GET", "POST", "PATCH", "DELETE", "PUT", "TRACE", "CONNECT", "QUERY"];
        let answered = known.into_iter().filter(|method| ask(method, path).is_some());
        assert_eq!(*methods, set(answered), "{path}");
    }
}

#[test]
fn every_path_that_is_named_is_one_of_them() {
    let roots = [
        "/metrics",
        "/runs",
        "/projects",
        "/events",
        "/api/",
        "/health",
        "/worker",
        "/admin",
        "/openapi",
    ];
    for document in documents() {
        for code in code_of(&fs::read_to_string(&document).unwrap()) {
            let words = code.split([' ', '"', '\'', '`', ',', ')']);
            let servers = ["$url", "$URL", "$PUBLIC", "…"];
            for word in words {
                let word =
                    servers.iter().find_map(|server| word.strip_prefix(server)).unwrap_or(word);
                let local = match word.split_once("://") {
                    Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
                    None => word,
                };
                let path = local.split(['?', '#']).next().unwrap_or_default();
                if !roots.iter().any(|root| path.starts_with(root)) {
                    continue;
                }
                let methods = ["GET", "POST", "PATCH", "DELETE"];
                let is_route = methods.iter().any(|method| ask(method, path).is_some());
                // An id that is written in another way is named to say that it is none.
                assert!(is_route || path == "/runs/01", "{}: {path}", document.display());
            }
        }
    }
}

// ---- frames -------------------------------------------------------------------------------------

#[test]
fn the_table_of_frames_is_what_is_written() {
    let api = read("docs/api.md");
    let table = rows(&api, "### Frames of the server");
    let documented: Vec<&str> = table.iter().map(|row| unquoted(&row[0])).collect();

    let source = without_tests(&read("src/wire/sse.rs"));
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let written = code.split("event: ").skip(1).map(name_at).filter(|name| !name.is_empty());
    assert_eq!(set(documented), set(written));
}

#[test]
fn every_frame_that_is_named_is_in_the_code() {
    let code = sources("src").concat();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for rest in text.split("stream.").skip(1) {
            let name = name_at(rest).trim_end_matches('.');
            let is_there = name.is_empty() || code.contains(&format!("stream.{name}"));
            assert!(is_there, "{}: stream.{name}", document.display());
        }
    }
}

// ---- errors -------------------------------------------------------------------------------------

const PROBLEM: &str = "urn:tidewheel:problem:";

#[test]
fn the_table_of_problems_is_that_of_the_code() {
    let api = read("docs/api.md");
    let table = rows(&api, "## Errors");
    let documented = table.iter().filter_map(|row| unquoted(&row[0]).strip_prefix(PROBLEM));

    // A type is given as its slug and its title, `("no-such-run", "No such run")`, on one line or
    // on several; a title is more than a word.
    let code = sources("src").concat();
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ").replace("( \"", "(\"");
    let used = code.split("(\"").skip(1).filter_map(|rest| {
        let slug = name_at(rest);
        let title = rest[slug.len()..].strip_prefix("\", \"")?;
        let title = title.split('"').next().unwrap_or_default();
        let is_title =
            title.starts_with(|first: char| first.is_ascii_uppercase()) && title.contains(' ');
        (!slug.is_empty() && is_title).then_some(slug)
    });
    assert_eq!(set(documented), set(used));
}

#[test]
fn every_problem_that_is_named_is_in_the_table() {
    let api = read("docs/api.md");
    let table = rows(&api, "## Errors");
    let slugs = set(table.iter().filter_map(|row| unquoted(&row[0]).strip_prefix(PROBLEM)));
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for rest in text.split(PROBLEM).skip(1) {
            assert!(slugs.contains(name_at(rest)), "{}: {}", document.display(), name_at(rest));
        }
    }
}

#[test]
fn statuses_have_their_names_and_are_all_there() {
    let api = read("docs/api.md");
    let mut documented = BTreeSet::new();
    for row in rows(&api, "### Statuses") {
        let (status, phrase) = row[0].split_once(' ').expect("a number and a name");
        let status = status.parse().expect("a status");
        assert_eq!(reason_phrase(status), phrase);
        documented.insert(status);
    }
    for row in rows(&api, "## Errors") {
        let status: u16 = row[1].parse().expect("a status");
        assert!(documented.contains(&status), "{status}");
    }
    let code = sources("src").concat();
    let givers = [
        "Problem::new(",
        "problem(",
        "Refusal::new(",
        "Response::new(",
        "Response::json(",
        "Response::empty(",
    ];
    for giver in givers {
        for rest in code.split(giver).skip(1) {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let Ok(status) = rest[..digits].parse() else { continue };
            assert!(documented.contains(&status), "{giver}{status}");
        }
    }
}

// ---- limits -------------------------------------------------------------------------------------

/// Names and values of constants in `limits.rs`.
macro_rules! values {
    ($($name:ident),+ $(,)?) => {
        [$((stringify!($name), limits::$name as u64)),+]
    };
}

#[test]
fn limits_are_what_they_are_said_to_be() {
    // What a client can meet; the others are the server's own business.
    let fixed: BTreeMap<&str, u64> = values![
        ARRAY_EVENTS_MAX,
        BODY_BYTES_A_SECOND_MIN,
        CHUNK_LINE_BYTES_MAX,
        CURSOR_LAG_IDS,
        EVENT_TYPE_BYTES_MAX,
        HEADERS_MAX,
        HEADER_BYTES_MAX,
        HISTORY_QUEUE_MAX,
        IDEMPOTENCY_SECONDS,
        KEY_BYTES_MAX,
        LABEL_BYTES_MAX,
        LINGER_BYTES_MAX,
        LINGER_MS_MAX,
        NDJSON_BATCH_BYTES_MAX,
        NDJSON_BATCH_EVENTS_MAX,
        PAGE_BYTES_MAX,
        PAGE_EVENTS_MAX,
        PAGE_RUNS_MAX,
        PAYLOAD_DEPTH_MAX,
        PROBE_INTERVAL_MS,
        PRODUCERS_PER_RUN_MAX,
        STREAM_RUNS_MAX,
        STREAM_TYPES_MAX,
        TARGET_BYTES_MAX,
        TRAILER_BYTES_MAX,
        UPLOAD_SILENCE_SECONDS_MAX,
        WAIT_SECONDS_MAX,
        WRITE_QUEUE_BYTES_MAX,
        WRITE_QUEUE_EVENTS_MAX,
        WRITE_ROOM_SECONDS_MAX,
    ]
    .into();
    let mut documented = BTreeSet::new();
    for row in rows(&read("docs/api.md"), "## Limits") {
        let (value, name) = (&row[1], unquoted(&row[2]));
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
            assert_eq!(value, setting.default, "{name}");
            continue;
        }
        let known = fixed.get(name).unwrap_or_else(|| panic!("{name} is not in this test"));
        assert_eq!(quantity(value, name), *known, "{name}");
        assert!(documented.insert(name.to_owned()), "{name} stands there twice");
    }
    assert_eq!(documented, set(fixed.into_keys()));
}

/// `64 MiB` in bytes, `60 s` in seconds, `1,000`; the unit has to be that of the name.
fn quantity(value: &str, name: &str) -> u64 {
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let number: u64 = number.replace(',', "").parse().expect("a number");
    let (factor, in_the_name) = match unit {
        "" => (1, ""),
        "bytes" => (1, "BYTES"),
        "KiB" => (1 << 10, "BYTES"),
        "MiB" => (1 << 20, "BYTES"),
        "s" => (1, "SECONDS"),
        "ms" => (1, "_MS"),
        _ => panic!("{name}: {unit:?} is no unit"),
    };
    let is_counted = |of: &str| name.contains(of);
    assert!(is_counted(in_the_name), "{name} is not in {unit:?}");
    let has_unit = ["BYTES", "SECONDS", "_MS"].into_iter().any(is_counted);
    assert_eq!(has_unit, !unit.is_empty(), "{name} needs its unit");
    number * factor
}

// ---- settings -----------------------------------------------------------------------------------

/// The table that is made of the code.
fn table_of_settings() -> String {
    let mut table = "| setting | default | may be | what it is | flag | environment |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for setting in SETTINGS {
        let default = match setting.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let cells = [
            format!("`{}`", setting.name),
            default,
            setting.values(),
            setting.meaning.trim().to_owned(),
            format!("`{}`", setting.flag()),
            format!("`{}`", setting.variable()),
        ];
        table.extend(["| ", &cells.join(" | ").replace("|  |", "| |"), " |\n"]);
    }
    table
}

#[test]
fn the_table_of_settings_is_that_of_the_code() {
    const PAGE: &str = "docs/configuration.md";
    let [begin, end] = ["<!-- settings -->\n", "<!-- end of settings -->\n"];
    let page = read(PAGE);
    let (before, rest) = page.split_once(begin).expect("the table begins somewhere");
    let (table, after) = rest.split_once(end).expect("it ends");
    let made = table_of_settings();
    if std::env::var_os("UPDATE").is_some_and(|value| !value.is_empty()) {
        fs::write(root().join(PAGE), [before, begin, &made, end, after].concat()).unwrap();
    } else {
        assert_eq!(table, made, "see UPDATE at the head of this file");
    }
}

#[test]
fn it_is_said_of_every_setting_when_to_change_it() {
    let page = read("docs/configuration.md");
    let advice = rows(&page, "## When to change them");
    let advised: Vec<&str> = advice.iter().map(|row| unquoted(&row[0])).collect();
    let settings: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(
        advised.iter().copied().collect::<BTreeSet<_>>(),
        settings.iter().copied().collect()
    );
    assert_eq!(advised.len(), settings.len(), "one stands there twice");
    assert!(advice.iter().all(|row| row[1].len() > 20), "{advice:?}");
}

#[test]
fn settings_that_are_tuned_exist() {
    for row in rows(&read("docs/tuning.md"), "## Settings of the server") {
        for name in row[0].split(", ").map(unquoted) {
            assert!(SETTINGS.iter().any(|setting| setting.name == name), "{name}");
        }
    }
}

// ---- the command line ---------------------------------------------------------------------------

fn help_of(command: &str) -> String {
    let args = std::iter::once("tidewheel").chain(command.split(' ')).chain(["--help"]);
    let help = cli::parse(args.filter(|arg| !arg.is_empty()).map(OsString::from));
    help.expect_err("help is text").text
}

fn has_flag(help: &str, flag: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    help.split(|c| !is_part(c)).any(|word| word == flag)
}

/// `--retry-for` of `[--retry-for=5m]`; none when the word is no flag.
fn flag_in(word: &str) -> Option<&str> {
    let word = word.trim_matches(['[', ']', '(', ')', ',', ';', ':']);
    let flag = word.split('=').next().unwrap_or(word);
    (flag.starts_with('-') && flag.len() > 1 && flag != "--").then_some(flag)
}

#[test]
fn commands_and_flags_exist() {
    let helps: BTreeMap<&str, String> =
        COMMANDS.into_iter().chain([""]).map(|command| (command, help_of(command))).collect();
    for command in COMMANDS {
        let (parent, name) = command.rsplit_once(' ').unwrap_or(("", command));
        assert!(has_flag(&helps[parent], name), "COMMANDS is out of date");
    }
    let mut seen = BTreeSet::new();
    let is_of_the_server =
        |document: &PathBuf| !OF_THE_LOAD_TESTER.iter().any(|name| document.ends_with(name));
    for document in documents().into_iter().filter(is_of_the_server) {
        let name = document.display();
        for code in code_of(&fs::read_to_string(&document).unwrap()) {
            // Each part of a pipeline is a command of its own, and a comment is none.
            let line = code.split(" #").next().unwrap_or(&code);
            for part in line.split(['|', ';', '&']) {
                let words: Vec<&str> = part.split_whitespace().collect();
                let program = |word: &&str| word.rsplit('/').next() == Some("tidewheel");
                let args = match &words[..] {
                    ["cargo", "run", "--release", "--", args @ ..] => args,
                    [first, args @ ..] if program(first) => args,
                    [flag, ..] if flag.starts_with("--") && words.len() <= 2 => {
                        let flag = flag_in(flag).unwrap_or(flag);
                        let is_known = helps.values().any(|help| has_flag(help, flag));
                        assert!(is_known || FLAGS_OF_OTHERS.contains(&flag), "{name}: {flag}");
                        continue;
                    }
                    _ => continue,
                };
                // "`tidewheel append`, `tail`": a command; "`tidewheel`" alone: the program.
                let command = args.first().filter(|word| flag_in(word).is_none());
                let command = command.copied().unwrap_or_default();
                // Some commands have commands of their own.
                let whole = args.get(..2).map(|words| words.join(" "));
                let whole = whole.as_deref().filter(|whole| helps.contains_key(whole));
                let command = whole.unwrap_or(command);
                let help = helps.get(command);
                let help = help.unwrap_or_else(|| panic!("{name}: tidewheel {command}"));
                seen.insert(command.to_owned());
                for flag in args.iter().filter_map(|word| flag_in(word)) {
                    assert!(has_flag(help, flag), "{name}: tidewheel {command} {flag}");
                }
            }
        }
    }
    assert!(COMMANDS.iter().all(|command| seen.contains(*command)), "{seen:?}");
}

#[test]
fn every_kind_of_problem_of_a_journal_is_explained() {
    let table = rows(&read("docs/journal-tools.md"), "## Verify");
    let documented = set(table.iter().map(|row| unquoted(&row[0])));
    assert_eq!(documented, set(Kind::ALL.map(Kind::as_str)));
}

#[test]
fn environment_variables_exist() {
    let mut known = set(["TIDEWHEEL_URL"]);
    known.extend(SETTINGS.iter().map(tidewheel::config::Setting::variable));
    // Of the tests, not of the program.
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for rest in text.split("TIDEWHEEL_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
            let name = format!("TIDEWHEEL_{}", &rest[..end.unwrap_or(rest.len())]);
            assert!(known.contains(&name), "{}: {name}", document.display());
        }
    }
}

// ---- the log ------------------------------------------------------------------------------------

/// What one call logs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Logged {
    /// `…` stands for what is filled in.
    message: String,
    level: String,
    keys: Vec<String>,
}

/// Everything that is logged in this code.
fn logged(code: &str) -> BTreeSet<Logged> {
    let mut found = BTreeSet::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        for call in code.split(&format!("log::{level}!(")).skip(1) {
            // Keys and values stand before the message, and what it is filled with after it.
            let (before, text) = call.split_once('"').expect("a message is a text");
            let text = text.split('"').next().unwrap_or_default();
            let text = text.split("\\\n").map(str::trim_start).collect::<String>();
            let mut message = String::new();
            for (nth, part) in text.split('{').enumerate() {
                let rest = part.split_once('}').map_or(part, |(_, rest)| rest);
                message.extend([if nth > 0 { "…" } else { "" }, rest]);
            }
            let pairs = before.rsplit_once(';').map_or("", |(pairs, _)| pairs).split(',');
            let keys = pairs.map(|pair| pair.trim().split([':', ' ']).next().unwrap_or_default());
            let keys = keys.filter(|key| !key.is_empty()).map(str::to_owned).collect();
            found.insert(Logged { message, level: level.to_owned(), keys });
        }
    }
    found
}

#[test]
fn every_message_of_the_log_is_explained() {
    let page = read("docs/logs.md");
    let row = |row: &Vec<String>, keys: &str| Logged {
        message: unquoted(&row[0]).to_owned(),
        level: row[1].clone(),
        keys: keys.split_whitespace().map(|key| unquoted(key).to_owned()).collect(),
    };
    let with_keys = rows(&page, "## Streams and requests");
    let without = rows(&page, "## The server");
    let mut documented: BTreeSet<Logged> = without.iter().map(|of| row(of, "")).collect();
    documented.extend(with_keys.iter().map(|of| row(of, &of[2])));

    let code = sources("src").concat();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = logged(&code.collect::<Vec<_>>().join("\n"));
    // What the log says of itself cannot go through itself.
    let (message, level) = ("log lines dropped".to_owned(), "warn".to_owned());
    found.insert(Logged { message, level, keys: vec!["lines".to_owned()] });
    assert_eq!(documented, found);
}

// ---- links and examples -------------------------------------------------------------------------

/// The fragment that a heading has where documents are shown.
fn fragment(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The headings of a document; a comment in a block of code is none.
fn fragments(document: &str) -> BTreeSet<String> {
    let mut is_block = false;
    let mut found = BTreeSet::new();
    for line in document.lines() {
        is_block ^= line.starts_with("```");
        if !is_block && line.starts_with('#') {
            found.insert(fragment(line));
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => document.clone(),
                _ => document.parent().expect("it is in a directory").join(file),
            };
            assert!(path.is_file(), "{}: {link}", document.display());
            if !heading.is_empty() {
                let there = fragments(&fs::read_to_string(&path).unwrap());
                assert!(there.contains(heading), "{}: {link}: {there:?}", document.display());
            }
        }
    }
    assert!(links > 10, "{links} links");
}

#[test]
fn examples_of_json_are_json() {
    let api = read("docs/api.md");
    let blocks: Vec<&str> = api.split("```json\n").skip(1).collect();
    assert!(blocks.len() >= 3);
    for block in blocks {
        let json = block.split("```").next().unwrap_or_default();
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(json) {
            panic!("{error}: {json}");
        }
    }
}
