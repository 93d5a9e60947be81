//! Watches one stream, and remembers what a verdict needs: when its head and its events came, how
//! long it was silent, and how it ended.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use super::super::header;
use super::super::sse::Parser;
use super::Endpoint;
use crate::limits::{CHECK_EXCERPT_BYTES_MAX, CHECK_PROBES_MAX};

/// What was seen of a stream.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What was asked for.
    pub path: String,
    /// The head of the answer; none when there was no answer.
    pub head: Option<Head>,
    /// How long it took to come.
    pub head_after: Duration,
    /// When the first event came.
    pub first_event_after: Option<Duration>,
    /// The events that say when they were sent.
    pub probes: Vec<Probe>,
    /// Keepalives, as far as they came as events.
    pub heartbeats: usize,
    /// The longest time without a byte.
    pub longest_silence: Duration,
    /// The time without a byte before the end.
    pub last_silence: Duration,
    /// The reason when the server refused the stream for now.
    pub refused: Option<String>,
    /// How old the stream became.
    pub lived: Duration,
    /// How it ended.
    pub end: End,
}

/// The head of an answer, as far as streams care.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// `Content-Type`, `Content-Encoding`, `Content-Length`, `Cache-Control`, `X-Accel-Buffering`
    /// and `Server`; empty when they are not there.
    pub content_type: String,
    #[expect(missing_docs)]
    pub content_encoding: String,
    #[expect(missing_docs)]
    pub content_length: String,
    #[expect(missing_docs)]
    pub cache_control: String,
    #[expect(missing_docs)]
    pub accel_buffering: String,
    #[expect(missing_docs)]
    pub server: String,
    /// How the content begins, when it is no stream.
    pub excerpt: String,
}

impl Head {
    /// Whether a browser takes the answer for a stream.
    pub fn is_stream(&self) -> bool {
        let media_type = self.content_type.split(';').next().unwrap_or_default().trim();
        self.status == 200 && media_type.eq_ignore_ascii_case("text/event-stream")
    }

    fn of(response: &Response<Body>) -> Head {
        let field = |name| header(response, name).unwrap_or_default();
        Head {
            status: response.status().as_u16(),
            content_type: field("content-type"),
            content_encoding: field("content-encoding"),
            content_length: field("content-length"),
            cache_control: field("cache-control"),
            accel_buffering: field("x-accel-buffering"),
            server: field("server"),
            excerpt: String::new(),
        }
    }
}

/// An event of the probe, in milliseconds of two clocks that need not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When the server has sent it, by its clock.
    pub sent: i64,
    /// When it came, since the request.
    pub received: i64,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It did not: enough was seen.
    TimeUp,
    /// Nothing answered.
    NoAnswer(String),
    /// The answer was no stream.
    NoStream,
    /// The server said when to come back, and closed it.
    Goodbye,
    /// It was closed in good order, without such a word.
    Closed,
    /// It was closed before its coding had ended, as by a proxy that waits no longer.
    ClosedEarly,
    /// It was cut by a reset.
    Reset,
    /// It was cut in another way.
    Broken(String),
    /// Nothing came for so long that it was given up.
    Silent,
}

#[derive(Deserialize)]
struct ProbeData {
    time: String,
}

#[derive(Deserialize)]
struct RefusedData {
    reason: String,
}

/// Watches a stream until it ends, is silent for too long, or `lasting` is over.
pub fn watch(endpoint: &Endpoint, path: &str, silence: Duration, lasting: Duration) -> Seen {
    let started = Instant::now();
    let mut seen = Seen {
        path: path.to_owned(),
        head: None,
        head_after: Duration::ZERO,
        first_event_after: None,
        probes: Vec::new(),
        heartbeats: 0,
        longest_silence: Duration::ZERO,
        last_silence: Duration::ZERO,
        refused: None,
        lived: Duration::ZERO,
        end: End::TimeUp,
    };
    let (answer, was_reset) = endpoint.open(path, None, silence, lasting);
    seen.head_after = started.elapsed();
    match answer {
        Err(error) => seen.end = End::NoAnswer(error.to_string()),
        Ok(response) => {
            let mut head = Head::of(&response);
            let mut body = response.into_body().into_reader();
            if head.is_stream() {
                seen.head = Some(head);
                seen.read(&mut body, started, lasting);
                if was_reset.get() {
                    seen.end = End::Reset;
                }
            } else {
                let mut content = Vec::new();
                // What an error page says more is not worth a complaint when it breaks off.
                let _ = body.take(CHECK_EXCERPT_BYTES_MAX).read_to_end(&mut content);
                head.excerpt = String::from_utf8_lossy(&content).into_owned();
                seen.head = Some(head);
                seen.end = End::NoStream;
            }
        }
    }
    seen
}

impl Seen {
    fn read(&mut self, body: &mut impl Read, started: Instant, lasting: Duration) {
        let mut parser = Parser::default();
        let mut piece = vec![0; 64 * 1024];
        let mut last_byte = started.elapsed();
        let mut first_retry = None;
        self.end = loop {
            let result = body.read(&mut piece);
            let now = started.elapsed();
            let silence = now.saturating_sub(last_byte);
            self.longest_silence = self.longest_silence.max(silence);
            self.last_silence = silence;
            self.lived = now;
            let is_time_up = now.saturating_sub(self.head_after) >= lasting;
            let length = match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break end_of(&error),
                Ok(0) if first_retry.is_some() && parser.retry() != first_retry => {
                    break End::Goodbye;
                }
                Ok(0) => break End::Closed,
                Ok(length) => length,
            };
            last_byte = now;
            if let Err(error) = parser.handle_bytes(&piece[..length]) {
                break End::Broken(error.to_string());
            }
            while let Some(message) = parser.poll_message() {
                self.first_event_after.get_or_insert(now);
                self.handle_message(&message.event_type, &message.data, now);
            }
            first_retry = first_retry.or_else(|| parser.retry());
            if is_time_up {
                break End::TimeUp;
            }
        };
    }

    fn handle_message(&mut self, event_type: &str, data: &str, now: Duration) {
        match event_type {
            "heartbeat" => self.heartbeats += 1,
            "stream.refused" => {
                let data = serde_json::from_str::<RefusedData>(data);
                self.refused = Some(data.map_or_else(|_| "?".to_owned(), |data| data.reason));
            }
            "probe" if self.probes.len() < CHECK_PROBES_MAX => {
                let sent = serde_json::from_str::<ProbeData>(data).ok().and_then(|data| {
                    let time = humantime::parse_rfc3339(&data.time).ok()?;
                    time.duration_since(std::time::UNIX_EPOCH).ok()
                });
                if let Some(sent) = sent {
                    let milliseconds = |time: Duration| time.as_millis() as i64;
                    self.probes
                        .push(Probe { sent: milliseconds(sent), received: milliseconds(now) });
                }
            }
            _ => {}
        }
    }
}

fn end_of(error: &std::io::Error) -> End {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    match inner {
        Some(ureq::Error::Timeout(ureq::Timeout::RecvBody)) => End::TimeUp,
        Some(ureq::Error::Timeout(_)) => End::Silent,
        _ if error.kind() == ErrorKind::UnexpectedEof => End::ClosedEarly,
        _ => End::Broken(error.to_string()),
    }
}
