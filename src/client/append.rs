//! `tidewheel append`: lines in, events of a run out, each exactly once.
//!
//! Every request carries the name of this invocation and a number (`Producer-Id`,
//! `Producer-Seq`). Invariant: a request is sent again, byte for byte, until it is answered, and
//! the next is made only then. So an answer that is lost is asked for again, and the server, which
//! knows the number, appends nothing twice.
//!
//! NDJSON as one long request would be simpler, but cannot be tried again: the server may have
//! taken any part of it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use argh::FromArgs;
use serde::Deserialize;
use ureq::Agent;
use ureq::http::{Method, Request};

use super::gather::{Line, LineFormat, Queue, Taken, read_lines};
use super::retry::{Backoff, Random, unique_name};
use super::{
    Answer, ClientError, STANDARD_INPUT, Timing, is_connection_loss, label, notice, open_input,
    run_url, server_url,
};
use crate::event::{EventType, Json, Label, RunStatus};

/// append each line of a file or of standard input to a run, exactly once
#[derive(FromArgs, Clone, Debug)]
#[argh(
    subcommand,
    name = "append",
    help_triggers("-h", "--help"),
    example = "cargo build --message-format=json | {command_name} --new-run --type-from reason -",
    note = "With --new-run there is no run to name: the first argument is the file.",
    note = "A connection that is lost, or a server that is busy, is tried again; nothing is \
            appended twice."
)]
pub struct Append {
    /// the run, by id or URL; then the file to read, or - for standard input (the default)
    #[argh(positional, arg_name = "run|file")]
    pub arguments: Vec<String>,

    /// make a new run, and say which on standard error
    #[argh(switch)]
    pub new_run: bool,

    /// project of the new run
    #[argh(option, from_str_fn(label))]
    pub project: Option<Label>,

    /// session of the new run
    #[argh(option, from_str_fn(label))]
    pub session: Option<Label>,

    /// metadata of the new run, any JSON
    #[argh(option, from_str_fn(json), arg_name = "json")]
    pub metadata: Option<Json>,

    /// type of the events (default: LINE)
    #[argh(option, long = "type", from_str_fn(event_type), arg_name = "type")]
    pub event_type: Option<EventType>,

    /// take the type of each event from this field of its line, where it has text in it;
    /// characters that no type may have become _
    #[argh(option, arg_name = "field")]
    pub type_from: Option<String>,

    /// lines are text, not JSON; the payload is an object with the line as "text"
    #[argh(switch)]
    pub text: bool,

    /// end the run after the last line: completed, failed or cancelled
    #[argh(option, from_str_fn(end_status), arg_name = "status")]
    pub end: Option<RunStatus>,

    /// how long to try one request again (default: 5m)
    #[argh(
        option,
        from_str_fn(duration),
        arg_name = "duration",
        default = "Duration::from_secs(300)"
    )]
    pub retry_for: Duration,

    /// address of the server (default: `TIDEWHEEL_URL`, else port 8000 of this host)
    #[argh(option, arg_name = "url")]
    pub server: Option<String>,
}

fn json(text: &str) -> Result<Json, String> {
    Json::parse(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn event_type(text: &str) -> Result<EventType, String> {
    let event_type = EventType::new(text).map_err(|error| error.to_string())?;
    if event_type.is_reserved() {
        return Err("only the server writes events of this type".to_owned());
    }
    Ok(event_type)
}

fn end_status(text: &str) -> Result<RunStatus, String> {
    [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| "must be completed, failed or cancelled".to_owned())
}

/// What to append where, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    target: Target,
    file: Option<String>,
    format: LineFormat,
    end: Option<RunStatus>,
    retry_for: Duration,
}

#[derive(Clone, Debug)]
enum Target {
    /// The URL of a run.
    Run(String),
    /// A run is made first.
    NewRun { server: String, body: String },
}

/// What was appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The URL of the run, when there is one.
    pub run: String,
    /// Events that the server has confirmed.
    pub events: u64,
}

/// Runs the command with the process's input.
///
/// # Errors
/// When the arguments make no sense, a line is bad, or the server refuses or stays away.
pub fn run(args: &Append, environment: Option<&str>) -> Result<(), ClientError> {
    let plan = Plan::new(args, environment)?;
    let input = open_input(plan.file.as_deref())?;
    let mut err = io::stderr();
    let (summary, result) = plan.execute(input, &Timing::default(), &mut err);
    if !summary.run.is_empty() {
        notice(&mut err, &format!("{} events, {}", summary.events, summary.run));
    }
    result
}

impl Plan {
    /// Checks what the command line alone can tell.
    ///
    /// # Errors
    /// [`ClientError::Usage`].
    pub fn new(args: &Append, environment: Option<&str>) -> Result<Plan, ClientError> {
        let usage = |text: &str| Err(ClientError::Usage(text.to_owned()));
        let server = server_url(args.server.as_deref(), environment)?;
        let mut arguments = args.arguments.iter();
        let target = if args.new_run {
            Target::NewRun { server, body: new_run_body(args) }
        } else {
            let of_new_run = args.project.is_some() || args.session.is_some();
            if of_new_run || args.metadata.is_some() {
                return usage("--project, --session and --metadata are for a --new-run");
            }
            match arguments.next().map(String::as_str) {
                None | Some(STANDARD_INPUT) => {
                    return usage("name a run, by its id or URL, or make one with --new-run");
                }
                Some(run) => Target::Run(run_url(run, &server)?),
            }
        };
        let file = arguments.next().cloned();
        if arguments.next().is_some() {
            return usage(if args.new_run {
                "with --new-run the only argument is the file"
            } else {
                "there are at most two arguments: the run and the file"
            });
        }
        if args.text && args.type_from.is_some() {
            return usage("--type-from needs lines of JSON, which --text has not");
        }
        let default_type = || EventType::new("LINE").expect("LINE is a type");
        Ok(Plan {
            target,
            file,
            format: LineFormat {
                text: args.text,
                type_from: args.type_from.clone(),
                event_type: args.event_type.clone().unwrap_or_else(default_type),
            },
            end: args.end,
            retry_for: args.retry_for,
        })
    }

    /// Appends the whole input. What was confirmed is in the summary also when it fails.
    pub fn execute(
        &self,
        input: impl Read + Send + 'static,
        timing: &Timing,
        err: &mut dyn Write,
    ) -> (Summary, Result<(), ClientError>) {
        let mut summary = Summary::default();
        let result = self.append_all(input, timing, err, &mut summary);
        (summary, result)
    }

    fn append_all(
        &self,
        input: impl Read + Send + 'static,
        timing: &Timing,
        err: &mut dyn Write,
        summary: &mut Summary,
    ) -> Result<(), ClientError> {
        let mut publisher = Publisher {
            agent: timing.agent(),
            backoff: Backoff::new(timing.backoff_base, timing.backoff_max),
            random: Random::from_system(),
            retry_for: self.retry_for,
            err,
        };
        summary.run = match &self.target {
            Target::Run(url) => url.clone(),
            Target::NewRun { server, body } => publisher.create(server, body)?,
        };
        let queue = Arc::new(Queue::default());
        let reader = (self.format.clone(), Arc::clone(&queue));
        // Not joined: when sending has failed it may be waiting for its input, without an end.
        std::thread::spawn(move || read_lines(input, &reader.0, &reader.1));
        let sent = publisher.send_all(&queue, summary);
        queue.abandon();
        sent?;
        match self.end {
            Some(status) => publisher.end(&summary.run, status),
            None => Ok(()),
        }
    }
}

fn new_run_body(args: &Append) -> String {
    let mut fields = Vec::new();
    for (name, label) in [("project", &args.project), ("session", &args.session)] {
        if let Some(label) = label {
            fields.push(format!("\"{name}\":\"{}\"", label.as_str()));
        }
    }
    if let Some(metadata) = &args.metadata {
        fields.push(format!("\"metadata\":{}", metadata.as_str()));
    }
    format!("{{{}}}", fields.join(","))
}

/// The one connection, and the patience with it.
struct Publisher<'a> {
    agent: Agent,
    backoff: Backoff,
    random: Random,
    retry_for: Duration,
    err: &'a mut dyn Write,
}

impl Publisher<'_> {
    /// Makes a run and gives its URL. The key keeps a second attempt from making a second run.
    fn create(&mut self, server: &str, body: &str) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Created {
            id: u64,
        }
        let request =
            Request::post(format!("{server}/runs")).header("Idempotency-Key", unique_name());
        let answer = self.send(request, body).map_err(|reason| {
            ClientError::Failed(format!("cannot make a run at {server}: {reason}"))
        })?;
        let created: Created = serde_json::from_slice(&answer.body).map_err(|_| {
            ClientError::Failed(format!("{server} did not answer with a run: is it a tidewheel?"))
        })?;
        let url = format!("{server}/runs/{}", created.id);
        notice(self.err, &format!("run {}: {url}", created.id));
        Ok(url)
    }

    /// Sends what gathers until the input ends.
    fn send_all(&mut self, queue: &Queue, summary: &mut Summary) -> Result<(), ClientError> {
        let events = format!("{}/events", summary.run);
        let producer = unique_name();
        for seq in 0_u64.. {
            let batch = match queue.take() {
                Taken::Batch(batch) => batch,
                Taken::End(end) => return end.map_err(ClientError::Failed),
            };
            let request = Request::post(&events)
                .header("Producer-Id", &producer)
                .header("Producer-Epoch", 0)
                .header("Producer-Seq", seq);
            self.send(request, &array(&batch)).map_err(|reason| {
                ClientError::Failed(format!("{} not appended: {reason}", lines(&batch)))
            })?;
            summary.events += batch.len() as u64;
        }
        Ok(())
    }

    fn end(&mut self, run: &str, status: RunStatus) -> Result<(), ClientError> {
        let status = status.as_str();
        let request = Request::builder().method(Method::PATCH).uri(run);
        self.send(request, &format!("{{\"status\":\"{status}\"}}"))
            .map(drop)
            .map_err(|reason| ClientError::Failed(format!("the run is not {status}: {reason}")))
    }

    /// Sends a request until it is answered with success or for good, or patience ends.
    fn send(
        &mut self,
        request: ureq::http::request::Builder,
        body: &str,
    ) -> Result<Answer, String> {
        let request = request
            .header("Content-Type", "application/json")
            .body(body)
            .map_err(|error| error.to_string())?;
        let mut failing_since = None;
        let mut failures = 0_u32;
        self.backoff.reset();
        loop {
            let (reason, asked) = match self.agent.run(request.clone()).and_then(Answer::read) {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer) if answer.may_pass_later() => (answer.refusal(), answer.retry_after),
                Ok(answer) => return Err(answer.refusal()),
                Err(error) if is_connection_loss(&error) => (error.to_string(), None),
                Err(error) => return Err(error.to_string()),
            };
            let wait = self.backoff.next(asked, &mut self.random);
            let patience = humantime::format_duration(self.retry_for);
            let since = *failing_since.get_or_insert_with(Instant::now);
            failures += 1;
            // The first may be a connection that was closed while it was idle.
            if failures == 2 {
                notice(self.err, &format!("{reason}; trying again for {patience}"));
            }
            if since.elapsed().saturating_add(wait) > self.retry_for {
                return Err(format!("{reason}; gave up after {patience}"));
            }
            std::thread::sleep(wait);
        }
    }
}

/// The events of a batch as one JSON array.
fn array(batch: &[Line]) -> String {
    let mut out = String::with_capacity(batch.iter().map(|line| line.event.len() + 1).sum());
    for line in batch {
        out.push(if out.is_empty() { '[' } else { ',' });
        out.push_str(&line.event);
    }
    out.push(']');
    out
}

fn lines(batch: &[Line]) -> String {
    match (batch.first(), batch.last()) {
        (Some(first), Some(last)) if first.number < last.number => {
            format!("lines {} to {}", first.number, last.number)
        }
        (Some(only), _) => format!("line {}", only.number),
        (None, _) => "no line".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::flaky::{Flaky, Step, timing};
    use super::*;

    fn parse(args: &[&str]) -> Append {
        let args: Vec<&str> =
            args.iter().map(|arg| if *arg == "-" { STANDARD_INPUT } else { arg }).collect();
        Append::from_args(&["tidewheel append"], &args).unwrap()
    }

    fn plan(args: &[&str]) -> Result<Plan, ClientError> {
        Plan::new(&parse(args), None)
    }

    fn usage(args: &[&str]) -> String {
        match plan(args) {
            Err(ClientError::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Appends `input` to what `server` plays; gives the result and what was said.
    fn append(
        server: &Flaky,
        args: &[&str],
        input: &str,
    ) -> (Summary, Result<(), ClientError>, String) {
        let mut args = args.to_vec();
        args.extend(["--server", &server.url]);
        if !args.contains(&"--retry-for") {
            args.extend(["--retry-for", "10s"]);
        }
        let mut err = Vec::new();
        let input = io::Cursor::new(input.to_owned());
        let (summary, result) = plan(&args).unwrap().execute(input, &timing(), &mut err);
        (summary, result, String::from_utf8(err).unwrap())
    }

    const APPENDED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]";
    const CREATED: &str =
        "HTTP/1.1 201 Created\r\nLocation: /runs/7\r\nContent-Length: 8\r\n\r\n{\"id\":7}";
    const BUSY: &str =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn an_answer_that_is_lost_is_asked_for_again_with_the_same_number() {
        let server = Flaky::start([Step::HangUp, Step::Answer(APPENDED)]);
        let (summary, result, said) = append(&server, &["7"], "{\"a\": 1}\n");
        assert_eq!((result, summary.events), (Ok(()), 1));
        assert_eq!(said, "");
        let requests = server.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0], requests[1]);
        let request = &requests[0];
        assert!(request.head.starts_with("POST /runs/7/events HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("producer-seq"), Some("0"));
        assert_eq!(request.header("producer-epoch"), Some("0"));
        assert_eq!(request.header("producer-id").map(str::len), Some(32));
        assert_eq!(request.body, r#"[{"type":"LINE","payload":{"a": 1}}]"#);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_asked_for_again() {
        let cut = "HTTP/1.1 201 Created\r\nContent-Length: 200\r\n\r\n[";
        let server = Flaky::start([Step::Answer(cut), Step::Answer(APPENDED)]);
        let (summary, result, _) = append(&server, &["7"], "1");
        assert_eq!((result, summary.events), (Ok(()), 1));
        let requests = server.requests();
        assert_eq!(requests[0], requests[1]);
    }

    #[test]
    fn a_busy_server_is_tried_again() {
        let limited =
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
        let steps = [Step::Answer(BUSY), Step::Answer(limited), Step::Answer(APPENDED)];
        let server = Flaky::start(steps);
        let (_, result, said) = append(&server, &["7"], "1");
        assert_eq!(result, Ok(()));
        assert_eq!(said.matches("trying again for 10s").count(), 1, "{said}");
        assert!(server.requests().iter().all(|r| r.header("producer-seq") == Some("0")));
    }

    #[test]
    fn numbers_count_requests_and_every_line_arrives_once_and_in_order() {
        let count = 3 * crate::limits::CLIENT_BATCH_EVENTS_MAX;
        let lines: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        let input = lines.join("\n");
        let steps = [Step::HangUp, Step::Answer(BUSY)].into_iter();
        let server =
            Flaky::start(steps.chain([Step::Answer(APPENDED)].into_iter().cycle().take(4_000)));
        let (summary, result, _) = append(&server, &["7"], &input);
        assert_eq!((result, summary.events), (Ok(()), count as u64));
        let requests = server.requests();
        let accepted = &requests[2..];
        let mut payloads = Vec::new();
        for (seq, request) in accepted.iter().enumerate() {
            assert_eq!(request.header("producer-seq"), Some(&*seq.to_string()));
            let events: Vec<serde_json::Value> = serde_json::from_str(&request.body).unwrap();
            assert!(events.len() <= crate::limits::CLIENT_BATCH_EVENTS_MAX);
            payloads.extend(events.iter().map(|event| event["payload"].as_u64().unwrap()));
        }
        assert_eq!(payloads, (0..count as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_lone_line_is_sent_while_the_input_stays_open() {
        let server = Flaky::start([Step::Answer(APPENDED), Step::Answer(APPENDED)]);
        let (reader, mut writer) = io::pipe().unwrap();
        let plan = plan(&["7", "--server", &server.url]).unwrap();
        let sender =
            std::thread::spawn(move || plan.execute(reader, &timing(), &mut io::sink()).0.events);
        for sent in 1..=2 {
            writer.write_all(b"1\n").unwrap();
            server.wait_for_requests(sent);
        }
        drop(writer);
        assert_eq!(sender.join().unwrap(), 2);
    }

    #[test]
    fn a_new_run_is_made_once_and_named() {
        let steps = [Step::HangUp, Step::Answer(CREATED), Step::Answer(APPENDED)];
        let server = Flaky::start(steps);
        let args = ["--new-run", "--project", "p", "--metadata", "{\"n\": 1.0}", "-"];
        let (summary, result, said) = append(&server, &args, "1");
        assert_eq!(result, Ok(()));
        assert_eq!(summary, Summary { run: format!("{}/runs/7", server.url), events: 1 });
        assert!(said.contains(&format!("run 7: {}/runs/7", server.url)), "{said}");
        let requests = server.requests();
        assert_eq!(requests[0], requests[1]);
        assert_eq!(requests[0].body, "{\"project\":\"p\",\"metadata\":{\"n\":1.0}}");
        assert_eq!(requests[0].header("idempotency-key").map(str::len), Some(32));
        assert!(requests[2].head.starts_with("POST /runs/7/events "));
    }

    #[test]
    fn a_bad_line_stops_after_the_lines_before_it() {
        let server = Flaky::start([Step::Answer(APPENDED), Step::Answer(APPENDED)]);
        let (summary, result, _) = append(&server, &["7", "--end", "completed"], "1\n2\nnope\n4\n");
        let Err(ClientError::Failed(reason)) = result else { panic!("{result:?}") };
        assert!(reason.starts_with("line 3 is no JSON"), "{reason}");
        assert_eq!(summary.events, 2);
        // The run is not ended as if all had gone well.
        assert!(server.requests().iter().all(|request| request.head.starts_with("POST ")));
    }

    #[test]
    fn the_run_is_ended_when_asked() {
        let ended = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let server = Flaky::start([Step::HangUp, Step::Answer(ended)]);
        let (summary, result, _) = append(&server, &["7", "--end", "failed"], "");
        assert_eq!((result, summary.events), (Ok(()), 0));
        let requests = server.requests();
        assert!(requests[1].head.starts_with("PATCH /runs/7 "), "{}", requests[1].head);
        assert_eq!(requests[1].body, "{\"status\":\"failed\"}");
    }

    #[test]
    fn a_refusal_is_final_and_names_the_lines() {
        let problem = "HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\nContent-Length: 32\r\n\r\n{\"detail\":\"the run has ended\"}  ";
        let server = Flaky::start([Step::Answer(problem)]);
        let (summary, result, _) = append(&server, &["7"], "1\n");
        let expected = "line 1 not appended: 409 Conflict: the run has ended";
        assert_eq!(result, Err(ClientError::Failed(expected.to_owned())));
        assert_eq!(summary.events, 0);
    }

    #[test]
    fn patience_ends() {
        let server = Flaky::start([Step::HangUp]);
        let (_, result, _) = append(&server, &["7", "--retry-for", "0s"], "1\n");
        let Err(ClientError::Failed(reason)) = result else { panic!("{result:?}") };
        assert!(reason.ends_with("; gave up after 0s"), "{reason}");
        let asks_for_long = "HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";
        let server = Flaky::start([Step::Answer(asks_for_long)]);
        let (_, result, _) = append(&server, &["7"], "1\n");
        assert!(result.is_err());
    }

    #[test]
    fn a_batch_is_one_array() {
        let batch = ["{}", "{\"a\":1}"].map(|event| Line { number: 4, event: event.to_owned() });
        assert_eq!(array(&batch), "[{},{\"a\":1}]");
        assert_eq!(array(&batch[..1]), "[{}]");
        assert_eq!(lines(&batch), "line 4");
    }

    #[test]
    fn the_first_argument_is_the_file_of_a_new_run() {
        let file = |args: &[&str]| plan(args).unwrap().file;
        assert_eq!(
            file(&["--new-run", "--type-from", "reason", "-"]).as_deref(),
            Some(STANDARD_INPUT)
        );
        assert_eq!(file(&["--new-run", "log.ndjson"]).as_deref(), Some("log.ndjson"));
        assert_eq!(file(&["7", "log.ndjson"]).as_deref(), Some("log.ndjson"));
        assert_eq!(file(&["7"]), None);
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused() {
        assert!(usage(&[]).starts_with("name a run"));
        assert!(usage(&["-"]).starts_with("name a run"));
        assert!(usage(&["7", "a", "b"]).contains("at most two"));
        assert!(usage(&["--new-run", "a", "b"]).contains("only argument"));
        assert!(usage(&["7", "--project", "p"]).contains("--new-run"));
        assert!(usage(&["7", "--text", "--type-from", "x"]).contains("--text"));
        assert!(usage(&["seven"]).contains("neither"));
        assert!(usage(&["7", "--server", "localhost"]).contains("address"));
        for wrong in [
            ["--type", "RUN_CREATED"],
            ["--type", "a b"],
            ["--end", "running"],
            ["--metadata", "{"],
            ["--project", ""],
            ["--retry-for", "5"],
        ] {
            assert!(Append::from_args(&["tidewheel append"], &wrong).is_err(), "{wrong:?}");
        }
    }
}
