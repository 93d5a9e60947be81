//! What several rounds of the same measurement say together.

/// A median with the lowest and the highest round, so that nobody takes a lucky one for the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The lowest round.
    pub min: f64,
    /// The middle one; the mean of the two middle ones of an even number.
    pub median: f64,
    /// The highest round.
    pub max: f64,
}

impl Spread {
    /// Of a value a round; values that are no number do not count. None without any.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut values: Vec<f64> =
            rounds.iter().copied().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self { min, median: f64::midpoint(lower, upper), max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_and_the_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("three rounds");
        assert_eq!(spread, Spread { min: 1.0, median: 2.0, max: 3.0 });
        let even = Spread::of(&[4.0, 1.0, 2.0, f64::NAN, 3.0]).expect("four rounds");
        assert_eq!(even, Spread { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(Spread::of(&[]), None);
    }
}
