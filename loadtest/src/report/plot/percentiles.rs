//! Latency by percentile, as HDR histograms are commonly drawn.
//!
//! A median says little about ten thousand subscribers: one in a hundred is a hundred of them. On
//! this axis the slowest one in a thousand has as much room as the slowest one in ten.

use super::axis::Axis;
use super::{Line, Plot};
use crate::report::{Latency, Unit};

/// Points of a line, about as many as a wide plot has pixels in which it can bend.
const POINTS: u32 = 240;

/// One line for each histogram that holds something; none if none does.
pub fn plot(title: &str, latencies: &[(String, &Latency)]) -> Option<Plot> {
    let filled: Vec<&(String, &Latency)> =
        latencies.iter().filter(|(_, latency)| latency.count() > 0).collect();
    let count = filled.iter().map(|(_, latency)| latency.count()).max()?;
    let x = Axis::percentiles(count);
    let lines: Vec<Line> = filled
        .iter()
        .map(|(label, latency)| Line { label: label.clone(), points: curve(latency, &x) })
        .collect();
    let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value));
    let y = Axis::by_range(values, Unit::Seconds);
    Some(Plot { title: title.into(), x, y, lines })
}

/// One over the share that is slower, and the latency in seconds; it ends with the slowest.
fn curve(latency: &Latency, x: &Axis) -> Vec<(f64, f64)> {
    let end = (latency.count() as f64).log10().min(x.range.end);
    let slowest = latency.max().map(|nanoseconds| (10f64.powf(end), nanoseconds as f64 / 1e9));
    (0..POINTS)
        .map(|index| 10f64.powf(end * f64::from(index) / f64::from(POINTS)))
        .filter_map(|slower_one_in| {
            let nanoseconds = latency.quantile(1.0 - 1.0 / slower_one_in)?;
            Some((slower_one_in, nanoseconds as f64 / 1e9))
        })
        .chain(slowest)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_curve_rises_to_its_slowest() {
        let latency = sample::latency("delivery", "delivery", 1e6, 0.6);
        let plot = plot("delivery", &[("tidewheel".into(), &latency)]).expect("not empty");
        let points = &plot.lines[0].points;
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        let ninety_nine = points.iter().find(|(x, _)| *x >= 100.0).expect("reaches 99 %").1;
        let expected = latency.quantile(0.99).expect("not empty") as f64 / 1e9;
        assert!((ninety_nine / expected - 1.0).abs() < 0.05, "{ninety_nine} {expected}");
        assert!(plot.y.is_logarithmic());
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let empty = Latency { name: "a".into(), label: "a".into(), counts: Vec::new() };
        assert!(plot("a", &[("a".into(), &empty)]).is_none());
    }
}
