//! Alert rules and dashboard: each alert fires when it should and only then, everything that they ask
//! for is served, and every alert leads to a chapter of the runbook.

mod support;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use support::{
    Server,
    programs::{is_there, runs},
};

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules() -> String {
    read(&deployed("prometheus/tidewheel-alerts.yml"))
}

fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// The expressions of the rules, on however many lines each.
fn expressions(rules: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in rules.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("expr:") {
            is_inside = true;
            found.push(rest.trim().trim_start_matches('|').to_owned());
        } else if line.starts_with("for:") || line.starts_with("labels:") {
            is_inside = false;
        } else if is_inside {
            let expression = found.last_mut().expect("one has begun");
            expression.push(' ');
            expression.push_str(line);
        }
    }
    found
}

fn dashboard() -> Value {
    serde_json::from_str(&read(&deployed("grafana/tidewheel.json"))).expect("it is JSON")
}

/// Every `expr` of the dashboard, as Prometheus is asked it.
fn asked(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if name == "expr" => {
                        let text = text.replace("$__rate_interval", "5m");
                        found.push(text.replace("$instance", ".*"));
                    }
                    _ => asked(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| asked(value, found)),
        _ => {}
    }
}

fn expressions_of_the_dashboard() -> Vec<String> {
    let mut found = Vec::new();
    asked(&dashboard(), &mut found);
    assert!(found.len() > 40, "{found:?}");
    found
}

/// The metrics that an expression names. Functions have a parenthesis behind them; the other words
/// with an underscore stand in quotes.
fn metrics(expression: &str) -> Vec<String> {
    let unquoted: String = expression.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = &*unquoted;
    while let Some(start) = rest.find(is_part) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if (word.contains('_') && !after.starts_with('(')) || word == "up" {
            found.push(word.to_owned());
        }
        rest = after;
    }
    found
}

/// The output of promtool about this file, and whether it was content.
fn promtool(arguments: &[&str], file: &Path) -> (bool, String) {
    let output = Command::new("promtool").args(arguments).arg(file).output().expect("it is there");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn has_promtool() -> bool {
    is_there("promtool", runs("promtool", &["--version"]))
}

#[test]
fn prometheus_takes_the_rules_and_its_settings() {
    if !has_promtool() {
        return;
    }
    for (arguments, file) in
        [(["check", "rules"], "tidewheel-alerts.yml"), (["check", "config"], "prometheus.yml")]
    {
        let (is_ok, said) = promtool(&arguments, &deployed("prometheus").join(file));
        assert!(is_ok, "{said}");
    }
}

/// What the cases say about these rules.
fn tried(rules: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tidewheel-alerts.yml"), rules).unwrap();
    let cases = directory.path().join("cases.yml");
    fs::copy(deployed("prometheus/tidewheel-alerts.test.yml"), &cases).unwrap();
    promtool(&["test", "rules"], &cases)
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    if !has_promtool() {
        return;
    }
    let rules = rules();
    let (is_ok, said) = tried(&rules);
    assert!(is_ok, "{said}");

    // Whether there is a case of either kind for each: rules of other names, and such that always fire.
    let mut wrong = rules.replace("- alert: ", "- alert: Not") + "\n  - name: always\n    rules:\n";
    for alert in alerts(&rules) {
        writeln!(wrong, "      - {{alert: {alert}, expr: vector(1)}}").expect("a String takes it");
    }
    let (is_ok, said) = tried(&wrong);
    assert!(!is_ok, "{said}");
    for alert in alerts(&rules) {
        assert!(
            said.contains(&format!("exp: {{alertname=\"{alert}\"}}")),
            "{alert} never has to fire"
        );
        assert!(said.contains(&format!("alertname: {alert}, ")), "{alert} may always fire");
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_leads_to_a_chapter_that_names_it() {
    let rules = rules();
    let (_, groups) = rules.split_once("groups:").expect("there are groups");
    let mut seen = 0;
    for rule in groups.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name");
        let severity = ["critical", "high", "warning"]
            .iter()
            .filter(|severity| rule.contains(&format!("severity: {severity}")));
        assert_eq!(severity.count(), 1, "{name}");
        assert!(rule.contains("summary: ") && rule.contains("description: "), "{name}");
        let (_, link) = rule.split_once("runbook_url: ").unwrap_or_else(|| panic!("{name}"));
        let (page, chapter) = link.split_whitespace().next().unwrap().split_once('#').unwrap();
        let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(page));
        let fragment = |line: &str| -> String {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        let is_heading = |line: &str| line.starts_with("## ") || line.starts_with("### ");
        let mut lines = page.lines();
        let found = lines.any(|line| is_heading(line) && fragment(line) == chapter);
        assert!(found, "{name}: there is no #{chapter}");
        let text = lines.take_while(|line| !is_heading(line)).collect::<String>();
        assert!(text.contains(&format!("`{name}`")), "{chapter} does not name {name}");
        seen += 1;
    }
    assert_eq!(seen, alerts(&rules).len());
}

#[test]
fn prometheus_understands_every_panel_of_the_dashboard() {
    if !has_promtool() {
        return;
    }
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (at, expression) in expressions_of_the_dashboard().iter().enumerate() {
        // JSON is YAML.
        let expression = Value::String(expression.clone());
        writeln!(rules, "      - {{record: 'panel:{at}', expr: {expression}}}")
            .expect("a String takes it");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &rules).unwrap();
    let (is_ok, said) = promtool(&["check", "rules"], file.path());
    assert!(is_ok, "{said}\n{rules}");
}

#[test]
fn the_dashboard_has_a_name_and_panels_that_do_not_overlap() {
    let dashboard = dashboard();
    assert_eq!(dashboard["title"], "tidewheel: SSE connections");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> =
        variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} at {x},{y}", panel["title"]);
            }
        }
        let targets = panel["targets"].as_array().map_or(0, Vec::len);
        assert_eq!(panel["type"] == "row", targets == 0, "{}", panel["title"]);
    }
}

#[test]
fn rules_and_dashboard_ask_for_what_is_served() {
    let server = Server::start();
    let run = server.new_run();
    drop(server.stream(&format!("/runs/{run}/events/stream")));
    server.get("/health").expect(200);
    let served = server.get("/metrics").expect(200);
    let samples = served.text().lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    let mut known: BTreeSet<String> = names.map(str::to_owned).collect();
    // Of Prometheus itself.
    known.insert("up".to_owned());
    let of_rules = expressions(&rules());
    assert_eq!(of_rules.len(), alerts(&rules()).len());
    for expression in of_rules.into_iter().chain(expressions_of_the_dashboard()) {
        let asked = metrics(&expression);
        assert!(!asked.is_empty(), "{expression}");
        for name in asked {
            assert!(known.contains(&name), "nobody serves {name}, of {expression}");
        }
    }
}

#[test]
fn the_reader_of_expressions_finds_metrics() {
    let found = metrics("sum by (le) (rate(a_bucket{reason=~\"run_ended\"}[5m])) > time() - b_c");
    assert_eq!(found, ["a_bucket", "b_c"]);
}
