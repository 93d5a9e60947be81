//! Where a body's bytes are and where it ends (RFC 9112 §6 and §7), a piece at a time.
//!
//! The state is some bytes and no buffer, as each of the subscribers has one.

/// The framing of a body that is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(State);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    UntilClose,
    /// So many bytes are still to come.
    Sized(u64),
    Chunked(Chunk),
}

/// ```text
/// Size ─▶ Extension ─▶ Data ─▶ DataEnd ─▶ Size …  ─▶ Trailer ─▶ Done
///    └───────────────────┘                             (after a chunk of size 0)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the digits; how many there were, and their value.
    Size(u8, u64),
    /// Between the digits and the end of their line.
    Extension(u64),
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// In a trailer's line; how many bytes it has so far.
    Trailer(u32),
    Done,
}

/// More digits than a chunk size of 64 bits has.
const SIZE_DIGITS_MAX: u8 = 16;

/// A body that breaks its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a broken chunk in the answer")]
pub struct BodyError;

impl Body {
    /// It ends when the connection does.
    pub const fn until_close() -> Self {
        Self(State::UntilClose)
    }

    /// It has so many bytes.
    pub const fn sized(bytes: u64) -> Self {
        Self(State::Sized(bytes))
    }

    /// It comes in chunks.
    pub const fn chunked() -> Self {
        Self(State::Chunked(Chunk::Size(0, 0)))
    }

    /// Whether all of it was read. One that lasts until close never is.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Sized(0) | State::Chunked(Chunk::Done))
    }

    /// Takes the next piece of the body from the front of `input`; none when `input` has no more,
    /// or when the body is done and the rest belongs to the next answer.
    ///
    /// # Errors
    /// When the chunks are not as they should be.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BodyError> {
        match &mut self.0 {
            State::UntilClose => Ok(take(input, u64::MAX).0),
            State::Sized(left) => {
                let (piece, taken) = take(input, *left);
                *left -= taken;
                Ok(piece)
            }
            State::Chunked(chunk) => chunk.next(input),
        }
    }
}

impl Chunk {
    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BodyError> {
        loop {
            if let Self::Data(left) = self {
                let (piece, taken) = take(input, *left);
                *left -= taken;
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                return Ok(piece);
            }
            if *self == Self::Done {
                return Ok(None);
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            *self = self.after(byte)?;
        }
    }

    fn after(&self, byte: u8) -> Result<Self, BodyError> {
        let begun = |size| if size == 0 { Self::Trailer(0) } else { Self::Data(size) };
        match (self, byte) {
            (&Self::Size(digits, size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < SIZE_DIGITS_MAX =>
            {
                let digit = (byte as char).to_digit(16).expect("it was matched as one");
                Ok(Self::Size(digits + 1, size << 4 | u64::from(digit)))
            }
            (&Self::Size(1.., size) | &Self::Extension(size), b'\n') => Ok(begun(size)),
            (&Self::Size(1.., size), b'\r' | b';' | b' ' | b'\t') | (&Self::Extension(size), _) => {
                Ok(Self::Extension(size))
            }
            (Self::DataEnd, b'\r') => Ok(Self::DataEnd),
            (Self::DataEnd, b'\n') => Ok(Self::Size(0, 0)),
            (&Self::Trailer(bytes), b'\r') => Ok(Self::Trailer(bytes)),
            (Self::Trailer(0), b'\n') => Ok(Self::Done),
            (Self::Trailer(_), b'\n') => Ok(Self::Trailer(0)),
            (&Self::Trailer(bytes), _) => Ok(Self::Trailer(bytes.saturating_add(1))),
            _ => Err(BodyError),
        }
    }
}

/// Up to `bytes` from the front, and how many these are; none instead of an empty piece.
fn take<'a>(input: &mut &'a [u8], bytes: u64) -> (Option<&'a [u8]>, u64) {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(length);
    *input = rest;
    ((length > 0).then_some(piece), length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] =
        b"5\r\nhello\r\n1;name=value\r\n \r\n00005 \r\nworld\r\n0\r\nA: b\r\n\r\nHTTP/1.1";

    /// The body and what is left after it, read in pieces of `size`.
    fn read(mut body: Body, bytes: &[u8], size: usize) -> Result<(String, usize), BodyError> {
        let mut text = String::new();
        for (index, piece) in bytes.chunks(size).enumerate() {
            let mut input = piece;
            while let Some(piece) = body.next(&mut input)? {
                text.push_str(str::from_utf8(piece).unwrap());
            }
            if body.is_done() {
                return Ok((text, bytes.len() - index * size - piece.len() + input.len()));
            }
        }
        Ok((text, 0))
    }

    #[test]
    fn chunks_of_any_cut_give_the_same_body() {
        for size in 1..=CHUNKED.len() {
            let (text, left) = read(Body::chunked(), CHUNKED, size).unwrap();
            assert_eq!((text.as_str(), left), ("hello world", 8), "in pieces of {size}");
        }
    }

    #[test]
    fn a_sized_body_ends_after_its_bytes() {
        assert_eq!(read(Body::sized(5), b"helloHTTP", 2).unwrap(), ("hello".into(), 4));
        assert!(Body::sized(0).is_done());
        assert_eq!(read(Body::until_close(), b"all of it", 4).unwrap(), ("all of it".into(), 0));
    }

    #[test]
    fn broken_chunks_are_errors() {
        for broken in ["x\r\n", "\r\n", "-1\r\n", "1\r\nab", "11111111111111111\r\n"] {
            assert_eq!(read(Body::chunked(), broken.as_bytes(), 1), Err(BodyError), "{broken:?}");
        }
    }
}
