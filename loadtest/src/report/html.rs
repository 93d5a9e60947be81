//! Reports as one page: what was wrong, what was measured, and how it went.
//!
//! Several reports stand side by side: a column each in the tables, a line each among the
//! percentiles. What happened over time stays apart, for their clocks have nothing in common.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::format::{format, format_duration};
use super::page::{command, document, facts, remarks, scrolling};
use super::plot::percentiles;
use super::plot::{Plot, over_time};
use super::{Latency, Report, Unit, Violation};

/// The percentiles of a row of latencies.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// One page for all reports, with nothing to be loaded from elsewhere.
pub fn page(reports: &[Report]) -> String {
    let title = title(reports);
    let named: Vec<Named> = names(reports).into_iter().zip(reports).collect();
    let content = html! {
        h1 { (title) }
        @for (name, report) in &named { (beginning(name, report, reports.len() > 1)) }
        div.pairs {
            section { h2 { "Figures" } (figures(&named)) }
            section { h2 { "Parameters" } (parameters(&named)) }
        }
        (latency_section(&named))
        @for (name, report) in &named { (history(name, report, reports.len() > 1)) }
    };
    document(&title, &content)
}

/// A report and what tells it from the others.
type Named<'a> = (String, &'a Report);

fn title(reports: &[Report]) -> String {
    let mut commands: Vec<&str> = reports.iter().map(|report| report.command.as_str()).collect();
    commands.dedup();
    match reports {
        [only] => match only.parameter("target") {
            Some(target) => format!("{} of {target}", only.command),
            None => only.command.clone(),
        },
        _ => format!("{} reports: {}", reports.len(), commands.join(", ")),
    }
}

/// The command and the parameters in which the reports differ; else when they began.
fn names(reports: &[Report]) -> Vec<String> {
    let differing = |report: &Report| {
        let mut name = report.command.clone();
        for (key, value) in &report.parameters {
            if reports.iter().any(|other| other.parameter(key) != Some(value)) {
                let _ = write!(name, " {key} {value}");
            }
        }
        name
    };
    let names: Vec<String> = reports.iter().map(differing).collect();
    let repeated = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
    let told_apart = |(name, report): (&String, &Report)| {
        if repeated(name) { format!("{name} at {}", report.began_at) } else { name.clone() }
    };
    names.iter().zip(reports).map(told_apart).collect()
}

fn beginning(name: &str, report: &Report, several: bool) -> Markup {
    let took = format!("took {}", format(report.seconds, Unit::Seconds));
    html! {
        @if several { h2 { (name) } }
        (facts(&report.began_at, &report.machine, &[report.tool.clone(), took]))
        (verdict(report))
        @if report.interrupted {
            p.say.note { "This run was interrupted: its figures cover only a part of it." }
        }
        (remarks(&report.remarks))
        (command(&report.command_line))
    }
}

fn verdict(report: &Report) -> Markup {
    html! {
        @if !report.is_clean() {
            div.say.bad role="alert" {
                @for violation in &report.violations { (broken_promise(violation)) }
                @for (kind, count) in &report.failures {
                    strong { "failed: " (format(*count as f64, Unit::Count)) " × " (kind) }
                }
            }
        } @else if report.figure("events_checked").is_some() {
            p.say.good { "Every" (super::CLEAN.trim_start_matches("every")) "." }
        }
    }
}

fn broken_promise(violation: &Violation) -> Markup {
    html! {
        strong { (violation.headline()) }
        @if !violation.examples.is_empty() {
            ul { @for example in &violation.examples { li { (example) } } }
        }
    }
}

fn figures(reports: &[Named]) -> Markup {
    let rows = distinct(
        reports
            .iter()
            .flat_map(|(_, report)| &report.figures)
            .map(|figure| (&figure.name, &figure.label)),
    );
    let value = |report: &Report, name: &str| {
        report
            .figures
            .iter()
            .find(|figure| figure.name == name)
            .map_or_else(|| "–".into(), |figure| format(figure.value, figure.unit))
    };
    side_by_side("Figures", reports, &rows, "", value)
}

fn parameters(reports: &[Named]) -> Markup {
    let all = reports.iter().flat_map(|(_, report)| &report.parameters);
    let rows = distinct(all.map(|(name, _)| (name, name)));
    let value = |report: &Report, name: &str| report.parameter(name).unwrap_or("–").to_owned();
    side_by_side("Parameters", reports, &rows, "words", value)
}

/// Rows by their name, in the order in which they first appear.
fn distinct<'a>(rows: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<(&'a str, &'a str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (name, label) in rows {
        if found.iter().all(|(other, _)| other != name) {
            found.push((name, label));
        }
    }
    found
}

/// A row for each name, a column for each report.
fn side_by_side(
    label: &str,
    reports: &[Named],
    rows: &[(&str, &str)],
    class: &str,
    value: impl Fn(&Report, &str) -> String,
) -> Markup {
    let table = html! {
        table {
            @if reports.len() > 1 {
                thead { tr { th {} @for (name, _) in reports { th scope="col" { (name) } } } }
            }
            tbody {
                @for (name, label) in rows {
                    tr {
                        th scope="row" { (label) }
                        @for (_, report) in reports { td class=(class) { (value(report, name)) } }
                    }
                }
            }
        }
    };
    scrolling(label, "", &table)
}

fn latency_section(reports: &[Named]) -> Markup {
    let plots = latency_plots(reports);
    html! {
        @if !plots.is_empty() {
            h2 { "Latency" }
            div.plots { @for plot in plots { (plot.figure()) } }
            h3 { "In figures" }
            (scrolling("Latency", "", &latencies(reports)))
        }
    }
}

/// One plot with a line for each histogram of the only report; else one for each histogram, with
/// a line for each report.
fn latency_plots(reports: &[Named]) -> Vec<Plot> {
    if let [(_, only)] = reports {
        let lines: Vec<(String, &Latency)> =
            only.latencies.iter().map(|latency| (latency.label.clone(), latency)).collect();
        return percentiles::plot("Latency by percentile", &lines).into_iter().collect();
    }
    let all = reports.iter().flat_map(|(_, report)| &report.latencies);
    let names = distinct(all.map(|latency| (&latency.name, &latency.label)));
    names
        .into_iter()
        .filter_map(|(name, label)| {
            let lines: Vec<(String, &Latency)> = reports
                .iter()
                .filter_map(|(of, report)| Some((of.clone(), report.latency(name)?)))
                .collect();
            percentiles::plot(&format!("By percentile: {label}"), &lines)
        })
        .collect()
}

fn latencies(reports: &[Named]) -> Markup {
    let several = reports.len() > 1;
    html! {
        table {
            thead {
                tr {
                    th {}
                    @for (name, _) in QUANTILES { th scope="col" { (name) } }
                    th scope="col" { "max" }
                    th scope="col" { "count" }
                }
            }
            tbody {
                @for (name, report) in reports {
                    @for latency in &report.latencies {
                        (latency_row(latency, several.then_some(name)))
                    }
                }
            }
        }
    }
}

fn latency_row(latency: &Latency, report: Option<&String>) -> Markup {
    let written = |value: Option<u64>| value.map_or_else(|| "–".into(), format_duration);
    html! {
        tr {
            th scope="row" { (latency.label) @if let Some(report) = report { ": " (report) } }
            @for (_, quantile) in QUANTILES { td { (written(latency.quantile(quantile))) } }
            td { (written(latency.max())) }
            td { (format(latency.count() as f64, Unit::Count)) }
        }
    }
}

fn history(name: &str, report: &Report, several: bool) -> Markup {
    let plots = over_time::plots(&report.series);
    html! {
        @if !plots.is_empty() {
            h2 { "Over time" @if several { ": " (name) } }
            div.plots { @for plot in plots { (plot.figure()) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{page::assert_self_contained, sample};

    #[test]
    fn a_page_loads_nothing_and_has_what_the_report_has() {
        let page = page(&[sample::fanout()]);
        assert_self_contained(&page);
        for text in [
            "<title>fanout of http://127.0.0.1:8000</title>",
            "Linux 6.18.5",
            "1,048,576 open files",
            "21,300/s",
            "10.2 KB",
            "99.99 %",
            "Every subscriber got every event once, in order.",
            "--subscribers 10000",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("say bad"));
    }

    #[test]
    fn what_was_wrong_stands_in_red_before_the_figures() {
        let page = page(&[sample::broken()]);
        let alert = page.find("say bad").expect("says what was wrong");
        assert!(alert < page.find("<h2>Figures").expect("has figures"));
        assert!(page.contains("3 events missing"));
        assert!(page.contains("failed: 12 × connection refused"));
        assert!(!page.contains("say good"));
    }

    #[test]
    fn what_a_server_said_is_text_and_no_markup() {
        let page = page(&[sample::broken()]);
        assert!(page.contains("no event &lt;9&gt; after 8"));
    }

    #[test]
    fn every_plot_has_a_name_and_follows_the_scheme() {
        let page = page(&[sample::fanout()]);
        assert_eq!(
            page.matches("role=\"img\" aria-label=\"").count(),
            page.matches("<svg").count()
        );
        assert_eq!(page.matches("class=\"wide\"").count(), 5);
        assert_eq!(page.matches("class=\"narrow\"").count(), 5);
        assert!(page.contains("svg [stroke=\"#2A78D6\"]{stroke:var(--series-1)}"));
        assert!(page.contains("stroke=\"#2A78D6\""));
    }

    #[test]
    fn several_reports_are_named_by_what_differs() {
        let mut other = sample::fanout();
        other.parameters[1].1 = "20000".into();
        let reports = [sample::fanout(), other];
        assert_eq!(names(&reports), ["fanout subscribers 10000", "fanout subscribers 20000"]);
        let page = page(&reports);
        assert!(page.contains("<th scope=\"col\">fanout subscribers 20000</th>"));
        let same = [sample::fanout(), sample::fanout()];
        assert_eq!(names(&same)[0], "fanout at 2026-11-22T10:00:00Z");
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        let empty = Report {
            figures: Vec::new(),
            latencies: Vec::new(),
            series: Vec::new(),
            parameters: Vec::new(),
            remarks: Vec::new(),
            ..sample::fanout()
        };
        assert_self_contained(&page(&[empty]));
        assert_self_contained(&page(&[]));
    }

    #[test]
    #[ignore = "writes pages to be looked at in a browser"]
    fn sample_pages() {
        let mut other = sample::fanout();
        other.parameters[1].1 = "20000".into();
        other.latencies[0] =
            sample::latency("delivery", "delivery, from when the publish was due", 3e6, 0.4);
        sample::write("report.html", &page(&[sample::fanout()]));
        sample::write("broken.html", &page(&[sample::broken()]));
        let many: Vec<Report> = (1..=11)
            .map(|index| {
                let mut report = sample::fanout();
                report.parameters[1].1 = format!("{index}000");
                report.latencies =
                    vec![sample::latency("delivery", "delivery", f64::from(index) * 1e6, 0.3)];
                report.series = Vec::new();
                report
            })
            .collect();
        sample::write("many.html", &page(&many));
        sample::write("several.html", &page(&[sample::fanout(), other]));
    }
}
