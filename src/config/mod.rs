//! The settings of the server: defaults, a TOML file, the environment, flags; the later wins.
//!
//! Each setting is defined once, in the `settings!` table below: its name, type, default, range
//! and meaning. From that come the field of [`Settings`], the flag of [`Serve`], the environment
//! variable, the key of the file, the output of `--print-config`, and (held to it by a test) the
//! table in `docs/configuration.md`. Invariant: whatever a [`Settings`] holds has passed its own check and the
//! checks between settings, so nobody downstream asks again.
//!
//! The file is read as a table of spanned values, not into a struct that serde derives: that would
//! be a second definition of every setting, and flags and environment would need a third.

mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use bytesize::ByteSize;
use log::LevelFilter;
use toml::Spanned;

use crate::client_address::TrustedProxies;
use crate::limits::{COMMIT_BYTES_MAX, WRITE_QUEUE_BYTES_MAX};
pub use values::{
    AdminListen, CorsOrigins, Durability, IoChoice, Listen, LogFormat, OverLimit, Value, WebOrigin,
    check_range,
};

/// What the environment variables of settings start with.
pub const ENVIRONMENT_PREFIX: &str = "TIDEWHEEL_";
/// Variables with that prefix that are no settings: the address that the client commands use, and
/// what asks the tests for everything.
const ENVIRONMENT_OF_OTHERS: [&str; 2] = [SERVER_VARIABLE, "TIDEWHEEL_TEST_ALL"];
/// The environment variable in which clients find the address of the server.
pub const SERVER_VARIABLE: &str = "TIDEWHEEL_URL";

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);
const CENTURY: Duration = Duration::from_hours(24 * 36_525);
const KIB: ByteSize = ByteSize::kib(1);

/// One setting, as the table defines it.
pub struct Setting {
    /// Its key in the file.
    pub name: &'static str,
    /// Its default, in the syntax of flags and of the environment.
    pub default: &'static str,
    /// What it is, in one sentence.
    pub meaning: &'static str,
    values: fn() -> String,
    take: fn(&mut Settings, Input<'_>) -> Result<(), String>,
    show: fn(&Settings) -> toml::Value,
    flag: fn(&Serve) -> Option<&str>,
}

impl Setting {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// What it may be: a range, or a form.
    pub fn values(&self) -> String {
        (self.values)()
    }

    /// The flag, with its dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A value on its way into a setting.
enum Input<'a> {
    Text(&'a str),
    Toml(&'a toml::Value),
}

impl Input<'_> {
    fn read<T: Value>(&self) -> Result<T, String> {
        match self {
            Input::Text(text) => T::from_text(text),
            Input::Toml(value) => T::from_toml(value),
        }
    }
}

/// What a setting may be, by its range if it has one, and else by its type.
fn describe_values<T: Value>(ranges: &[RangeInclusive<T>]) -> String {
    match ranges {
        [range, ..] => format!("{} to {}", range.start().to_text(), range.end().to_text()),
        [] => T::EXPECTED.to_owned(),
    }
}

/// Makes the table, the struct of settings and the struct of flags out of one definition each.
macro_rules! settings {
    ($(
        #[doc = $meaning:tt]
        $name:ident: $type:ty = $default:literal $(in $range:expr)?;
    )+) => {
        /// Every setting, checked.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $(#[doc = $meaning] pub $name: $type,)+
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings {
                    $($name: <$type as Value>::from_text($default)
                        .expect("a test reads every default"),)+
                }
            }
        }

        /// Every setting's definition, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            name: stringify!($name),
            default: $default,
            meaning: $meaning,
            values: || describe_values::<$type>(&[$($range)?]),
            take: |settings, input| {
                let value: $type = input.read()?;
                $(check_range(&value, &($range))?;)?
                settings.$name = value;
                Ok(())
            },
            show: |settings| settings.$name.to_toml(),
            flag: |flags| flags.$name.as_deref(),
        }),+];

        /// serve a journal over HTTP
        #[derive(FromArgs, Clone, Debug, Default, PartialEq, Eq)]
        #[argh(subcommand, name = "serve", help_triggers("-h", "--help"))]
        pub struct Serve {
            /// read settings from this TOML file
            #[argh(option, arg_name = "file")]
            pub config: Option<PathBuf>,

            /// print the settings in force as TOML, with where each comes from, and exit
            #[argh(switch)]
            pub print_config: bool,

            $(
                #[doc = $meaning]
                #[argh(option, arg_name = "value")]
                pub $name: Option<String>,
            )+
        }
    };
}

settings! {
    /// where to listen: host:port (an IPv6 address in brackets) or unix: and a path
    listen: Listen = "127.0.0.1:8000";
    /// where only the administrator asks, for backups: an address of the loopback interface or unix: and a path; empty for nowhere
    admin_listen: AdminListen = "";
    /// directory of the journal; made when it is missing
    journal: PathBuf = "./tidewheel.journal";
    /// event loops, each a thread; they share the listening address and the journal
    workers: u32 = "1" in 1..=64;
    /// when an append is answered: after its sync (immediate), or at once with a sync within this time (50ms) or whenever the system likes (none)
    durability: Durability = "immediate";
    /// how to ask the kernel: uring, epoll, or auto, which takes uring where it is allowed
    io: IoChoice = "auto";
    /// a stream with nothing to say sends a comment after this long
    keepalive_interval: Duration = "15s" in 10 * MILLISECOND..=HOUR;
    /// a subscriber that acknowledges nothing for this long is closed
    client_timeout: Duration = "60s" in 100 * MILLISECOND..=HOUR;
    /// how long streams ask their clients to wait before they reconnect
    retry: Duration = "3s" in MILLISECOND..=HOUR;
    /// longest wait that a refused stream asks of its client
    reconnect_backoff_max: Duration = "30s" in MILLISECOND..=HOUR;
    /// on a stop signal, how long to serve on as if nothing had happened, while health/ready says no
    drain_grace: Duration = "0s" in Duration::ZERO..=HOUR;
    /// the time after that over which streams are ended, so that their clients do not all return at once
    drain_window: Duration = "5s" in Duration::ZERO..=HOUR;
    /// a stream is ended after this long, or up to a tenth less or more, so that long-lived clients come back, to another server perhaps; 0s for never
    max_stream_lifetime: Duration = "0s" in Duration::ZERO..=30 * 24 * HOUR;
    /// most connections at one time; 0 is as many as the limit on open files allows
    max_connections: Option<NonZeroU32> = "0";
    /// most connections of one address, and through a trusted proxy most streams; an IPv6 address is its /64; 0 for no limit
    max_connections_per_ip: Option<NonZeroU32> = "0";
    /// most streams of one run; 0 for no limit
    max_connections_per_run: Option<NonZeroU32> = "0";
    /// most streams of one session; 0 for no limit
    max_connections_per_session: Option<NonZeroU32> = "0";
    /// what becomes of a stream that is one more than its run or session may have: refuse it, or `close_oldest` to take it and close the oldest
    over_limit: OverLimit = "refuse";
    /// most new connections in a second, after a burst of as many; 0 for no limit
    accept_rate: Option<NonZeroU32> = "0";
    /// proxies whose X-Forwarded-For or Forwarded is believed: addresses, networks such as 10.0.0.0/8, and unix for whoever comes over a unix: socket
    trusted_proxies: TrustedProxies = "";
    /// largest request body; NDJSON may be of any length
    max_body_bytes: ByteSize = "8MiB" in KIB..=ByteSize(WRITE_QUEUE_BYTES_MAX as u64);
    /// largest event, and longest line of NDJSON; not more than a request body
    max_event_bytes: ByteSize = "1MiB" in KIB..=ByteSize(COMMIT_BYTES_MAX as u64);
    /// a request whose header section takes longer than this is refused
    header_timeout: Duration = "10s" in 10 * MILLISECOND..=HOUR;
    /// a request body of which no byte comes for this long is given up; NDJSON may pause
    body_timeout: Duration = "60s" in 10 * MILLISECOND..=HOUR;
    /// a connection between two requests is closed after this long
    idle_timeout: Duration = "75s" in 10 * MILLISECOND..=HOUR;
    /// most idempotency keys that are kept, for 24 hours each; the oldest go first
    idempotency_keys_max: u32 = "100000" in 1..=10_000_000;
    /// the log of the journal is packed into a window when it has this many bytes; the server takes some twice as much memory meanwhile
    window_bytes: ByteSize = "16MiB" in ByteSize(64 * KIB.0)..=ByteSize(256 * 1024 * KIB.0);
    /// events older than this are removed; 0s keeps them
    max_age: Duration = "0s" in Duration::ZERO..=CENTURY;
    /// the oldest events are removed when there are more bytes of them than this; 0B keeps them
    max_bytes: ByteSize = "0B" in ByteSize(0)..=ByteSize(u64::MAX);
    /// a run keeps so many of its events, the newest; 0 keeps all
    max_events_per_run: Option<NonZeroU32> = "0";
    /// origins whose pages may use the server, comma-separated (a list in the file), or * for any
    cors_origins: CorsOrigins = "";
    /// whether such pages may send cookies and other credentials; not with *
    cors_credentials: bool = "false";
    /// what to log: error, warn, info, debug or trace
    log: LevelFilter = "info";
    /// how lines of the log are written: logfmt (key=value) or json
    log_format: LogFormat = "logfmt";
    /// whether each request is logged when it is answered
    log_requests: bool = "false";
}

/// Where the value of a setting came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The table of settings.
    Default,
    /// This line of the settings file.
    File {
        /// From 1.
        line: usize,
    },
    /// Its environment variable.
    Environment,
    /// Its flag.
    Flag,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file could not be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The settings file is no TOML, or has a key or a value that is not allowed.
    #[error("{}:{line}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An environment variable is unknown or has a value that is not allowed.
    #[error("{variable} in the environment: {reason}")]
    Environment {
        /// Its name.
        variable: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A flag has a value that is not allowed.
    #[error("{flag}: {reason}")]
    Flag {
        /// Its name, with dashes.
        flag: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Relation(String),
}

/// The settings in force, and where each came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    settings: Settings,
    /// One for each of [`SETTINGS`].
    sources: Vec<Source>,
    /// The settings file, when there is one.
    path: Option<PathBuf>,
}

/// Reads the settings from the flags, the file they name, and the environment.
///
/// # Errors
/// [`ConfigError`] for the first thing that is not allowed, also where a later source would have
/// overridden it.
pub fn load(
    flags: &Serve,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Resolved, ConfigError> {
    let mut resolved = Resolved {
        settings: Settings::default(),
        sources: vec![Source::Default; SETTINGS.len()],
        path: flags.config.clone(),
    };
    if let Some(path) = &flags.config {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.clone(), error })?;
        resolved.take_file(path, &text)?;
    }
    resolved.take_environment(environment)?;
    resolved.take_flags(flags)?;
    resolved.check_relations()?;
    Ok(resolved)
}

impl Resolved {
    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings, when nobody asks any more where they came from.
    pub fn into_settings(self) -> Settings {
        self.settings
    }

    /// Where the setting of this name came from.
    pub fn source(&self, name: &str) -> Option<Source> {
        position(name).map(|at| self.sources[at])
    }

    /// A settings file that holds what is in force, each line with where it came from.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for setting in SETTINGS {
            let value = (setting.show)(&self.settings);
            let source = self.describe(setting.name);
            writeln!(out, "{} = {value} # {source}", setting.name)
                .expect("a String takes all that is written to it");
        }
        out
    }

    fn take_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let refuse = |offset: usize, reason: String| ConfigError::File {
            path: path.to_owned(),
            line: line_of(text, offset),
            reason,
        };
        let table: BTreeMap<Spanned<String>, Spanned<toml::Value>> =
            toml::from_str(text).map_err(|error| {
                refuse(error.span().map_or(0, |span| span.start), error.message().to_owned())
            })?;
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let offset = key.span().start;
            let name = key.get_ref();
            let at = position(name)
                .ok_or_else(|| refuse(offset, format!("there is no setting {name:?}")))?;
            (SETTINGS[at].take)(&mut self.settings, Input::Toml(value.get_ref()))
                .map_err(|reason| refuse(offset, format!("{name}: {reason}")))?;
            self.sources[at] = Source::File { line: line_of(text, offset) };
        }
        Ok(())
    }

    fn take_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        for (variable, value) in environment {
            let variable = variable.to_string_lossy().into_owned();
            let Some(rest) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let is_link = is_service_link(rest, &value.to_string_lossy());
            if is_link || ENVIRONMENT_OF_OTHERS.contains(&&*variable) {
                continue;
            }
            let found = SETTINGS.iter().position(|setting| setting.variable() == variable);
            let taken = match (found, value.to_str()) {
                (None, _) => Err("there is no such setting".to_owned()),
                (_, None) => Err("is not UTF-8".to_owned()),
                (Some(at), Some(text)) => {
                    (SETTINGS[at].take)(&mut self.settings, Input::Text(text))
                        .map(|()| self.sources[at] = Source::Environment)
                }
            };
            taken.map_err(|reason| ConfigError::Environment { variable, reason })?;
        }
        Ok(())
    }

    fn take_flags(&mut self, flags: &Serve) -> Result<(), ConfigError> {
        for (setting, source) in SETTINGS.iter().zip(&mut self.sources) {
            let Some(text) = (setting.flag)(flags) else { continue };
            (setting.take)(&mut self.settings, Input::Text(text))
                .map_err(|reason| ConfigError::Flag { flag: setting.flag(), reason })?;
            *source = Source::Flag;
        }
        Ok(())
    }

    /// Refuses settings that are each allowed but do not go together.
    fn check_relations(&self) -> Result<(), ConfigError> {
        let settings = &self.settings;
        if settings.max_event_bytes > settings.max_body_bytes {
            return Err(self.relation("max_event_bytes", "must not exceed", "max_body_bytes"));
        }
        if settings.retry > settings.reconnect_backoff_max {
            return Err(self.relation("retry", "must not exceed", "reconnect_backoff_max"));
        }
        let names_origins = match &settings.cors_origins {
            CorsOrigins::Any => false,
            CorsOrigins::Exact(origins) => !origins.is_empty(),
        };
        if settings.cors_credentials && !names_origins {
            return Err(self.relation(
                "cors_credentials",
                "needs exact origins in",
                "cors_origins",
            ));
        }
        Ok(())
    }

    fn relation(&self, one: &str, verb: &str, other: &str) -> ConfigError {
        let describe = |name: &str| {
            let at = position(name).expect("relations name settings");
            let value = (SETTINGS[at].show)(&self.settings);
            format!("{name} ({value}, {})", self.describe(name))
        };
        ConfigError::Relation(format!("{} {verb} {}", describe(one), describe(other)))
    }

    /// Where a setting came from, in words, on one line.
    fn describe(&self, name: &str) -> String {
        let at = position(name).expect("only settings are described");
        match self.sources[at] {
            Source::Default => "default".to_owned(),
            Source::File { line } => {
                let path = self.path.as_deref().unwrap_or(Path::new("")).display().to_string();
                // A line break in the name would end the comment.
                let path = path.replace(char::is_control, "\u{fffd}");
                format!("file {path}:{line}")
            }
            Source::Environment => format!("environment {}", SETTINGS[at].variable()),
            Source::Flag => format!("flag {}", SETTINGS[at].flag()),
        }
    }
}

fn position(name: &str) -> Option<usize> {
    SETTINGS.iter().position(|setting| setting.name == name)
}

/// The line, from 1, in which the byte at `offset` stands.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Whether a variable is one that Kubernetes and Docker set in every container beside a service
/// whose name starts with `tidewheel`: `…_SERVICE_HOST`, `…_SERVICE_PORT[_name]`,
/// `…_PORT=tcp://…`, `…_PORT_8000_TCP[_ADDR|_PORT|_PROTO]`. To refuse these would keep the server
/// from starting there.
fn is_service_link(rest: &str, value: &str) -> bool {
    let rest = format!("_{rest}");
    let is_numbered_port = || {
        let (_, after) = rest.split_once("_PORT_")?;
        let (number, protocol) = after.split_once('_')?;
        let protocol = protocol.split('_').next()?;
        Some(number.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].contains(&protocol))
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && value.contains("://"))
        || is_numbered_port().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given {
        flags: Serve,
        environment: Vec<(OsString, OsString)>,
        file: Option<tempfile::NamedTempFile>,
    }

    fn given() -> Given {
        Given { flags: Serve::default(), environment: Vec::new(), file: None }
    }

    impl Given {
        fn file(mut self, text: &str) -> Given {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            self.flags.config = Some(file.path().to_owned());
            self.file = Some(file);
            self
        }

        fn variable(mut self, name: &str, value: &str) -> Given {
            self.environment.push((name.into(), value.into()));
            self
        }

        fn flags(mut self, args: &[&str]) -> Given {
            let flags = Serve::from_args(&["tidewheel serve"], args).unwrap();
            self.flags = Serve { config: self.flags.config.take(), ..flags };
            self
        }

        fn load(&self) -> Result<Resolved, ConfigError> {
            load(&self.flags, self.environment.clone())
        }

        fn error(&self) -> String {
            let error = self.load().expect_err("was accepted").to_string();
            let path = self.flags.config.as_ref().map(|path| path.display().to_string());
            path.map_or(error.clone(), |path| error.replace(&path, "FILE"))
        }
    }

    #[test]
    fn every_default_passes_its_own_checks() {
        let mut settings = Settings::default();
        for setting in SETTINGS {
            let taken = (setting.take)(&mut settings, Input::Text(setting.default));
            taken.unwrap_or_else(|reason| panic!("{}: {reason}", setting.name));
        }
        let resolved = given().load().unwrap();
        assert_eq!(*resolved.settings(), Settings::default());
    }

    #[test]
    fn a_later_source_wins() {
        let file = "workers = 2\nretry = \"2s\"\nlog = \"warn\"\n";
        let resolved = given()
            .file(file)
            .variable("TIDEWHEEL_WORKERS", "3")
            .variable("TIDEWHEEL_RETRY", "1s")
            .flags(&["--workers", "4", "--cors-origins", "https://a.example,https://b.example"])
            .load()
            .unwrap();
        let settings = resolved.settings();
        assert_eq!((settings.workers, settings.retry), (4, Duration::from_secs(1)));
        assert_eq!(settings.log, LevelFilter::Warn);
        assert_eq!(resolved.source("workers"), Some(Source::Flag));
        assert_eq!(resolved.source("retry"), Some(Source::Environment));
        assert_eq!(resolved.source("log"), Some(Source::File { line: 3 }));
        assert_eq!(resolved.source("io"), Some(Source::Default));
    }

    #[test]
    fn errors_in_the_file_have_its_line_and_a_reason() {
        let check = |text: &str, expected: &str| assert_eq!(given().file(text).error(), expected);
        check("\n\nworker = 2\n", "FILE:3: there is no setting \"worker\"");
        check("[retention]\nmax_age = \"1h\"", "FILE:1: there is no setting \"retention\"");
        check("workers = 0", "FILE:1: workers: 0 is out of range: 1 to 64");
        check(
            "# how many\nworkers = \"2\"",
            "FILE:2: workers: expected a whole number, found a string \"2\"",
        );
        check(
            "retry = 3",
            "FILE:1: retry: expected a duration such as 15s, 300ms or 24h, found an integer 3",
        );
        check("log = \"loud\"", "FILE:1: log: \"loud\" is not error, warn, info, debug or trace");
        // The first in the file, not in the alphabet.
        check("workers = 65\ndurability = 1", "FILE:1: workers: 65 is out of range: 1 to 64");
        for not_toml in ["workers = 1\nlog", "workers = 1\nworkers = 2", "workers = 1\nlog = loud"]
        {
            let error = given().file(not_toml).error();
            assert!(error.starts_with("FILE:2: "), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let flags = Serve { config: Some("/nowhere/at all".into()), ..Serve::default() };
        let error = load(&flags, []).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at all: "), "{error}");
    }

    #[test]
    fn errors_in_the_environment_have_the_variable() {
        let check = |name: &str, value: &str, expected: &str| {
            assert_eq!(given().variable(name, value).error(), expected);
        };
        check(
            "TIDEWHEEL_WORKERS",
            "many",
            "TIDEWHEEL_WORKERS in the environment: \"many\" is not a whole number",
        );
        check(
            "TIDEWHEEL_WORKER",
            "1",
            "TIDEWHEEL_WORKER in the environment: there is no such setting",
        );
        check(
            "TIDEWHEEL_PORT",
            "80",
            "TIDEWHEEL_PORT in the environment: there is no such setting",
        );
    }

    #[test]
    fn variables_of_others_are_no_settings() {
        let resolved = given()
            .variable("PATH", "/bin")
            .variable("TIDEWHEEL_URL", "http://localhost:8000")
            .variable("TIDEWHEEL_SERVICE_HOST", "10.0.0.1")
            .variable("TIDEWHEEL_SERVICE_PORT", "8000")
            .variable("TIDEWHEEL_SERVICE_PORT_HTTP", "8000")
            .variable("TIDEWHEEL_PORT", "tcp://10.0.0.1:8000")
            .variable("TIDEWHEEL_HEADLESS_PORT_8000_TCP", "tcp://10.0.0.1:8000")
            .variable("TIDEWHEEL_PORT_8000_TCP_ADDR", "10.0.0.1")
            .load()
            .unwrap();
        assert_eq!(*resolved.settings(), Settings::default());
        for setting in SETTINGS {
            assert!(!is_service_link(&setting.name.to_ascii_uppercase(), "tcp://x"));
        }
    }

    #[test]
    fn errors_in_flags_have_the_flag() {
        let error = given().flags(&["--max-body-bytes", "1GiB"]).error();
        assert_eq!(error, "--max-body-bytes: 1GiB is out of range: 1KiB to 64MiB");
        let error = given().flags(&["--client-timeout", "1ms"]).error();
        assert_eq!(error, "--client-timeout: 1ms is out of range: 100ms to 1h");
    }

    #[test]
    fn a_wrong_value_is_refused_even_where_it_is_overridden() {
        let given = given().file("workers = 0").flags(&["--workers", "1"]);
        assert_eq!(given.error(), "FILE:1: workers: 0 is out of range: 1 to 64");
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused_with_where_they_came_from() {
        let one =
            given().file("max_body_bytes = 2048").variable("TIDEWHEEL_MAX_EVENT_BYTES", "4KiB");
        assert_eq!(
            one.error(),
            "max_event_bytes (\"4KiB\", environment TIDEWHEEL_MAX_EVENT_BYTES) must not exceed \
             max_body_bytes (\"2KiB\", file FILE:1)"
        );
        let error = given().flags(&["--retry", "31s"]).error();
        assert!(error.contains("reconnect_backoff_max (\"30s\", default)"), "{error}");
        for origins in ["", "*"] {
            let flags = ["--cors-credentials", "true", "--cors-origins", origins];
            assert!(given().flags(&flags).error().contains("needs exact origins"));
        }
        let flags = ["--cors-credentials", "true", "--cors-origins", "https://a.example"];
        assert!(given().flags(&flags).load().is_ok());
    }

    #[test]
    fn what_is_printed_is_accepted_and_says_the_same() {
        let resolved = given()
            .file("journal = '/tmp/a \"b\" \\ c'\ncors_origins = [\"https://a.example\"]")
            .variable("TIDEWHEEL_DURABILITY", "50ms")
            .variable("TIDEWHEEL_MAX_EVENT_BYTES", "123457")
            .flags(&["--listen", "[::1]:0", "--idle-timeout", "90s 5ms"])
            .load()
            .unwrap();
        let printed = resolved.to_toml();
        let again = given().file(&printed).load().unwrap();
        assert_eq!(again.settings(), resolved.settings());
        assert!(printed.contains("workers = 1 # default\n"), "{printed}");
        assert!(printed.contains(":2\n"), "{printed}");
        assert!(printed.contains(" # environment TIDEWHEEL_DURABILITY\n"), "{printed}");
        assert!(printed.contains(" # flag --listen\n"), "{printed}");
        assert_eq!(printed.lines().count(), SETTINGS.len());
    }

    #[test]
    fn flags_are_named_after_their_settings() {
        for setting in SETTINGS {
            let flags = Serve::from_args(&["tidewheel serve"], &[&setting.flag(), "x"]).unwrap();
            assert_eq!((setting.flag)(&flags), Some("x"));
        }
    }
}
