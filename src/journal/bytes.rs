//! Numbers, texts and checksums as they stand in what the journal stores.

use xxhash_rust::xxh3::xxh3_64;

use crate::event::Timestamp;

/// Why bytes are no value or row of the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A later version of the program wrote it.
    #[error("it is of format {0}, which is newer than this version of tidewheel knows")]
    Newer(u8),
    /// The bytes have changed since they were written.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum is right and the content makes no sense: not written by this program.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
}

/// XXH3-64 of all before it, little-endian, ends every value and every row.
pub(super) const CHECKSUM_BYTES: usize = 8;

/// Adds the checksum of what is there.
pub(super) fn put_checksum(out: &mut Vec<u8>) {
    let checksum = xxh3_64(out);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// What stands between the version, which must be this one, and a checksum that fits.
pub(super) fn checked(stored: &[u8], version: u8) -> Result<Bytes<'_>, DecodeError> {
    // The version comes first, since another one may have another checksum.
    match stored.first() {
        None => return Err(DecodeError::Malformed("it is empty")),
        Some(&found) if found == version => {}
        Some(0) => return Err(DecodeError::Malformed("there is no format 0")),
        Some(&found) => return Err(DecodeError::Newer(found)),
    }
    let (content, checksum) =
        stored.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Checksum)?;
    if xxh3_64(content).to_le_bytes() != *checksum {
        return Err(DecodeError::Checksum);
    }
    content.get(1..).map(Bytes).ok_or(DecodeError::Checksum)
}

/// What is left to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.0.split_first().ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(*array)
    }

    /// The next so many bytes.
    pub(super) fn take(&mut self, length: u64) -> Result<Bytes<'a>, DecodeError> {
        let length = usize::try_from(length).map_err(|_| ENDS_EARLY)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(Bytes(taken))
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a number beyond 2^64"))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.varint()?;
        str::from_utf8(self.take(length)?.0)
            .map_err(|_| DecodeError::Malformed("a text that is not UTF-8"))
    }
}

const ENDS_EARLY: DecodeError = DecodeError::Malformed("it ends in the middle of a record");

/// Seven bits a byte, least first; the high bit says that another follows. At most 10 bytes.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The way from one time to another, small whichever direction it has: 0, -1, 1, -2 … are 0, 1,
/// 2, 3 …
pub(super) fn zigzag(from: Timestamp, to: Timestamp) -> u64 {
    let difference = to.0.wrapping_sub(from.0).cast_signed();
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

pub(super) fn unzigzag(from: u64, way: u64) -> u64 {
    let difference = (way >> 1).cast_signed() ^ -((way & 1).cast_signed());
    from.wrapping_add_signed(difference)
}
