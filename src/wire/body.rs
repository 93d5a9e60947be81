//! The body of a request: what arrived in, its content out (RFC 9112 §6 and §7).
//!
//! The decoder takes everything that belongs to the body, however little, and keeps only a few
//! numbers, so nothing of the body waits in a buffer. How large a body may become is not its
//! business: the caller looks at `out` after each call.
//!
//! ```text
//!   chunked:   5 ; ext CR LF  hello CR LF  0 CR LF  Name : value CR LF  CR LF
//!              └Size └Extension └Data      └Size    └TrailerName        └ complete
//! ```
//!
//! Rejected: taking what RFC 9112 §7.1.1 allows around an extension (white space before the
//! semicolon): nobody sends it, and parsers differ about it.

use super::framing::BodyFraming;
use super::method::is_token_byte;
use super::refusal::Refusal;
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// What one call of [`BodyDecoder::decode`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that belong to the body. All of them unless it is complete.
    pub consumed: usize,
    /// Whether the body has ended.
    pub complete: bool,
}

/// Decodes one body. After a refusal it is of no use any more.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of the chunk line or the trailer section so far.
    line_bytes: usize,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// One of this many bytes that come as they are.
    Fixed(u64),
    /// A digit of a chunk size, or what ends it.
    Size { value: u64, digits: u8 },
    /// Part of a chunk extension, or the CR that ends the line.
    Extension { value: u64 },
    /// The LF of a chunk line.
    SizeLf { value: u64 },
    /// One of this many bytes of a chunk.
    Data(u64),
    /// The CR after them.
    DataCr,
    /// The LF after them.
    DataLf,
    /// The start of a trailer line, or the CR of the last, empty one.
    TrailerStart,
    /// Part of the name of a trailer field.
    TrailerName,
    /// Part of its value.
    TrailerValue,
    /// The LF of a trailer line.
    TrailerLf,
    /// The LF of the empty line.
    LastLf,
    /// No byte of this body.
    Complete,
}

/// Most digits of a chunk size: as many as fill 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

impl BodyDecoder {
    /// A decoder for a body that is framed like this.
    pub fn new(framing: BodyFraming) -> BodyDecoder {
        let state = match framing {
            BodyFraming::None | BodyFraming::Fixed(0) => State::Complete,
            BodyFraming::Fixed(length) => State::Fixed(length),
            BodyFraming::Chunked => State::Size { value: 0, digits: 0 },
        };
        BodyDecoder { state, line_bytes: 0 }
    }

    /// Whether the body has ended.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Takes what belongs to the body from the front of `input`, and appends its content to `out`.
    ///
    /// # Errors
    /// 400 for a chunked body that is not as RFC 9112 §7.1 has it, 431 for a trailer section
    /// longer than `TRAILER_BYTES_MAX`. What was decoded before is in `out` all the same.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Decoded, Refusal> {
        let mut rest = input;
        while let Some(&byte) = rest.first() {
            let used = match self.state {
                State::Complete => break,
                State::Fixed(left) => {
                    let (used, left) = copy(rest, left, out);
                    self.state = if left == 0 { State::Complete } else { State::Fixed(left) };
                    used
                }
                State::Data(left) => {
                    let (used, left) = copy(rest, left, out);
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    used
                }
                _ => {
                    self.state = self.step(byte)?;
                    1
                }
            };
            rest = &rest[used..];
        }
        Ok(Decoded { consumed: input.len() - rest.len(), complete: self.is_complete() })
    }

    /// What comes after this byte, which is none of the content.
    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        let state = match (self.state, byte) {
            (State::Size { digits: 0, .. }, b'\r' | b';') => return Err(bad_size()),
            (State::Size { value, .. } | State::Extension { value }, b'\r') => {
                State::SizeLf { value }
            }
            (State::Size { value, .. }, b';') => State::Extension { value },
            (State::Size { value, digits }, _) => {
                let digit = (byte as char).to_digit(16).ok_or_else(bad_size)?;
                if digits == SIZE_DIGITS_MAX {
                    return Err(bad_size());
                }
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Extension { value }, _) if is_field_byte(byte) => State::Extension { value },
            (State::SizeLf { value: 0 } | State::TrailerLf, b'\n') => State::TrailerStart,
            (State::SizeLf { value }, b'\n') => State::Data(value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::DataCr | State::DataLf, _) => {
                return Err(Refusal::malformed("a chunk is longer than its size"));
            }
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => {
                State::TrailerName
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_field_byte(byte) => State::TrailerValue,
            (State::LastLf, b'\n') => State::Complete,
            _ => return Err(Refusal::malformed("a line of the chunked body is malformed")),
        };
        self.count(state)?;
        Ok(state)
    }

    /// Counts one byte of a chunk line or of the trailer section, and starts again at each new one.
    fn count(&mut self, next: State) -> Result<(), Refusal> {
        let line_has_ended = matches!(self.state, State::SizeLf { .. } | State::DataLf);
        self.line_bytes = if line_has_ended { 0 } else { self.line_bytes + 1 };
        match next {
            State::Extension { .. } if self.line_bytes > CHUNK_LINE_BYTES_MAX => {
                Err(Refusal::malformed("the line before a chunk is too long"))
            }
            State::TrailerStart | State::TrailerName | State::TrailerValue
                if self.line_bytes > TRAILER_BYTES_MAX =>
            {
                Err(Refusal::new(431, "the trailer section is too long"))
            }
            _ => Ok(()),
        }
    }
}

/// Copies what there is of `left` bytes; says how many that were, and how many are left.
fn copy(input: &[u8], left: u64, out: &mut Vec<u8>) -> (usize, u64) {
    let used = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    out.extend_from_slice(&input[..used]);
    (used, left - used as u64)
}

/// What may stand in a field value or an extension: anything but control characters.
fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cold]
fn bad_size() -> Refusal {
    Refusal::malformed("a chunk size is not 1 to 16 hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content and rest of a chunked body, or the status; `None` when it goes on. The same must
    /// come out when it is fed one byte at a time.
    fn chunked(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, u16> {
        let decode_in = |size: usize| {
            let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
            let (mut out, mut used) = (Vec::new(), 0);
            for piece in input.chunks(size) {
                let decoded = decoder.decode(piece, &mut out).map_err(|r| r.status)?;
                used += decoded.consumed;
                if decoded.complete {
                    return Ok(Some((out, input.len() - used)));
                }
                assert_eq!(decoded.consumed, piece.len(), "everything is taken until complete");
            }
            Ok(None)
        };
        let whole = decode_in(input.len().max(1));
        assert_eq!(whole, decode_in(1), "{}", input.escape_ascii());
        whole
    }

    fn content(input: &str) -> String {
        let (content, left) = chunked(input.as_bytes()).unwrap().expect("complete");
        assert_eq!(left, 0);
        String::from_utf8(content).unwrap()
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(content("0\r\n\r\n"), "");
        assert_eq!(content("5\r\nhello\r\n1\r\n \r\n000005\r\nworld\r\n00\r\n\r\n"), "hello world");
        assert_eq!(
            content(&format!("A\r\n0123456789\r\n{}\r\n\r\n", "0".repeat(16))),
            "0123456789"
        );
        assert_eq!(content("2\r\n\r\n\r\n0\r\n\r\n"), "\r\n");
    }

    #[test]
    fn extensions_and_trailers_are_ignored() {
        assert_eq!(content("1;a=\"b c\";d\r\nx\r\n0;\r\n\r\n"), "x");
        assert_eq!(content("1\r\nx\r\n0\r\nA: b\r\nContent-Length:5\r\nC:\r\n\r\n"), "x");
    }

    #[test]
    fn what_follows_the_body_is_left() {
        assert_eq!(chunked(b"1\r\nx\r\n0\r\n\r\nGET"), Ok(Some((b"x".to_vec(), 3))));
        let mut out = Vec::new();
        let mut decoder = BodyDecoder::new(BodyFraming::Fixed(3));
        assert_eq!(decoder.decode(b"ab", &mut out), Ok(Decoded { consumed: 2, complete: false }));
        assert_eq!(decoder.decode(b"cGET", &mut out), Ok(Decoded { consumed: 1, complete: true }));
        assert_eq!(decoder.decode(b"GET", &mut out), Ok(Decoded { consumed: 0, complete: true }));
        assert_eq!(out, b"abc");
    }

    #[test]
    fn no_body_is_complete_at_once() {
        assert!(BodyDecoder::new(BodyFraming::None).is_complete());
        assert!(BodyDecoder::new(BodyFraming::Fixed(0)).is_complete());
        assert!(!BodyDecoder::new(BodyFraming::Chunked).is_complete());
    }

    #[test]
    fn every_beginning_of_a_body_goes_on() {
        let whole = b"3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(chunked(&whole[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for input in [
            "\r\n",
            ";a\r\n",
            "0x5\r\nhello",
            "+5\r\n",
            "-5\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\t\r\n",
            "5 ;a\r\n",
            "g\r\n",
            "5\nhello",
            "5\rhello",
            "5\r\r\n",
            "5;a\nhello",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "00000000000000005\r\nhello",
            "fffffffffffffffff\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\n0\r\n",
            "5\r\nhello\rx",
            "5\r\nhello\r\r",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\nA\r\n",
            "0\r\nA : b\r\n",
            "0\r\n: b\r\n",
            "0\r\n A: b\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\rc",
            "0\r\nA: \0\r\n",
            "0\r\nA: b\r\n c\r\n",
        ] {
            assert_eq!(chunked(input.as_bytes()), Err(400), "{input:?}");
        }
    }

    #[test]
    fn the_largest_size_does_not_overflow() {
        let start = format!("{}\r\nabc", "f".repeat(16));
        assert_eq!(chunked(start.as_bytes()), Ok(None));
    }

    #[test]
    fn lines_and_trailers_have_an_end() {
        let line = |bytes: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(bytes - 2));
        assert_eq!(content(&line(CHUNK_LINE_BYTES_MAX)), "x");
        assert_eq!(chunked(line(CHUNK_LINE_BYTES_MAX + 1).as_bytes()), Err(400));
        let many = "1;ext\r\nx\r\n".repeat(CHUNK_LINE_BYTES_MAX) + "0\r\n\r\n";
        assert_eq!(content(&many), "x".repeat(CHUNK_LINE_BYTES_MAX));
        let trailer = |bytes: usize| format!("0\r\nA:{}\r\n\r\n", "t".repeat(bytes - 4));
        assert_eq!(content(&trailer(TRAILER_BYTES_MAX)), "");
        assert_eq!(chunked(trailer(TRAILER_BYTES_MAX + 1).as_bytes()), Err(431));
        let lines = format!("0\r\n{}", "A:b\r\n".repeat(TRAILER_BYTES_MAX));
        assert_eq!(chunked(lines.as_bytes()), Err(431));
    }

    /// The obvious encoder (RFC 9112 §7.1).
    fn encode(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        ) {
            prop_assert_eq!(chunked(&encode(&chunks)), Ok(Some((chunks.concat(), 0))));
        }

        #[test]
        fn any_bytes_are_read_alike_whole_and_in_pieces(
            input in prop::collection::vec(prop::sample::select(&b"05af;:\r\n\r\n x\0"[..]), 0..40),
        ) {
            let _ = chunked(&input);
        }
    }
}
