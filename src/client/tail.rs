//! `tidewheel tail`: follows a stream in the terminal.
//!
//! A connection that ends is opened again with the id of the last complete event, as a browser
//! does, until the server says that there is nothing more (204) or the closing event of the run
//! has come. Invariant: an event is written before its id becomes the cursor of a reconnect.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use argh::FromArgs;
use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::http::Response;
use ureq::{Agent, Body};
use xxhash_rust::xxh3::xxh3_64;

use super::retry::{Backoff, Random};
use super::sse::{Message, Parser};
use super::{
    Answer, ClientError, Timing, header, is_connection_loss, is_run_url, notice, printable,
    server_url, stream_url, write_or_stop,
};
use crate::event::EventType;

/// Longest wait before a reconnect, unless the server asks for a longer one.
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// follow a run, or any stream, in the terminal
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "tail", help_triggers("-h", "--help"))]
pub struct Tail {
    /// a run, by id or URL, or the URL of a stream, a project or a server
    #[argh(positional, arg_name = "run|url")]
    pub target: String,

    /// start after this event id, or at the live end with "now" (default: from the beginning)
    #[argh(option, from_str_fn(after), arg_name = "id")]
    pub after: Option<String>,

    /// only events of these types, comma-separated
    #[argh(option, from_str_fn(types))]
    pub types: Option<String>,

    /// write the events as they come, as NDJSON
    #[argh(switch)]
    pub json: bool,

    /// no colours; `NO_COLOR` in the environment does the same
    #[argh(switch)]
    pub no_color: bool,

    /// address of the server (default: `TIDEWHEEL_URL`, else port 8000 of this host)
    #[argh(option, arg_name = "url")]
    pub server: Option<String>,
}

fn after(text: &str) -> Result<String, String> {
    let is_id = text.parse::<u64>().is_ok() && !text.starts_with('+');
    if is_id || text == "now" {
        Ok(text.to_owned())
    } else {
        Err("is no id and not now".to_owned())
    }
}

fn types(text: &str) -> Result<String, String> {
    for name in text.split(',') {
        EventType::new(name).map_err(|error| format!("{name:?} {error}"))?;
    }
    Ok(text.to_owned())
}

/// Runs the command.
///
/// # Errors
/// When the arguments make no sense, or the server refuses for good.
pub fn run(args: &Tail, environment: Option<&str>) -> Result<(), ClientError> {
    let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let colour = !args.no_color && may_colour && io::stdout().is_terminal();
    let plan = Plan::new(args, environment, colour)?;
    follow(&plan, &Timing::default(), &mut io::stdout().lock(), &mut io::stderr())
}

/// What to follow and how to show it, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    url: String,
    json: bool,
    colour: bool,
    /// Whether the stream is of one run, and so ends with its closing event.
    single_run: bool,
}

impl Plan {
    /// Checks what the command line alone can tell.
    ///
    /// # Errors
    /// [`ClientError::Usage`].
    pub fn new(args: &Tail, environment: Option<&str>, colour: bool) -> Result<Plan, ClientError> {
        let server = server_url(args.server.as_deref(), environment)?;
        let mut url = stream_url(&args.target, &server)?;
        let path = url.split('?').next().unwrap_or(&url);
        let single_run = path.strip_suffix("/events/stream").is_some_and(is_run_url);
        // Neither needs percent-encoding: their characters were checked.
        for (name, value) in [("after_id", &args.after), ("types", &args.types)] {
            if let Some(value) = value {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.extend([name, "=", value]);
            }
        }
        Ok(Plan { url, json: args.json, colour, single_run })
    }
}

/// Follows the stream until it ends for good.
///
/// # Errors
/// When the server refuses for good, what it sends is no stream, or the output cannot be written.
pub fn follow(
    plan: &Plan,
    timing: &Timing,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), ClientError> {
    let agent = timing.stream_agent();
    let mut random = Random::from_system();
    let mut backoff = Backoff::new(timing.reconnect, RECONNECT_MAX);
    let mut follower =
        Follower { plan, out, err, last_event_id: String::new(), told: Told::default() };
    loop {
        let wait = match open(&agent, plan, &follower.last_event_id)? {
            Opened::NothingMore => return Ok(()),
            Opened::NotNow { reason, retry_after } => {
                follower.tell_outage(&reason);
                backoff.next(retry_after, &mut random)
            }
            Opened::Stream(response) => match follower.read(response)? {
                Ended::Finished => return Ok(()),
                Ended::Lost { retry, made_progress } => {
                    if let Some(retry) = retry {
                        backoff.set_base(retry);
                    }
                    if made_progress {
                        backoff.reset();
                    }
                    backoff.next(None, &mut random)
                }
            },
        };
        std::thread::sleep(wait);
    }
}

enum Opened {
    Stream(Response<Body>),
    NothingMore,
    NotNow { reason: String, retry_after: Option<Duration> },
}

fn open(agent: &Agent, plan: &Plan, last_event_id: &str) -> Result<Opened, ClientError> {
    let mut request = agent.get(&plan.url).header("Accept", "text/event-stream");
    if !last_event_id.is_empty() {
        request = request.header("Last-Event-ID", last_event_id);
    }
    let not_now = |reason: String, retry_after| Ok(Opened::NotNow { reason, retry_after });
    let response = match request.call() {
        Ok(response) => response,
        Err(error) if is_connection_loss(&error) => return not_now(error.to_string(), None),
        Err(error) => return Err(ClientError::Failed(format!("{}: {error}", plan.url))),
    };
    match response.status().as_u16() {
        200 => {
            let content_type = header(&response, "content-type").unwrap_or_default();
            let media_type = content_type.split(';').next().unwrap_or_default().trim();
            if media_type.eq_ignore_ascii_case("text/event-stream") {
                return Ok(Opened::Stream(response));
            }
            Err(ClientError::Failed(format!(
                "{} is no event stream: its content type is {:?}",
                plan.url, content_type
            )))
        }
        204 => Ok(Opened::NothingMore),
        _ => match Answer::read(response) {
            Ok(answer) if answer.may_pass_later() => not_now(answer.refusal(), answer.retry_after),
            Ok(answer) => Err(ClientError::Failed(format!("{}: {}", plan.url, answer.refusal()))),
            Err(error) => not_now(error.to_string(), None),
        },
    }
}

enum Ended {
    /// There is nothing more to come, or nobody reads it any more.
    Finished,
    /// The connection has ended before the stream.
    Lost { retry: Option<Duration>, made_progress: bool },
}

/// What was said on standard error already, so that it is not said again and again.
#[derive(Debug, Default)]
struct Told {
    outage: bool,
    cursor: bool,
}

struct Follower<'a> {
    plan: &'a Plan,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    last_event_id: String,
    told: Told,
}

impl Follower<'_> {
    /// Reads one connection to its end.
    fn read(&mut self, response: Response<Body>) -> Result<Ended, ClientError> {
        let mut body = response.into_body().into_reader();
        let mut parser = Parser::new(self.last_event_id.clone());
        let mut piece = vec![0; 64 * 1024];
        let mut made_progress = false;
        loop {
            let length = match body.read(&mut piece) {
                // A stream may end at any time, and goes on in the next connection.
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.tell_outage(&error.to_string());
                    break;
                }
            };
            let failed = |error: super::sse::TooLong| ClientError::Failed(error.to_string());
            parser.handle_bytes(&piece[..length]).map_err(failed)?;
            let mut lines = String::new();
            let mut finished = false;
            while let Some(message) = parser.poll_message() {
                match self.plan.show(&message) {
                    Shown::Event { line, closes } => {
                        made_progress = true;
                        lines.push_str(&line);
                        lines.push('\n');
                        finished |= closes && self.plan.single_run;
                    }
                    Shown::Cursor => self.tell_cursor(&message.last_event_id),
                    Shown::Notice(text) => notice(self.err, &text),
                    Shown::Nothing => made_progress = true,
                }
            }
            if !write_or_stop(self.out, &lines)? || finished {
                return Ok(Ended::Finished);
            }
            if made_progress {
                self.told.outage = false;
            }
            parser.last_event_id().clone_into(&mut self.last_event_id);
        }
        Ok(Ended::Lost { retry: parser.retry(), made_progress })
    }

    fn tell_outage(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.told.outage, true) {
            notice(self.err, &format!("{reason}; connecting again"));
        }
    }

    fn tell_cursor(&mut self, id: &str) {
        if !std::mem::replace(&mut self.told.cursor, true) {
            notice(self.err, &format!("following from id {id}"));
        }
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// An event, without its line feed, and whether it is the last of its run.
    Event { line: String, closes: bool },
    /// The stream says where it is.
    Cursor,
    /// The stream says something that the user should know.
    Notice(String),
    /// A heartbeat.
    Nothing,
}

/// An event in the envelope of the server.
#[derive(Deserialize)]
struct Envelope<'a> {
    run_id: u64,
    seq: u64,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    created_at: Cow<'a, str>,
}

impl Plan {
    fn show(&self, message: &Message) -> Shown {
        let Message { event_type, data, last_event_id } = message;
        // Who publishes may use the name of a frame as a type; only an event has an envelope.
        let envelope = serde_json::from_str::<Envelope>(data).ok();
        match (event_type.as_str(), &envelope) {
            ("heartbeat", None) => Shown::Nothing,
            ("stream.cursor", None) => Shown::Cursor,
            ("stream.truncated", None) => {
                Shown::Notice(format!("some events are no longer kept: {data}"))
            }
            ("stream.reset", None) => Shown::Notice(
                "the journal has not come as far as the cursor; all events from the beginning"
                    .to_owned(),
            ),
            ("stream.refused", None) => Shown::Notice(format!("refused for now: {data}")),
            (name, None) if name.starts_with("stream.") => Shown::Notice(format!("{name}: {data}")),
            _ if self.json => Shown::Event {
                // JSON has line feeds between tokens only, where a space says the same.
                line: data.replace('\n', " "),
                closes: closes(event_type),
            },
            (_, None) => Shown::Event {
                line: format!(
                    "{} {} {}",
                    printable(last_event_id),
                    self.painted(event_type),
                    printable(data)
                ),
                closes: false,
            },
            (_, Some(event)) => {
                let run =
                    if self.single_run { String::new() } else { format!("{}/", event.run_id) };
                let time = printable(&event.created_at);
                let payload = printable(event.payload.get());
                let name = self.painted(&event.event_type);
                Shown::Event {
                    line: format!("{time} {run}{} {name} {payload}", event.seq),
                    closes: closes(&event.event_type),
                }
            }
        }
    }

    /// The type in its colour, always the same one.
    fn painted(&self, event_type: &str) -> String {
        let name = printable(event_type);
        if !self.colour {
            return name;
        }
        // The six colours between black and white, plain and bright.
        let hash = xxh3_64(event_type.as_bytes()) % 12;
        let code = if hash < 6 { 31 + hash } else { 91 + hash - 6 };
        format!("\u{1b}[{code}m{name}\u{1b}[0m")
    }
}

fn closes(event_type: &str) -> bool {
    EventType::new(event_type).is_ok_and(|event_type| event_type.closes().is_some())
}

#[cfg(test)]
mod tests {
    use super::super::flaky::{Flaky, Step, timing};
    use super::*;

    fn parse(args: &[&str]) -> Tail {
        Tail::from_args(&["tidewheel tail"], args).unwrap()
    }

    fn plan(args: &[&str]) -> Plan {
        Plan::new(&parse(args), None, false).unwrap()
    }

    /// Follows what `server` plays: the result, the output and what was said.
    fn tail(server: &Flaky, args: &[&str]) -> (Result<(), ClientError>, String, String) {
        let mut args = args.to_vec();
        args.extend(["--server", &server.url]);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = follow(&plan(&args), &timing(), &mut out, &mut err);
        (result, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn event(id: u64, event_type: &str) -> String {
        let created_at = "2026-01-01T00:00:00.000Z";
        format!(
            "id: {id}\nevent: {event_type}\ndata: {{\"id\":{id},\"run_id\":7,\"seq\":{id},\
             \"type\":\"{event_type}\",\"payload\":{{\"n\": {id}}},\"created_at\":\"{created_at}\"}}\n\n"
        )
    }

    /// The answer that opens a stream, and what it says. Leaked, as steps are for all time.
    fn stream(frames: &str) -> &'static str {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1\n\n";
        Box::leak(format!("{head}{frames}").into_boxed_str())
    }

    const NOTHING_MORE: Step = Step::Answer("HTTP/1.1 204 No Content\r\n\r\n");

    #[test]
    fn a_stream_that_is_cut_in_a_frame_goes_on_after_the_last_whole_one() {
        let cut = event(1, "A") + &event(2, "B")[..30];
        let rest = event(2, "B") + &event(3, "RUN_COMPLETED");
        let server = Flaky::start([Step::Answer(stream(&cut)), Step::Answer(stream(&rest))]);
        let (result, out, _) = tail(&server, &["7"]);
        assert_eq!(result, Ok(()));
        assert_eq!(
            out,
            "2026-01-01T00:00:00.000Z 1 A {\"n\": 1}\n\
             2026-01-01T00:00:00.000Z 2 B {\"n\": 2}\n\
             2026-01-01T00:00:00.000Z 3 RUN_COMPLETED {\"n\": 3}\n"
        );
        let requests = server.requests();
        assert!(requests[0].head.starts_with("GET /runs/7/events/stream HTTP/1.1\r\n"));
        assert_eq!(requests[0].header("accept"), Some("text/event-stream"));
        assert_eq!(requests[0].header("last-event-id"), None);
        assert_eq!(requests[1].header("last-event-id"), Some("1"));
    }

    #[test]
    fn nothing_more_ends_it() {
        let server = Flaky::start([Step::Answer(stream(&event(1, "A"))), NOTHING_MORE]);
        let (result, out, _) = tail(&server, &["7", "--json"]);
        assert_eq!(result, Ok(()));
        let expected = event(1, "A");
        let data = expected.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        assert_eq!(out, format!("{data}\n"));
        assert_eq!(server.requests()[1].header("last-event-id"), Some("1"));
    }

    #[test]
    fn the_closing_event_of_one_run_does_not_end_a_stream_of_many() {
        let frames = event(1, "RUN_FAILED") + &event(2, "A");
        let server = Flaky::start([Step::Answer(stream(&frames)), NOTHING_MORE]);
        let target = format!("{}/projects/p", server.url);
        let (result, out, _) = tail(&server, &[&target]);
        assert_eq!(result, Ok(()));
        assert!(out.ends_with(" 7/2 A {\"n\": 2}\n"), "{out}");
    }

    #[test]
    fn a_server_that_is_away_or_busy_is_asked_again() {
        let busy =
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
        let steps = [Step::HangUp, Step::Answer(busy), Step::HangUp, NOTHING_MORE];
        let server = Flaky::start(steps);
        let (result, _, said) = tail(&server, &["7"]);
        assert_eq!(result, Ok(()));
        assert_eq!(said.matches("connecting again").count(), 1, "{said}");
    }

    #[test]
    fn a_stream_that_falls_silent_is_opened_again() {
        let server = Flaky::start([Step::Stall(stream(&event(1, "A"))), NOTHING_MORE]);
        let (result, _, said) = tail(&server, &["7"]);
        assert_eq!(result, Ok(()));
        assert!(said.contains("connecting again"), "{said}");
        assert_eq!(server.requests()[1].header("last-event-id"), Some("1"));
    }

    #[test]
    fn frames_of_the_server_are_said_and_not_shown() {
        let frames = "event: stream.cursor\nid: 9\ndata: {\"id\":9}\n\n\
             event: heartbeat\ndata: {}\n\n\
             event: stream.cursor\nid: 10\ndata: {\"id\":10}\n\n\
             event: stream.truncated\n\
             data: {\"requested_after_id\":1,\"first_available_id\":4}\n\n\
             event: stream.reset\nid: 0\ndata: {}\n\n\
             event: stream.refused\ndata: {\"reason\":\"draining\"}\n\n";
        let server = Flaky::start([Step::Answer(stream(frames)), NOTHING_MORE]);
        let (result, out, said) = tail(&server, &["7", "--after", "now"]);
        assert_eq!((result, out.as_str()), (Ok(()), ""));
        assert_eq!(said.matches("following from id 9").count(), 1, "{said}");
        for word in ["no longer kept", "from the beginning", "draining"] {
            assert!(said.contains(word), "{word} in {said}");
        }
        let requests = server.requests();
        assert!(requests[0].head.starts_with("GET /runs/7/events/stream?after_id=now "));
        assert_eq!(requests[1].header("last-event-id"), Some("0"));
    }

    #[test]
    fn a_refusal_ends_it_with_its_reason() {
        let body = "{\"title\":\"Not Found\",\"status\":404,\"detail\":\"there is no run 7\"}";
        let answer =
            format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let server = Flaky::start([Step::Answer(Box::leak(answer.into_boxed_str()))]);
        let (result, _, _) = tail(&server, &["7"]);
        let Err(ClientError::Failed(reason)) = result else { panic!("{result:?}") };
        assert!(reason.ends_with(": 404 Not Found: there is no run 7"), "{reason}");
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n";
        let server = Flaky::start([Step::Answer(page)]);
        assert!(matches!(tail(&server, &["7"]).0, Err(ClientError::Failed(_))));
    }

    #[test]
    fn options_become_the_query() {
        let url = |args: &[&str]| plan(args).url;
        let expected = "http://127.0.0.1:8000/runs/7/events/stream?after_id=5&types=A,B";
        assert_eq!(url(&["7", "--after", "5", "--types", "A,B"]), expected);
        let expected = "http://h/events/stream?runs=1,2&types=A";
        assert_eq!(url(&["http://h/events/stream?runs=1,2", "--types", "A"]), expected);
        for wrong in [["--after", "soon"], ["--after", "-1"], ["--types", "A,"], ["--types", "a b"]]
        {
            let args = [["7"].as_slice(), &wrong].concat();
            assert!(Tail::from_args(&["tidewheel tail"], &args).is_err(), "{wrong:?}");
        }
    }

    fn shown(plan: &Plan, event_type: &str, data: &str) -> Shown {
        let (event_type, data) = (event_type.to_owned(), data.to_owned());
        plan.show(&Message { event_type, data, last_event_id: "5".to_owned() })
    }

    #[test]
    fn an_event_named_like_a_frame_is_an_event() {
        let frame = event(1, "stream.reset");
        let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        assert!(matches!(shown(&plan(&["7"]), "stream.reset", data), Shown::Event { .. }));
    }

    #[test]
    fn what_has_no_envelope_is_shown_with_its_id() {
        let event = |line: &str| Shown::Event { line: line.to_owned(), closes: false };
        assert_eq!(
            shown(&plan(&["7"]), "message", "{\"a\":\n1}"),
            event("5 message {\"a\":\u{fffd}1}")
        );
        assert_eq!(shown(&plan(&["7", "--json"]), "message", "{\"a\":\n1}"), event("{\"a\": 1}"));
    }

    #[test]
    fn colours_are_stable_and_only_the_types() {
        let mut plan = plan(&["7"]);
        assert_eq!(plan.painted("LOG\u{1b}"), "LOG\u{fffd}");
        plan.colour = true;
        let painted = plan.painted("LOG");
        assert_eq!(painted, plan.painted("LOG"));
        assert!(
            painted.starts_with("\u{1b}[") && painted.ends_with("mLOG\u{1b}[0m"),
            "{painted:?}"
        );
        let Shown::Event { line, .. } = shown(&plan, "x\u{1b}[2J", "\u{1b}[2J") else { panic!() };
        assert_eq!(line.matches("[2J").count(), 2);
        assert_eq!(line.matches('\u{1b}').count(), 2, "{line:?}");
    }
}
