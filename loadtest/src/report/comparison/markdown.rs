//! A comparison as a GitHub-flavoured Markdown table, for the documentation.
//!
//! Metrics are rows here and servers columns: fourteen columns are more than GitHub shows at once.

use std::fmt::Write as _;
use std::iter::once;

use super::metrics::Metric;
use super::{Cell, Comparison, Entry, Promise, range};
use crate::report::Unit;
use crate::report::format::{format, format_ratio};

/// The table, what the promises mean, and how far tidewheel's figures moved.
pub fn markdown(comparison: &Comparison) -> String {
    let entries: Vec<&Entry> = comparison.grouped().collect();
    let mut text = table(comparison, &entries);
    text += "\nEach figure is the median of the rounds, then the lowest and the highest round, \
             then how many times the reference it is. Appends are set in relation only among \
             servers that promise the same.\n\n";
    for promise in Promise::ALL {
        if comparison.promising(promise).next().is_some() {
            let _ = writeln!(text, "- *{}*: {}", promise.words(), promise.meaning());
        }
    }
    let faults: Vec<String> = comparison.faults().collect();
    if !faults.is_empty() {
        text += "\nWhat went wrong:\n\n";
    }
    for fault in faults {
        let _ = writeln!(text, "- {}", escaped(&fault));
    }
    for paragraph in comparison.drift().iter().chain(&comparison.remarks) {
        let _ = writeln!(text, "\n{paragraph}");
    }
    text
}

fn table(comparison: &Comparison, entries: &[&Entry]) -> String {
    let of = |value: &dyn Fn(&Entry) -> String| entries.iter().map(|entry| value(entry)).collect();
    let mut text = row("", of(&|entry| format!("**{}**", escaped(&entry.name))));
    text += &row(":---", entries.iter().map(|_| "---:".into()).collect());
    text += &row("version", of(&|entry| escaped(&entry.version)));
    text += &row("promises", of(&|entry| entry.promise.words().into()));
    text += &row("resumes", of(&|entry| if entry.resumes { "yes" } else { "no" }.into()));
    text += &row("subscribers", of(&|entry| format(entry.subscribers as f64, Unit::Count)));
    for metric in comparison.metrics() {
        let cells = of(&|entry| cell(&comparison.cell(entry, metric), metric));
        text += &row(&heading(metric), cells);
    }
    text
}

fn row(heading: &str, cells: Vec<String>) -> String {
    let cells: Vec<String> = once(heading.to_owned()).chain(cells).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn heading(metric: &Metric) -> String {
    let (better, reference) = (metric.better.words(), metric.reference.words());
    format!("{}<br>{better}, × {reference}", metric.label)
}

fn cell(cell: &Cell, metric: &Metric) -> String {
    match cell {
        Cell::Measured(spread, ratio) => once(format(spread.median, metric.unit))
            .chain(range(*spread, metric))
            .chain(ratio.map(format_ratio))
            .collect::<Vec<_>>()
            .join("<br>"),
        Cell::Missing(reason) => format!("*{}*", escaped(reason)),
    }
}

/// What would end a cell or begin markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '|' | '*' | '_' | '<' | '`' | '[' | '\\' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::sample::comparison;

    #[test]
    fn every_row_has_a_cell_for_each_server() {
        let text = markdown(&comparison());
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + 4 + 14);
        let cells = comparison().entries.len() + 1;
        assert!(rows.iter().all(|row| row.matches(" |").count() == cells), "{text}");
        assert!(rows[1].starts_with("| :--- | ---: |"));
    }

    #[test]
    fn servers_stand_by_their_promise_and_figures_by_their_server() {
        let text = markdown(&comparison());
        let promises = text.lines().find(|line| line.starts_with("| promises")).expect("a row");
        let durable = promises.rfind("synced to disk").expect("durable servers");
        assert!(durable < promises.find("memory only").expect("one in memory"));
        assert!(text.contains("6.3 KB<br>6.11–6.62<br>15.3×"), "{text}");
        assert!(text.contains("*no resume*"), "{text}");
        assert!(text.contains("Its figures moved by at most"), "{text}");
    }

    #[test]
    fn a_name_cannot_break_the_table() {
        let mut comparison = comparison();
        comparison.entries[0].version = "1|2\n<b>".into();
        let text = markdown(&comparison);
        assert!(text.contains("1\\|2 \\<b>"), "{text}");
    }
}
