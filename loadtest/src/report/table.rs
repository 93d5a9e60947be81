//! A report for the terminal: what was measured first, and what was wrong last, where it is seen.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Effects, Style};
use comfy_table::{CellAlignment, Table, presets};

use super::format::{format, format_duration};
use super::{Latency, Report, Unit, Violation};

const BOLD: Style = Style::new().effects(Effects::BOLD);
const RED: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
const GREEN: Style = AnsiColor::Green.on_default();

/// The percentiles of a row of latencies.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The whole report as text that ends with a line feed; in colours where `colour` is set.
pub fn render(report: &Report, colour: bool) -> String {
    let painter = Painter { colour };
    let sections = [
        heading(report, painter),
        figures(report),
        latencies(&report.latencies),
        remarks(&report.remarks),
        verdict(report, painter),
    ];
    let sections: Vec<String> = sections.into_iter().filter(|text| !text.is_empty()).collect();
    sections.join("\n")
}

/// Decides once whether styles become escape sequences.
#[derive(Clone, Copy)]
struct Painter {
    colour: bool,
}

impl Painter {
    fn paint(self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

fn heading(report: &Report, painter: Painter) -> String {
    let mut line = painter.paint(BOLD, &report.command);
    if let Some(target) = report.parameter("target") {
        let _ = write!(line, "  {target}");
    }
    let _ = write!(line, "  {}", format(report.seconds, Unit::Seconds));
    if report.interrupted {
        let warning = "interrupted: these figures cover only a part of the run";
        let _ = write!(line, "\n{}", painter.paint(RED, warning));
    }
    line + "\n"
}

fn figures(report: &Report) -> String {
    let mut table = plain_table();
    for figure in &report.figures {
        table.add_row([figure.label.clone(), format(figure.value, figure.unit)]);
    }
    finish(table)
}

fn latencies(latencies: &[Latency]) -> String {
    let mut table = plain_table();
    let names = QUANTILES.iter().map(|(name, _)| *name);
    table.set_header(["latency"].into_iter().chain(names).chain(["max", "count"]));
    for latency in latencies {
        table.add_row(latency_row(latency));
    }
    finish(table)
}

fn latency_row(latency: &Latency) -> Vec<String> {
    let written = |value: Option<u64>| value.map_or_else(|| "–".into(), format_duration);
    let mut row = vec![latency.label.clone()];
    row.extend(QUANTILES.iter().map(|(_, quantile)| written(latency.quantile(*quantile))));
    row.push(written(latency.max()));
    row.push(format(latency.count() as f64, Unit::Count));
    row
}

fn remarks(remarks: &[String]) -> String {
    remarks.iter().fold(String::new(), |text, remark| text + "Note: " + remark + "\n")
}

fn verdict(report: &Report, painter: Painter) -> String {
    if report.is_clean() {
        return clean(report, painter);
    }
    let mut text = String::new();
    for violation in &report.violations {
        text += &broken_promise(violation, painter);
    }
    for (kind, count) in &report.failures {
        let line = format!("failed: {} × {kind}", format(*count as f64, Unit::Count));
        text += &(painter.paint(RED, &line) + "\n");
    }
    text
}

/// Says that all is well only where somebody has looked.
fn clean(report: &Report, painter: Painter) -> String {
    match report.figure("events_checked") {
        Some(_) => painter.paint(GREEN, super::CLEAN) + "\n",
        None => String::new(),
    }
}

fn broken_promise(violation: &Violation, painter: Painter) -> String {
    let mut text = painter.paint(RED, &violation.headline()) + "\n";
    for example in &violation.examples {
        text += &painter.paint(RED, &format!("  {example}"));
        text += "\n";
    }
    text
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Numbers to the right, and nothing at all for a table without rows.
fn finish(mut table: Table) -> String {
    if table.is_empty() {
        return String::new();
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_clean_report_says_what_was_measured() {
        let text = render(&sample::fanout(), false);
        assert!(text.starts_with("fanout  http://127.0.0.1:8000  30 s\n"), "{text}");
        assert!(text.contains("21,300/s"), "{text}");
        assert!(text.contains("10.2 KB"), "{text}");
        assert!(text.contains("p99.9"), "{text}");
        assert!(text.contains("Note: the load used"), "{text}");
        assert!(text.contains("every subscriber got every event once, in order"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn values_end_in_the_same_column() {
        let text = render(&sample::fanout(), false);
        let ends: Vec<usize> = text
            .lines()
            .skip_while(|line| !line.is_empty())
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(|line| line.chars().count())
            .collect();
        assert!(ends.len() > 2 && ends.iter().all(|end| *end == ends[0]), "{text}");
    }

    #[test]
    fn broken_promises_and_failures_are_red_with_their_examples() {
        let text = render(&sample::broken(), true);
        assert!(text.contains("\x1b[31m"), "{text:?}");
        assert!(text.contains("3 events missing"), "{text}");
        assert!(text.contains("subscriber 17: no event 4,711 between 4,710 and 4,712"), "{text}");
        assert!(text.contains("failed: 12 × connection refused"), "{text}");
        assert!(!text.contains(crate::report::CLEAN), "{text}");
    }

    #[test]
    fn nothing_is_said_about_events_that_nobody_checked() {
        let mut report = sample::fanout();
        report.figures.retain(|figure| figure.name != "events_checked");
        assert!(!render(&report, false).contains(crate::report::CLEAN));
    }

    #[test]
    fn an_interrupted_run_says_so_at_the_top() {
        let report = Report { interrupted: true, ..sample::fanout() };
        let text = render(&report, false);
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("interrupted")), "{text}");
    }
}
