//! The command line as a client: `tidewheel append`, `tail`, `runs`, `check` and `health`.
//!
//! Blocking, over `ureq`: one connection, and at most one thread beside the main one; `check` has
//! two, each with a stream of its own. Nothing here
//! shares code with the server but the words, so that the client also tests the contract.

pub mod append;
pub mod check;
pub mod gather;
pub mod health;
pub mod retry;
pub mod runs;
pub mod sse;
pub mod tail;

#[cfg(test)]
mod flaky;

use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, Proxy};

use self::retry::retry_after as retry_after_at;
use crate::event::Label;
use crate::limits::CLIENT_ANSWER_BYTES_MAX;

/// The address of the server when neither flag nor environment have one.
pub const SERVER_DEFAULT: &str = "http://127.0.0.1:8000";
/// How `-` on the command line reaches the commands: a text that no argument can be.
pub const STANDARD_INPUT: &str = "\0stdin";

/// Why a client command ends without success.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The command line makes no sense; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// Something went wrong on the way.
    #[error("{0}")]
    Failed(String),
}

/// What takes how long; shorter in tests.
#[derive(Clone, Debug)]
pub struct Timing {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From a request to the head of its answer.
    pub answer: Duration,
    /// A stream in which no byte comes for this long is given up: three keepalives.
    pub silence: Duration,
    /// The first wait before an append is tried again.
    pub backoff_base: Duration,
    /// The longest one.
    pub backoff_max: Duration,
    /// The wait before a stream is opened again, until the server says otherwise.
    pub reconnect: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            connect: Duration::from_secs(10),
            answer: Duration::from_mins(1),
            silence: Duration::from_secs(45),
            backoff_base: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            reconnect: Duration::from_secs(3),
        }
    }
}

impl Timing {
    /// A client for requests that are answered at once.
    pub(crate) fn agent(&self) -> Agent {
        self.answer_config().build().into()
    }

    fn answer_config(&self) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        self.config().timeout_recv_body(Some(self.answer)).max_redirects(0)
    }

    /// A client for streams, which end when they like.
    pub(crate) fn stream_agent(&self) -> Agent {
        self.stream_config().build().into()
    }

    fn stream_config(&self) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        self.config().timeout_per_read(Some(self.silence))
    }

    fn config(&self) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        Agent::config_builder()
            .http_status_as_error(false)
            .proxy(if cfg!(test) { None } else { Proxy::try_from_env() })
            .max_redirects_will_error(false)
            .timeout_connect(Some(self.connect))
            .timeout_recv_response(Some(self.answer))
    }
}

/// The address of the server: the flag, else the environment, else the default; without a slash
/// at its end.
///
/// # Errors
/// When it is no `http://` or `https://` URL.
pub fn server_url(flag: Option<&str>, environment: Option<&str>) -> Result<String, ClientError> {
    let url = flag.or(environment.filter(|url| !url.is_empty())).unwrap_or(SERVER_DEFAULT);
    if !is_url(url) {
        return Err(ClientError::Usage(format!(
            "{url:?} is not the address of a server, such as {SERVER_DEFAULT}"
        )));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// The URL of a run, from its id or from any URL below it.
///
/// # Errors
/// When `target` is neither.
pub fn run_url(target: &str, server: &str) -> Result<String, ClientError> {
    if let Some(id) = run_id(target) {
        return Ok(format!("{server}/runs/{id}"));
    }
    let run = target
        .split(['?', '#'])
        .next()
        .map(|url| url.trim_end_matches('/'))
        .map(|url| url.strip_suffix("/events/stream").unwrap_or(url))
        .map(|url| url.strip_suffix("/events").unwrap_or(url))
        .filter(|url| is_url(url) && is_run_url(url));
    run.map(str::to_owned).ok_or_else(|| {
        ClientError::Usage(format!(
            "{target:?} is neither the id of a run nor its URL, such as {server}/runs/7"
        ))
    })
}

/// The URL of a stream, from the id or the URL of a run, the URL of a project or a server, or its
/// own.
///
/// # Errors
/// When `target` is no URL and no id.
pub fn stream_url(target: &str, server: &str) -> Result<String, ClientError> {
    if run_id(target).is_some() {
        return Ok(format!("{}/events/stream", run_url(target, server)?));
    }
    if !is_url(target) {
        return Err(ClientError::Usage(format!(
            "{target:?} is neither the id of a run nor the URL of a stream"
        )));
    }
    let target = target.split('#').next().unwrap_or(target);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (target, String::new()),
    };
    let path = path.trim_end_matches('/');
    let has_path = path.splitn(4, '/').count() == 4;
    let parent = path.rsplit('/').nth(1);
    let stream = if is_run_url(path) || parent == Some("projects") || !has_path {
        format!("{path}/events/stream")
    } else if path.ends_with("/events") {
        format!("{path}/stream")
    } else {
        path.to_owned()
    };
    Ok(stream + &query)
}

/// Reads a label from an argument.
pub(crate) fn label(text: &str) -> Result<Label, String> {
    Label::new(text).map_err(|error| error.to_string())
}

fn run_id(target: &str) -> Option<u64> {
    let digits = target.bytes().all(|byte| byte.is_ascii_digit());
    target.parse().ok().filter(|id| digits && *id > 0)
}

fn is_url(target: &str) -> bool {
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.contains(|byte: char| byte.is_whitespace() || byte.is_control())
    })
}

/// Whether a URL without a query ends with `/runs/{id}`.
fn is_run_url(url: &str) -> bool {
    let mut segments = url.rsplit('/');
    segments.next().and_then(run_id).is_some() && segments.next() == Some("runs")
}

/// A problem document (RFC 9457), as far as it is shown.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Deserialize)]
struct FieldError {
    #[serde(default)]
    field: String,
    #[serde(default)]
    reason: String,
}

/// An answer that has come in completely.
pub(crate) struct Answer {
    status: StatusCode,
    location: Option<String>,
    /// How long the server asks to wait, if it does.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(mut response: Response<Body>) -> Result<Answer, ureq::Error> {
        let retry_after = header(&response, "retry-after");
        Ok(Answer {
            status: response.status(),
            location: header(&response, "location"),
            retry_after: retry_after.and_then(|value| retry_after_at(&value, SystemTime::now())),
            body: response.body_mut().with_config().limit(CLIENT_ANSWER_BYTES_MAX).read_to_vec()?,
        })
    }

    pub(crate) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// Whether the same request may succeed later: too slow, too many, or a fault of the server.
    pub(crate) fn may_pass_later(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 429 | 500..=599)
    }

    /// What a server that refused has to say, on one line.
    pub(crate) fn refusal(&self) -> String {
        let mut text = self.status.to_string();
        if let Some(location) = self.location.as_ref().filter(|_| self.status.is_redirection()) {
            text.extend([": the address is ", location]);
        }
        if let Ok(problem) = serde_json::from_slice::<Problem>(&self.body) {
            let said = [problem.detail, problem.title].into_iter().find(|said| !said.is_empty());
            if let Some(said) = said {
                text.extend([": ", &said]);
            }
            for FieldError { field, reason } in problem.errors {
                text.extend(["; ", &field, " ", &reason]);
            }
        }
        printable(&text)
    }
}

pub(crate) fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether the same request may succeed on another connection.
pub(crate) fn is_connection_loss(error: &ureq::Error) -> bool {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
    matches!(error, Io(_) | Timeout(_) | HostNotFound | ConnectionFailed | Protocol(_))
}

/// The text with every control character replaced, so that what somebody appended cannot steer
/// the terminal of who reads it.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Writes what a command is for. Whoever read it may have seen enough (`| head`): that is `false`,
/// and no error.
pub(crate) fn write_or_stop(out: &mut dyn Write, text: &str) -> Result<bool, ClientError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ClientError::Failed(format!("cannot write the output: {error}"))),
    }
}

/// Tells the user something beside the output. A user without a standard error is not told.
pub(crate) fn notice(err: &mut dyn Write, text: &str) {
    let _ = writeln!(err, "tidewheel: {}", printable(text));
}

/// Opens what a command reads: a file, or standard input.
///
/// # Errors
/// When the file cannot be opened.
pub fn open_input(path: Option<&str>) -> Result<Box<dyn Read + Send>, ClientError> {
    match path {
        None | Some(STANDARD_INPUT) => Ok(Box::new(io::stdin())),
        Some(path) => match std::fs::File::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(ClientError::Failed(format!("{path}: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_a_flag_or_the_environment_or_the_default() {
        assert_eq!(server_url(Some("http://a/"), Some("http://b")).unwrap(), "http://a");
        assert_eq!(server_url(None, Some("https://b:1/base")).unwrap(), "https://b:1/base");
        assert_eq!(server_url(None, Some("")).unwrap(), SERVER_DEFAULT);
        assert_eq!(server_url(None, None).unwrap(), SERVER_DEFAULT);
        for wrong in ["", "localhost:8000", "ftp://a", "http://", "http:///x", "http://a b"] {
            assert!(matches!(server_url(Some(wrong), None), Err(ClientError::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_run_is_named_by_id_or_by_any_url_below_it() {
        let check = |target: &str, expected: &str| {
            assert_eq!(run_url(target, "http://s").unwrap(), expected, "{target}");
        };
        check("7", "http://s/runs/7");
        check("http://h:1/runs/7", "http://h:1/runs/7");
        check("https://h/base/runs/7/", "https://h/base/runs/7");
        check("http://h/runs/7/events", "http://h/runs/7");
        check("http://h/runs/7/events/stream?after_id=3#x", "http://h/runs/7");
        for wrong in ["", "0", "-7", "seven", "http://h", "http://h/runs", "http://h/projects/7"] {
            assert!(run_url(wrong, "http://s").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stream_is_named_by_what_it_is_of() {
        let check = |target: &str, expected: &str| {
            assert_eq!(stream_url(target, "http://s").unwrap(), expected, "{target}");
        };
        check("7", "http://s/runs/7/events/stream");
        check("http://h/runs/7", "http://h/runs/7/events/stream");
        check("http://h/runs/7/events?types=A", "http://h/runs/7/events/stream?types=A");
        check("http://h/events/stream?runs=1,2", "http://h/events/stream?runs=1,2");
        check("http://h:1", "http://h:1/events/stream");
        check("http://h:1/", "http://h:1/events/stream");
        check("http://h/projects/p", "http://h/projects/p/events/stream");
        check("http://h/projects/p/events/stream", "http://h/projects/p/events/stream");
        check("http://h/api/sse/session/s", "http://h/api/sse/session/s");
        check("http://h/health/sse", "http://h/health/sse");
        for wrong in ["", "0", "all", "/runs/7"] {
            assert!(stream_url(wrong, "http://s").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_problem_says() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            location: Some("https://elsewhere".to_owned()),
            retry_after: None,
            body: body.into(),
        };
        let problem =
            r#"{"title":"T","detail":"no such run","errors":[{"field":"a","reason":"is b"}]}"#;
        assert_eq!(answer(404, problem).refusal(), "404 Not Found: no such run; a is b");
        assert_eq!(answer(409, r#"{"title":"T"}"#).refusal(), "409 Conflict: T");
        assert_eq!(answer(502, "<html>").refusal(), "502 Bad Gateway");
        assert_eq!(
            answer(308, "").refusal(),
            "308 Permanent Redirect: the address is https://elsewhere"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[31mb\u{9b}c\u{7f}\r\n"),
            "a\u{fffd}[31mb\u{fffd}c\u{fffd}\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        struct Closed(io::ErrorKind);
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(write_or_stop(&mut Closed(io::ErrorKind::BrokenPipe), "x"), Ok(false));
        assert!(write_or_stop(&mut Closed(io::ErrorKind::StorageFull), "x").is_err());
    }
}
