//! Where a value stands on an axis, and which values are written beside it.
//!
//! plotters chooses ticks from the bounds alone, and knows neither units nor percentiles. So an
//! axis is a coordinate of its own to plotters. What plotters sees is a place: the value, or its
//! logarithm. Between places all is linear, and one type of chart draws everything.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::report::Unit;
use crate::report::format::format;

/// An axis is logarithmic when its largest value is more than so many times its smallest.
const LINEAR_RATIO_MAX: f64 = 30.0;
/// How many steps an axis that begins at zero has, about.
const STEPS: f64 = 5.0;
/// The most nines that the percentiles go to: 99.9999 % of a million.
const NINES_MAX: f64 = 6.0;

/// An axis with its ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows, for people; empty where the ticks say it.
    pub label: String,
    /// The part that is drawn, in places.
    pub range: Range<f64>,
    /// Ascending.
    pub ticks: Vec<Tick>,
    scale: Scale,
}

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Where it stands, as [`Axis::place`] has it.
    pub place: f64,
    /// What is written beside it.
    pub label: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Axis {
    /// From zero to a round number at or above `max`.
    pub fn from_zero(max: f64, unit: Unit) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = round_step(max / STEPS, unit);
        let steps = (max / step - 1e-9).ceil();
        Self {
            label: String::new(),
            range: 0.0..steps * step,
            ticks: multiples(step, steps).map(|value| tick(value, label(value, unit))).collect(),
            scale: Scale::Linear,
        }
    }

    /// From zero where the values are near each other, logarithmic where they are far apart.
    /// Values that a logarithm has no place for stand at its beginning.
    pub fn by_range(values: impl IntoIterator<Item = f64>, unit: Unit) -> Self {
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        for value in values.into_iter().filter(|value| value.is_finite() && *value > 0.0) {
            min = min.min(value);
            max = max.max(value);
        }
        if max <= min * LINEAR_RATIO_MAX {
            return Self::from_zero(max, unit);
        }
        Self::logarithmic(min, max, unit)
    }

    /// From a round number at or below `min`, which is above zero, to one at or above `max`.
    fn logarithmic(min: f64, max: f64, unit: Unit) -> Self {
        let values: Vec<f64> = one_two_five(min, max);
        let (first, last) = (values[0], values[values.len() - 1]);
        let decades_only = last / first > 1_000.0;
        let ticks = values
            .iter()
            .filter(|value| !decades_only || (value.log10() - value.log10().round()).abs() < 1e-9)
            .map(|value| tick(value.log10(), format(*value, unit)))
            .collect();
        Self {
            label: String::new(),
            range: first.log10()..last.log10(),
            ticks,
            scale: Scale::Logarithmic,
        }
    }

    /// Percentiles so that each further nine takes the same room: what is asked of the slowest in
    /// ten, in a hundred, in a thousand. Values are one over the share that is slower, up to
    /// `count`.
    pub fn percentiles(count: u64) -> Self {
        let end = (count.max(100) as f64).log10().min(NINES_MAX);
        let marks = [
            (2.0_f64.log10(), "50 %"),
            (1.0, "90 %"),
            (2.0, "99 %"),
            (3.0, "99.9 %"),
            (4.0, "99.99 %"),
            (5.0, "99.999 %"),
            (NINES_MAX, "99.9999 %"),
        ];
        let drawn = marks.into_iter().filter(|(place, _)| *place <= end + 1e-9);
        let ticks = drawn.map(|(place, label)| tick(place, label.into())).collect();
        Self { label: "percentile".into(), range: 0.0..end, ticks, scale: Scale::Logarithmic }
    }

    /// Time since the beginning, in seconds; written in seconds, minutes or hours by its length.
    pub fn time(seconds: f64) -> Self {
        let (size, name) = match seconds {
            ..=180.0 => (1.0, "seconds"),
            ..=10_800.0 => (60.0, "minutes"),
            _ => (3_600.0, "hours"),
        };
        let mut axis = Self::from_zero(seconds / size, Unit::Count);
        for tick in &mut axis.ticks {
            tick.place *= size;
        }
        axis.ticks.retain(|tick| tick.place <= seconds.max(size));
        axis.range = 0.0..seconds.max(size);
        axis.label = format!("{name} since the beginning");
        axis
    }

    /// A row for each name, the first at the top.
    pub fn names<'a>(names: impl DoubleEndedIterator<Item = &'a str>) -> Self {
        let ticks: Vec<Tick> =
            names.rev().enumerate().map(|(row, name)| tick(row as f64, name.into())).collect();
        Self {
            label: String::new(),
            range: -0.6..ticks.len() as f64 - 0.4,
            ticks,
            scale: Scale::Linear,
        }
    }

    /// Whether equal distances are equal ratios.
    pub fn is_logarithmic(&self) -> bool {
        self.scale == Scale::Logarithmic
    }

    /// Where a value stands; never before the beginning.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        };
        place.max(self.range.start)
    }

    /// The same axis with the labels left out that would touch their neighbour's, where the axis
    /// is so many units long and a character `character_width` wide.
    #[must_use]
    pub fn without_crowding(&self, length: f64, character_width: f64) -> Self {
        let mut axis = self.clone();
        let mut free_from = f64::NEG_INFINITY;
        for tick in &mut axis.ticks {
            let middle = (tick.place - self.range.start) / self.length() * length;
            let half = f64::midpoint(tick.label.chars().count() as f64, 1.0) * character_width;
            if middle - half < free_from {
                tick.label.clear();
            } else {
                free_from = middle + half;
            }
        }
        axis
    }

    fn length(&self) -> f64 {
        self.range.end - self.range.start
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        let share = (place - self.range.start) / self.length();
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // No lines between the ticks.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|tick| tick.place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    /// The label of the tick at a place.
    fn format_ext(&self, place: &f64) -> String {
        let near = |tick: &&Tick| (tick.place - place).abs() < 1e-9 * self.length().max(1.0);
        self.ticks.iter().find(near).map(|tick| tick.label.clone()).unwrap_or_default()
    }
}

fn tick(place: f64, label: String) -> Tick {
    Tick { place, label }
}

/// Zero is zero in every unit.
fn label(value: f64, unit: Unit) -> String {
    if value == 0.0 { "0".into() } else { format(value, unit) }
}

/// `0`, `step`, `2 × step` and so on, `steps` of them after zero.
fn multiples(step: f64, steps: f64) -> impl Iterator<Item = f64> {
    (0..).map(f64::from).take_while(move |index| *index <= steps).map(move |index| index * step)
}

/// The least of 1, 2 and 5 times a power of ten that is at least `step`.
fn round_step(step: f64, unit: Unit) -> f64 {
    let step = if unit == Unit::Count { step.max(0.5) } else { step };
    let power = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= step * 0.999);
    digit.unwrap_or(10.0) * power
}

/// 1, 2 and 5 times the powers of ten, from the last at or below `min` to the first at or above
/// `max`.
fn one_two_five(min: f64, max: f64) -> Vec<f64> {
    let mut values: Vec<f64> = Vec::new();
    for power in min.log10().floor() as i32..=max.log10().ceil() as i32 {
        for digit in [1.0, 2.0, 5.0] {
            let value = digit * 10f64.powi(power);
            if value <= min * 1.000_001 {
                values.clear();
            }
            values.push(value);
            if value >= max * 0.999_999 {
                return values;
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn an_axis_from_zero_has_round_steps_and_holds_its_maximum() {
        let axis = Axis::from_zero(10_000.0, Unit::Count);
        assert_eq!(labels(&axis), ["0", "2,000", "4,000", "6,000", "8,000", "10,000"]);
        let axis = Axis::from_zero(26.3e6, Unit::Bytes);
        assert_eq!(labels(&axis), ["0", "10 MB", "20 MB", "30 MB"]);
        assert!(Axis::from_zero(0.0, Unit::Bytes).range.end > 0.0);
    }

    #[test]
    fn values_far_apart_are_shown_by_their_logarithm() {
        let axis = Axis::by_range([0.0, 0.000_9, 0.055], Unit::Seconds);
        assert!(axis.is_logarithmic());
        assert_eq!(labels(&axis)[..3], ["500 µs", "1 ms", "2 ms"]);
        assert_eq!(labels(&axis).last(), Some(&"100 ms"));
        assert!((axis.place(0.0) - axis.range.start).abs() < 1e-9);
        let near = Axis::by_range([0.002, 0.006], Unit::Seconds);
        assert!(!near.is_logarithmic());
        assert!(!Axis::by_range([], Unit::Seconds).is_logarithmic());
        let wide = Axis::by_range([1e-6, 0.1], Unit::Seconds);
        assert_eq!(labels(&wide), ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms"]);
    }

    #[test]
    fn each_further_nine_takes_the_same_room() {
        let axis = Axis::percentiles(12_345);
        assert_eq!(labels(&axis), ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        let places: Vec<f64> = axis.ticks.iter().map(|tick| tick.place).collect();
        assert!(places[1..].windows(2).all(|pair| (pair[1] - pair[0] - 1.0).abs() < 1e-9));
        assert!((axis.place(1.0 / (1.0 - 0.999)) - places[3]).abs() < 1e-9);
        assert_eq!(labels(&Axis::percentiles(1)).last(), Some(&"99 %"));
    }

    #[test]
    fn time_is_in_seconds_minutes_or_hours() {
        assert_eq!(labels(&Axis::time(30.0)), ["0", "10", "20", "30"]);
        let hour = Axis::time(3_600.0);
        assert_eq!(hour.label, "minutes since the beginning");
        assert_eq!(labels(&hour), ["0", "20", "40", "60"]);
        assert!((hour.ticks[1].place - 1_200.0).abs() < 1e-9);
        assert_eq!(labels(&Axis::time(0.0)).first(), Some(&"0"));
    }

    #[test]
    fn labels_that_would_touch_are_left_out() {
        let axis = Axis::percentiles(1_000_000);
        let crowded = axis.without_crowding(150.0, 7.0);
        let shown = labels(&crowded).iter().filter(|label| !label.is_empty()).count();
        assert!(shown < crowded.ticks.len() && shown >= 2, "{shown}");
        assert_eq!(axis.without_crowding(2_000.0, 7.0), axis);
    }

    #[test]
    fn the_first_name_stands_at_the_top() {
        let axis = Axis::names(["a", "b"].into_iter());
        assert_eq!(axis.format_ext(&1.0), "a");
        assert_eq!(axis.format_ext(&0.0), "b");
        assert_eq!(axis.format_ext(&0.5), "");
    }
}
