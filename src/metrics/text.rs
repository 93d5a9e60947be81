//! Metrics as text: `OpenMetrics` 1.0 from `prometheus-client`, and for all others the form 0.0.4.
//!
//! The two differ in what a counter is called above its samples, and in the last line, so the second
//! is made of the first.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::histogram::Counted;

/// A form of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What Prometheus asks for.
    OpenMetrics,
    /// What everybody understands.
    Plain,
}

impl Form {
    /// For the `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) type Labels = Vec<(&'static str, String)>;

/// A metric with all its samples.
#[derive(Debug)]
pub(super) struct Family {
    /// That of a counter without its `_total`.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) values: Values,
}

#[derive(Debug)]
pub(super) enum Values {
    Counters(Vec<(Labels, Number)>),
    Gauges(Vec<(Labels, Number)>),
    Histograms(Vec<(Labels, Counted)>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Number {
        Number::Whole(value as u64)
    }
}

impl Family {
    pub(super) fn gauge(
        name: &'static str,
        help: &'static str,
        value: impl Into<Number>,
    ) -> Family {
        Family { name, help, values: Values::Gauges(vec![(Labels::new(), value.into())]) }
    }

    pub(super) fn counter(
        name: &'static str,
        help: &'static str,
        value: impl Into<Number>,
    ) -> Family {
        Family { name, help, values: Values::Counters(vec![(Labels::new(), value.into())]) }
    }

    pub(super) fn counters(
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Family {
        let values = values.into_iter().map(|(labels, value)| (labels, value.into()));
        Family { name, help, values: Values::Counters(values.collect()) }
    }

    pub(super) fn histogram(name: &'static str, help: &'static str, counted: Counted) -> Family {
        Family { name, help, values: Values::Histograms(vec![(Labels::new(), counted)]) }
    }
}

/// The text of these families.
pub(super) fn encode(families: Vec<Family>, form: Form) -> Vec<u8> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a String takes all that is written to it");
    match form {
        Form::OpenMetrics => out,
        Form::Plain => plain(&out),
    }
    .into_bytes()
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for Family { name, help, values } in &self.0 {
            let metric_type = match values {
                Values::Counters(_) => MetricType::Counter,
                Values::Gauges(_) => MetricType::Gauge,
                Values::Histograms(_) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, metric_type)?;
            match values {
                Values::Counters(samples) => each(&mut metric, samples, |metric, value| {
                    const NO_EXEMPLAR: Option<&Exemplar> = None;
                    match value {
                        Number::Whole(value) => metric.encode_counter(value, NO_EXEMPLAR),
                        Number::Real(value) => metric.encode_counter(value, NO_EXEMPLAR),
                    }
                }),
                Values::Gauges(samples) => {
                    each(&mut metric, samples, |metric, value| match value {
                        Number::Whole(value) => metric.encode_gauge(value),
                        Number::Real(value) => metric.encode_gauge(value),
                    })
                }
                Values::Histograms(samples) => each(&mut metric, samples, |metric, counted| {
                    let Counted { buckets, sum, count } = counted;
                    metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
                }),
            }?;
        }
        Ok(())
    }
}

type Exemplar = prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, f64>;

/// Encodes each sample under its labels.
fn each<T>(
    metric: &mut MetricEncoder,
    samples: &[(Labels, T)],
    encode: impl Fn(&mut MetricEncoder, &T) -> Result<(), std::fmt::Error>,
) -> Result<(), std::fmt::Error> {
    for (labels, value) in samples {
        if labels.is_empty() {
            encode(metric, value)?;
        } else {
            encode(&mut metric.encode_family(&labels.as_slice())?, value)?;
        }
    }
    Ok(())
}

/// The form 0.0.4: what is said of a counter is said of its samples' name, and nothing marks the end.
fn plain(text: &str) -> String {
    let is_counter = |name: &str| text.contains(&format!("# TYPE {name} counter\n"));
    let mut out = String::with_capacity(text.len() + 512);
    for line in text.lines().filter(|line| *line != "# EOF") {
        let told = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        let name = told.and_then(|(_, rest)| rest.split_once(' '));
        match (told, name) {
            (Some((what, _)), Some((name, rest))) if is_counter(name) => {
                out.extend(["# ", what, " ", name, "_total ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: Form) -> String {
        let buckets = vec![(0.5, 2), (f64::INFINITY, 1)];
        let reasons = ["x", "y"].into_iter().zip([1, 0]);
        let reasons = reasons.map(|(reason, count)| (vec![("reason", reason.into())], count));
        let families = vec![
            Family::gauge("a", "A", 7_usize),
            Family::counters("b", "B", reasons),
            Family::histogram("c", "C", Counted { buckets, sum: 9.25, count: 3 }),
            Family::counter("d_seconds", "D", Number::Real(0.5)),
        ];
        String::from_utf8(encode(families, form)).unwrap()
    }

    const HISTOGRAM: &str = "# HELP c C\n# TYPE c histogram\nc_sum 9.25\nc_count 3\n\
                             c_bucket{le=\"0.5\"} 2\nc_bucket{le=\"+Inf\"} 3\n";

    #[test]
    fn openmetrics_names_counters_without_total() {
        let expected = format!(
            "# HELP a A\n# TYPE a gauge\na 7\n\
             # HELP b B\n# TYPE b counter\nb_total{{reason=\"x\"}} 1\nb_total{{reason=\"y\"}} 0\n\
             {HISTOGRAM}# HELP d_seconds D\n# TYPE d_seconds counter\nd_seconds_total 0.5\n# EOF\n"
        );
        assert_eq!(check(Form::OpenMetrics), expected);
    }

    #[test]
    fn the_plain_form_names_them_with_it() {
        let expected = format!(
            "# HELP a A\n# TYPE a gauge\na 7\n\
             # HELP b_total B\n# TYPE b_total counter\n\
             b_total{{reason=\"x\"}} 1\nb_total{{reason=\"y\"}} 0\n\
             {HISTOGRAM}# HELP d_seconds_total D\n# TYPE d_seconds_total counter\n\
             d_seconds_total 0.5\n"
        );
        assert_eq!(check(Form::Plain), expected);
    }
}
