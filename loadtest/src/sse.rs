//! Server-Sent Events, read as they come (WHATWG HTML §9.2.6).
//!
//! Only whole events are handed out. What has come of the next one is kept in `carry`, which a
//! subscriber owns and which is empty nearly always, since servers write whole events: so a cut
//! in the middle of an event leaves no trace of it, and the cursor is that of the last whole one.

use memchr::{memchr, memchr2, memmem};

use crate::marker::Marker;

/// A longer event ends the connection.
pub const EVENT_BYTES_MAX: usize = 32 << 20;

/// An event, its markers found.
#[derive(Debug, Default)]
pub struct Event<'a> {
    /// Its `id:` if it has one.
    pub id: Option<&'a [u8]>,
    /// Its `event:`, empty without.
    pub name: &'a [u8],
    /// Its last line of `data:`, none if it has none.
    pub data: Option<&'a [u8]>,
}

/// What a stream holds.
pub trait Sink {
    /// A whole event with at least one field, and the marks in its data.
    fn event(&mut self, event: &Event<'_>, markers: &[Marker]);
    /// A comment, which is how most servers keep a connection alive.
    fn comment(&mut self);
}

/// An event longer than [`EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

/// Reads what has come; `carry` holds the unfinished rest from call to call, and `markers` is room
/// to work in.
///
/// # Errors
/// When an event is too long.
pub fn feed(
    carry: &mut Vec<u8>,
    bytes: &[u8],
    markers: &mut Vec<Marker>,
    sink: &mut impl Sink,
) -> Result<(), TooLong> {
    if carry.is_empty() {
        let used = read_events(bytes, markers, sink);
        carry.extend_from_slice(&bytes[used..]);
        return Ok(());
    }
    // An event in many pieces is read again only when a piece could have finished it.
    let may_end = memchr2(b'\n', b'\r', bytes).is_some();
    carry.extend_from_slice(bytes);
    if may_end {
        let used = read_events(carry, markers, sink);
        carry.drain(..used);
    }
    if carry.is_empty() {
        *carry = Vec::new();
    }
    if carry.len() > EVENT_BYTES_MAX { Err(TooLong) } else { Ok(()) }
}

/// Hands out the whole events at the front and says how many bytes they took.
fn read_events(bytes: &[u8], markers: &mut Vec<Marker>, sink: &mut impl Sink) -> usize {
    let mut used = 0;
    let mut at = 0;
    let mut event = Event::default();
    let mut has_field = false;
    let mut comments = 0;
    markers.clear();
    while let Some((line, next)) = line(bytes, at) {
        at = next;
        if !line.is_empty() {
            if line[0] == b':' {
                comments += 1;
            } else {
                has_field = true;
                field(line, &mut event, markers);
            }
            // A comment between two events is whole by itself: not all servers end it with an
            // empty line.
            if !has_field {
                used = at;
                (0..comments).for_each(|_| sink.comment());
                comments = 0;
            }
            continue;
        }
        (0..comments).for_each(|_| sink.comment());
        if has_field {
            sink.event(&event, markers);
        }
        event = Event::default();
        has_field = false;
        comments = 0;
        markers.clear();
        used = at;
    }
    used
}

/// The line that starts at `at`, and where the next one does; none while its end has not come.
/// A CR at the very end may be half of a CRLF, so it waits.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = &bytes[at..];
    let end = memchr(b'\n', rest);
    let upto = end.map_or(rest, |end| &rest[..end]);
    match memchr(b'\r', upto) {
        Some(cr) if Some(cr + 1) == end => Some((&rest[..cr], at + cr + 2)),
        Some(cr) if cr + 1 < rest.len() => Some((&rest[..cr], at + cr + 1)),
        Some(_) => None,
        None => end.map(|end| (&rest[..end], at + end + 1)),
    }
}

fn field<'a>(line: &'a [u8], event: &mut Event<'a>, markers: &mut Vec<Marker>) {
    let colon = memchr(b':', line).unwrap_or(line.len());
    let value = line.get(colon + 1..).unwrap_or_default();
    let value = value.strip_prefix(b" ").unwrap_or(value);
    match &line[..colon] {
        b"data" => {
            event.data = Some(value);
            Marker::find_each(value, |marker| markers.push(marker));
        }
        b"id" if memmem::find(value, b"\0").is_none() => event.id = Some(value),
        b"event" => event.name = value,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id, name, data and the numbers of its marks.
    type SeenEvent = (Option<String>, String, Option<String>, Vec<u32>);

    #[derive(Default)]
    struct Seen {
        events: Vec<SeenEvent>,
        comments: usize,
    }

    impl Sink for Seen {
        fn event(&mut self, event: &Event<'_>, markers: &[Marker]) {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let numbers = markers.iter().map(|marker| marker.number).collect();
            self.events.push((event.id.map(text), text(event.name), event.data.map(text), numbers));
        }

        fn comment(&mut self) {
            self.comments += 1;
        }
    }

    fn read(stream: &[u8], size: usize) -> (Seen, Vec<u8>) {
        let (mut seen, mut carry, mut markers) = (Seen::default(), Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            feed(&mut carry, piece, &mut markers, &mut seen).unwrap();
        }
        (seen, carry)
    }

    #[test]
    fn any_cut_gives_the_same_events() {
        let stream = b"retry: 3000\n\n: keepalive\n\nid: 1\nevent: A\ndata: ~lt:1:0:0:1:0~\n\n\
            id:2\r\ndata:[~lt:1:0:0:2:0~,\r\ndata:~lt:1:0:0:3:0~]\r\n\r\n:\nevent: tail";
        for size in 1..=stream.len() {
            let (seen, carry) = read(stream, size);
            let text = |text: &str| Some(text.to_owned());
            assert_eq!(
                seen.events,
                [
                    (None, String::new(), None, vec![]),
                    (text("1"), "A".into(), text("~lt:1:0:0:1:0~"), vec![1]),
                    (text("2"), String::new(), text("~lt:1:0:0:3:0~]"), vec![2, 3]),
                ],
                "in pieces of {size}"
            );
            assert_eq!(seen.comments, 2);
            assert_eq!(carry, b"event: tail");
        }
    }

    #[test]
    fn an_event_without_its_empty_line_is_not_seen() {
        let (seen, carry) = read(b"id: 7\ndata: x\n", 100);
        assert_eq!((seen.events.len(), carry.as_slice()), (0, b"id: 7\ndata: x\n".as_slice()));
    }

    #[test]
    fn a_lone_carriage_return_ends_a_line() {
        let (seen, _) = read(b"id: 7\rdata: x\r\rid: 8\r", 100);
        assert_eq!(seen.events.len(), 1);
        assert_eq!(seen.events[0].0.as_deref(), Some("7"));
    }
}
