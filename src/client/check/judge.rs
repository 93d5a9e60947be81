//! What is to be thought of what was seen: each check says ok or failed, what it was, and what
//! mostly causes it.
//!
//! Pure. Clocks of two machines need not agree: an event's delay is compared with the smallest one
//! only, so that what the clocks differ by drops out.

use std::time::Duration;

use serde::Serialize;

use super::watch::{End, Head, Probe, Seen};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Not as it should be.
    Failed,
    /// Not looked at.
    Skipped,
}

impl Verdict {
    /// For people, who look for what is in capitals.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What mostly causes it, and where to look.
    pub cause: Option<String>,
}

impl Finding {
    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding { name, verdict: Verdict::Ok, detail: detail.into(), cause: None }
    }

    pub(super) fn skipped(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding { name, verdict: Verdict::Skipped, detail: detail.into(), cause: None }
    }

    /// An empty cause is none.
    pub(super) fn failed(
        name: &'static str,
        detail: impl Into<String>,
        cause: impl Into<String>,
    ) -> Finding {
        let cause = Some(cause.into()).filter(|cause| !cause.is_empty());
        Finding { name, verdict: Verdict::Failed, detail: detail.into(), cause }
    }
}

/// What should be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The server's keepalive interval.
    pub keepalive: Duration,
    /// How much later than the fastest an event may come.
    pub late: Duration,
    /// Longest wait for a head, and for the first event.
    pub answer: Duration,
    /// How long the streams were watched.
    pub lasting: Duration,
}

impl Expected {
    /// The probe is given up when it is silent for this long.
    pub fn probe_silence(&self) -> Duration {
        3 * PROBE_INTERVAL
    }

    /// The quiet stream is given up when it is silent for this long, as clients should do.
    pub fn quiet_silence(&self) -> Duration {
        3 * self.keepalive
    }
}

/// The rhythm of the probe, as the contract has it.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Judges the probe and a quiet stream that were watched side by side.
pub fn judge(probe: &Seen, quiet: &Seen, expected: &Expected) -> Vec<Finding> {
    let mut findings = vec![answer(probe, quiet)];
    if let Some(head) = stream_head(probe) {
        findings.push(headers(head));
        findings.push(first_event(probe, expected));
        findings.push(buffering(probe, expected));
    }
    if stream_head(quiet).is_some() {
        findings.push(keepalive(quiet, expected));
    }
    findings.push(stability(probe, quiet, expected));
    findings
}

fn stream_head(seen: &Seen) -> Option<&Head> {
    seen.head.as_ref().filter(|head| head.is_stream() && seen.refused.is_none())
}

fn answer(probe: &Seen, quiet: &Seen) -> Finding {
    const NAME: &str = "answer";
    for seen in [probe, quiet] {
        let path = &seen.path;
        let Some(head) = &seen.head else {
            let End::NoAnswer(reason) = &seen.end else {
                unreachable!("without an answer, it says why")
            };
            let cause = "nothing behind the proxy answers in time, or it buffers and holds the head back too (nginx with X-Accel-Buffering ignored, proxy_ignore_headers), or TLS fails";
            return Finding::failed(NAME, format!("{path}: {reason}"), cause);
        };
        if let Some(reason) = &seen.refused {
            let detail = format!("{path}: refused for now: {reason}");
            let cause = "full or a limit: see connections_refused_total and the limits among the settings; draining: the server is going down";
            return Finding::failed(NAME, detail, cause);
        }
        if !head.is_stream() {
            let (detail, cause) = no_stream(head);
            return Finding::failed(NAME, format!("{path}: {detail}"), cause);
        }
    }
    Finding::ok(NAME, format!("200 and a stream after {:.1?}", probe.head_after))
}

/// What an answer is that is no stream, and why.
fn no_stream(head: &Head) -> (String, String) {
    let Head { status, content_type, server, excerpt, .. } = head;
    let what = match status {
        200 => format!("200, but its content type is {content_type:?}"),
        _ => status.to_string(),
    };
    let page = if content_type.starts_with("text/html") {
        let title = excerpt.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
        format!(", a page in HTML {:?}", title.map_or("", |(title, _)| title.trim()))
    } else {
        String::new()
    };
    let from = if server.is_empty() { String::new() } else { format!(", from {server:?}") };
    let by_status = match status {
        502 | 504 => "the proxy does not reach the server, or waits too short a time for it",
        503 => {
            "the proxy takes the server for dead, or has no more room; the server itself refuses streams with a stream"
        }
        429 => "a limit of the proxy's; the server itself refuses streams with a stream",
        401 | 403 => "the proxy asks for credentials: give them with --header",
        404 => "the proxy does not pass this path on, or there is no such run",
        406 => "something has changed the Accept field",
        204 => "the run has ended and there is nothing to follow",
        300..=399 => "a redirect that leads to no stream",
        _ => "",
    };
    let mut cause = by_status.to_owned();
    if *status != 200 && *status != 204 {
        if !cause.is_empty() {
            cause += ". ";
        }
        cause += "After any status but 200 a browser's EventSource never asks again";
    } else if *status == 200 {
        "something in front answers in the server's place".clone_into(&mut cause);
    }
    (what + &page + &from, cause)
}

fn headers(head: &Head) -> Finding {
    const NAME: &str = "headers";
    let is_cacheable =
        !["no-cache", "no-store"].iter().any(|word| head.cache_control.contains(word));
    let wrong = [
        (
            !head.content_encoding.is_empty(),
            format!("Content-Encoding: {}", head.content_encoding),
            "compression holds events back until a block is full: leave text/event-stream out of it (nginx: gzip off, or gzip_types)",
        ),
        (
            !head.content_length.is_empty(),
            format!("Content-Length: {}", head.content_length),
            "something has read the stream to its end before it passed it on",
        ),
        (
            is_cacheable,
            format!("Cache-Control: {}", head.cache_control),
            "something has taken no-cache away: a cache may keep the stream, and give an old one out (nginx: proxy_cache off)",
        ),
        (
            head.accel_buffering.eq_ignore_ascii_case("yes"),
            "X-Accel-Buffering: yes".to_owned(),
            "a proxy in front will buffer",
        ),
    ];
    let wrong: Vec<_> = wrong.into_iter().filter(|(is_wrong, ..)| *is_wrong).collect();
    let Some((.., cause)) = wrong.first() else {
        return Finding::ok(NAME, format!("{}, {}", head.content_type, head.cache_control));
    };
    let fields: Vec<&str> = wrong.iter().map(|(_, field, _)| field.as_str()).collect();
    Finding::failed(NAME, fields.join("; "), *cause)
}

const BUFFERED: &str = "something on the way buffers: compression, a proxy with buffering on (nginx with X-Accel-Buffering ignored, proxy_ignore_headers), a CDN, a scanner of content";

fn first_event(probe: &Seen, expected: &Expected) -> Finding {
    const NAME: &str = "first_event";
    match probe.first_event_after {
        None => Finding::failed(
            NAME,
            format!(
                "the head came after {:.1?}, and no event in {:.1?}",
                probe.head_after, probe.lived
            ),
            BUFFERED,
        ),
        Some(after) if after.saturating_sub(probe.head_after) > expected.answer => {
            let detail =
                format!("after {after:.1?}, where the head came after {:.1?}", probe.head_after);
            Finding::failed(NAME, detail, BUFFERED)
        }
        Some(after) => Finding::ok(NAME, format!("after {after:.1?}")),
    }
}

/// How many of these events came later than they should, and by how much the latest; and how many
/// came together with one that was sent well before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lateness {
    latest_ms: i64,
    late: usize,
    together: usize,
}

fn lateness(probes: &[Probe], late: Duration) -> Lateness {
    let delay = |probe: &Probe| probe.received - probe.sent;
    let fastest = probes.iter().map(delay).min().unwrap_or_default();
    let over = |probe: &Probe| delay(probe) - fastest;
    let is_together = |pair: &&[Probe]| {
        let (sent, received) = (pair[1].sent - pair[0].sent, pair[1].received - pair[0].received);
        sent > 0 && received < sent / 10
    };
    Lateness {
        latest_ms: probes.iter().map(over).max().unwrap_or_default(),
        late: probes.iter().filter(|probe| over(probe) > late.as_millis() as i64).count(),
        together: probes.windows(2).filter(is_together).count(),
    }
}

fn buffering(probe: &Seen, expected: &Expected) -> Finding {
    const NAME: &str = "buffering";
    let count = probe.probes.len();
    let Lateness { latest_ms, late, together } = lateness(&probe.probes, expected.late);
    if late > 0 && together > 0 {
        let detail = format!(
            "{late} of {count} events came late, by up to {latest_ms} ms; {together} came together with the one before"
        );
        return Finding::failed(NAME, detail, BUFFERED);
    }
    if late > 0 {
        let detail =
            format!("{late} of {count} events came late, by up to {latest_ms} ms, each for itself");
        let cause = "not a buffer, but a slow or lossy path (ss -ti, nstat), or a server that is overloaded (sse_delivery_latency_seconds)";
        return Finding::failed(NAME, detail, cause);
    }
    if count < 2 {
        return Finding::skipped(NAME, format!("{count} events are too few, watch for longer"));
    }
    Finding::ok(
        NAME,
        format!("none: {count} events one by one, at most {latest_ms} ms later than the fastest"),
    )
}

fn keepalive(quiet: &Seen, expected: &Expected) -> Finding {
    const NAME: &str = "keepalive";
    let allowed = 2 * expected.keepalive;
    let silence = quiet.longest_silence;
    if silence > allowed {
        let detail = format!(
            "{}: silent for {silence:.1?}{}, where something should come every {:.1?}",
            quiet.path,
            if quiet.end == End::Silent { " and given up" } else { "" },
            expected.keepalive
        );
        let cause = "keepalive_interval is longer than --keepalive says, the proxy swallows comments or buffers, or the server hangs";
        return Finding::failed(NAME, detail, cause);
    }
    if quiet.lived < allowed {
        return Finding::skipped(NAME, format!("the stream was seen for {:.1?} only", quiet.lived));
    }
    Finding::ok(
        NAME,
        format!(
            "{} in {:.1?}, never silent for more than {silence:.1?}",
            quiet.heartbeats, quiet.lived
        ),
    )
}

/// Whether the streams stayed open, and if not, what has cut them.
fn stability(probe: &Seen, quiet: &Seen, expected: &Expected) -> Finding {
    const NAME: &str = "stability";
    let mut ended_by_the_server = Vec::new();
    for (seen, is_quiet) in [(quiet, true), (probe, false)] {
        if stream_head(seen).is_none() {
            continue;
        }
        let how = match &seen.end {
            End::TimeUp => continue,
            // That is said of its keepalives already.
            End::Silent if is_quiet => continue,
            End::Goodbye => {
                ended_by_the_server.push(format!("{} after {:.1?}", seen.path, seen.lived));
                continue;
            }
            End::Silent => {
                let detail = format!(
                    "{}: not cut, but nothing came for {:.1?}",
                    seen.path, seen.last_silence
                );
                let cause = "the connection is half open, or something holds everything back: clients that trust it wait for ever";
                return Finding::failed(NAME, detail, cause);
            }
            End::Closed => "closed (FIN)",
            End::ClosedEarly => "closed (FIN) before the end of its coding",
            End::Reset => "reset (RST)",
            End::Broken(reason) => reason,
            End::NoAnswer(_) | End::NoStream => unreachable!("it has the head of a stream"),
        };
        let detail = format!(
            "{} was cut after {:.1?}, {:.1?} after its last byte: {how}",
            seen.path, seen.lived, seen.last_silence
        );
        // The other stream tells a limit on silence from one on the whole answer.
        let outlived = [probe, quiet]
            .into_iter()
            .any(|other| stream_head(other).is_some() && other.lived > seen.lived.mul_f64(1.1));
        return Finding::failed(NAME, detail, cause_of_cut(seen, outlived));
    }
    if stream_head(probe).is_none() && stream_head(quiet).is_none() {
        return Finding::skipped(NAME, "there was no stream");
    }
    if ended_by_the_server.is_empty() {
        return Finding::ok(NAME, format!("open for {:.1?}", expected.lasting));
    }
    let which = ended_by_the_server.join(", ");
    Finding::ok(
        NAME,
        format!(
            "ended by the server, which said when to come back (a drain, or max_stream_lifetime): {which}"
        ),
    )
}

/// Whose time limit it may have been: seconds, and the settings that are so by default, or often.
const SUSPECTS: [(u64, &str); 12] = [
    (15, "Envoy's and Istio's timeout of a route"),
    (29, "the AWS API Gateway, which cannot stream for longer"),
    (30, "Google Cloud's timeoutSec of a backend service, HAProxy's timeout server"),
    (50, "HAProxy's timeout client and timeout server in Debian's haproxy.cfg"),
    (55, "Heroku's router"),
    (
        60,
        "nginx's proxy_read_timeout, the AWS load balancer's idle_timeout.timeout_seconds, Apache's ProxyTimeout",
    ),
    (100, "Cloudflare's proxy read timeout"),
    (230, "the load balancer of Azure App Service"),
    (240, "Azure's load balancer (idleTimeoutInMinutes)"),
    (300, "Envoy's stream_idle_timeout"),
    (350, "the AWS network load balancer, or a NAT gateway"),
    (600, "Google Cloud's connection tracking"),
];

fn cause_of_cut(seen: &Seen, outlived: bool) -> String {
    let by_silence = suspect(seen.last_silence);
    let by_age = suspect(seen.lived);
    match (by_silence, by_age) {
        (Some((seconds, whose)), _) => {
            format!("a limit of {seconds} s on silence: {whose}. Keep keepalive_interval below half of it, or raise it")
        }
        (None, Some((seconds, whose))) => {
            format!("a limit of {seconds} s on the whole answer, however busy it is: {whose}. Raise it; keepalives do not help")
        }
        (None, None) if outlived => {
            "a busier or another stream lived on: a limit on silence shorter than the keepalives, or this connection alone was ended".to_owned()
        }
        (None, None) => {
            "everything was cut: a restart of the proxy or of the server (see its log), or a limit on the whole answer (Envoy's max_stream_duration)".to_owned()
        }
    }
}

/// The suspect with about this time.
fn suspect(time: Duration) -> Option<(u64, &'static str)> {
    let seconds = time.as_secs_f64();
    let is_near = |known: f64| (-0.2..=known.mul_add(0.01, 0.5)).contains(&(seconds - known));
    SUSPECTS.into_iter().find(|(known, _)| is_near(*known as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected {
        keepalive: Duration::from_secs(15),
        late: Duration::from_secs(1),
        answer: Duration::from_secs(10),
        lasting: Duration::from_mins(5),
    };

    /// The server's clock, far from ours.
    const CLOCK: i64 = 1_700_000_000_000;

    fn probes(received: impl IntoIterator<Item = i64>) -> Vec<Probe> {
        let probe = |(at, received)| Probe { sent: CLOCK + at * 5_000, received };
        (0_i64..).zip(received).map(probe).collect()
    }

    fn head() -> Head {
        Head {
            status: 200,
            content_type: "text/event-stream".to_owned(),
            cache_control: "no-cache, no-transform".to_owned(),
            ..Head::default()
        }
    }

    fn stream(end: End) -> Seen {
        Seen {
            path: "/s".to_owned(),
            head: Some(head()),
            head_after: Duration::from_millis(10),
            first_event_after: Some(Duration::from_millis(20)),
            probes: probes((0..60).map(|at| at * 5_000 + 20)),
            heartbeats: 20,
            longest_silence: Duration::from_secs(15),
            last_silence: Duration::from_secs(5),
            refused: None,
            lived: EXPECTED.lasting,
            end,
        }
    }

    /// The checks that fail, with what is said to be their cause.
    fn check(probe: &Seen, quiet: &Seen) -> Vec<(&'static str, String)> {
        let findings = judge(probe, quiet, &EXPECTED);
        let failed = findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
        failed.map(|finding| (finding.name, finding.cause.unwrap_or_default())).collect()
    }

    fn check_head(head: Head) -> Vec<(&'static str, String)> {
        check(&Seen { head: Some(head), ..stream(End::TimeUp) }, &stream(End::TimeUp))
    }

    #[track_caller]
    fn only(found: &[(&'static str, String)], name: &str, cause: &str) {
        let [(found, why)] = found else { panic!("{found:?}") };
        assert_eq!(*found, name);
        assert!(why.contains(cause), "{why}");
    }

    #[test]
    fn a_healthy_deployment_passes() {
        assert_eq!(check(&stream(End::TimeUp), &stream(End::TimeUp)), []);
    }

    #[test]
    fn events_that_come_in_blocks_were_buffered() {
        // Every fourth brings those before it along.
        let blocks = (0..60).map(|at| (at / 4 * 4 + 3) * 5_000 + 20);
        let probe = Seen { probes: probes(blocks), ..stream(End::TimeUp) };
        only(&check(&probe, &stream(End::TimeUp)), "buffering", "buffers");
    }

    #[test]
    fn events_that_are_late_one_by_one_were_not() {
        let slow = (0..60).map(|at| at * 5_000 + if at % 7 == 3 { 2_000 } else { 20 });
        let probe = Seen { probes: probes(slow), ..stream(End::TimeUp) };
        only(&check(&probe, &stream(End::TimeUp)), "buffering", "not a buffer");
    }

    #[test]
    fn a_clock_that_is_wrong_is_no_delay() {
        let probe = |skew| Seen {
            probes: (0..9)
                .map(|at| Probe { sent: skew + at * 5_000, received: at * 5_000 })
                .collect(),
            ..stream(End::TimeUp)
        };
        for skew in [-86_400_000, 0, CLOCK] {
            assert_eq!(check(&probe(skew), &stream(End::TimeUp)), []);
        }
    }

    #[test]
    fn a_first_event_that_does_not_come_was_buffered() {
        for first_event_after in [None, Some(Duration::from_secs(40))] {
            let probe = Seen { first_event_after, ..stream(End::TimeUp) };
            only(&check(&probe, &stream(End::TimeUp)), "first_event", "buffers");
        }
    }

    #[test]
    fn headers_that_hold_a_stream_up_are_named() {
        let gzip = Head { content_encoding: "gzip".to_owned(), ..head() };
        only(&check_head(gzip), "headers", "gzip off");
        let length = Head { content_length: "7".to_owned(), ..head() };
        only(&check_head(length), "headers", "read the stream to its end");
        let cached = Head { cache_control: "max-age=60".to_owned(), ..head() };
        only(&check_head(cached), "headers", "cache");
        let accel = Head { accel_buffering: "yes".to_owned(), ..head() };
        only(&check_head(accel), "headers", "buffer");
    }

    #[test]
    fn answers_that_end_an_event_source_are_named() {
        for (status, cause) in [
            (502, "does not reach"),
            (503, "takes the server for dead"),
            (429, "a limit of the proxy's"),
        ] {
            let page = Head {
                status,
                content_type: "text/html".to_owned(),
                excerpt: "<html><title>Bad</title>".to_owned(),
                server: "nginx".to_owned(),
                ..Head::default()
            };
            let probe = Seen { head: Some(page), end: End::NoStream, ..stream(End::NoStream) };
            let findings = judge(&probe, &stream(End::TimeUp), &EXPECTED);
            assert!(
                findings[0].detail.contains("a page in HTML \"Bad\", from \"nginx\""),
                "{findings:?}"
            );
            let found = check(&probe, &stream(End::TimeUp));
            only(&found, "answer", cause);
            only(&found, "answer", "EventSource never asks again");
        }
        let refused = Seen { refused: Some("full".to_owned()), ..stream(End::Closed) };
        only(&check(&refused, &stream(End::TimeUp)), "answer", "connections_refused_total");
    }

    #[test]
    fn a_silent_stream_has_no_keepalives() {
        let quiet = Seen { longest_silence: Duration::from_secs(31), ..stream(End::TimeUp) };
        only(&check(&stream(End::TimeUp), &quiet), "keepalive", "keepalive_interval");
    }

    #[test]
    fn a_stream_that_is_open_and_silent_is_told_once() {
        let silent = Seen { longest_silence: Duration::from_mins(1), ..stream(End::Silent) };
        only(&check(&silent, &stream(End::TimeUp)), "stability", "half open");
        only(&check(&stream(End::TimeUp), &silent), "keepalive", "swallows");
    }

    #[test]
    fn what_has_cut_a_stream_is_told_by_its_time() {
        let cut = |lived: f64, silence: f64| Seen {
            lived: Duration::from_secs_f64(lived),
            last_silence: Duration::from_secs_f64(silence),
            ..stream(End::Closed)
        };
        // The probe has something to say every five seconds, the quiet stream has not.
        let idle = check(&stream(End::TimeUp), &cut(75.0, 60.02));
        only(&idle, "stability", "60 s on silence: nginx's proxy_read_timeout");
        let whole = check(&cut(30.1, 0.1), &cut(30.1, 10.0));
        only(&whole, "stability", "30 s on the whole answer");
        let unknown = check(&stream(End::TimeUp), &cut(77.7, 7.7));
        only(&unknown, "stability", "lived on");
        let both = check(&cut(77.7, 2.7), &cut(77.7, 7.7));
        only(&both, "stability", "restart");
    }

    #[test]
    fn a_server_that_says_when_to_come_back_has_cut_nothing() {
        assert_eq!(check(&stream(End::Goodbye), &stream(End::Goodbye)), []);
    }

    #[test]
    fn suspects_are_in_order_and_near() {
        assert!(SUSPECTS.is_sorted_by_key(|(seconds, _)| *seconds));
        for (time, found) in
            [(59.7, None), (59.9, Some(60)), (60.9, Some(60)), (61.2, None), (0.5, None)]
        {
            let suspect = suspect(Duration::from_secs_f64(time)).map(|(seconds, _)| seconds);
            assert_eq!(suspect, found, "{time}");
        }
    }
}
