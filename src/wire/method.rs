//! The words of a request line: its method and its version.

use super::refusal::Refusal;

/// A request method (RFC 9110 §9), case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// Any other token, that no route here answers.
    Other(String),
}

impl Method {
    /// As it was sent.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other(name) => name,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Method, Refusal> {
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            return Err(Refusal::malformed("the method is not a token"));
        }
        Ok(match text {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => Method::Other(text.to_owned()),
        })
    }
}

/// The version of a request. A minor version above 1 counts as 1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

impl Version {
    pub(super) fn parse(text: &str) -> Result<Version, Refusal> {
        match text.as_bytes() {
            b"HTTP/1.0" => Ok(Version::Http10),
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                if *major == b'1' {
                    Ok(Version::Http11)
                } else {
                    Err(Refusal::new(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"))
                }
            }
            _ => Err(Refusal::malformed("the request line does not end in an HTTP version")),
        }
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
