//! The cold part of the journal: what its rows hold.
//!
//! ```text
//! log   ……………………………………………………│values, in the order of their ids
//! cold  │ window │ window │ window │
//!       └ blocks, order            └ moved through
//! ```
//!
//! When the log is large enough its values become a *window* ([`super::windows`]): the same events,
//! packed run by run in blocks (`block.rs`), beside the window's order. Whatever must not be
//! lost with the values is kept in rows of its own: what each run is and where it stood at the end
//! of the last window, idempotency keys, producers. Opening reads these rows, and then only the
//! part of the log that has not been moved; so it takes as long for ten million events as for none.
//!
//! Invariants: an id up to [`State::moved_through`] is found in the windows, one above it in the
//! log; a window is there once its row is, and whole; what a reader may still look for is not
//! removed before the catalog says that it is elsewhere or gone, and every read that began before
//! that is over.

use super::block::KeyedBlock;
use super::bytes::{Bytes, checked, put_checksum, put_text, put_varint};
use super::codec::{DecodeError, KeyScope};
use super::once::{KeyState, ProducerState};
use super::store::{Change, Store, StoreError, Table};
use super::{Kept, RunHead};
use crate::event::{EventId, RunId, RunStatus, Timestamp};

/// The format of rows that this program writes.
const VERSION: u8 = 1;

/// How far the journal was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last id that was moved.
    pub moved_through: EventId,
    /// The id that the next run gets, as far as was moved.
    pub next_run: RunId,
    /// The last event of those that retention has removed.
    pub removed_through: EventId,
    /// The last event of those whose runs went with them.
    pub vanished_through: EventId,
}

/// Ids that are left out for ever: from after one to before another.
///
/// A restore goes on 2^32 higher, so that no id names two events: one that was made after the
/// backup, and is lost, and one that is made after the restore. A cursor in between is of such a
/// lost event, or of another journal: it counts as one that lies ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The last id before it.
    pub after: EventId,
    /// The first id that may be given out after it.
    pub next: EventId,
}

/// How far ids go on above the last one after a restore or an import.
const JUMP_IDS: u64 = 1 << 32;

impl Jump {
    /// The one from this id on.
    pub fn from(after: EventId) -> Jump {
        Jump { after, next: EventId(after.0.saturating_add(JUMP_IDS)) }
    }

    /// Whether an id lies in it.
    pub fn holds(&self, id: EventId) -> bool {
        self.after < id && id < self.next
    }
}

/// The id that was given out after this one, or would be.
pub fn id_after(id: EventId, jumps: &[Jump]) -> EventId {
    let next = id.next();
    jumps.iter().find(|jump| jump.holds(next)).map_or(next, |jump| jump.next)
}

/// A window, under its first id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first id.
    pub first_id: EventId,
    /// The last one.
    pub last_id: EventId,
    /// Events in it when it was made.
    pub events: u64,
    /// Their bytes as they were packed, and those of the order.
    pub bytes: u64,
    /// When its first event was taken.
    pub first_time: Timestamp,
    /// When its last event was taken.
    pub last_time: Timestamp,
}

/// Key of a row that there is one of.
pub const THE_ONE: &[u8] = b"";
/// Key of the row of jumps, beside that of the state.
const JUMPS: &[u8] = b"jumps";

/// The key of a row that belongs to a run, an id or a window; the greater number has the greater
/// key.
pub fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// The key of a block.
pub fn block_key(window: EventId, run: RunId, id: EventId) -> Vec<u8> {
    [window.0, run.0, id.0].iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// The window, the run and the id of a block's key.
///
/// # Errors
/// When it is none.
pub fn parse_block_key(key: &[u8]) -> Result<(EventId, RunId, EventId), DecodeError> {
    let [window, run, id] = numbers(key)?;
    Ok((EventId(window), RunId(run), EventId(id)))
}

/// The key of a piece of a window's order.
pub fn order_key(window: EventId, id: EventId) -> Vec<u8> {
    [window.0, id.0].iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// The window and the id of such a key.
///
/// # Errors
/// When it is none.
pub fn parse_order_key(key: &[u8]) -> Result<(EventId, EventId), DecodeError> {
    let [window, id] = numbers(key)?;
    Ok((EventId(window), EventId(id)))
}

fn producer_key(run: RunId, id: &str) -> Vec<u8> {
    [&run.0.to_be_bytes(), id.as_bytes()].concat()
}

/// The numbers that a key is made of.
///
/// # Errors
/// When it has another length.
pub fn numbers<const N: usize>(key: &[u8]) -> Result<[u64; N], DecodeError> {
    const MALFORMED: DecodeError = DecodeError::Malformed("a key of another length");
    let mut found = [0; N];
    let (numbers, rest) = key.as_chunks::<8>();
    if numbers.len() != N || !rest.is_empty() {
        return Err(MALFORMED);
    }
    for (found, number) in found.iter_mut().zip(numbers) {
        *found = u64::from_be_bytes(*number);
    }
    Ok(found)
}

/// A row with these fields.
fn row(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut row = vec![VERSION];
    fill(&mut row);
    put_checksum(&mut row);
    row
}

fn put_numbers(row: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        put_varint(row, *number);
    }
}

fn parse<T>(
    row: &[u8],
    fields: impl FnOnce(&mut Bytes<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut rest = checked(row, VERSION)?;
    let parsed = fields(&mut rest)?;
    if rest.0.is_empty() {
        Ok(parsed)
    } else {
        Err(DecodeError::Malformed("bytes after the last field"))
    }
}

fn put(table: Table, key: Vec<u8>, row: Vec<u8>) -> Change {
    Change { table, key, row: Some(row) }
}

/// The removal of a row.
pub fn remove(table: Table, key: Vec<u8>) -> Change {
    Change { table, key, row: None }
}

impl State {
    /// Its row.
    pub fn change(&self) -> Change {
        let numbers = [
            self.moved_through.0,
            self.next_run.0,
            self.removed_through.0,
            self.vanished_through.0,
        ];
        put(Table::State, THE_ONE.to_vec(), row(|row| put_numbers(row, &numbers)))
    }

    /// The state as its row says.
    ///
    /// # Errors
    /// When the row is not as it was written.
    pub fn parse(row: &[u8]) -> Result<State, DecodeError> {
        parse(row, |rest| {
            Ok(State {
                moved_through: EventId(rest.varint()?),
                next_run: RunId(rest.varint()?),
                removed_through: EventId(rest.varint()?),
                vanished_through: EventId(rest.varint()?),
            })
        })
    }
}

impl Window {
    /// Its row.
    pub fn change(&self) -> Change {
        let numbers =
            [self.last_id.0, self.events, self.bytes, self.first_time.0, self.last_time.0];
        put(Table::Windows, key(self.first_id.0), row(|row| put_numbers(row, &numbers)))
    }

    /// A window as its row says.
    ///
    /// # Errors
    /// When the row is not as it was written.
    pub fn parse(key: &[u8], row: &[u8]) -> Result<Window, DecodeError> {
        let [first_id] = numbers(key)?;
        parse(row, |rest| {
            Ok(Window {
                first_id: EventId(first_id),
                last_id: EventId(rest.varint()?),
                events: rest.varint()?,
                bytes: rest.varint()?,
                first_time: Timestamp(rest.varint()?),
                last_time: Timestamp(rest.varint()?),
            })
        })
    }
}

/// The row of jumps, in the order of their ids.
pub fn jumps_change(jumps: &[Jump]) -> Change {
    let fill = |row: &mut Vec<u8>| {
        for jump in jumps {
            put_numbers(row, &[jump.after.0, jump.next.0]);
        }
    };
    put(Table::State, JUMPS.to_vec(), row(fill))
}

fn parse_jumps(row: &[u8]) -> Result<Vec<Jump>, DecodeError> {
    parse(row, |rest| {
        let mut jumps: Vec<Jump> = Vec::new();
        while !rest.0.is_empty() {
            let (after, next) = (EventId(rest.varint()?), EventId(rest.varint()?));
            if next <= after || jumps.last().is_some_and(|last| after < last.next) {
                return Err(DecodeError::Malformed("jumps out of order"));
            }
            jumps.push(Jump { after, next });
        }
        Ok(jumps)
    })
}

/// The state of a journal, and its jumps.
///
/// # Errors
/// When the storage fails, or a row is not as it was written.
pub fn state(store: &dyn Store) -> Result<(State, Vec<Jump>), StoreError> {
    let (mut state, mut jumps) = (State::default(), Vec::new());
    each_row(store, Table::State, THE_ONE, |key, row| {
        match key {
            THE_ONE => state = State::parse(row)?,
            JUMPS => jumps = parse_jumps(row)?,
            _ => return Err(DecodeError::Malformed("a row of an unknown kind")),
        }
        Ok(true)
    })?;
    Ok((state, jumps))
}

/// The row of a block.
pub fn block_change(window: EventId, ((run, id), block): KeyedBlock) -> Change {
    put(Table::Blocks, block_key(window, run, id), block)
}

/// The row of a piece of a window's order.
pub fn order_change(window: EventId, (id, piece): (EventId, Vec<u8>)) -> Change {
    put(Table::Order, order_key(window, id), piece)
}

/// The row that says what a run is: the payload of its `RUN_CREATED`.
pub fn run_change(run: RunId, created: &str) -> Change {
    put(Table::Runs, key(run.0), row(|row| put_text(row, created)))
}

/// The payload of a run's `RUN_CREATED`, as its row says.
///
/// # Errors
/// When the row is not as it was written.
pub fn parse_run(row: &[u8]) -> Result<&str, DecodeError> {
    let mut rest = checked(row, VERSION)?;
    let created = rest.text()?;
    if rest.0.is_empty() {
        Ok(created)
    } else {
        Err(DecodeError::Malformed("bytes after the last field"))
    }
}

/// The row that says where a run stands.
pub fn head_change(run: RunId, head: &RunHead, kept: &Kept) -> Change {
    let numbers = [
        status_code(head.status),
        head.created_at.0,
        head.updated_at.0,
        head.last_event_id.0,
        head.event_count,
        kept.first_seq,
        kept.removed_through.0,
    ];
    put(Table::Heads, key(run.0), row(|row| put_numbers(row, &numbers)))
}

/// Where a run stands, as its row says.
///
/// # Errors
/// When the row is not as it was written.
pub fn parse_head(row: &[u8]) -> Result<(RunHead, Kept), DecodeError> {
    parse(row, |rest| {
        let head = RunHead {
            status: parse_status(rest.varint()?)?,
            created_at: Timestamp(rest.varint()?),
            updated_at: Timestamp(rest.varint()?),
            last_event_id: EventId(rest.varint()?),
            event_count: rest.varint()?,
        };
        let kept = Kept { first_seq: rest.varint()?, removed_through: EventId(rest.varint()?) };
        Ok((head, kept))
    })
}

fn status_code(status: RunStatus) -> u64 {
    match status {
        RunStatus::Running => 0,
        RunStatus::Completed => 1,
        RunStatus::Failed => 2,
        RunStatus::Cancelled => 3,
    }
}

fn parse_status(code: u64) -> Result<RunStatus, DecodeError> {
    Ok(match code {
        0 => RunStatus::Running,
        1 => RunStatus::Completed,
        2 => RunStatus::Failed,
        3 => RunStatus::Cancelled,
        _ => return Err(DecodeError::Malformed("a status that there is not")),
    })
}

/// The row of an idempotency key: under its first event, so in the order of their arrival.
pub fn key_change(scope: KeyScope, text: &str, state: &KeyState) -> Change {
    let bytes = row(|row| {
        row.push(u8::from(scope == KeyScope::Creation));
        put_varint(row, state.run.0);
        put_text(row, text);
        row.extend_from_slice(&state.fingerprint.to_le_bytes());
        put_numbers(row, &[state.first_seq, state.count, state.time.0]);
    });
    put(Table::Keys, key(state.first_id.0), bytes)
}

/// An idempotency key, as its row says.
///
/// # Errors
/// When the row is not as it was written.
pub fn parse_key<'a>(
    key: &[u8],
    row: &'a [u8],
) -> Result<(KeyScope, &'a str, KeyState), DecodeError> {
    let [first_id] = numbers(key)?;
    let mut rest = checked(row, VERSION)?;
    let scope = if rest.byte()? == 0 { KeyScope::Run } else { KeyScope::Creation };
    let run = RunId(rest.varint()?);
    let text = rest.text()?;
    let fingerprint = u128::from_le_bytes(rest.array()?);
    let (first_seq, count, time) = (rest.varint()?, rest.varint()?, Timestamp(rest.varint()?));
    let first_id = EventId(first_id);
    let state = KeyState { run, fingerprint, first_id, first_seq, count, time };
    Ok((scope, text, state))
}

/// The row that says where a producer stands.
pub fn producer_change(run: RunId, id: &str, state: &ProducerState) -> Change {
    let numbers = [state.epoch, state.last_seq, state.heard.0];
    put(Table::Producers, producer_key(run, id), row(|row| put_numbers(row, &numbers)))
}

/// A producer, as its row says.
///
/// # Errors
/// When the row is not as it was written.
pub fn parse_producer<'a>(
    key: &'a [u8],
    row: &[u8],
) -> Result<(RunId, &'a str, ProducerState), DecodeError> {
    let (run, id) =
        key.split_first_chunk().ok_or(DecodeError::Malformed("a key of another length"))?;
    let id = str::from_utf8(id).map_err(|_| DecodeError::Malformed("a text that is not UTF-8"))?;
    let state = parse(row, |rest| {
        Ok(ProducerState {
            epoch: rest.varint()?,
            last_seq: rest.varint()?,
            heard: EventId(rest.varint()?),
        })
    })?;
    Ok((RunId(u64::from_be_bytes(*run)), id, state))
}

/// Shows rows from this key on to `visit`, which says whether to go on; what is wrong with one ends it.
///
/// # Errors
/// When the storage fails, or what `visit` says.
pub fn each_row(
    store: &dyn Store,
    table: Table,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, DecodeError>,
) -> Result<(), StoreError> {
    use std::ops::ControlFlow::{Break, Continue};
    let mut outcome = Ok(());
    store.rows(table, from, &mut |key, row| match visit(key, row) {
        Ok(true) => Continue(()),
        Ok(false) => Break(()),
        Err(error) => {
            outcome = Err(StoreError::CorruptRow { table, key: key.to_vec(), error });
            Break(())
        }
    })?;
    outcome
}

/// Where a run stood at the end of the last window, if it was there.
///
/// # Errors
/// When the storage fails, or the row is not as it was written.
pub fn head(store: &dyn Store, run: RunId) -> Result<Option<(RunHead, Kept)>, StoreError> {
    let wanted = key(run.0);
    let mut found = None;
    each_row(store, Table::Heads, &wanted, |key, row| {
        if key == wanted {
            found = Some(parse_head(row)?);
        }
        Ok(false)
    })?;
    Ok(found)
}

/// The producers of a run.
///
/// # Errors
/// When the storage fails, or a row is not as it was written.
pub fn producers(
    store: &dyn Store,
    run: RunId,
) -> Result<Vec<(String, ProducerState)>, StoreError> {
    let mut found = Vec::new();
    each_row(store, Table::Producers, &key(run.0), |key, row| {
        let (of, id, state) = parse_producer(key, row)?;
        if of == run {
            found.push((id.to_owned(), state));
        }
        Ok(of == run)
    })?;
    Ok(found)
}

/// Removes what is kept of a run, and of its producers.
///
/// # Errors
/// When the storage fails, or a row is not as it was written.
pub fn forget_run(
    store: &dyn Store,
    run: RunId,
    changes: &mut Vec<Change>,
) -> Result<(), StoreError> {
    changes.push(remove(Table::Runs, key(run.0)));
    changes.push(remove(Table::Heads, key(run.0)));
    for (id, _) in producers(store, run)? {
        changes.push(remove(Table::Producers, producer_key(run, &id)));
    }
    Ok(())
}

/// The removal of a producer's row.
pub fn forget_producer(run: RunId, id: &str) -> Change {
    remove(Table::Producers, producer_key(run, id))
}

#[cfg(test)]
mod tests {
    use super::super::commit::Committer;
    use super::super::fixture::{self, Journal};
    use super::*;

    #[test]
    fn after_a_jump_ids_go_on_above_it_and_cursors_in_it_are_of_nothing() {
        let journal = Journal::small();
        let last_id = journal.catalog.read().unwrap().last_id();
        let jump = Jump::from(last_id);
        assert_eq!(jump.next.0, last_id.0 + (1 << 32));
        journal.store.change_rows(&[jumps_change(&[jump])]).unwrap();
        let mut opened = Committer::open(&journal.store, 100).unwrap();
        assert_eq!(opened.catalog.jumps(), [jump]);
        assert_eq!((opened.catalog.last_id(), opened.catalog.next_id()), (last_id, jump.next));
        assert!(!opened.catalog.is_ahead(last_id) && opened.catalog.is_ahead(last_id.next()));

        let write = fixture::append(1, 2, super::super::Once::No);
        opened.committer.stage(write, Timestamp(u64::MAX >> 8), &opened.catalog);
        let values = opened.committer.seal().to_vec();
        assert_eq!(values[0].0, jump.next);
        journal.store.append(&values, true).unwrap();
        opened.committer.committed(&mut opened.catalog);
        for catalog in [opened.catalog, Committer::open(&journal.store, 100).unwrap().catalog] {
            assert_eq!(catalog.last_id(), jump.next.next());
            assert_eq!(catalog.next_id().0, jump.next.0 + 2);
            let ahead = [last_id.next(), EventId(jump.next.0 - 1), EventId(jump.next.0 + 2)];
            assert!(ahead.into_iter().all(|cursor| catalog.is_ahead(cursor)));
            let there = [EventId(0), last_id, jump.next, jump.next.next()];
            assert!(!there.into_iter().any(|cursor| catalog.is_ahead(cursor)));
        }
    }
}
