//! Why a request cannot be taken.

use std::borrow::Cow;

/// A request that the wire turns down before anybody has looked at what it asks for.
///
/// After a refusal nobody can say where the next request would begin, so the connection always
/// ends with the answer: `Connection: close`, then a lingering close (RFC 9112 §9.6).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Refusal {
    /// The status code of the answer: 400, 414, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, in words for the person who wrote the client.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with this status, for this reason.
    pub fn new(status: u16, detail: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, detail: detail.into() }
    }

    /// 400: malformed, or readable in two ways (RFC 9110 §15.5.1).
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(400, detail)
    }
}
