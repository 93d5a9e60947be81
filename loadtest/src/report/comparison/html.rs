//! A comparison as a page: one table, then each metric as bars.

use maud::{Markup, html};

use super::metrics::Metric;
use super::{Cell, Comparison, Entry, Promise, range};
use crate::report::Latency;
use crate::report::Unit;
use crate::report::format::{format, format_ratio};
use crate::report::page::{command, document, facts, remarks, scrolling};
use crate::report::plot::bars::{Bar, Bars};
use crate::report::plot::percentiles;

const TITLE: &str = "SSE servers compared";

/// One page, with nothing to be loaded from elsewhere.
pub fn page(comparison: &Comparison) -> String {
    let metrics: Vec<&Metric> = comparison.metrics().collect();
    let rounds = format!("{} rounds", comparison.rounds);
    let content = html! {
        h1 { (TITLE) }
        (facts(&comparison.began_at, &comparison.machine, &[rounds]))
        (command(&comparison.command_line))
        (faults(comparison))
        (remarks(&comparison.remarks))
        h2 { "All figures" }
        p {
            "Each figure is the median of the rounds; beneath it stand the lowest and the highest \
             round, and how many times the reference it is. Appends are set in relation only \
             among servers that promise the same."
        }
        (scrolling("All figures", "wide-table", &table(comparison, &metrics)))
        @if let Some(drift) = comparison.drift() { p { (sentence(&drift)) } }
        h2 { "From publish to delivery" }
        div.plots { @if let Some(plot) = delivery(comparison) { (plot) } }
        h2 { "Figure by figure" }
        p { "A bar is the median, the thin line across its end goes from the lowest to the highest round." }
        div.plots { @for metric in metrics { (bars(comparison, metric).figure()) } }
    };
    document(TITLE, &content)
}

fn faults(comparison: &Comparison) -> Markup {
    let faults: Vec<String> = comparison.faults().collect();
    html! {
        @if !faults.is_empty() {
            div.say.bad {
                strong { "What went wrong" }
                ul { @for fault in faults { li { (fault) } } }
            }
        }
    }
}

/// tidewheel is written small, but not at the beginning of a sentence.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().into_iter().flat_map(char::to_uppercase).chain(characters).collect()
}

fn table(comparison: &Comparison, metrics: &[&Metric]) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th.name {} th.promise {}
                    @for group in metrics.chunk_by(|one, other| one.group == other.group) {
                        th colspan=(group.len()) scope="colgroup" { (group[0].group) }
                    }
                }
                tr {
                    th.name scope="col" { "Server" }
                    th.promise scope="col" { "Promises" }
                    @for (index, metric) in metrics.iter().enumerate() {
                        th.begins[begins_group(metrics, index)] scope="col" { (heading(metric)) }
                    }
                }
            }
            @for promise in Promise::ALL {
                @let entries: Vec<&Entry> = comparison.promising(promise).collect();
                @if !entries.is_empty() {
                    tbody {
                        (group_row(promise, metrics.len() + 2))
                        @for entry in entries { (row(comparison, entry, metrics)) }
                    }
                }
            }
        }
    }
}

fn begins_group(metrics: &[&Metric], index: usize) -> bool {
    index == 0 || metrics[index - 1].group != metrics[index].group
}

fn heading(metric: &Metric) -> Markup {
    html! {
        (metric.short)
        small { (metric.better.words()) }
        small { "× " (metric.reference.words()) }
    }
}

fn group_row(promise: Promise, columns: usize) -> Markup {
    html! {
        tr.group {
            th colspan=(columns) scope="rowgroup" {
                div { strong { "Promise: " (promise.words()) ". " } (promise.meaning()) }
            }
        }
    }
}

fn row(comparison: &Comparison, entry: &Entry, metrics: &[&Metric]) -> Markup {
    html! {
        tr {
            th.name scope="row" { (entry.name) small { (entry.version) } }
            td.promise {
                (entry.promise.words())
                small { (resumption(entry)) }
                small { (format(entry.subscribers as f64, Unit::Count)) " subscribers" }
            }
            @for (index, metric) in metrics.iter().enumerate() {
                (figure(&comparison.cell(entry, metric), metric, begins_group(metrics, index)))
            }
        }
    }
}

fn resumption(entry: &Entry) -> &'static str {
    if entry.resumes { "resumes" } else { "does not resume" }
}

fn figure(cell: &Cell, metric: &Metric, begins: bool) -> Markup {
    match cell {
        Cell::Measured(spread, ratio) => html! {
            td.begins[begins] {
                (format(spread.median, metric.unit))
                @if let Some(range) = range(*spread, metric) { small { (range) } }
                @if let Some(ratio) = ratio { small { (format_ratio(*ratio)) } }
            }
        },
        Cell::Missing(reason) => html! { td.missing.begins[begins] { (reason) } },
    }
}

fn delivery(comparison: &Comparison) -> Option<Markup> {
    let lines: Vec<(String, &Latency)> = comparison
        .entries
        .iter()
        .filter_map(|entry| Some((entry.name.clone(), entry.delivery.as_ref()?)))
        .collect();
    percentiles::plot("Time from publish to delivery, by percentile", &lines)
        .map(|plot| plot.figure())
}

fn bars(comparison: &Comparison, metric: &Metric) -> Bars {
    let bar = |entry: &Entry| Bar {
        name: entry.name.clone(),
        value: match comparison.cell(entry, metric) {
            Cell::Measured(spread, _) => Ok(spread),
            Cell::Missing(reason) => Err(reason),
        },
        colour: entry.promise as usize,
    };
    Bars {
        title: format!("{}; {}", sentence(metric.label), metric.better.words()),
        unit: metric.unit,
        bars: comparison.grouped().map(bar).collect(),
        legend: Promise::ALL.iter().map(|promise| in_legend(*promise).to_owned()).collect(),
    }
}

/// Beside a colour alone, `none` would not say what there is none of.
fn in_legend(promise: Promise) -> &'static str {
    match promise {
        Promise::None => "no promise",
        Promise::Durable | Promise::MemoryOnly => promise.words(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::sample::comparison;
    use crate::report::page::assert_self_contained;

    #[test]
    fn a_page_has_every_server_with_its_promise_and_loads_nothing() {
        let page = page(&comparison());
        assert_self_contained(&page);
        for entry in &comparison().entries {
            assert!(page.contains(&entry.name), "{}", entry.name);
        }
        for promise in Promise::ALL {
            assert!(page.contains(&format!("Promise: {}", promise.words())), "{promise:?}");
        }
        assert!(page.contains("Its figures moved by at most"));
        assert!(page.contains("class=\"missing begins\">no resume"));
    }

    #[test]
    fn a_cell_has_the_median_the_spread_and_the_ratio() {
        let page = page(&comparison());
        let cell = "6.3 KB<small>6.11–6.62</small><small>15.3×</small>";
        assert!(page.contains(cell));
    }

    #[test]
    fn every_metric_is_a_plot_and_so_are_the_percentiles() {
        let page = page(&comparison());
        assert_eq!(page.matches("<figure").count(), 14 + 1);
    }

    #[test]
    #[ignore = "writes a page to be looked at in a browser"]
    fn sample_page() {
        crate::report::sample::write("comparison.html", &page(&comparison()));
        let text = crate::report::comparison::markdown(&comparison());
        crate::report::sample::write("comparison.md", &text);
    }
}
