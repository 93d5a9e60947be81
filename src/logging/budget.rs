//! How many lines of a kind may be logged: whoever connects again and again cannot fill the disk.
//!
//! A token bucket for each kind. What is left out is counted, and told as soon as there is room for
//! a line again.

use crate::limits::{LOG_LINES_BURST, LOG_LINES_PER_SECOND};

/// A kind of line of which a client can cause any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `stream ended`
    Ended,
    /// `stream resumed`
    Resumed,
    /// `keepalive timeout`
    Timeout,
    /// `connection refused`
    Refused,
    /// `history cannot be read`
    Unreadable,
}

impl Kind {
    /// Every one, in the order of their numbers.
    pub const ALL: [Kind; 5] =
        [Kind::Ended, Kind::Resumed, Kind::Timeout, Kind::Refused, Kind::Unreadable];

    /// The message of its lines.
    pub fn message(self) -> &'static str {
        match self {
            Kind::Ended => "stream ended",
            Kind::Resumed => "stream resumed",
            Kind::Timeout => "keepalive timeout",
            Kind::Refused => "connection refused",
            Kind::Unreadable => "history cannot be read",
        }
    }
}

const MS_PER_LINE: u64 = 1_000 / LOG_LINES_PER_SECOND;

/// What may be logged of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    lines: u64,
    /// Up to when lines were added, in milliseconds.
    added_at: u64,
    left_out: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { lines: LOG_LINES_BURST, added_at: 0, left_out: 0 }
    }
}

impl Budget {
    /// Takes a line. Without one, what was to be logged is counted as left out.
    pub fn take(&mut self, now_ms: u64) -> bool {
        self.add(now_ms);
        if self.lines == 0 || self.left_out > 0 {
            self.left_out += 1;
            return false;
        }
        self.lines -= 1;
        true
    }

    /// Takes a line to say how many were left out, if any were.
    pub fn tell(&mut self, now_ms: u64) -> Option<u64> {
        self.add(now_ms);
        if self.lines == 0 || self.left_out == 0 {
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// When to ask [`Budget::tell`], if anything is to be told.
    pub fn due(&self) -> Option<u64> {
        (self.left_out > 0).then_some(self.added_at + MS_PER_LINE)
    }

    fn add(&mut self, now_ms: u64) {
        let lines = now_ms.saturating_sub(self.added_at) / MS_PER_LINE;
        self.added_at += lines * MS_PER_LINE;
        self.lines = LOG_LINES_BURST.min(self.lines + lines);
    }
}

/// The budgets of a worker, by the number of the kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budgets([Budget; Kind::ALL.len()]);

impl Budgets {
    /// Whether a line may be logged now.
    pub fn take(&mut self, kind: Kind, now_ms: u64) -> bool {
        self.0[kind as usize].take(now_ms)
    }

    /// Kinds of which lines were left out, and how many, each once.
    pub fn tell(&mut self, now_ms: u64, mut each: impl FnMut(Kind, u64)) {
        for (kind, budget) in Kind::ALL.into_iter().zip(&mut self.0) {
            if let Some(lines) = budget.tell(now_ms) {
                each(kind, lines);
            }
        }
    }

    /// When to ask [`Budgets::tell`], if anything is to be told.
    pub fn due(&self) -> Option<u64> {
        self.0.iter().filter_map(Budget::due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_what_comes_after_it_is_told() {
        let mut budget = Budget::default();
        let passed = (0..LOG_LINES_BURST + 30).filter(|_| budget.take(7)).count();
        assert_eq!(passed as u64, LOG_LINES_BURST);
        assert_eq!(budget.tell(7), None);
        let due = budget.due().unwrap();
        assert!(due > 7 && due <= 7 + MS_PER_LINE, "{due}");
        // Nothing goes before it.
        assert!(!budget.take(due));
        assert_eq!(budget.tell(due), Some(31));
        assert_eq!((budget.tell(due), budget.due()), (None, None));
        let second = (0..100).filter(|_| budget.take(due + 1_000)).count();
        assert_eq!(second as u64, LOG_LINES_PER_SECOND);
        let day = (0..10_000).filter(|_| budget.take(86_400_000)).count();
        assert_eq!(day, 0, "what was left out comes first");
        assert_eq!(budget.tell(86_400_000), Some(10_000 + 80));
    }

    #[test]
    fn each_kind_has_its_own() {
        let mut budgets = Budgets::default();
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        while budgets.take(Kind::Ended, 0) {}
        assert!(budgets.take(Kind::Timeout, 0));
        assert_eq!(budgets.due(), Some(MS_PER_LINE));
        let mut told = Vec::new();
        budgets.tell(1_000, |kind, lines| told.push((kind, lines)));
        assert_eq!(told, [(Kind::Ended, 1)]);
    }
}
