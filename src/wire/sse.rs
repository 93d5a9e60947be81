//! Server-Sent Events: the bytes of everything that is written on a stream, and of an event in the
//! REST answers.
//!
//! The form is that of the HTML standard, §9.2 (<https://html.spec.whatwg.org/multipage/server-sent-events.html>):
//! lines of `field: value`, and an empty line that ends a frame. Invariants:
//!
//! - the same event is the same bytes for ever: a subscriber whose send stopped inside an event
//!   goes on inside the same event encoded again, after a restart too;
//! - a payload, a type and a reason contain no line break, so each takes one line, and an empty line
//!   never is anything but the end of a frame;
//! - only an event of the journal, `stream.cursor` and `stream.reset` have an `id:` line: a browser
//!   keeps the last one and resumes there.
//!
//! Everything is appended to a buffer of the caller; nothing else is allocated. Not made with
//! `serde`: a payload is JSON already, and the order of the keys is part of the contract.

use std::time::Duration;

use memchr::memchr;

use crate::event::{EventId, EventRef, Format, Timestamp};

/// A comment, which clients ignore (§9.2.7 advises one about every 15 s against proxies that time
/// out).
pub const KEEPALIVE: &[u8] = b": keepalive\n\n";
/// The same as an event, for clients that are not shown comments.
pub const HEARTBEAT: &[u8] = b"event: heartbeat\ndata: {}\n\n";

/// Bytes of a frame beside its payload and its type, at most: names and punctuation (82), the id
/// twice, run and seq (20 digits each) and the time (24) make 186.
const FRAME_BYTES_MAX: usize = 192;

/// An event as JSON: `{"id":…,"run_id":…,"seq":…,"type":"…","payload":…,"created_at":"…"}`.
pub fn event_json(out: &mut Vec<u8>, event: &EventRef<'_>) {
    reserve(out, event);
    whole_json(out, event);
}

/// The same without its payload, as an append is answered:
/// `{"id":…,"run_id":…,"seq":…,"type":"…","created_at":"…"}`.
pub fn event_head_json(out: &mut Vec<u8>, event: &EventRef<'_>) {
    open_json(out, event);
    close_json(out, event);
}

/// Makes room for a whole frame at once.
fn reserve(out: &mut Vec<u8>, event: &EventRef<'_>) {
    let type_bytes = event.event_type.len();
    out.reserve(event.payload.len() + 2 * type_bytes + FRAME_BYTES_MAX);
}

fn whole_json(out: &mut Vec<u8>, event: &EventRef<'_>) {
    open_json(out, event);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(event.payload.as_bytes());
    close_json(out, event);
}

fn open_json(out: &mut Vec<u8>, event: &EventRef<'_>) {
    out.extend_from_slice(b"{\"id\":");
    integer(out, event.id.0);
    out.extend_from_slice(b",\"run_id\":");
    integer(out, event.run_id.0);
    out.extend_from_slice(b",\"seq\":");
    integer(out, event.seq);
    out.extend_from_slice(b",\"type\":\"");
    // None of the characters that a type may have is escaped in JSON.
    out.extend_from_slice(event.event_type.as_bytes());
    out.push(b'"');
}

fn close_json(out: &mut Vec<u8>, event: &EventRef<'_>) {
    out.extend_from_slice(b",\"created_at\":\"");
    timestamp(out, event.created_at);
    out.extend_from_slice(b"\"}");
}

/// The frame of an event:
///
/// ```text
/// id: 2
/// event: AGENT_THINKING
/// data: {"id":2,"run_id":1,"seq":2,"type":"AGENT_THINKING","payload":{},"created_at":"…"}
/// ```
///
/// and an empty line; with [`Format::Payload`] `id: 2`, `data: <payload>` and an empty line.
pub fn event(out: &mut Vec<u8>, event: &EventRef<'_>, format: Format) {
    reserve(out, event);
    out.extend_from_slice(b"id: ");
    integer(out, event.id.0);
    match format {
        Format::Envelope => {
            out.extend_from_slice(b"\nevent: ");
            out.extend_from_slice(event.event_type.as_bytes());
            out.extend_from_slice(b"\ndata: ");
            whole_json(out, event);
        }
        Format::Payload => {
            out.extend_from_slice(b"\ndata: ");
            out.extend_from_slice(event.payload.as_bytes());
        }
    }
    out.extend_from_slice(b"\n\n");
}

/// How long a client is to wait before it connects again, in whole milliseconds (§9.2.6, field
/// `retry`).
pub fn retry(out: &mut Vec<u8>, wait: Duration) {
    retry_line(out, wait);
    out.push(b'\n');
}

fn retry_line(out: &mut Vec<u8>, wait: Duration) {
    out.extend_from_slice(b"retry: ");
    integer(out, u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    out.push(b'\n');
}

/// Where the stream is, `{"id":…}`: a client that drops before its next event resumes there.
pub fn cursor(out: &mut Vec<u8>, at: EventId) {
    out.extend_from_slice(b"event: stream.cursor\nid: ");
    integer(out, at.0);
    out.extend_from_slice(b"\ndata: {\"id\":");
    integer(out, at.0);
    out.extend_from_slice(b"}\n\n");
}

/// The cursor of the client is none of this journal: the stream starts over, from id 0.
pub fn reset(out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: stream.reset\nid: 0\ndata: {}\n\n");
}

/// Retention has removed events that would come here: the last id before them, and the first that
/// is there after them, or can be. It has no `id:`, since a client that drops here should hear of it
/// again.
pub fn truncated(out: &mut Vec<u8>, requested_after: EventId, first_available: EventId) {
    out.extend_from_slice(b"event: stream.truncated\ndata: ");
    truncated_json(out, requested_after, first_available);
    out.extend_from_slice(b"\n\n");
}

/// The same as a member of a page.
pub fn truncated_json(out: &mut Vec<u8>, requested_after: EventId, first_available: EventId) {
    out.extend_from_slice(b"{\"requested_after_id\":");
    integer(out, requested_after.0);
    out.extend_from_slice(b",\"first_available_id\":");
    integer(out, first_available.0);
    out.push(b'}');
}

/// The stream is refused for a time: when to ask again, and why, in one frame. In its place a 429
/// or 503 would keep a browser from ever asking again (§9.2.3, "fail the connection").
pub fn refused(out: &mut Vec<u8>, retry: Duration, reason: &str) {
    retry_line(out, retry);
    out.extend_from_slice(b"event: stream.refused\ndata: {\"reason\":");
    serde_json::to_writer(&mut *out, reason).expect("a text is JSON and a buffer takes it");
    out.extend_from_slice(b"}\n\n");
}

/// Event `n` of the probe stream, written at `at`.
pub fn probe(out: &mut Vec<u8>, n: u64, at: Timestamp) {
    out.extend_from_slice(b"event: probe\ndata: {\"n\":");
    integer(out, n);
    out.extend_from_slice(b",\"time\":\"");
    timestamp(out, at);
    out.extend_from_slice(b"\"}\n\n");
}

fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A time in UTC with milliseconds, as RFC 3339 §5.6 has it, without quotes: what [`Timestamp`]
/// displays, in half the time. Years have four digits there, so whatever is later is written as the
/// last millisecond of 9999.
pub fn timestamp(out: &mut Vec<u8>, time: Timestamp) {
    const LAST: u64 = 253_402_300_799_999;
    let millis = time.0.min(LAST);
    let (days, in_day) = ((millis / 86_400_000) as u32, (millis % 86_400_000) as u32);
    let (year, month, day) = date(days);
    let seconds = in_day / 1_000;
    let millis = in_day % 1_000;

    let [y1, y2] = two_digits(year / 100);
    let [y3, y4] = two_digits(year % 100);
    let [m1, m2] = two_digits(month);
    let [d1, d2] = two_digits(day);
    let [h1, h2] = two_digits(seconds / 3_600);
    let [n1, n2] = two_digits(seconds / 60 % 60);
    let [s1, s2] = two_digits(seconds % 60);
    let [f1, f2] = two_digits(millis / 10);
    let [_, f3] = two_digits(millis % 10);
    out.extend_from_slice(&[
        y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.',
        f1, f2, f3, b'Z',
    ]);
}

/// Year, month and day of the month, `days` after 1970-01-01.
///
/// Counts in years that start on the first of March, so that a leap day is the last one, inside
/// the 400 years (146,097 days) after which the calendar repeats.
fn date(days: u32) -> (u32, u32, u32) {
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    // Without the leap days before it, a day's year is a division by 365: one in 1,460 days, but
    // not in 36,524, but in 146,096.
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March on have 153 days, and so have five from August on.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u32::from(month <= 2);
    (year, month, day)
}

/// The last two decimal digits.
fn two_digits(value: u32) -> [u8; 2] {
    [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]
}

/// One frame in encoded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What its `id:` line says, if it has one.
    pub id: Option<EventId>,
    /// Offset of its first byte.
    pub start: usize,
    /// Offset after the empty line that ends it.
    pub end: usize,
}

/// Walks the frames in bytes that were encoded here, the first of which starts one. Only whole
/// frames come out: one that is cut off at the end does not.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { bytes, at: 0 }
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let start = self.at;
        let mut line_start = start;
        let mut id = None;
        loop {
            let length = memchr(b'\n', &self.bytes[line_start..])?;
            let line = &self.bytes[line_start..line_start + length];
            line_start += length + 1;
            if line.is_empty() {
                self.at = line_start;
                return Some(Frame { id, start, end: line_start });
            }
            if let Some(value) = line.strip_prefix(b"id: ") {
                id = decimal(value).map(EventId);
            }
        }
    }
}

/// Reads a number that [`integer`] has written.
fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use eventsource_stream::Eventsource;
    use futures::executor::block_on_stream;
    use futures::stream;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::event::{Event, EventType, Json, RunId};
    use crate::limits::EVENT_TYPE_BYTES_MAX;

    /// Random numbers from a printed seed; `SEED=… cargo test` has them again.
    fn seeded() -> StdRng {
        let seed =
            std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        StdRng::seed_from_u64(seed)
    }

    fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn thinking() -> Event {
        Event {
            id: EventId(2),
            run_id: RunId(1),
            seq: 3,
            event_type: EventType::new("AGENT_THINKING").unwrap(),
            payload: Json::parse("{ \"text\": \"…\" }").unwrap(),
            created_at: Timestamp(1_767_225_600_007),
        }
    }

    #[test]
    fn an_event_in_json() {
        assert_eq!(
            encoded(|out| event_json(out, &thinking().borrowed())),
            r#"{"id":2,"run_id":1,"seq":3,"type":"AGENT_THINKING","payload":{"text":"…"},"created_at":"2026-01-01T00:00:00.007Z"}"#
        );
        assert_eq!(
            encoded(|out| event_head_json(out, &thinking().borrowed())),
            r#"{"id":2,"run_id":1,"seq":3,"type":"AGENT_THINKING","created_at":"2026-01-01T00:00:00.007Z"}"#
        );
    }

    #[test]
    fn an_event_on_a_stream() {
        assert_eq!(
            encoded(|out| event(out, &thinking().borrowed(), Format::Envelope)),
            "id: 2\nevent: AGENT_THINKING\ndata: {\"id\":2,\"run_id\":1,\"seq\":3,\
             \"type\":\"AGENT_THINKING\",\"payload\":{\"text\":\"…\"},\
             \"created_at\":\"2026-01-01T00:00:00.007Z\"}\n\n"
        );
        assert_eq!(
            encoded(|out| event(out, &thinking().borrowed(), Format::Payload)),
            "id: 2\ndata: {\"text\":\"…\"}\n\n"
        );
    }

    #[test]
    fn frames_of_the_server_itself() {
        let second = Duration::from_secs(1);
        assert_eq!(encoded(|out| retry(out, 3 * second)), "retry: 3000\n\n");
        assert_eq!(encoded(|out| retry(out, Duration::from_micros(1_900))), "retry: 1\n\n");
        assert_eq!(
            encoded(|out| cursor(out, EventId(42))),
            "event: stream.cursor\nid: 42\ndata: {\"id\":42}\n\n"
        );
        assert_eq!(encoded(reset), "event: stream.reset\nid: 0\ndata: {}\n\n");
        assert_eq!(
            encoded(|out| truncated(out, EventId(3), EventId(u64::MAX))),
            "event: stream.truncated\ndata: {\"requested_after_id\":3,\
             \"first_available_id\":18446744073709551615}\n\n"
        );
        assert_eq!(
            encoded(|out| refused(out, 7 * second, "drain\"ing\n")),
            "retry: 7000\nevent: stream.refused\ndata: {\"reason\":\"drain\\\"ing\\n\"}\n\n"
        );
        assert_eq!(
            encoded(|out| probe(out, 0, Timestamp(0))),
            "event: probe\ndata: {\"n\":0,\"time\":\"1970-01-01T00:00:00.000Z\"}\n\n"
        );
        assert_eq!(KEEPALIVE, b": keepalive\n\n");
        assert_eq!(HEARTBEAT, b"event: heartbeat\ndata: {}\n\n");
    }

    #[test]
    fn the_largest_event_grows_the_buffer_once() {
        let last = Event {
            id: EventId(u64::MAX),
            run_id: RunId(u64::MAX),
            seq: u64::MAX,
            event_type: EventType::new(&"T".repeat(EVENT_TYPE_BYTES_MAX)).unwrap(),
            payload: Json::from_trusted("\"".to_owned() + &"p".repeat(5_000) + "\""),
            created_at: Timestamp(u64::MAX),
        };
        let written = encoded(|out| event(out, &last.borrowed(), Format::Envelope));
        let beside = written.len() - last.payload.as_str().len() - 2 * EVENT_TYPE_BYTES_MAX;
        assert_eq!(beside, 186);
        assert!(beside <= FRAME_BYTES_MAX);
        assert_eq!(Frames::new(written.as_bytes()).next().unwrap().id, Some(last.id));
    }

    #[test]
    fn times_are_those_of_humantime() {
        let check = |millis| {
            let time = Timestamp(millis);
            assert_eq!(encoded(|out| timestamp(out, time)), time.to_string(), "{millis}");
        };
        const DAY: u64 = 86_400_000;
        // The first and the last millisecond of every day until 2470: more than the 400 years after
        // which the calendar repeats.
        for day in 0..182_622 {
            check(day * DAY);
            check(day * DAY + DAY - 1);
        }
        let mut rng = seeded();
        for _ in 0..100_000 {
            check(rng.random_range(0..=253_402_300_799_999));
        }
        check(253_402_300_799_999);
    }

    #[test]
    fn times_on_leap_days_and_after_the_last_year() {
        let at = |millis| encoded(|out| timestamp(out, Timestamp(millis)));
        assert_eq!(at(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(at(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(at(253_402_300_800_000), "9999-12-31T23:59:59.999Z");
        assert_eq!(at(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    /// Text that would break a careless encoder or parser.
    const NASTY: [&str; 16] = [
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\ndata: ",
        "data: {}",
        "\n\nid: 99\nevent: x\ndata: y\n\n",
        "id: 7",
        "retry: 1",
        ": comment",
        "\u{2028}\u{2029}\u{85}\u{b}\u{c}",
        "\u{feff}",
        "\0",
        "\"\\",
        "ä€😀",
        " two  spaces ",
    ];

    fn nasty_value(rng: &mut StdRng, depth: usize) -> serde_json::Value {
        let mut text = |pieces| -> String {
            (0..rng.random_range(0..pieces)).map(|_| *NASTY.choose(rng).unwrap()).collect()
        };
        let string = text(6);
        match rng.random_range(0..if depth == 0 { 4 } else { 6 }) {
            0 => string.into(),
            1 => rng.random::<u64>().into(),
            2 => rng.random::<bool>().into(),
            3 => serde_json::Value::Null,
            4 => (0..rng.random_range(0..4)).map(|_| nasty_value(rng, depth - 1)).collect(),
            _ => (0..rng.random_range(0..4))
                .map(|n| (format!("{n}{string}"), nasty_value(rng, depth - 1)))
                .collect(),
        }
    }

    fn nasty_payload(rng: &mut StdRng) -> Json {
        let text = match rng.random_range(0..100) {
            0 => format!("\"{}\"", "data: ä\u{2028}\\n\\n".repeat(1024 * 1024 / 16)),
            1..=9 => format!("{{\r\n\t\"\\u000a\\u000d\\n\" :\n\n\"{}\" }}\r\n", "id: 5\\n\\n"),
            10..=49 => serde_json::to_string_pretty(&nasty_value(rng, 4)).unwrap(),
            _ => nasty_value(rng, 4).to_string(),
        };
        Json::parse(&text).unwrap()
    }

    /// What a subscriber is shown: last id, type and data.
    type Seen = (String, String, String);

    /// Writes something to `out`, and what should be seen of it to `seen`; gives back the id of the
    /// frame.
    fn write_any(
        rng: &mut StdRng,
        format: Format,
        out: &mut Vec<u8>,
        seen: &mut Vec<Seen>,
    ) -> Option<EventId> {
        let last_id = seen.last().map_or(String::new(), |(id, ..)| id.clone());
        let id = EventId(rng.random());
        let mut see = |id: String, event_type: &str, data: &str| {
            seen.push((id, event_type.to_owned(), data.to_owned()));
        };
        match rng.random_range(0..20) {
            0 => out.extend_from_slice(KEEPALIVE),
            1 => {
                out.extend_from_slice(HEARTBEAT);
                see(last_id, "heartbeat", "{}");
            }
            2 => retry(out, Duration::from_millis(rng.random())),
            3 => {
                cursor(out, id);
                see(id.to_string(), "stream.cursor", &format!("{{\"id\":{id}}}"));
                return Some(id);
            }
            4 => {
                reset(out);
                see("0".to_owned(), "stream.reset", "{}");
                return Some(EventId(0));
            }
            5 => {
                let reason = NASTY.choose(rng).unwrap();
                refused(out, Duration::from_secs(1), reason);
                let data = serde_json::json!({ "reason": reason }).to_string();
                see(last_id, "stream.refused", &data);
            }
            6 => {
                probe(out, id.0, Timestamp(0));
                let data = format!("{{\"n\":{id},\"time\":\"1970-01-01T00:00:00.000Z\"}}");
                see(last_id, "probe", &data);
            }
            _ => {
                let new = Event {
                    id,
                    run_id: RunId(rng.random()),
                    seq: rng.random(),
                    event_type: EventType::new(
                        ["A", "id:", "data:x", "message"].choose(rng).unwrap(),
                    )
                    .unwrap(),
                    payload: nasty_payload(rng),
                    created_at: Timestamp(rng.random_range(0..4_000_000_000_000)),
                };
                event(out, &new.borrowed(), format);
                let (event_type, payload) = (new.event_type.as_str(), new.payload.as_str());
                match format {
                    Format::Payload => see(id.to_string(), "message", payload),
                    Format::Envelope => {
                        let data = format!(
                            "{{\"id\":{id},\"run_id\":{},\"seq\":{},\"type\":\"{event_type}\",\
                             \"payload\":{payload},\"created_at\":\"{}\"}}",
                            new.run_id, new.seq, new.created_at
                        );
                        serde_json::from_str::<serde::de::IgnoredAny>(&data).unwrap();
                        see(id.to_string(), event_type, &data);
                    }
                }
                return Some(id);
            }
        }
        None
    }

    #[test]
    fn another_parser_reads_back_what_was_written_and_frames_agree() {
        let mut rng = seeded();
        for round in 0..40 {
            let format = if round % 2 == 0 { Format::Envelope } else { Format::Payload };
            let (mut out, mut seen, mut frames) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..20 {
                let start = out.len();
                let id = write_any(&mut rng, format, &mut out, &mut seen);
                frames.push(Frame { id, start, end: out.len() });
            }
            assert_eq!(Frames::new(&out).collect::<Vec<_>>(), frames);

            // Pieces of a byte, a packet or more; a short stream is also read byte by byte.
            let piece_max =
                if out.len() < 20_000 { *[1, 7, 1_500].choose(&mut rng).unwrap() } else { 400_000 };
            let mut pieces: Vec<Result<&[u8], Infallible>> = Vec::new();
            let mut rest = &out[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rng.random_range(1..=piece_max).min(rest.len()));
                pieces.push(Ok(piece));
                rest = after;
            }
            let read: Vec<Seen> = block_on_stream(stream::iter(pieces).eventsource())
                .map(|event| event.unwrap())
                .map(|event| (event.id, event.event, event.data))
                .collect();
            assert!(read == seen, "round {round}: {read:?}\nis not\n{seen:?}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_is_none() {
        let mut out = Vec::new();
        event(&mut out, &thinking().borrowed(), Format::Envelope);
        let first_end = out.len();
        event(&mut out, &thinking().borrowed(), Format::Payload);
        for end in 0..=out.len() {
            let expected = usize::from(end >= first_end) + usize::from(end == out.len());
            assert_eq!(Frames::new(&out[..end]).count(), expected, "{end} bytes");
        }
    }

    #[test]
    fn an_id_out_of_range_is_none() {
        let id = |bytes| Frames::new(bytes).next().unwrap().id;
        assert_eq!(id(b"id: 18446744073709551615\n\n"), Some(EventId(u64::MAX)));
        assert_eq!(id(b"id: 18446744073709551616\n\n"), None);
        assert_eq!(id(b"id: 1x\n\n"), None);
        assert_eq!(id(b"data: id: 1\n\n"), None);
    }
}
