//! Values as people read them, the same in the terminal, on the page and in Markdown.
//!
//! What was measured is written with three significant digits: the next run differs in the third
//! already. What was counted is exact. Units are decimal (1 KB is 1,000 B), as in the documentation.

use std::time::Duration;

use indicatif::HumanFloatCount;

use super::Unit;

/// From here on a duration is written as minutes and hours, in nanoseconds: 100 s.
const CLOCK_NANOSECONDS_MIN: f64 = 100e9;

/// A value in its unit: `1,234,567`, `21,300/s`, `10.2 KB`, `4.7 ms`, `6.85 µs`, `1.3 %`.
pub fn format(value: f64, unit: Unit) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    match unit {
        Unit::Count if value.fract() == 0.0 => digits(value, 0),
        Unit::Count => significant(value),
        Unit::PerSecond => format!("{}/s", significant(value)),
        Unit::Bytes => format_bytes(value),
        Unit::BytesPerSecond => format!("{}/s", format_bytes(value)),
        Unit::Seconds => format_nanoseconds(value * 1e9),
        Unit::Microseconds => format!("{} µs", significant(value)),
        Unit::Share => format!("{} %", significant(value * 100.0)),
    }
}

/// A duration in nanoseconds: `850 ns`, `6.85 µs`, `4.7 ms`, `12.3 s`, `2m 5s`.
pub fn format_duration(nanoseconds: u64) -> String {
    format_nanoseconds(nanoseconds as f64)
}

/// How many times as much one value is as another: `0.35×`, `1.35×`, `21×`.
pub fn format_ratio(ratio: f64) -> String {
    if ratio.is_finite() { format!("{}×", significant(ratio)) } else { "–".into() }
}

fn format_nanoseconds(nanoseconds: f64) -> String {
    if nanoseconds >= CLOCK_NANOSECONDS_MIN {
        let seconds = (nanoseconds / 1e9).round();
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        return humantime::format_duration(duration).to_string();
    }
    scaled(nanoseconds, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")])
}

fn format_bytes(bytes: f64) -> String {
    scaled(bytes, &[(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B")])
}

/// In the largest unit that leaves at least 1; `units` descend and end with 1.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // Rounded first, so that 999.9 ns is 1 µs rather than 1,000 ns.
    let value = round_to_significant(value);
    let smallest = units.last().expect("a unit of 1 ends the list");
    let (size, name) = units.iter().find(|(size, _)| value.abs() >= *size).unwrap_or(smallest);
    format!("{} {name}", significant(value / size))
}

/// Three significant digits, without the zeros that say nothing.
fn significant(value: f64) -> String {
    let value = round_to_significant(value);
    digits(value, usize::try_from(decimals_for_significant(value)).unwrap_or(0))
}

/// With separators for thousands, and at most so many digits after the point.
fn digits(value: f64, decimals: usize) -> String {
    let written = format!("{:.decimals$}", HumanFloatCount(value));
    if written == "-0" { "0".into() } else { written }
}

fn round_to_significant(value: f64) -> f64 {
    let decimals = decimals_for_significant(value);
    let scale = 10f64.powi(decimals.abs());
    if decimals < 0 { (value / scale).round() * scale } else { (value * scale).round() / scale }
}

/// Digits after the point that make three significant ones; negative where zeros stand before it.
fn decimals_for_significant(value: f64) -> i32 {
    if value == 0.0 { 0 } else { 2 - value.abs().log10().floor() as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: f64, unit: Unit, expected: &str) {
        assert_eq!(format(value, unit), expected);
    }

    #[test]
    fn counts_are_exact() {
        check(0.0, Unit::Count, "0");
        check(999.0, Unit::Count, "999");
        check(1_234_567.0, Unit::Count, "1,234,567");
        check(2.5, Unit::Count, "2.5");
    }

    #[test]
    fn what_was_measured_has_three_digits() {
        check(21_314.7, Unit::PerSecond, "21,300/s");
        check(0.25, Unit::PerSecond, "0.25/s");
        check(6.8512, Unit::Microseconds, "6.85 µs");
        check(1_234.5, Unit::Microseconds, "1,230 µs");
        check(0.013_04, Unit::Share, "1.3 %");
        check(1.0, Unit::Share, "100 %");
        check(0.000_012_3, Unit::Share, "0.00123 %");
    }

    #[test]
    fn bytes_take_decimal_units() {
        check(0.0, Unit::Bytes, "0 B");
        check(412.0, Unit::Bytes, "412 B");
        check(10_240.0, Unit::Bytes, "10.2 KB");
        check(999_999.0, Unit::Bytes, "1 MB");
        check(1_234_567_890.0, Unit::Bytes, "1.23 GB");
        check(-2_500.0, Unit::Bytes, "-2.5 KB");
        check(412_345_678.0, Unit::BytesPerSecond, "412 MB/s");
    }

    #[test]
    fn durations_take_the_unit_that_leaves_at_least_one() {
        assert_eq!(format_duration(0), "0 ns");
        assert_eq!(format_duration(850), "850 ns");
        assert_eq!(format_duration(999_999), "1 ms");
        assert_eq!(format_duration(6_850), "6.85 µs");
        assert_eq!(format_duration(4_700_000), "4.7 ms");
        assert_eq!(format_duration(99_900_000_000), "99.9 s");
        assert_eq!(format_duration(125_000_000_000), "2m 5s");
        check(0.0047, Unit::Seconds, "4.7 ms");
        check(7_200.0, Unit::Seconds, "2h");
    }

    #[test]
    fn ratios_have_three_digits_too() {
        assert_eq!(format_ratio(1.0), "1×");
        assert_eq!(format_ratio(0.0559), "0.0559×");
        assert_eq!(format_ratio(1.3456), "1.35×");
        assert_eq!(format_ratio(21.04), "21×");
        assert_eq!(format_ratio(f64::INFINITY), "–");
    }

    #[test]
    fn a_value_that_is_no_number_is_a_dash() {
        check(f64::NAN, Unit::Bytes, "–");
        check(-0.0, Unit::Count, "0");
    }
}
