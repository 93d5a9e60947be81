//! The head of an answer (RFC 9112 §4), read as far as a load tester needs it.

use crate::http::Body;

/// More headers than this are an error.
const HEADERS_MAX: usize = 64;
/// A longer head is an error.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// For instance 200.
    pub status: u16,
    /// How its body ends.
    pub body: Body,
    /// The media type without its parameters, in lower case; empty without the header.
    pub media_type: String,
    /// Whether the connection is of use after this answer.
    pub keeps_alive: bool,
    /// How many bytes the head took.
    pub bytes: usize,
}

/// Why something is no head of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It breaks the grammar.
    #[error("not an HTTP answer: {0}")]
    Malformed(httparse::Error),
    /// It is beyond what is accepted.
    #[error("the head of the answer is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// Its body could end in more than one place.
    #[error("the answer's Content-Length is {0:?}")]
    BadLength(String),
}

impl Head {
    /// Reads a head from the beginning of `bytes`; none while it is incomplete. An answer to
    /// `HEAD` is not provided for.
    ///
    /// # Errors
    /// When it is no head, or one that is too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(used) = answer.parse(bytes).map_err(HeadError::Malformed)?
        else {
            return if bytes.len() > HEAD_BYTES_MAX { Err(HeadError::TooLong) } else { Ok(None) };
        };
        let status = answer.code.unwrap_or_default();
        let mut length = None;
        let mut chunked = false;
        let mut media_type = String::new();
        let mut keeps_alive = answer.version == Some(1);
        for header in answer.headers.iter() {
            let value = String::from_utf8_lossy(header.value).trim().to_ascii_lowercase();
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    length = Some(value.parse().map_err(|_| HeadError::BadLength(value))?);
                }
                "transfer-encoding" => chunked = value.ends_with("chunked"),
                "connection" if value.contains("close") => keeps_alive = false,
                "connection" if value.contains("keep-alive") => keeps_alive = true,
                "content-type" => {
                    value.split(';').next().unwrap_or_default().trim().clone_into(&mut media_type);
                }
                _ => {}
            }
        }
        // RFC 9112 §6.3
        let body = match (status, chunked, length) {
            (100..200 | 204 | 304, ..) => Body::sized(0),
            (_, true, _) => Body::chunked(),
            (_, false, Some(length)) => Body::sized(length),
            (_, false, None) => Body::until_close(),
        };
        keeps_alive &= body != Body::until_close();
        Ok(Some(Self { status, body, media_type, keeps_alive, bytes: used }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        for end in 0..text.len() {
            assert_eq!(Head::parse(&text.as_bytes()[..end]), Ok(None), "{end} bytes of {text:?}");
        }
        Head::parse(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn the_framing_follows_from_status_and_headers() {
        let stream =
            head("HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\n");
        assert_eq!((stream.status, stream.media_type.as_str()), (200, "text/event-stream"));
        assert_eq!((stream.body, stream.keeps_alive), (Body::until_close(), false));
        let chunked = head("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!((chunked.body, chunked.keeps_alive), (Body::chunked(), true));
        let sized = head("HTTP/1.1 201 Created\r\nContent-Length: 17\r\nConnection: close\r\n\r\n");
        assert_eq!((sized.body, sized.keeps_alive), (Body::sized(17), false));
        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n").body, Body::sized(0));
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n").keeps_alive);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(matches!(Head::parse(b"SSH-2.0-OpenSSH\r\n"), Err(HeadError::Malformed(_))));
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n";
        assert_eq!(Head::parse(length), Err(HeadError::BadLength("many".into())));
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(Head::parse(endless.as_bytes()), Err(HeadError::TooLong));
    }
}
