//! The mark that every published event carries, so that its reader can check and time it.
//!
//! ```text
//! ~lt:1f3a9c04:7:0:42:5b1c2d3e4f~
//!     token    │ │ │  └ when it was due, nanoseconds of CLOCK_MONOTONIC, hexadecimal
//!              │ │ └ number of the event, 1, 2, 3 … of this writer on this stream
//!              │ └ writer: a connection that publishes
//!              └ stream
//! ```
//!
//! Servers wrap what is published in ways of their own: in an object, an array of several, split
//! over lines. The mark holds nothing that JSON or Server-Sent Events escape, so it is found by
//! looking for `~lt:` in the bytes of the event, whatever is around it. An id of the server cannot
//! serve instead: some count over all streams, some are no numbers, some do not exist.

use std::{io::Write, sync::LazyLock};

use memchr::memmem::Finder;

const BEGIN: &[u8] = b"~lt:";
const END: u8 = b'~';

/// What an event's mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Names the measurement: events of another one are not counted.
    pub token: u32,
    /// Number of the stream, from 0.
    pub stream: u32,
    /// Number of the connection that published it, from 0.
    pub writer: u32,
    /// 1, 2, 3 … of this writer on this stream.
    pub number: u32,
    /// When the publish was due, in nanoseconds of the machine's monotonic clock.
    pub due_ns: u64,
}

impl Marker {
    /// Appends the mark.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { token, stream, writer, number, due_ns } = self;
        write!(out, "~lt:{token:x}:{stream}:{writer}:{number}:{due_ns:x}~")
            .expect("writing to memory does not fail");
    }

    /// Appends a JSON object that holds the mark and is `bytes` long, or as short as it can be.
    pub fn write_payload(&self, bytes: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(br#"{"mark":""#);
        self.write(out);
        out.extend_from_slice(br#"","text":""#);
        let padding = bytes.saturating_sub(out.len() - start + 2);
        out.resize(out.len() + padding, b'x');
        out.extend_from_slice(br#""}"#);
    }

    /// Calls `found` for each mark in `data`, in their order.
    pub fn find_each(data: &[u8], mut found: impl FnMut(Self)) {
        // It is looked for in each event of each subscriber, so the search is prepared once.
        static SEARCH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BEGIN));
        let mut rest = data;
        while let Some(at) = SEARCH.find(rest) {
            rest = &rest[at + BEGIN.len()..];
            if let Some((marker, after)) = Self::parse(rest) {
                found(marker);
                rest = after;
            }
        }
    }

    /// A mark whose beginning was passed, and what follows it.
    fn parse(fields: &[u8]) -> Option<(Self, &[u8])> {
        let (token, rest) = number(fields, 16, b':')?;
        let (stream, rest) = number(rest, 10, b':')?;
        let (writer, rest) = number(rest, 10, b':')?;
        let (event, rest) = number(rest, 10, b':')?;
        let (due_ns, rest) = number(rest, 16, END)?;
        let marker = Self {
            token: token.try_into().ok()?,
            stream: stream.try_into().ok()?,
            writer: writer.try_into().ok()?,
            number: event.try_into().ok()?,
            due_ns,
        };
        Some((marker, rest))
    }
}

/// A number of at least one digit, and what follows the byte that must end it.
fn number(bytes: &[u8], radix: u32, end: u8) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte == end && index > 0 {
            return Some((value, &bytes[index + 1..]));
        }
        let digit = (byte as char).to_digit(radix)?;
        value = value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: Marker =
        Marker { token: 0x1f, stream: 7, writer: 0, number: 42, due_ns: u64::MAX };

    fn found(data: &[u8]) -> Vec<Marker> {
        let mut all = Vec::new();
        Marker::find_each(data, |marker| all.push(marker));
        all
    }

    #[test]
    fn a_payload_is_json_of_the_length_asked_for_and_holds_the_mark() {
        for bytes in [0, 60, 100, 1_000] {
            let mut payload = Vec::new();
            MARKER.write_payload(bytes, &mut payload);
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert!(value["mark"].as_str().unwrap().starts_with("~lt:1f:7:0:42:"));
            assert!(bytes < 100 || payload.len() == bytes, "{bytes}: {}", payload.len());
            assert_eq!(found(&payload), [MARKER]);
        }
    }

    #[test]
    fn several_marks_in_one_event_are_found_in_their_order() {
        let mut data = b"[".to_vec();
        for number in 1..=3 {
            Marker { number, ..MARKER }.write_payload(0, &mut data);
            data.push(b',');
        }
        let numbers: Vec<u32> = found(&data).iter().map(|marker| marker.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn what_is_no_mark_is_passed_over() {
        assert_eq!(found(b"~lt:~lt:x~ ~lt:1:2~ ~lt:1f:7:0:42:1:2~ ~lt:"), []);
        let mut data = b"~lt:1:2~lt:".to_vec();
        MARKER.write(&mut data);
        assert_eq!(found(&data), [MARKER]);
    }
}
