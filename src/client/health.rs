//! `tidewheel health`: whether a server is well, as an exit code. It is for images in which there is
//! no curl, and asks what a load balancer would ask.

use std::io::{self, Write};

use argh::FromArgs;
use serde::Deserialize;

use super::{Answer, ClientError, Timing, printable, server_url, write_or_stop};

/// ask a server whether it is well: exit code 0 if so, else 1
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "health", help_triggers("-h", "--help"))]
pub struct Health {
    /// whether new clients should be sent to it, too: not while it drains or its journal has failed
    #[argh(switch)]
    pub ready: bool,

    /// address of the server (default: `TIDEWHEEL_URL`, else port 8000 of this host)
    #[argh(option, arg_name = "url")]
    pub server: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

/// Runs the command.
///
/// # Errors
/// When the arguments make no sense, or the server is not well.
pub fn run(args: &Health, environment: Option<&str>) -> Result<(), ClientError> {
    ask(args, environment, &Timing::default(), &mut io::stdout().lock())
}

/// Writes what the server says.
///
/// # Errors
/// The same.
pub fn ask(
    args: &Health,
    environment: Option<&str>,
    timing: &Timing,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let server = server_url(args.server.as_deref(), environment)?;
    let failed = |reason: String| ClientError::Failed(format!("{server}: {reason}"));
    let url = format!("{server}{}", if args.ready { "/health/ready" } else { "/health" });
    let answer = timing.agent().get(&url).call().and_then(Answer::read);
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    if !answer.is_success() {
        return Err(failed(answer.refusal()));
    }
    let said: Status = serde_json::from_slice(&answer.body)
        .map_err(|error| failed(format!("this is no answer of tidewheel: {error}")))?;
    write_or_stop(out, &format!("{}\n", printable(&said.status))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::flaky::{Flaky, Step, timing};
    use super::*;

    fn asked(server: &Flaky, args: &[&str]) -> (Result<(), ClientError>, String) {
        let args = Health::from_args(&["tidewheel health"], args).unwrap();
        let mut out = Vec::new();
        let result = ask(&args, Some(&server.url), &timing(), &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_server_that_is_well_says_so() {
        let answer = |body| Step::Answer(body);
        let server = Flaky::start([
            answer("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}"),
            answer("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"status\":\"ready\"}"),
        ]);
        assert_eq!(asked(&server, &[]), (Ok(()), "ok\n".to_owned()));
        assert_eq!(asked(&server, &["--ready"]), (Ok(()), "ready\n".to_owned()));
        let heads: Vec<String> = server.requests().into_iter().map(|asked| asked.head).collect();
        assert!(heads[0].starts_with("GET /health HTTP"), "{heads:?}");
        assert!(heads[1].starts_with("GET /health/ready HTTP"), "{heads:?}");
    }

    #[test]
    fn one_that_drains_or_is_none_or_is_away_has_failed() {
        let server = Flaky::start([
            Step::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
            Step::Answer("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
            Step::HangUp,
        ]);
        for _ in 0..4 {
            let (result, out) = asked(&server, &["--ready"]);
            assert!(matches!(result, Err(ClientError::Failed(_))), "{result:?}");
            assert_eq!(out, "");
        }
    }
}
