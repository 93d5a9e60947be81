//! Figures that are kept beside the code, so that a loss is noticed when it is made.
//!
//! ```text
//! counted with rustc 1.95.0, valgrind-3.19.0, x86_64
//!         171.3  hub: an event to all
//! ```
//!
//! They are counts, not times: the same program makes the same number of instructions on a busy
//! machine. What changes them a little is a compiler, a C library and a processor, which is why the
//! first line says with what they were counted, and why less than a tenth is no loss.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// More than before by more than this part of it is a loss.
pub const LOSS: f64 = 0.1;

const HEADING: &str = "counted with ";

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Compiler, tool and processor.
    pub counted_with: String,
    /// By what they are figures of.
    pub by_name: BTreeMap<String, f64>,
}

/// What has become of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// There was none.
    New,
    /// It is what it was, but for this part of it.
    Level(f64),
    /// It is more by a [`LOSS`].
    Lost(f64),
    /// It is less by as much: the figure should be renewed, or what was gained may be lost again
    /// without notice.
    Gained(f64),
}

impl Figures {
    /// What a count is beside the figure of that name.
    pub fn change(&self, name: &str, count: f64) -> Change {
        let Some(figure) = self.by_name.get(name) else { return Change::New };
        let change = count / figure - 1.0;
        match change {
            more if more > LOSS => Change::Lost(change),
            less if less < -LOSS => Change::Gained(change),
            _ => Change::Level(change),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADING}{}", self.counted_with)?;
        self.by_name.iter().try_for_each(|(name, figure)| writeln!(f, "{figure:>13.1}  {name}"))
    }
}

impl FromStr for Figures {
    type Err = String;

    fn from_str(text: &str) -> Result<Figures, String> {
        let mut lines = text.lines();
        let counted_with = lines.next().and_then(|line| line.strip_prefix(HEADING));
        let counted_with = counted_with.ok_or_else(|| format!("no line {HEADING:?}"))?.to_owned();
        let figure = |line: &str| {
            let (figure, name) = line.trim_start().split_once("  ")?;
            let figure: f64 = figure.parse().ok().filter(|figure| *figure > 0.0)?;
            Some((name.to_owned(), figure))
        };
        let by_name = lines.map(|line| figure(line).ok_or_else(|| format!("no figure: {line:?}")));
        Ok(Figures { counted_with, by_name: by_name.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let by_name = [("a: one".to_owned(), 171.3), ("b".to_owned(), 20_000.0)].into();
        Figures { counted_with: "rustc 1.95.0, x86_64".to_owned(), by_name }
    }

    #[test]
    fn what_was_written_is_read_again() {
        assert_eq!(figures().to_string().parse(), Ok(figures()));
    }

    #[test]
    fn a_tenth_more_is_a_loss_and_less_than_that_is_none() {
        let figures = figures();
        assert!(matches!(figures.change("b", 22_001.0), Change::Lost(_)));
        assert!(matches!(figures.change("b", 21_999.0), Change::Level(_)));
        assert!(matches!(figures.change("b", 18_001.0), Change::Level(_)));
        assert!(matches!(figures.change("b", 17_999.0), Change::Gained(_)));
        assert_eq!(figures.change("c", 1.0), Change::New);
    }

    #[test]
    fn a_figure_that_nothing_can_be_compared_with_is_refused() {
        for line in ["", "0.0  a", "-1.0  a", "NaN  a", "many  a", "12.0"] {
            let text = format!("{HEADING}rustc\n{line}\n");
            assert!(text.parse::<Figures>().is_err(), "{line:?}");
        }
        assert!("12.0  a\n".parse::<Figures>().is_err());
    }
}
