//! Backups: a journal as one stream of bytes, and back.
//!
//! ```text
//! magic  header  rows …  values …  end          each a frame: kind, length, content, checksum
//! ```
//!
//! `docs/journal-format.md` has every field. A backup has the rows of the cold part and the values
//! of the log as they are, so it holds what the journal holds: events, runs, keys, producers. It is
//! made in steps, each of which reads the store for milliseconds, window by window; so no read keeps
//! pages of the files from being used again, however slow the one is who takes it. The same bytes
//! come from a server and from a journal at rest, and a stream goes through a pipe, which is why it
//! is no directory of files.
//!
//! Invariants: from the first step to the last nothing is moved and nothing is removed (who makes a
//! backup of a served journal holds its keeper); values above the last id at the first step are left
//! out. A stream without its end is no backup.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::bytes::{Bytes, CHECKSUM_BYTES, put_varint};
use super::catalog::Catalog;
use super::cold::{self, Jump};
use super::store::{Change, JOURNAL_FORMAT, Store, StoreError, Table};
use crate::event::{EventId, Timestamp};
use crate::limits::{BACKUP_FRAME_BYTES, BACKUP_FRAME_BYTES_MAX, RESTORE_COMMIT_BYTES};

/// What a backup begins with.
pub const MAGIC: &[u8; 16] = b"tidewheel backup";
/// The format that this program writes, and the only one that it reads.
const VERSION: u8 = 1;

const KIND_HEADER: u8 = 1;
const KIND_ROWS: u8 = 2;
const KIND_VALUES: u8 = 3;
const KIND_END: u8 = 4;
/// Kind and length of a frame.
const FRAME_HEAD_BYTES: usize = 5;

/// What a backup says of itself at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format of the journal.
    pub format: u64,
    /// The last id that the journal had given out.
    pub last_id: EventId,
    /// When it was made.
    pub made_at: Timestamp,
    /// About how many bytes follow.
    pub bytes: u64,
}

/// What a backup says of itself at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames before the last.
    pub frames: u64,
    /// Rows of the cold part.
    pub rows: u64,
    /// Values of the log.
    pub values: u64,
}

/// Why bytes are no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// They begin in another way.
    #[error("it is no backup of a tidewheel journal")]
    NoBackup,
    /// A later version of the program made it.
    #[error(
        "it is of format {0}, newer than format {VERSION} which this version of tidewheel knows"
    )]
    Newer(u64),
    /// They have changed since they were written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Its end is missing.
    #[error("it is cut off: its end is missing. It is no backup; make another one")]
    CutOff,
}

// ---- writing ------------------------------------------------------------------------------------

/// Makes a backup, step by step.
#[derive(Clone)]
pub struct BackupWriter {
    header: Header,
    moved_through: EventId,
    windows: Vec<EventId>,
    step: Step,
    out: Vec<u8>,
    sum: Xxh3,
    totals: Totals,
}

/// What comes next.
#[derive(Clone, Debug)]
enum Step {
    Header,
    /// Rows of a table, from this key on and below that one; none where there is no bound.
    Rows {
        part: usize,
        from: Vec<u8>,
    },
    /// Values above this one.
    Values(EventId),
    End,
    Over,
}

/// The tables that are copied whole, before what belongs to windows.
const WHOLE: [Table; 6] =
    [Table::State, Table::Windows, Table::Runs, Table::Heads, Table::Keys, Table::Producers];

impl BackupWriter {
    /// Begins, with all that the catalog has taken in by now; of the log there are so many bytes.
    pub fn new(catalog: &Catalog, log_bytes: u64, now: Timestamp) -> BackupWriter {
        let window_bytes: u64 = catalog.windows().iter().map(|window| window.bytes).sum();
        BackupWriter {
            header: Header {
                format: JOURNAL_FORMAT,
                last_id: catalog.last_id(),
                made_at: now,
                bytes: window_bytes + log_bytes,
            },
            moved_through: catalog.moved_through(),
            windows: catalog.windows().iter().map(|window| window.first_id).collect(),
            step: Step::Header,
            out: Vec::new(),
            sum: Xxh3::new(),
            totals: Totals::default(),
        }
    }

    /// What it says of itself.
    pub fn header(&self) -> Header {
        self.header
    }

    /// What it has written so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The next bytes; none when it is complete.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn step(&mut self, store: &dyn Store) -> Result<Option<Vec<u8>>, StoreError> {
        while self.out.len() < BACKUP_FRAME_BYTES {
            self.step = match std::mem::replace(&mut self.step, Step::Over) {
                Step::Header => self.write_header(),
                Step::Rows { part, from } => self.rows(store, part, &from)?,
                Step::Values(after) => self.values(store, after)?,
                Step::End => self.end(),
                Step::Over => break,
            };
        }
        let out = std::mem::take(&mut self.out);
        Ok((!out.is_empty()).then_some(out))
    }

    fn write_header(&mut self) -> Step {
        self.out.extend_from_slice(MAGIC);
        self.sum.update(MAGIC);
        let Header { format, last_id, made_at, bytes } = self.header;
        self.frame(KIND_HEADER, |out| {
            for number in [u64::from(VERSION), format, last_id.0, made_at.0, bytes] {
                put_varint(out, number);
            }
        });
        Step::Rows { part: 0, from: Vec::new() }
    }

    /// The table of a part, and where its keys begin: first the whole ones, then the blocks and the
    /// order of each window. None after the last.
    fn part(&self, part: usize) -> Option<(Table, Option<EventId>)> {
        if let Some(table) = WHOLE.get(part) {
            return Some((*table, None));
        }
        let part = part - WHOLE.len();
        let table = if part.is_multiple_of(2) { Table::Blocks } else { Table::Order };
        self.windows.get(part / 2).map(|window| (table, Some(*window)))
    }

    fn rows(&mut self, store: &dyn Store, part: usize, from: &[u8]) -> Result<Step, StoreError> {
        let Some((table, window)) = self.part(part) else {
            return Ok(Step::Values(self.moved_through));
        };
        let prefix = window.map(|window| cold::key(window.0)).unwrap_or_default();
        let from = if from.is_empty() { &prefix } else { from };
        let mut content = vec![table_code(table)];
        let (mut count, mut next) = (0, None);
        store.rows(table, from, &mut |key, row| {
            if !key.starts_with(&prefix) {
                return ControlFlow::Break(());
            }
            if content.len() >= BACKUP_FRAME_BYTES {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            put_bytes(&mut content, key);
            put_bytes(&mut content, row);
            count += 1;
            ControlFlow::Continue(())
        })?;
        if count > 0 {
            self.totals.rows += count;
            self.frame(KIND_ROWS, |out| out.extend_from_slice(&content));
        }
        Ok(match next {
            Some(from) => Step::Rows { part, from },
            None => Step::Rows { part: part + 1, from: Vec::new() },
        })
    }

    fn values(&mut self, store: &dyn Store, after: EventId) -> Result<Step, StoreError> {
        let upto = self.header.last_id;
        let (mut content, mut count, mut last) = (Vec::new(), 0, after);
        store.scan(after.next(), &mut |key, value| {
            // The one in which `after` lies was copied, or had been moved.
            if key <= after {
                return ControlFlow::Continue(());
            }
            if key > upto || content.len() >= BACKUP_FRAME_BYTES {
                return ControlFlow::Break(());
            }
            put_varint(&mut content, key.0);
            put_bytes(&mut content, value);
            (count, last) = (count + 1, key);
            ControlFlow::Continue(())
        })?;
        if count == 0 {
            return Ok(Step::End);
        }
        self.totals.values += count;
        self.frame(KIND_VALUES, |out| out.extend_from_slice(&content));
        Ok(Step::Values(last))
    }

    fn end(&mut self) -> Step {
        let Totals { frames, rows, values } = self.totals;
        let sum = self.sum.digest();
        self.frame(KIND_END, |out| {
            for number in [frames, rows, values] {
                put_varint(out, number);
            }
            out.extend_from_slice(&sum.to_le_bytes());
        });
        Step::Over
    }

    fn frame(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.push(kind);
        self.out.extend_from_slice(&[0; 4]);
        fill(&mut self.out);
        let length = (self.out.len() - start - FRAME_HEAD_BYTES) as u32;
        self.out[start + 1..start + FRAME_HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
        let checksum = xxh3_64(&self.out[start..]);
        self.out.extend_from_slice(&checksum.to_le_bytes());
        self.sum.update(&self.out[start..]);
        self.totals.frames += u64::from(kind != KIND_END);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A table's number in a backup.
fn table_code(table: Table) -> u8 {
    Table::ALL.iter().position(|other| *other == table).expect("all are in the list") as u8
}

// ---- reading ------------------------------------------------------------------------------------

/// Takes a backup apart as it comes, and checks it.
pub struct BackupReader {
    pending: Vec<u8>,
    /// How far of that was used.
    used: usize,
    has_begun: bool,
    header: Option<Header>,
    sum: Xxh3,
    totals: Totals,
    is_over: bool,
}

/// A part of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The first.
    Header(Header),
    /// Rows of the cold part.
    Rows(Vec<Change>),
    /// Values of the log.
    Values(Vec<(EventId, Vec<u8>)>),
    /// The last: what came before is whole.
    End(Totals),
}

impl Default for BackupReader {
    fn default() -> BackupReader {
        BackupReader {
            pending: Vec::new(),
            used: 0,
            has_begun: false,
            header: None,
            sum: Xxh3::new(),
            totals: Totals::default(),
            is_over: false,
        }
    }
}

impl BackupReader {
    /// Takes more bytes.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.used);
        self.used = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// No more bytes come.
    ///
    /// # Errors
    /// [`BackupError::CutOff`] when the end is missing.
    pub fn handle_eof(&self) -> Result<(), BackupError> {
        if self.is_over { Ok(()) } else { Err(BackupError::CutOff) }
    }

    /// The next part that has come in whole.
    ///
    /// # Errors
    /// When the bytes are no backup, or are damaged.
    pub fn poll_piece(&mut self) -> Result<Option<Piece>, BackupError> {
        let rest = &self.pending[self.used..];
        if self.is_over {
            let surplus = BackupError::Damaged("there is more after its end");
            return if rest.is_empty() { Ok(None) } else { Err(surplus) };
        }
        if !self.has_begun {
            let known = rest.len().min(MAGIC.len());
            if rest[..known] != MAGIC[..known] {
                return Err(BackupError::NoBackup);
            }
            if known < MAGIC.len() {
                return Ok(None);
            }
            self.sum.update(MAGIC);
            self.used += MAGIC.len();
            self.has_begun = true;
            return self.poll_piece();
        }
        let Some((head, _)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        if length > BACKUP_FRAME_BYTES_MAX {
            return Err(BackupError::Damaged("a frame is larger than any may be"));
        }
        let content_end = FRAME_HEAD_BYTES + length;
        let Some(frame) = rest.get(..content_end + CHECKSUM_BYTES) else { return Ok(None) };
        let (checked, checksum) = frame.split_at(content_end);
        if xxh3_64(checked).to_le_bytes() != *checksum {
            return Err(BackupError::Damaged("a checksum does not match"));
        }
        let piece = self.piece(kind, Bytes(&checked[FRAME_HEAD_BYTES..]))?;
        self.sum.update(frame);
        self.used += frame.len();
        self.totals.frames += 1;
        match &piece {
            Piece::Header(header) => self.header = Some(*header),
            Piece::Rows(rows) => self.totals.rows += rows.len() as u64,
            Piece::Values(values) => self.totals.values += values.len() as u64,
            Piece::End(_) => self.is_over = true,
        }
        Ok(Some(piece))
    }

    fn piece(&self, kind: u8, mut rest: Bytes<'_>) -> Result<Piece, BackupError> {
        const MALFORMED: BackupError = BackupError::Damaged("a frame is malformed");
        if (kind == KIND_HEADER) == self.header.is_some() {
            return Err(BackupError::Damaged("its frames are out of order"));
        }
        let number = |rest: &mut Bytes<'_>| rest.varint().map_err(|_| MALFORMED);
        let piece = match kind {
            KIND_HEADER => {
                let version = number(&mut rest)?;
                if version != u64::from(VERSION) {
                    return Err(BackupError::Newer(version));
                }
                Piece::Header(Header {
                    format: number(&mut rest)?,
                    last_id: EventId(number(&mut rest)?),
                    made_at: Timestamp(number(&mut rest)?),
                    bytes: number(&mut rest)?,
                })
            }
            KIND_ROWS => {
                let code = rest.byte().map_err(|_| MALFORMED)?;
                let table = *Table::ALL.get(usize::from(code)).ok_or(MALFORMED)?;
                let mut rows = Vec::new();
                while !rest.0.is_empty() {
                    let key = take_bytes(&mut rest).ok_or(MALFORMED)?;
                    let row = Some(take_bytes(&mut rest).ok_or(MALFORMED)?);
                    rows.push(Change { table, key, row });
                }
                Piece::Rows(rows)
            }
            KIND_VALUES => {
                let mut values = Vec::new();
                while !rest.0.is_empty() {
                    let key = EventId(number(&mut rest)?);
                    values.push((key, take_bytes(&mut rest).ok_or(MALFORMED)?));
                }
                Piece::Values(values)
            }
            KIND_END => {
                let totals = Totals {
                    frames: number(&mut rest)?,
                    rows: number(&mut rest)?,
                    values: number(&mut rest)?,
                };
                let sum = u64::from_le_bytes(rest.array().map_err(|_| MALFORMED)?);
                if totals != self.totals || sum != self.sum.digest() {
                    return Err(BackupError::Damaged("frames are missing from it"));
                }
                Piece::End(totals)
            }
            _ => return Err(MALFORMED),
        };
        if rest.0.is_empty() { Ok(piece) } else { Err(MALFORMED) }
    }
}

fn take_bytes(rest: &mut Bytes<'_>) -> Option<Vec<u8>> {
    let length = rest.varint().ok()?;
    rest.take(length).ok().map(|taken| taken.0.to_vec())
}

// ---- restoring ----------------------------------------------------------------------------------

/// Puts a backup into an empty store.
pub struct Restorer<'a> {
    store: &'a dyn Store,
    last_id: EventId,
    changes: Vec<Change>,
    values: Vec<(EventId, Vec<u8>)>,
    bytes: usize,
}

impl Restorer<'_> {
    /// Into this store.
    pub fn new(store: &dyn Store) -> Restorer<'_> {
        Restorer { store, last_id: EventId(0), changes: Vec::new(), values: Vec::new(), bytes: 0 }
    }

    /// Takes the next part. With the last one ids go on 2^32 higher.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn take(&mut self, piece: Piece) -> Result<(), StoreError> {
        match piece {
            Piece::Header(header) => self.last_id = header.last_id,
            Piece::Rows(rows) => {
                let size = |change: &Change| change.row.as_ref().map_or(0, Vec::len);
                self.bytes += rows.iter().map(size).sum::<usize>();
                self.changes.extend(rows);
            }
            Piece::Values(values) => {
                self.bytes += values.iter().map(|(_, value)| value.len()).sum::<usize>();
                self.values.extend(values);
            }
            Piece::End(_) => {
                self.flush(true)?;
                return go_on_higher(self.store, self.last_id);
            }
        }
        if self.bytes >= RESTORE_COMMIT_BYTES { self.flush(false) } else { Ok(()) }
    }

    fn flush(&mut self, sync: bool) -> Result<(), StoreError> {
        self.bytes = 0;
        self.store.change_rows(&std::mem::take(&mut self.changes))?;
        self.store.append(&std::mem::take(&mut self.values), sync)
    }
}

/// From now on ids go on 2^32 above this one, the last that was given out.
///
/// # Errors
/// When the storage fails.
pub fn go_on_higher(store: &dyn Store, last_id: EventId) -> Result<(), StoreError> {
    let (_, mut jumps) = cold::state(store)?;
    match jumps.last_mut() {
        // Nothing was written since the last one: what somebody has written elsewhere is above it.
        Some(last) if last.next > last_id => last.next = Jump::from(last.next).next,
        _ => jumps.push(Jump::from(last_id)),
    }
    store.change_rows(&[cold::jumps_change(&jumps)])
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::journal::commit::Committer;
    use crate::journal::fixture::{self, Journal};
    use crate::journal::memory::MemoryStore;
    use crate::journal::model::seeded;
    use crate::journal::verify::{Readable, Told, verify};

    fn backup(journal: &Journal) -> Vec<u8> {
        let mut writer = BackupWriter::new(&journal.catalog.read().unwrap(), 0, Timestamp(1));
        let mut bytes = Vec::new();
        while let Some(step) = writer.step(&journal.store).unwrap() {
            bytes.extend(step);
        }
        bytes
    }

    /// Everything, given in pieces of these sizes.
    fn read(
        bytes: &[u8],
        mut size: impl FnMut() -> usize,
        mut take: impl FnMut(Piece),
    ) -> Result<(), BackupError> {
        let mut reader = BackupReader::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(size().min(rest.len()));
            reader.handle_bytes(piece);
            rest = after;
            while let Some(piece) = reader.poll_piece()? {
                take(piece);
            }
        }
        reader.handle_eof()
    }

    fn restore(bytes: &[u8]) -> Result<MemoryStore, BackupError> {
        let store = MemoryStore::default();
        let mut restorer = Restorer::new(&store);
        read(bytes, || 1_000, |piece| restorer.take(piece).unwrap())?;
        Ok(store)
    }

    #[test]
    fn what_is_restored_is_what_was_there() {
        let mut rng = seeded();
        for _ in 0..30 {
            let journal = Journal::random(&mut rng);
            let restored = restore(&backup(&journal)).unwrap();
            let both = Readable { log: true, cold: true };
            verify(&restored, both, &mut |told| {
                if let Told::Problem(problem) = told {
                    panic!("{problem:?}");
                }
            });
            let opened = Committer::open(&restored, fixture::KEYS_MAX).unwrap();
            let before = Committer::open(&journal.store, fixture::KEYS_MAX).unwrap();
            let last_id = before.catalog.last_id();
            assert_eq!(opened.catalog.last_id(), last_id);
            assert_eq!(opened.catalog.next_id().0, last_id.0 + (1 << 32));
            assert_eq!(opened.catalog.next_run(), before.catalog.next_run());
            assert_eq!(opened.committer.once(), before.committer.once());
            assert_eq!(
                fixture::shown(&restored, &opened.catalog),
                fixture::shown(&journal.store, &before.catalog)
            );
        }
    }

    #[test]
    fn what_is_written_after_the_first_step_is_left_out() {
        let mut journal = Journal::small();
        let expected = backup(&journal);
        let mut writer = BackupWriter::new(&journal.catalog.read().unwrap(), 0, Timestamp(1));
        journal.write([fixture::append(1, 3, crate::journal::Once::No)]);
        let mut bytes = Vec::new();
        while let Some(step) = writer.step(&journal.store).unwrap() {
            bytes.extend(step);
        }
        assert!(bytes == expected);
    }

    #[test]
    fn it_may_come_byte_by_byte_and_in_any_pieces() {
        let mut rng = seeded();
        let bytes = backup(&Journal::random(&mut rng));
        let collect = |size: &mut dyn FnMut() -> usize| {
            let mut pieces = Vec::new();
            read(&bytes, size, |piece| pieces.push(piece)).unwrap();
            pieces
        };
        let whole = collect(&mut || usize::MAX);
        assert!(matches!(whole[..], [Piece::Header(_), .., Piece::End(_)]));
        assert_eq!(collect(&mut || 1), whole);
        assert_eq!(collect(&mut || rng.random_range(1..500)), whole);
    }

    #[test]
    fn one_that_is_cut_off_anywhere_is_refused() {
        let bytes = backup(&Journal::small());
        for end in 0..bytes.len() {
            assert_eq!(restore(&bytes[..end]).err(), Some(BackupError::CutOff), "{end}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(restore(&longer).err(), Some(BackupError::Damaged(_))));
    }

    #[test]
    fn one_that_is_changed_anywhere_is_refused() {
        let bytes = backup(&Journal::small());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(restore(&changed).is_err(), "{at}");
        }
        // Whole frames are there twice, or not at all.
        let frames = frames(&bytes);
        assert!(frames.len() > 4);
        for at in 0..frames.len() {
            let mut without = frames.clone();
            let frame = without.remove(at);
            assert!(restore(&[&MAGIC[..], &without.concat()].concat()).is_err(), "{at}");
            without.insert(at, [frame, frame].concat().leak());
            assert!(restore(&[&MAGIC[..], &without.concat()].concat()).is_err(), "{at}");
        }
        assert_eq!(restore(b"SQLite format 3\0").err(), Some(BackupError::NoBackup));
    }

    fn frames(bytes: &[u8]) -> Vec<&[u8]> {
        let mut rest = &bytes[MAGIC.len()..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize;
            let (frame, after) = rest.split_at(FRAME_HEAD_BYTES + length + CHECKSUM_BYTES);
            frames.push(frame);
            rest = after;
        }
        frames
    }

    #[test]
    fn a_restore_of_a_restore_goes_on_higher_again() {
        let store = restore(&backup(&Journal::small())).unwrap();
        let (_, jumps) = cold::state(&store).unwrap();
        let first = jumps[0];
        go_on_higher(&store, first.after).unwrap();
        let (_, jumps) = cold::state(&store).unwrap();
        let expected = Jump { after: first.after, next: EventId(first.next.0 + (1 << 32)) };
        assert_eq!(jumps, [expected]);
        go_on_higher(&store, expected.next).unwrap();
        assert_eq!(cold::state(&store).unwrap().1, [expected, Jump::from(expected.next)]);
    }
}
