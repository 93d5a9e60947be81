//! The little HTTP there is: where a request ends, and what an event looks like.

/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a subscriber gets at once.
pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n";
/// What a publisher gets when its lines are in the outbox.
pub const ACCEPTED: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A request, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `GET`.
    Subscribe,
    /// `POST`, with its body.
    Publish(&'a [u8]),
}

/// Neither `GET` nor `POST`, or longer than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The request at the beginning of these bytes, and how many of them it takes; nothing while it
/// is incomplete.
///
/// # Errors
/// When it can be no request that is served.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Refused> {
    let Some(head_length) = memchr::memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4) else {
        return if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(Refused) };
    };
    let (head, rest) = bytes.split_at(head_length);
    if head.starts_with(b"GET ") {
        return Ok(Some((Request::Subscribe, head_length)));
    }
    if !head.starts_with(b"POST ") {
        return Err(Refused);
    }
    let length = content_length(head).filter(|length| *length <= BODY_BYTES_MAX).ok_or(Refused)?;
    Ok(rest.get(..length).map(|body| (Request::Publish(body), head_length + length)))
}

fn content_length(head: &[u8]) -> Option<usize> {
    let name = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    })?;
    std::str::from_utf8(&line[name.len()..]).ok()?.trim().parse().ok()
}

/// Appends an event for each line of a body, and counts `last_id` up.
pub fn encode(body: &[u8], last_id: &mut u64, events: &mut Vec<u8>) {
    for line in body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end) {
        if line.is_empty() {
            continue;
        }
        *last_id += 1;
        events.extend_from_slice(b"id: ");
        events.extend_from_slice(last_id.to_string().as_bytes());
        events.extend_from_slice(b"\ndata: ");
        events.extend_from_slice(line);
        events.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &[u8] = b"POST /streams/a HTTP/1.1\r\ncontent-length: 5\r\n\r\na\r\nb\n";

    #[test]
    fn a_request_that_comes_byte_by_byte_is_complete_at_its_last_byte() {
        for length in 0..POST.len() {
            assert_eq!(parse(&POST[..length]), Ok(None));
        }
        let whole = Ok(Some((Request::Publish(b"a\r\nb\n"), POST.len())));
        assert_eq!(parse(POST), whole);
        assert_eq!(parse(&[POST, POST].concat()), whole);
    }

    #[test]
    fn what_is_neither_get_nor_post_is_refused() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\n"), Ok(Some((Request::Subscribe, 18))));
        assert_eq!(parse(b"PUT / HTTP/1.1\r\n\r\n"), Err(Refused));
        assert_eq!(parse(b"POST / HTTP/1.1\r\n\r\n"), Err(Refused));
        assert_eq!(parse(&[b'x'; HEAD_BYTES_MAX]), Err(Refused));
    }

    #[test]
    fn each_line_is_an_event_with_the_next_number() {
        let (mut last_id, mut events) = (41, Vec::new());
        encode(b"a\r\n\nb", &mut last_id, &mut events);
        assert_eq!(events, b"id: 42\ndata: a\n\nid: 43\ndata: b\n\n");
        assert_eq!(last_id, 43);
    }
}
