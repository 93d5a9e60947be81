//! What a setting may hold: each kind of value, how it is read and how it is written.
//!
//! A value has one syntax as text, which flags, the environment and the table of defaults share.
//! In TOML it is a string in that syntax, or the integer, boolean or list that TOML has for it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use log::LevelFilter;

use crate::client_address::TrustedProxies;

/// Longest path of a Unix socket, in bytes: `sun_path` has 108 with the NUL at its end (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;
/// Longest host name, in bytes (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// The intervals between syncs that [`Durability::Interval`] allows.
const SYNC_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_mins(1);

/// A kind of value that settings have.
pub trait Value: Sized {
    /// What is expected, for messages: "a duration such as 15s".
    const EXPECTED: &'static str;

    /// Reads the value from the text of a flag, an environment variable or a default.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads the value from a settings file.
    ///
    /// # Errors
    /// Says what is wrong with the value.
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            other => Err(wrong_type::<Self>(other)),
        }
    }

    /// The value as text, which [`Value::from_text`] reads back.
    fn to_text(&self) -> String;

    /// The value for a settings file, which [`Value::from_toml`] reads back.
    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_text())
    }
}

fn wrong_type<T: Value>(found: &toml::Value) -> String {
    format!("expected {}, found {} {found}", T::EXPECTED, article(found.type_str()))
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn not_a<T: Value>(text: &str) -> String {
    format!("{text:?} is not {}", T::EXPECTED)
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address. The host is a name or an IP address, without the brackets of IPv6, as
    /// `(host, port)` of [`std::net::ToSocketAddrs`] takes it.
    Tcp {
        /// Name or address.
        host: String,
        /// 0 lets the system choose.
        port: u16,
    },
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "{host}:{port}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Value for Listen {
    const EXPECTED: &'static str = "host:port, [address]:port or unix:/path";

    fn from_text(text: &str) -> Result<Listen, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("unix: needs the path of a socket after it".to_owned()),
                1..=UNIX_PATH_BYTES_MAX if !path.contains('\0') => Ok(Listen::Unix(path.into())),
                _ => Err(format!(
                    "{text:?} is not the path of a socket: at most {UNIX_PATH_BYTES_MAX} bytes, \
                     none of them NUL"
                )),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| not_a::<Listen>(text))?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| format!("{port:?} is not a port from 0 to 65535"))?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            // A zone (`fe80::1%eth0`) is only known to the system's own parser of addresses.
            Some(address) if address.contains('%') => {
                text.parse::<SocketAddr>().map(|_| address).map_err(|_| not_a::<Listen>(text))?
            }
            Some(address) => address
                .parse::<Ipv6Addr>()
                .map(|_| address)
                .map_err(|_| format!("{address:?} is not an IPv6 address"))?,
            None if is_host_name(host) => host,
            None if host.contains(':') => {
                return Err(format!("{text:?} needs brackets around the IPv6 address"));
            }
            None => return Err(not_a::<Listen>(text)),
        };
        Ok(Listen::Tcp { host: host.to_owned(), port })
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// Where the server listens for what only its administrator may do; nowhere when it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminListen(pub Option<Listen>);

impl Value for AdminListen {
    const EXPECTED: &'static str = "127.0.0.1:port, unix:/path or nothing";

    fn from_text(text: &str) -> Result<AdminListen, String> {
        if text.is_empty() {
            return Ok(AdminListen(None));
        }
        let listen = Listen::from_text(text)?;
        let is_here = match &listen {
            Listen::Unix(_) => true,
            Listen::Tcp { host, .. } => {
                host == "localhost"
                    || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        if is_here {
            Ok(AdminListen(Some(listen)))
        } else {
            Err(format!(
                "{text:?} can be reached from elsewhere: give a loopback address or unix:/path"
            ))
        }
    }

    fn to_text(&self) -> String {
        self.0.as_ref().map(Listen::to_string).unwrap_or_default()
    }
}

fn is_host_name(host: &str) -> bool {
    (1..=HOST_BYTES_MAX).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_text(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() || text.contains('\0') {
            return Err(not_a::<PathBuf>(text));
        }
        Ok(text.into())
    }

    fn to_text(&self) -> String {
        // Paths of settings come from text that was UTF-8.
        self.display().to_string()
    }
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Result<u32, String> {
        text.parse().map_err(|_| not_a::<u32>(text))
    }

    fn from_toml(value: &toml::Value) -> Result<u32, String> {
        match value {
            toml::Value::Integer(number) => Self::from_text(&number.to_string()),
            other => Err(wrong_type::<u32>(other)),
        }
    }

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Integer(i64::from(*self))
    }
}

/// A bound that 0 takes away.
impl Value for Option<NonZeroU32> {
    const EXPECTED: &'static str = u32::EXPECTED;

    fn from_text(text: &str) -> Result<Self, String> {
        u32::from_text(text).map(NonZeroU32::new)
    }

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        u32::from_toml(value).map(NonZeroU32::new)
    }

    fn to_text(&self) -> String {
        self.map_or(0, NonZeroU32::get).to_text()
    }

    fn to_toml(&self) -> toml::Value {
        self.map_or(0, NonZeroU32::get).to_toml()
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| not_a::<bool>(text))
    }

    fn from_toml(value: &toml::Value) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| wrong_type::<bool>(value))
    }

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as 15s, 300ms or 24h";

    fn from_text(text: &str) -> Result<Duration, String> {
        humantime::parse_duration(text).map_err(|_| not_a::<Duration>(text))
    }

    /// In the largest unit that loses nothing, as one writes it by hand: `75s`, not `1m 15s`.
    fn to_text(&self) -> String {
        let nanoseconds = self.as_nanos();
        let units = [
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
        ];
        match units.iter().find(|(size, _)| nanoseconds > 0 && nanoseconds.is_multiple_of(*size)) {
            Some((size, unit)) => format!("{}{unit}", nanoseconds / size),
            None => humantime::format_duration(*self).to_string(),
        }
    }
}

impl Value for ByteSize {
    const EXPECTED: &'static str = "a size such as 64MiB or a number of bytes";

    fn from_text(text: &str) -> Result<ByteSize, String> {
        text.parse().map_err(|_| not_a::<ByteSize>(text))
    }

    fn from_toml(value: &toml::Value) -> Result<ByteSize, String> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Integer(number) => Self::from_text(&number.to_string()),
            other => Err(wrong_type::<ByteSize>(other)),
        }
    }

    /// In the largest unit that loses nothing, which the crate's own output does not promise.
    fn to_text(&self) -> String {
        let bytes = self.as_u64();
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(size, _)| bytes >= *size && bytes.is_multiple_of(*size)) {
            Some((size, unit)) => format!("{}{unit}", bytes / size),
            None => bytes.to_string(),
        }
    }
}

/// When an append is answered, as far as the disk is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After it is synced: what is answered survives a power cut.
    Immediate,
    /// At once; a sync follows within this time, and a power cut may lose as much.
    Interval(Duration),
    /// At once; the system writes it when it likes.
    None,
}

impl Durability {
    /// What an answer means, in a short sentence.
    pub fn meaning(&self) -> &'static str {
        match self {
            Durability::Immediate => "what is answered or delivered is on disk",
            Durability::Interval(_) => {
                "what is answered or delivered is on disk within this time, and lost if the power is cut before"
            }
            Durability::None => {
                "what is answered or delivered is on disk when the system likes, and lost if the power is cut before"
            }
        }
    }
}

impl Value for Durability {
    const EXPECTED: &'static str = "immediate, none or a duration such as 50ms";

    fn from_text(text: &str) -> Result<Durability, String> {
        match text {
            "immediate" => Ok(Durability::Immediate),
            "none" => Ok(Durability::None),
            _ => {
                let interval =
                    humantime::parse_duration(text).map_err(|_| not_a::<Durability>(text))?;
                check_range(&interval, &SYNC_INTERVALS)?;
                Ok(Durability::Interval(interval))
            }
        }
    }

    fn to_text(&self) -> String {
        match self {
            Durability::Immediate => "immediate".to_owned(),
            Durability::Interval(interval) => interval.to_text(),
            Durability::None => "none".to_owned(),
        }
    }
}

/// What the server asks the kernel with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoChoice {
    /// `io_uring` where it is allowed, otherwise epoll and a warning.
    Auto,
    /// `io_uring`, or no start.
    Uring,
    /// epoll.
    Epoll,
}

impl Value for IoChoice {
    const EXPECTED: &'static str = "auto, uring or epoll";

    fn from_text(text: &str) -> Result<IoChoice, String> {
        match text {
            "auto" => Ok(IoChoice::Auto),
            "uring" => Ok(IoChoice::Uring),
            "epoll" => Ok(IoChoice::Epoll),
            _ => Err(not_a::<IoChoice>(text)),
        }
    }

    fn to_text(&self) -> String {
        match self {
            IoChoice::Auto => "auto",
            IoChoice::Uring => "uring",
            IoChoice::Epoll => "epoll",
        }
        .to_owned()
    }
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value`, for people and for most collectors.
    Logfmt,
    /// An object a line.
    Json,
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "logfmt or json";

    fn from_text(text: &str) -> Result<LogFormat, String> {
        match text {
            "logfmt" => Ok(LogFormat::Logfmt),
            "json" => Ok(LogFormat::Json),
            _ => Err(not_a::<LogFormat>(text)),
        }
    }

    fn to_text(&self) -> String {
        match self {
            LogFormat::Logfmt => "logfmt",
            LogFormat::Json => "json",
        }
        .to_owned()
    }
}

impl Value for LevelFilter {
    const EXPECTED: &'static str = "error, warn, info, debug or trace";

    fn from_text(text: &str) -> Result<LevelFilter, String> {
        match text {
            "error" => Ok(LevelFilter::Error),
            "warn" => Ok(LevelFilter::Warn),
            "info" => Ok(LevelFilter::Info),
            "debug" => Ok(LevelFilter::Debug),
            "trace" => Ok(LevelFilter::Trace),
            _ => Err(not_a::<LevelFilter>(text)),
        }
    }

    fn to_text(&self) -> String {
        self.as_str().to_ascii_lowercase()
    }
}

/// A web origin exactly as a browser sends it: scheme, host and, unless it is the scheme's own,
/// port (RFC 6454 §6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin(Box<str>);

impl WebOrigin {
    /// Checks `text` and makes it an origin.
    ///
    /// # Errors
    /// When no browser would send it like this.
    pub fn new(text: &str) -> Result<WebOrigin, String> {
        let refuse = |reason: &str| Err(format!("{text:?} is not an origin: {reason}"));
        if text == "null" {
            return refuse("any sandboxed page or file can send it");
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return refuse("browsers send it in lower case");
        }
        let Some((scheme, authority)) = text.split_once("://") else {
            return refuse("it starts with a scheme, such as https://");
        };
        let scheme_allows = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_lowercase())
            || !scheme.bytes().all(scheme_allows)
        {
            return refuse("its scheme is not one");
        }
        if authority.contains(['/', '?', '#']) {
            return refuse("it ends after the host and port, without a slash");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host_is_valid = match address {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        if !host_is_valid {
            return refuse("its host is not one");
        }
        let default_port = match scheme {
            "http" | "ws" => "80",
            "https" | "wss" => "443",
            _ => "",
        };
        match port {
            Some(port) if port == default_port => refuse("browsers leave this port out"),
            Some(port) if port.starts_with(['0', '+']) || port.parse::<u16>().is_err() => {
                refuse("its port is not one")
            }
            _ => Ok(WebOrigin(text.into())),
        }
    }

    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which pages of other origins may use the server (CORS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Pages of any origin: `*`.
    Any,
    /// Pages of these origins; of none when it is empty.
    Exact(Vec<WebOrigin>),
}

impl CorsOrigins {
    fn from_list<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<CorsOrigins, String> {
        let origins: Vec<&str> = origins.into_iter().collect();
        match origins[..] {
            ["*"] => Ok(CorsOrigins::Any),
            _ if origins.contains(&"*") => Err("\"*\" stands alone".to_owned()),
            _ => origins
                .into_iter()
                .map(WebOrigin::new)
                .collect::<Result<_, _>>()
                .map(CorsOrigins::Exact),
        }
    }

    fn as_list(&self) -> Vec<&str> {
        match self {
            CorsOrigins::Any => vec!["*"],
            CorsOrigins::Exact(origins) => origins.iter().map(WebOrigin::as_str).collect(),
        }
    }
}

impl Value for CorsOrigins {
    const EXPECTED: &'static str = "a list of origins or *";

    fn from_text(text: &str) -> Result<CorsOrigins, String> {
        if text.is_empty() {
            return Ok(CorsOrigins::Exact(Vec::new()));
        }
        CorsOrigins::from_list(text.split(',').map(str::trim))
    }

    fn from_toml(value: &toml::Value) -> Result<CorsOrigins, String> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Array(values) => CorsOrigins::from_list(texts::<CorsOrigins>(values)?),
            other => Err(wrong_type::<CorsOrigins>(other)),
        }
    }

    fn to_text(&self) -> String {
        self.as_list().join(",")
    }

    fn to_toml(&self) -> toml::Value {
        self.as_list().into_iter().map(toml::Value::from).collect::<Vec<_>>().into()
    }
}

/// What happens to a stream that is one more than its run or session may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// It is refused.
    Refuse,
    /// It is opened, and the oldest is closed for it.
    CloseOldest,
}

impl Value for OverLimit {
    const EXPECTED: &'static str = "refuse or close_oldest";

    fn from_text(text: &str) -> Result<OverLimit, String> {
        match text {
            "refuse" => Ok(OverLimit::Refuse),
            "close_oldest" => Ok(OverLimit::CloseOldest),
            _ => Err(not_a::<OverLimit>(text)),
        }
    }

    fn to_text(&self) -> String {
        match self {
            OverLimit::Refuse => "refuse",
            OverLimit::CloseOldest => "close_oldest",
        }
        .to_owned()
    }
}

impl Value for TrustedProxies {
    const EXPECTED: &'static str = "a list of addresses, networks such as 10.0.0.0/8, and unix";

    fn from_text(text: &str) -> Result<TrustedProxies, String> {
        if text.is_empty() {
            return Ok(TrustedProxies::default());
        }
        TrustedProxies::from_list(text.split(',').map(str::trim))
    }

    fn from_toml(value: &toml::Value) -> Result<TrustedProxies, String> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Array(values) => {
                TrustedProxies::from_list(texts::<TrustedProxies>(values)?)
            }
            other => Err(wrong_type::<TrustedProxies>(other)),
        }
    }

    fn to_text(&self) -> String {
        self.to_list().join(",")
    }

    fn to_toml(&self) -> toml::Value {
        self.to_list().into_iter().map(toml::Value::from).collect::<Vec<_>>().into()
    }
}

/// The texts in a list of a settings file.
fn texts<T: Value>(values: &[toml::Value]) -> Result<Vec<&str>, String> {
    values.iter().map(|value| value.as_str().ok_or_else(|| wrong_type::<T>(value))).collect()
}

/// Refuses a value outside `range`, which includes both of its ends.
///
/// # Errors
/// Names the value and the range.
pub fn check_range<T: Value + PartialOrd>(
    value: &T,
    range: &std::ops::RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    let (low, high) = (range.start().to_text(), range.end().to_text());
    Err(format!("{} is out of range: {low} to {high}", value.to_text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_and_writes<T: Value + PartialEq + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            let value = T::from_text(text).unwrap();
            assert_eq!(value.to_text(), *text);
            assert_eq!(T::from_toml(&value.to_toml()).unwrap(), value);
        }
    }

    fn refuses<T: Value + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(T::from_text(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn listen_is_an_address_or_a_socket() {
        reads_and_writes::<Listen>(&[
            "127.0.0.1:8000",
            "localhost:0",
            "my-host.example.org:65535",
            "[::1]:8000",
            "unix:/run/tidewheel.sock",
            "unix:relative.sock",
        ]);
        refuses::<Listen>(&[
            "",
            "8000",
            ":8000",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:+1",
            "::1:8000",
            "[::1]",
            "[localhost]:8000",
            "http://localhost:8000",
            "a b:1",
            "unix:",
        ]);
        refuses::<Listen>(&[&format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX))]);
    }

    #[test]
    fn administration_listens_on_this_machine_alone() {
        let local =
            ["", "127.0.0.1:8001", "127.1.2.3:0", "[::1]:8001", "localhost:1", "unix:/run/a"];
        reads_and_writes::<AdminListen>(&local);
        refuses::<AdminListen>(&["0.0.0.0:8001", "[::]:8001", "example.org:8001", "8001"]);
    }

    #[test]
    fn listen_keeps_ipv6_addresses_without_brackets() {
        let expected = Listen::Tcp { host: "::1".to_owned(), port: 80 };
        assert_eq!(Listen::from_text("[::1]:80"), Ok(expected));
    }

    #[test]
    fn durations_need_a_unit() {
        reads_and_writes::<Duration>(&["15s", "300ms", "90m", "24h", "0s", "1us", "1s 5us"]);
        assert_eq!(Duration::from_text("24h"), Ok(Duration::from_hours(24)));
        refuses::<Duration>(&["", "15", "s", "-1s", "1 fortnight"]);
        assert!(Duration::from_toml(&toml::Value::Integer(15)).is_err());
    }

    #[test]
    fn sizes_have_a_unit_or_are_bytes() {
        reads_and_writes::<ByteSize>(&["64MiB", "1KiB", "1000", "1025", "2GiB", "0"]);
        assert_eq!(ByteSize::from_text("1MB"), Ok(ByteSize(1_000_000)));
        assert_eq!(ByteSize::from_toml(&toml::Value::Integer(1024)), Ok(ByteSize(1024)));
        assert!(ByteSize::from_toml(&toml::Value::Integer(-1)).is_err());
        refuses::<ByteSize>(&["", "MiB", "-1", "1 furlong"]);
    }

    #[test]
    fn durability_is_a_word_or_an_interval() {
        reads_and_writes::<Durability>(&["immediate", "none", "50ms"]);
        refuses::<Durability>(&["", "always", "0s", "2m", "50"]);
    }

    #[test]
    fn words_are_read_exactly() {
        reads_and_writes::<IoChoice>(&["auto", "uring", "epoll"]);
        reads_and_writes::<LevelFilter>(&["error", "warn", "info", "debug", "trace"]);
        reads_and_writes::<bool>(&["true", "false"]);
        reads_and_writes::<LogFormat>(&["logfmt", "json"]);
        refuses::<LogFormat>(&["", "JSON", "text"]);
        reads_and_writes::<OverLimit>(&["refuse", "close_oldest"]);
        refuses::<OverLimit>(&["", "close-oldest", "Refuse"]);
        refuses::<IoChoice>(&["", "Auto", "kqueue"]);
        refuses::<LevelFilter>(&["", "off", "INFO"]);
        refuses::<bool>(&["", "1", "yes"]);
        assert!(bool::from_toml(&toml::Value::from("true")).is_err());
    }

    #[test]
    fn zero_takes_a_bound_away() {
        reads_and_writes::<Option<NonZeroU32>>(&["0", "100"]);
        assert_eq!(Option::<NonZeroU32>::from_text("0"), Ok(None));
        refuses::<Option<NonZeroU32>>(&["", "-1", "4294967296", "1.5"]);
    }

    #[test]
    fn trusted_proxies_are_addresses_networks_and_unix() {
        reads_and_writes::<TrustedProxies>(&["", "127.0.0.1", "10.0.0.0/8,::1,fd00::/8,unix"]);
        refuses::<TrustedProxies>(&["*", "10.0.0.0/8,", "proxy.example", "10.0.0.1/8"]);
        let list = toml::Value::Array(vec!["::1".into()]);
        assert_eq!(TrustedProxies::from_toml(&list), TrustedProxies::from_text("::1"));
        assert!(TrustedProxies::from_toml(&toml::Value::Array(vec![1.into()])).is_err());
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        reads_and_writes::<CorsOrigins>(&[
            "",
            "*",
            "https://example.org",
            "http://localhost:3000,https://a.example",
            "http://[::1]:8080",
            "tauri://localhost",
        ]);
        refuses::<CorsOrigins>(&[
            "null",
            "example.org",
            "https://example.org/",
            "https://example.org/path",
            "https://Example.org",
            "https://example.org:443",
            "http://example.org:80",
            "http://example.org:0",
            "http://example.org:99999",
            "http://user@example.org",
            "https://",
            "https://*.example.org",
            "*,https://example.org",
            "https://a.example,,https://b.example",
        ]);
        let list = toml::Value::Array(vec!["*".into()]);
        assert_eq!(CorsOrigins::from_toml(&list), Ok(CorsOrigins::Any));
        assert!(CorsOrigins::from_toml(&toml::Value::Array(vec![1.into()])).is_err());
    }
}
