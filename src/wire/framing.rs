//! What the header fields say about the message itself: where its body ends, whether the
//! connection stays, whether the client waits to be asked for the body.
//!
//! The rule is that there is one way to read a request or it is refused (RFC 9112 §6.3): a proxy
//! in front that took the other way would see different requests than this server.

use super::headers::Headers;
use super::method::Version;
use super::refusal::Refusal;

/// Where the body of a request ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither length nor coding: there is no body.
    #[default]
    None,
    /// `Content-Length`.
    Fixed(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the client expects before it sends the body (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing, or it is an HTTP/1.0 request, where the field is to be ignored.
    #[default]
    None,
    /// A `100 Continue`.
    Continue,
    /// Something else: 417.
    Other,
}

/// Reads `Content-Length` and `Transfer-Encoding`.
pub(super) fn body_framing(version: Version, headers: &Headers) -> Result<BodyFraming, Refusal> {
    for name in ["content-length", "transfer-encoding"] {
        if !headers.is_text(name) {
            return Err(Refusal::malformed(format!("{name} is not ASCII")));
        }
    }
    let mut lengths = headers.get_all("content-length");
    let length = lengths.next();
    if lengths.next().is_some() {
        // Also when both say the same: RFC 9112 §6.3 leaves it open, and no client needs it.
        return Err(Refusal::malformed("more than one Content-Length"));
    }
    match (length, headers.contains("transfer-encoding")) {
        (None, false) => Ok(BodyFraming::None),
        (Some(text), false) => content_length(text).map(BodyFraming::Fixed),
        (None, true) => check_codings(version, headers).map(|()| BodyFraming::Chunked),
        (Some(_), true) => Err(Refusal::malformed("both Content-Length and Transfer-Encoding")),
    }
}

/// Digits and nothing else (RFC 9110 §8.6): `str::parse` alone would take a plus sign.
fn content_length(text: &str) -> Result<u64, Refusal> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::malformed("Content-Length is not a decimal number"));
    }
    text.parse().map_err(|_| Refusal::malformed("Content-Length is too large"))
}

/// `chunked`, once and last, is the only coding there is here (RFC 9112 §6.1 and §7).
fn check_codings(version: Version, headers: &Headers) -> Result<(), Refusal> {
    if version == Version::Http10 {
        return Err(Refusal::malformed("Transfer-Encoding in HTTP/1.0"));
    }
    let codings: Vec<&str> = headers.list("transfer-encoding").collect();
    let chunked = codings.iter().position(|coding| coding.eq_ignore_ascii_case("chunked"));
    match (chunked, codings.len()) {
        (_, 0) => Err(Refusal::malformed("an empty Transfer-Encoding")),
        (Some(0), 1) => Ok(()),
        (Some(at), count) if at + 1 < count => {
            Err(Refusal::malformed("chunked is not the last transfer coding"))
        }
        _ => Err(Refusal::new(501, "chunked is the only transfer coding that is known here")),
    }
}

/// Whether the client would send another request on this connection (RFC 9112 §9.3).
pub(super) fn keep_alive(version: Version, headers: &Headers) -> bool {
    let says =
        |option: &str| headers.list("connection").any(|member| member.eq_ignore_ascii_case(option));
    match version {
        Version::Http11 => !says("close"),
        Version::Http10 => says("keep-alive") && !says("close"),
    }
}

/// Reads `Expect`.
pub(super) fn expect(version: Version, headers: &Headers) -> Expect {
    if version == Version::Http10 || !headers.contains("expect") {
        return Expect::None;
    }
    let known = |member: &str| member.eq_ignore_ascii_case("100-continue");
    if headers.is_text("expect") && headers.list("expect").all(known) {
        Expect::Continue
    } else {
        Expect::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    fn framing(fields: &[(&str, &str)]) -> Result<BodyFraming, u16> {
        body_framing(Version::Http11, &headers(fields)).map_err(|refusal| refusal.status)
    }

    #[test]
    fn a_length_is_digits_that_fit() {
        let length = |text| framing(&[("content-length", text)]);
        assert_eq!(length("0"), Ok(BodyFraming::Fixed(0)));
        assert_eq!(length("007"), Ok(BodyFraming::Fixed(7)));
        assert_eq!(length("18446744073709551615"), Ok(BodyFraming::Fixed(u64::MAX)));
        for text in ["", "+5", "-1", "0x5", "5 5", "5, 5", "5.0", "18446744073709551616", "٣"] {
            assert_eq!(length(text), Err(400), "{text}");
        }
    }

    #[test]
    fn chunked_stands_alone() {
        let coding = |text| framing(&[("transfer-encoding", text)]);
        assert_eq!(coding("chunked"), Ok(BodyFraming::Chunked));
        assert_eq!(coding("Chunked"), Ok(BodyFraming::Chunked));
        assert_eq!(coding("chunked, gzip"), Err(400));
        assert_eq!(coding("chunked, chunked"), Err(400));
        assert_eq!(coding(""), Err(400));
        assert_eq!(coding("gzip, chunked"), Err(501));
        assert_eq!(coding("gzip"), Err(501));
        assert_eq!(coding("xchunked"), Err(501));
        assert_eq!(coding("chunked;q=1"), Err(501));
        let two = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(framing(&two), Err(400));
    }

    #[test]
    fn connection_options_decide_keep_alive() {
        let keeps = |version, value: &str| keep_alive(version, &headers(&[("connection", value)]));
        assert!(keep_alive(Version::Http11, &headers(&[])));
        assert!(keeps(Version::Http11, "upgrade, keep-alive"));
        assert!(!keeps(Version::Http11, "upgrade, Close"));
        assert!(!keep_alive(Version::Http10, &headers(&[])));
        assert!(keeps(Version::Http10, "Keep-Alive"));
        assert!(!keeps(Version::Http10, "keep-alive, close"));
    }

    #[test]
    fn expectations_are_known_or_other() {
        let expects = |version, value: &str| expect(version, &headers(&[("expect", value)]));
        assert_eq!(expect(Version::Http11, &headers(&[])), Expect::None);
        assert_eq!(expects(Version::Http11, "100-Continue"), Expect::Continue);
        assert_eq!(expects(Version::Http11, "100-continue, x"), Expect::Other);
        assert_eq!(expects(Version::Http10, "100-continue"), Expect::None);
    }
}
