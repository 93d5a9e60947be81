//! The request target: path segments, and the pairs of the query.
//!
//! The path is split before it is decoded, so that `%2F` is a character of a segment and not a
//! boundary (RFC 3986 §2.2). Dot segments are not resolved: clients do that before they send, and
//! nothing here is a file.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use super::method::Method;
use super::refusal::Refusal;

/// The pairs of a query, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The first value with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// Every value with this name, in order.
    pub fn get_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `a=1&b=2`, where `+` is a space, as HTML forms and every client library write it. A name
    /// alone has an empty value.
    fn parse(text: &str) -> Result<Query, Refusal> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(&plus_as_space(name))?, decode(&plus_as_space(value))?))
        });
        pairs.collect::<Result<_, Refusal>>().map(Query)
    }
}

/// A request target that has been taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The path as it was sent.
    pub(super) path: String,
    /// The decoded segments.
    pub(super) segments: Vec<String>,
    /// The decoded query.
    pub(super) query: Query,
}

impl Target {
    /// Takes apart a target of visible ASCII: origin-form, absolute-form, or for OPTIONS `*`
    /// (RFC 9112 §3.2).
    pub(super) fn parse(method: &Method, text: &str) -> Result<Target, Refusal> {
        if text.contains('#') {
            return Err(Refusal::malformed("the request target has a fragment"));
        }
        if text == "*" && *method == Method::Options {
            return Ok(Target { path: "*".into(), segments: vec![], query: Query::default() });
        }
        let local = if text.starts_with('/') { text } else { strip_authority(text)? };
        let (path, query) = local.split_once('?').unwrap_or((local, ""));
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { path: path.to_owned(), segments: segments(path)?, query: Query::parse(query)? })
    }
}

/// What follows the authority of an absolute-form target: a path, a query or nothing.
fn strip_authority(text: &str) -> Result<&str, Refusal> {
    let malformed = || Refusal::malformed("the request target is neither a path nor an http URL");
    let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(malformed());
    }
    let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // An http URL without a host is to be rejected (RFC 9110 §4.2.1).
    if authority.is_empty() || authority.starts_with(':') || !is_host(authority) {
        return Err(Refusal::malformed("the request target has no valid host"));
    }
    Ok(local)
}

/// `/` has no segments, `/a` has one, `/a/` two of which the second is empty.
fn segments(path: &str) -> Result<Vec<String>, Refusal> {
    match path.strip_prefix('/') {
        None | Some("") => Ok(Vec::new()),
        Some(rest) => rest.split('/').map(decode).collect(),
    }
}

fn plus_as_space(text: &str) -> Cow<'_, str> {
    if text.contains('+') { text.replace('+', " ").into() } else { text.into() }
}

/// Decodes the percent escapes of one segment, name or value into UTF-8.
fn decode(text: &str) -> Result<String, Refusal> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return Ok(text.to_owned());
    }
    for (at, _) in text.match_indices('%') {
        match text.as_bytes().get(at + 1..at + 3) {
            Some(b"00") => return Err(Refusal::malformed("the request target has a NUL")),
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {}
            _ => return Err(Refusal::malformed("the request target has a bad percent escape")),
        }
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Refusal::malformed("the request target is not UTF-8 when decoded")),
    }
}

/// Whether this is `uri-host [":" port]`, the value of a Host field (RFC 9110 §7.2). It may be
/// empty there, since a client whose URL has no authority has to send it empty.
pub(super) fn is_host(text: &str) -> bool {
    let (host_is_valid, port) = if let Some(literal) = text.strip_prefix('[') {
        let Some((address, port)) = literal.split_once(']') else { return false };
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (is_reg_name(name), port)
    };
    let port_is_valid = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some("") => true,
        Some(digits) => {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    host_is_valid && port_is_valid
}

/// `reg-name` of RFC 3986 §3.2.2, which an IPv4 address is too.
fn is_reg_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    text.bytes().all(allowed)
        && text.match_indices('%').all(|(at, _)| {
            text.as_bytes()
                .get(at + 1..at + 3)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Target> {
        Target::parse(&Method::Get, text).map_err(|refusal| assert_eq!(refusal.status, 400)).ok()
    }

    fn segments_of(text: &str) -> Vec<String> {
        parse(text).unwrap().segments
    }

    fn pairs_of(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().query.0
    }

    #[test]
    fn a_path_is_split_before_it_is_decoded() {
        assert_eq!(segments_of("/"), [""; 0]);
        assert_eq!(segments_of("/runs"), ["runs"]);
        assert_eq!(segments_of("/runs/"), ["runs", ""]);
        assert_eq!(segments_of("//"), ["", ""]);
        assert_eq!(segments_of("/a%2Fb/%c3%BC+/.."), ["a/b", "ü+", ".."]);
        assert_eq!(parse("/a%2Fb?x").unwrap().path, "/a%2Fb");
    }

    #[test]
    fn a_query_is_pairs_in_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs_of("/?"), []);
        assert_eq!(pairs_of("/?&&"), []);
        assert_eq!(
            pairs_of("/?b=1&a=x%26y+%2B&b=2&c&=d&e=f=g?/"),
            [
                pair("b", "1"),
                pair("a", "x&y +"),
                pair("b", "2"),
                pair("c", ""),
                pair("", "d"),
                pair("e", "f=g?/")
            ]
        );
        let query = parse("/?b=1&b=2").unwrap().query;
        assert_eq!(query.get("b"), Some("1"));
        assert_eq!(query.get_all("b").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("a"), None);
    }

    #[test]
    fn an_absolute_target_is_its_path_and_query() {
        assert_eq!(segments_of("http://h"), [""; 0]);
        assert_eq!(segments_of("HTTP://h:80/a/b"), ["a", "b"]);
        assert_eq!(segments_of("https://[::1]:8000/a"), ["a"]);
        let target = parse("http://h?a=/b").unwrap();
        assert_eq!((target.path.as_str(), target.query.get("a")), ("/", Some("/b")));
        for text in
            ["ftp://h/", "http://", "http:///a", "http://u@h/", "http://:80/", "h:443", "a", "?a"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_asterisk_is_for_options_only() {
        assert_eq!(parse("*"), None);
        let target = Target::parse(&Method::Options, "*").unwrap();
        assert_eq!((target.path.as_str(), target.segments.len()), ("*", 0));
    }

    #[test]
    fn what_does_not_decode_is_refused() {
        for bad in ["%", "%2", "%zz", "%+1", "%00", "%ff", "%c0%af", "%e0%80%af", "%ed%a0%80"] {
            assert_eq!(parse(&format!("/{bad}")), None, "{bad}");
            assert_eq!(parse(&format!("/?a={bad}")), None, "{bad}");
            assert_eq!(parse(&format!("/?{bad}=a")), None, "{bad}");
        }
        assert_eq!(parse("/a#b"), None);
        // Each segment is decoded for itself: half a character cannot go on in the next.
        assert_eq!(parse("/%c3/%bc"), None);
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for host in ["", "a", "a.example:80", "a:", "127.0.0.1:8000", "[::1]", "[::1]:1", "a_b~%41"]
        {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "a b", "a/b", "u@a", "a:b", "a:+1", "a:65536", "a:1:2", "[::1", "[a]", "[::1]a", "::1",
            "%zz", "ü", "a\\b", "a?b", "a#b", "<a>",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
