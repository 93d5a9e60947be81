//! What servers are compared by: the one list of names, labels and units.

use crate::report::Unit;

/// Something that is measured of each server in each round.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// A stable name for programs.
    pub name: &'static str,
    /// The same for people.
    pub label: &'static str,
    /// The label under its group's heading.
    pub short: &'static str,
    /// What belongs together in the table.
    pub group: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Which direction is an advantage.
    pub better: Better,
    /// What its ratio refers to.
    pub reference: Reference,
}

/// Which direction is an advantage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Less memory, less time.
    Lower,
    /// More a second.
    Higher,
}

/// What a ratio refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The server that only writes to sockets: what the kernel costs in any case.
    BareRing,
    /// This project's server.
    Tidewheel,
    /// The same, among servers with the same promise: the promise decides the figure.
    TidewheelAmongEquals,
}

impl Better {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Lower => "lower is better",
            Self::Higher => "higher is better",
        }
    }
}

impl Reference {
    /// The name of what a ratio refers to.
    pub fn words(self) -> &'static str {
        match self {
            Self::BareRing => super::BARE_RING,
            Self::Tidewheel | Self::TidewheelAmongEquals => super::TIDEWHEEL,
        }
    }
}

/// All metrics, in the order to be shown.
pub static METRICS: [Metric; 14] = [
    Metric {
        name: "memory_per_subscriber",
        label: "memory per subscriber",
        short: "when connected",
        group: "Memory per subscriber",
        unit: Unit::Bytes,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "memory_per_subscriber_after",
        label: "memory per subscriber after the bursts",
        short: "after the bursts",
        group: "Memory per subscriber",
        unit: Unit::Bytes,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "opened_per_second",
        label: "subscribers accepted a second",
        short: "subscribers a second",
        group: "Connecting",
        unit: Unit::PerSecond,
        better: Better::Higher,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "first_byte_p99",
        label: "time to the first byte, p99",
        short: "first byte, p99",
        group: "Connecting",
        unit: Unit::Seconds,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "cpu_per_delivery",
        label: "CPU time per delivery",
        short: "one event",
        group: "CPU per delivery",
        unit: Unit::Microseconds,
        better: Better::Lower,
        reference: Reference::BareRing,
    },
    Metric {
        name: "cpu_per_delivery_burst",
        label: "CPU time per delivery, 20 events waiting",
        short: "20 waiting",
        group: "CPU per delivery",
        unit: Unit::Microseconds,
        better: Better::Lower,
        reference: Reference::BareRing,
    },
    Metric {
        name: "delivery_p50",
        label: "time from publish to delivery, p50",
        short: "p50",
        group: "Publish to delivery",
        unit: Unit::Seconds,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "delivery_p99",
        label: "time from publish to delivery, p99",
        short: "p99",
        group: "Publish to delivery",
        unit: Unit::Seconds,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "storm_caught_up",
        label: "time until a reconnect storm has caught up",
        short: "all have caught up",
        group: "Storm",
        unit: Unit::Seconds,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
    Metric {
        name: "appends_per_second_1",
        label: "appends a second, one client",
        short: "one client",
        group: "Appends a second",
        unit: Unit::PerSecond,
        better: Better::Higher,
        reference: Reference::TidewheelAmongEquals,
    },
    Metric {
        name: "appends_per_second_64",
        label: "appends a second, 64 clients",
        short: "64 clients",
        group: "Appends a second",
        unit: Unit::PerSecond,
        better: Better::Higher,
        reference: Reference::TidewheelAmongEquals,
    },
    Metric {
        name: "append_p50_1",
        label: "time of an append, p50, one client",
        short: "p50, one client",
        group: "Time of an append",
        unit: Unit::Seconds,
        better: Better::Lower,
        reference: Reference::TidewheelAmongEquals,
    },
    Metric {
        name: "append_p50_64",
        label: "time of an append, p50, 64 clients",
        short: "p50, 64 clients",
        group: "Time of an append",
        unit: Unit::Seconds,
        better: Better::Lower,
        reference: Reference::TidewheelAmongEquals,
    },
    Metric {
        name: "idle_cpu_share",
        label: "CPU while all are idle, of one core",
        short: "of one core",
        group: "Idle CPU",
        unit: Unit::Share,
        better: Better::Lower,
        reference: Reference::Tidewheel,
    },
];

/// The metric of that name.
#[cfg(test)]
pub fn metric(name: &str) -> &'static Metric {
    METRICS.iter().find(|metric| metric.name == name).expect("a metric of that name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_stands_together() {
        let mut groups: Vec<&str> = METRICS.iter().map(|metric| metric.group).collect();
        groups.dedup();
        let in_a_row = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), in_a_row);
    }

    #[test]
    fn every_metric_has_its_own_name() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
