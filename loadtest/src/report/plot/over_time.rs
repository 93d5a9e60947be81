//! What changed over time: connections, memory, deliveries, latency.
//!
//! Series that belong together and have the same unit share a plot, by their names: `latency_p50`
//! and `latency_p99`, `server_memory` and `load_memory`.

use super::axis::Axis;
use super::{Line, Plot};
use crate::report::{Series, Unit};

/// Columns in which a long series is summed up; each keeps its lowest and its highest point.
const COLUMNS: usize = 250;

/// A plot for each group of series, in the order of the first of each.
pub fn plots(series: &[Series]) -> Vec<Plot> {
    let mut groups: Vec<(&str, Unit, Vec<&Series>)> = Vec::new();
    for one in series.iter().filter(|one| !one.points.is_empty()) {
        let group = group(&one.name);
        match groups.iter_mut().find(|(name, unit, _)| *name == group && *unit == one.unit) {
            Some((_, _, members)) => members.push(one),
            None => groups.push((group, one.unit, vec![one])),
        }
    }
    let end = series.iter().flat_map(|one| &one.points).map(|(at, _)| *at).fold(0.0, f64::max);
    groups.iter().map(|(group, unit, members)| plot(group, *unit, members, end)).collect()
}

fn group(name: &str) -> &str {
    match name {
        _ if name.starts_with("latency") => "latency",
        _ if name.ends_with("memory") => "memory",
        _ => name,
    }
}

fn plot(group: &str, unit: Unit, members: &[&Series], end: f64) -> Plot {
    let title = match members {
        [only] if group == only.name => format!("{} over time", capital(&only.label)),
        _ => format!("{} over time", capital(group)),
    };
    let values = members.iter().flat_map(|one| one.points.iter().map(|(_, value)| *value));
    let y = match unit {
        Unit::Seconds | Unit::Microseconds => Axis::by_range(values, unit),
        _ => Axis::from_zero(values.fold(0.0, f64::max), unit),
    };
    let lines =
        members.iter().map(|one| Line { label: one.label.clone(), points: thinned(&one.points) });
    Plot { title, x: Axis::time(end), y, lines: lines.collect() }
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// At most two points a column, so that a night's soak does not make a page of megabytes, and no
/// peak is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * COLUMNS {
        return points.to_vec();
    }
    points.chunks(points.len().div_ceil(COLUMNS)).flat_map(lowest_and_highest).collect()
}

/// In the order of their time.
fn lowest_and_highest(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let by_value = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
    let mut both: Vec<(f64, f64)> = points
        .iter()
        .min_by(by_value)
        .into_iter()
        .chain(points.iter().max_by(by_value))
        .copied()
        .collect();
    both.sort_by(|one, other| one.0.total_cmp(&other.0));
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn series_that_belong_together_share_a_plot() {
        let plots = plots(&sample::fanout().series);
        let titles: Vec<&str> = plots.iter().map(|plot| plot.title.as_str()).collect();
        assert_eq!(
            titles,
            [
                "Open connections over time",
                "Memory over time",
                "Deliveries over time",
                "Latency over time"
            ]
        );
        let lines: Vec<usize> = plots.iter().map(|plot| plot.lines.len()).collect();
        assert_eq!(lines, [1, 2, 1, 2]);
    }

    #[test]
    fn the_same_name_in_another_unit_is_another_plot() {
        let mut series = sample::fanout().series;
        series.retain(|one| one.name.starts_with("latency"));
        series[1].unit = Unit::Share;
        assert_eq!(plots(&series).len(), 2);
    }

    #[test]
    fn a_long_series_keeps_its_peaks() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|at| (f64::from(at), 1.0)).collect();
        points[31_234].1 = 99.0;
        points[41_234].1 = -5.0;
        let thinned = thinned(&points);
        assert!(thinned.len() <= 2 * COLUMNS);
        assert!(thinned.contains(&(31_234.0, 99.0)) && thinned.contains(&(41_234.0, -5.0)));
        assert!(thinned.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }
}
