//! `tidewheel runs`: the runs of a server as a table, newest first.

use std::fmt::Write as _;
use std::io::{self, Write};

use argh::FromArgs;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Answer, ClientError, Timing, label, printable, server_url, write_or_stop};
use crate::event::{Label, RunStatus};
use crate::limits::PAGE_RUNS_MAX;

/// list the runs of a server, newest first
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "runs", help_triggers("-h", "--help"))]
pub struct Runs {
    /// only runs of this project
    #[argh(option, from_str_fn(label))]
    pub project: Option<Label>,

    /// only runs of this session
    #[argh(option, from_str_fn(label))]
    pub session: Option<Label>,

    /// only runs that are running, completed, failed or cancelled
    #[argh(option, from_str_fn(status))]
    pub status: Option<RunStatus>,

    /// how many, at most (default: 20)
    #[argh(option, default = "20")]
    pub limit: usize,

    /// write the runs as they come, as NDJSON
    #[argh(switch)]
    pub json: bool,

    /// address of the server (default: `TIDEWHEEL_URL`, else port 8000 of this host)
    #[argh(option, arg_name = "url")]
    pub server: Option<String>,
}

fn status(text: &str) -> Result<RunStatus, String> {
    [RunStatus::Running, RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| "must be running, completed, failed or cancelled".to_owned())
}

/// Runs the command.
///
/// # Errors
/// When the arguments make no sense, or the server cannot be asked.
pub fn run(args: &Runs, environment: Option<&str>) -> Result<(), ClientError> {
    list(args, environment, &Timing::default(), &mut io::stdout().lock())
}

/// Writes the runs, page by page.
///
/// # Errors
/// The same.
pub fn list(
    args: &Runs,
    environment: Option<&str>,
    timing: &Timing,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let server = server_url(args.server.as_deref(), environment)?;
    let agent = timing.agent();
    let mut rows: Vec<Row> = Vec::new();
    let mut left = args.limit;
    let mut before = None;
    while left > 0 {
        let url = format!("{server}/runs?{}", query(args, left, before));
        let failed = |reason: String| ClientError::Failed(format!("{server}: {reason}"));
        let answer = agent
            .get(&url)
            .call()
            .and_then(Answer::read)
            .map_err(|error| failed(error.to_string()))?;
        if !answer.is_success() {
            return Err(failed(answer.refusal()));
        }
        let page: Page = serde_json::from_slice(&answer.body)
            .map_err(|error| failed(format!("this is no page of runs: {error}")))?;
        left -= page.runs.len().min(left);
        for run in &page.runs {
            if args.json {
                // A raw value may have line feeds between its tokens.
                let line = run.get().replace(['\n', '\r'], " ") + "\n";
                if !write_or_stop(out, &line)? {
                    return Ok(());
                }
            } else {
                let row = serde_json::from_str(run.get());
                rows.push(row.map_err(|error| failed(format!("this is no run: {error}")))?);
            }
        }
        // A page without runs would ask the same again.
        if !page.has_more || page.runs.is_empty() {
            break;
        }
        before = page.next_before_id;
    }
    if args.json { Ok(()) } else { write_or_stop(out, &table(&rows)).map(drop) }
}

/// The query of one page. No value needs percent-encoding: their characters were checked.
fn query(args: &Runs, left: usize, before: Option<u64>) -> String {
    let mut query = format!("limit={}", left.min(PAGE_RUNS_MAX));
    let before = before.map(|id| id.to_string());
    let filters = [
        ("project", args.project.as_ref().map(Label::as_str)),
        ("session", args.session.as_ref().map(Label::as_str)),
        ("status", args.status.map(RunStatus::as_str)),
        ("before_id", before.as_deref()),
    ];
    for (name, value) in filters {
        if let Some(value) = value {
            write!(query, "&{name}={value}").expect("a String takes it");
        }
    }
    query
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    runs: Vec<&'a RawValue>,
    #[serde(default)]
    next_before_id: Option<u64>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Row {
    id: u64,
    status: String,
    #[serde(default)]
    event_count: u64,
    #[serde(default)]
    project: Option<String>,
    #[serde(default)]
    session: Option<String>,
    created_at: String,
    #[serde(default)]
    updated_at: Option<String>,
}

fn table(rows: &[Row]) -> String {
    let header = ["ID", "STATUS", "EVENTS", "PROJECT", "SESSION", "CREATED", "UPDATED"];
    let mut lines = vec![header.map(str::to_owned)];
    for row in rows {
        let text = |value: &Option<String>| value.as_deref().map_or("-".to_owned(), printable);
        lines.push([
            row.id.to_string(),
            printable(&row.status),
            row.event_count.to_string(),
            text(&row.project),
            text(&row.session),
            printable(&row.created_at),
            text(&row.updated_at),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).filter_map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::flaky::{Flaky, Step, timing};
    use super::*;

    fn answer(body: &str) -> Step {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        Step::Answer(Box::leak(answer.into_boxed_str()))
    }

    fn runs(server: &Flaky, args: &[&str]) -> (Result<(), ClientError>, String) {
        let args = Runs::from_args(&["tidewheel runs"], args).unwrap();
        let mut out = Vec::new();
        let result = list(&args, Some(&server.url), &timing(), &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    const FIRST: &str = r#"{"runs":[{"id":12,"project":"p","session":null,"status":"running",
        "metadata":null,"created_at":"2026-01-02T00:00:00.000Z",
        "updated_at":"2026-01-02T00:00:01.000Z","last_event_id":40,"event_count":3}],
        "next_before_id":12,"has_more":true}"#;
    const SECOND: &str = r#"{"runs":[{"id":7,"status":"failed","event_count":1234,
        "created_at":"2026-01-01T00:00:00.000Z"}],"next_before_id":7,"has_more":false}"#;

    #[test]
    fn pages_become_one_table() {
        let server = Flaky::start([answer(FIRST), answer(SECOND)]);
        let (result, out) = runs(&server, &["--project", "p", "--status", "failed"]);
        assert_eq!(result, Ok(()));
        assert_eq!(
            out,
            "ID  STATUS   EVENTS  PROJECT  SESSION  CREATED                   UPDATED\n\
             12  running  3       p        -        2026-01-02T00:00:00.000Z  2026-01-02T00:00:01.000Z\n\
             7   failed   1234    -        -        2026-01-01T00:00:00.000Z  -\n"
        );
        let requests = server.requests();
        let path = |at: usize| requests[at].head.split(' ').nth(1).unwrap();
        assert_eq!(path(0), "/runs?limit=20&project=p&status=failed");
        assert_eq!(path(1), "/runs?limit=19&project=p&status=failed&before_id=12");
    }

    #[test]
    fn json_is_a_run_a_line() {
        let server = Flaky::start([answer(FIRST), answer(SECOND)]);
        let (result, out) = runs(&server, &["--json", "--limit", "5000"]);
        assert_eq!(result, Ok(()));
        let ids: Vec<u64> =
            out.lines().map(|line| serde_json::from_str::<Row>(line).unwrap().id).collect();
        assert_eq!(ids, [12, 7]);
        assert!(server.requests()[0].head.starts_with("GET /runs?limit=1000 "));
    }

    #[test]
    fn no_runs_are_a_table_without_rows() {
        let server =
            Flaky::start([answer(r#"{"runs":[],"next_before_id":null,"has_more":false}"#)]);
        let (result, out) = runs(&server, &[]);
        assert_eq!(result, Ok(()));
        assert_eq!(out.lines().count(), 1);
    }

    #[test]
    fn a_server_that_is_not_one_is_an_error() {
        let server = Flaky::start([answer("<html>"), Step::HangUp]);
        for _ in 0..2 {
            assert!(matches!(runs(&server, &[]).0, Err(ClientError::Failed(_))));
        }
    }
}
