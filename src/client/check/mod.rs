//! `tidewheel check`: whether streams pass between here and a server, and if not, what is in their
//! way.
//!
//! Two streams are watched for the whole time, side by side: the probe, which says when each of its
//! events was sent, and a quiet one, on which keepalives alone keep the connection open. Meanwhile
//! a third is dropped and resumed. What is seen (`watch`, `resume`) and what is to be thought of it
//! (`judge`) are kept apart, so that the latter needs neither a socket nor five minutes.
//!
//! The check only reads, unless it is told to `--publish`.

pub mod judge;
mod reset;
pub mod resume;
pub mod watch;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use serde::Serialize;
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Body, Proxy, RequestBuilder};

use self::judge::{Expected, Finding, Verdict};
use self::reset::{Noticing, WasReset};
use super::{ClientError, Timing, is_url, printable, server_url, write_or_stop};
use crate::limits::CHECK_SECONDS_MAX;

/// The stream that tells when its events were sent.
const PROBE_PATH: &str = "/health/sse";
/// A stream of everything from now on that has a type which nobody uses: only keepalives come.
const QUIET_PATH: &str = "/events/stream?after_id=now&types=tidewheel-check";

/// check from outside that streams pass: delays, buffering, keepalives, cuts, resuming
#[derive(FromArgs, Clone, Debug)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help"),
    note = "The exit code is 0 when all is well, 1 when something is not, 2 when the command line\nmakes no sense."
)]
pub struct Check {
    /// address of the server or of the proxy in front of it (default: `TIDEWHEEL_URL`, else port
    /// 8000 of this host)
    #[argh(positional)]
    pub url: Option<String>,

    /// how long to watch (default: 5m)
    #[argh(option, long = "for", default = "Duration::from_mins(5)", from_str_fn(duration))]
    pub lasting: Duration,

    /// follow this run for the keepalives, and resume in the middle of it
    #[argh(option, arg_name = "id")]
    pub run: Option<u64>,

    /// follow the stream with this path for the keepalives, such as /api/sse/session/s1
    #[argh(option, arg_name = "path", from_str_fn(path))]
    pub stream: Option<String>,

    /// make a run, append to it while its stream is dropped again and again, and delete it
    #[argh(switch)]
    pub publish: bool,

    /// the `keepalive_interval` of the server (default: 15s)
    #[argh(option, default = "Duration::from_secs(15)", from_str_fn(duration))]
    pub keepalive: Duration,

    /// how much later than the fastest an event may come (default: 1s)
    #[argh(option, default = "Duration::from_secs(1)", from_str_fn(duration))]
    pub late: Duration,

    /// longest wait for an answer, and for the first event (default: 10s)
    #[argh(option, default = "Duration::from_secs(10)", from_str_fn(duration))]
    pub answer: Duration,

    /// a header field for every request, such as "Authorization: Bearer x"; may be repeated
    #[argh(option, from_str_fn(header_field))]
    pub header: Vec<(String, String)>,

    /// certificates in PEM to trust in place of the public ones, for a server with one of your own
    #[argh(option, arg_name = "file")]
    pub cacert: Option<PathBuf>,

    /// write the result as one object of JSON
    #[argh(switch)]
    pub json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let longest = Duration::from_secs(CHECK_SECONDS_MAX);
    if duration.is_zero() || duration > longest {
        return Err(format!("must be more than nothing, and at most {longest:?}"));
    }
    Ok(duration)
}

fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && is_url(&format!("http://host{text}"));
    if is_path { Ok(text.to_owned()) } else { Err("is no path, such as /events/stream".to_owned()) }
}

fn header_field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("is no \"Name: value\"")?;
    ureq::http::HeaderName::try_from(name).map_err(|error| error.to_string())?;
    ureq::http::HeaderValue::try_from(value.trim()).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// Runs the command.
///
/// # Errors
/// When the arguments make no sense, or something was found.
pub fn run(args: &Check, environment: Option<&str>) -> Result<(), ClientError> {
    let server = server_url(args.url.as_deref(), environment)?;
    if args.run.is_some() && args.stream.is_some() {
        return Err(ClientError::Usage("--run and --stream do not go together".to_owned()));
    }
    let endpoint = Endpoint {
        server,
        headers: args.header.clone(),
        answer: args.answer,
        tls: args.cacert.as_deref().map_or_else(|| Ok(TlsConfig::default()), trusting)?,
    };
    let report = check(&endpoint, args);
    let text = if args.json { report.json() } else { report.text() };
    write_or_stop(&mut io::stdout().lock() as &mut dyn Write, &text)?;
    match report.failures() {
        0 => Ok(()),
        failures => Err(ClientError::Failed(format!(
            "{}: {failures} of {} checks have failed",
            report.url,
            report.checks.len()
        ))),
    }
}

/// TLS that trusts who has a certificate of these.
fn trusting(file: &Path) -> Result<TlsConfig, ClientError> {
    let refused = |why: String| ClientError::Usage(format!("{}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(
            |item| if let Ok(PemItem::Certificate(found)) = item { Some(found) } else { None },
        )
        .collect();
    if certificates.is_empty() {
        return Err(refused("there is no certificate in it".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

/// What is checked, and how it is asked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    server: String,
    headers: Vec<(String, String)>,
    answer: Duration,
    tls: TlsConfig,
}

impl Endpoint {
    /// Opens a stream as a browser does, which takes compressed content too. No byte of it may fail
    /// to come for as long as `silence`, and after `lasting` it is over.
    fn open(
        &self,
        path: &str,
        last_event_id: Option<&str>,
        silence: Duration,
        lasting: Duration,
    ) -> (Result<Response<Body>, ureq::Error>, WasReset) {
        let timing = Timing { silence, ..self.timing() };
        let config = timing.stream_config().timeout_recv_body(Some(lasting));
        let config = config.tls_config(self.tls.clone()).build();
        let was_reset = WasReset::default();
        let agent =
            Agent::with_parts(config, Noticing::new(&was_reset), DefaultResolver::default());
        let request = self.with_headers(agent.get(format!("{}{path}", self.server)));
        let request = request
            .header("Accept", "text/event-stream")
            .header("Accept-Encoding", "gzip, deflate, br")
            .header("Cache-Control", "no-cache");
        let answer = match last_event_id {
            Some(id) => request.header("Last-Event-ID", id).call(),
            None => request.call(),
        };
        (answer, was_reset)
    }

    fn with_headers<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let add = |request: RequestBuilder<B>, (name, value): &(String, String)| {
            request.header(name, value)
        };
        self.headers.iter().fold(request, add)
    }

    fn timing(&self) -> Timing {
        Timing { connect: self.answer, answer: self.answer, ..Timing::default() }
    }

    /// A client for requests that are answered at once.
    fn agent(&self) -> Agent {
        self.timing().answer_config().tls_config(self.tls.clone()).build().into()
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    url: String,
    ok: bool,
    seconds: f64,
    checks: Vec<Finding>,
}

fn check(endpoint: &Endpoint, args: &Check) -> Report {
    let started = Instant::now();
    let mut checks = vec![connect(endpoint)];
    if checks[0].verdict != Verdict::Failed {
        let quiet_path = match (&args.run, &args.stream) {
            (Some(run), _) => format!("/runs/{run}/events/stream?after_id=now"),
            (None, Some(path)) => path.clone(),
            (None, None) => QUIET_PATH.to_owned(),
        };
        // A keepalive that a program can see.
        let mark = if quiet_path.contains('?') { '&' } else { '?' };
        let quiet_path = format!("{quiet_path}{mark}heartbeat=event");
        let expected = Expected {
            keepalive: args.keepalive,
            late: args.late,
            answer: args.answer,
            lasting: args.lasting,
        };
        let (probe, quiet, resumed) = thread::scope(|scope| {
            let watch = |path: &str, silence| watch::watch(endpoint, path, silence, args.lasting);
            let probe = scope.spawn(move || watch(PROBE_PATH, expected.probe_silence()));
            let quiet = scope.spawn(move || watch(&quiet_path, expected.quiet_silence()));
            let resumed = resume::check(endpoint, args.run, args.publish);
            let joined = "a watch does not panic";
            (probe.join().expect(joined), quiet.join().expect(joined), resumed)
        });
        let found = judge::judge(&probe, &quiet, &expected);
        // Where streams are not even answered, that is what is to be said.
        let is_answered = found[0].verdict != Verdict::Failed;
        checks.extend(found);
        checks.push(if is_answered { resumed } else { resume::skipped() });
    }
    let ok = checks.iter().all(|finding| finding.verdict != Verdict::Failed);
    let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    Report { url: endpoint.server.clone(), ok, seconds, checks }
}

/// Resolves the name and connects, for the time that it takes. What a proxy of the environment
/// connects to is its own affair.
fn connect(endpoint: &Endpoint) -> Finding {
    const NAME: &str = "connect";
    if let Some(proxy) = Proxy::try_from_env() {
        return Finding::skipped(NAME, format!("through the proxy {}", proxy.host()));
    }
    let address = endpoint.server.parse::<Uri>().ok().and_then(|uri| {
        let port =
            uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        Some((host, port))
    });
    let Some((host, port)) = address else {
        return Finding::failed(NAME, "the address has no host", "");
    };
    let started = Instant::now();
    let addresses: Vec<_> = match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            return Finding::failed(
                NAME,
                format!("{host}: {error}"),
                "the name is wrong, or its DNS server is away",
            );
        }
    };
    let resolved = started.elapsed();
    let mut reason = "it has no address".to_owned();
    for address in &addresses {
        let started = Instant::now();
        match TcpStream::connect_timeout(address, endpoint.answer) {
            Ok(_) => {
                let connected = started.elapsed();
                return Finding::ok(
                    NAME,
                    format!("{address}, resolved in {resolved:.1?}, connected in {connected:.1?}"),
                );
            }
            Err(error) => reason = format!("{address}: {error}"),
        }
    }
    Finding::failed(
        NAME,
        reason,
        "refused: nothing listens there; timed out: a firewall drops it, or the backlog is full",
    )
}

impl Report {
    fn failures(&self) -> usize {
        self.checks.iter().filter(|finding| finding.verdict == Verdict::Failed).count()
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON") + "\n"
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.checks {
            let (verdict, detail) = (finding.verdict.as_str(), printable(&finding.detail));
            writeln!(text, "{verdict:<7} {:<12} {detail}", finding.name)
                .expect("a String takes it");
            if let Some(cause) = &finding.cause {
                writeln!(text, "{:20} {}", "", printable(cause)).expect("a String takes it");
            }
        }
        let verdict = if self.ok { "ok" } else { "FAILED" };
        writeln!(text, "{verdict}: {} in {:.1} s", printable(&self.url), self.seconds)
            .expect("a String takes it");
        text
    }
}
