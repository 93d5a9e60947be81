//! Journal values: what a committed batch looks like in bytes, and back.
//!
//! ```text
//! version  first id  time    record  record  …            XXH3-64 of all before, little-endian
//! u8 = 1   varint    varint  tag u8, fields                8 bytes
//! ```
//!
//! `docs/journal-format.md` has every field. A value begins at the id under which it is stored;
//! records that consume an id (events, deletions) take the following ids one by one, so no record
//! spells its own. What an event has in common with the one before it in the value is left out.
//!
//! Invariants: ids in a value follow each other without a hole; an idempotency key or a producer
//! state stands right before the event that it came with, in the same value, so that no value is
//! without an id of its own. A value is complete by itself: any one decodes without the others.
//!
//! Decoding is total: whatever the bytes are, it ends in values or in a [`DecodeError`]. It
//! borrows from the bytes, so skipping a run's payload costs nothing but its UTF-8 check.

use serde::Deserialize;
use serde_json::value::RawValue;

pub use super::bytes::DecodeError;
use super::bytes::{
    Bytes, CHECKSUM_BYTES, checked, put_checksum, put_text, put_varint, unzigzag, zigzag,
};
use crate::event::{EventId, EventRef, Json, Label, Labels, RunId, Timestamp};
use crate::limits::VALUE_BYTES_TARGET;

/// The format that this program writes. It reads this one and every earlier one.
pub const FORMAT_VERSION: u8 = 1;

const KIND_MASK: u8 = 0b0000_0111;
const KIND_EVENT: u8 = 1;
const KIND_RUN_DELETED: u8 = 2;
const KIND_KEY: u8 = 3;
const KIND_PRODUCER: u8 = 4;

/// Event: the run of the event before; seq is one more than there.
const SAME_RUN: u8 = 0b0000_1000;
/// Event: the type of the event before.
const SAME_TYPE: u8 = 0b0001_0000;
/// Event: the time of the event before, or of the value.
const SAME_TIME: u8 = 0b0010_0000;
/// Key: it was given with `POST /runs`.
const OF_CREATION: u8 = 0b0000_1000;

/// Which requests an idempotency key is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyScope {
    /// Creations of runs.
    Creation,
    /// Appends to the run.
    Run,
}

/// One thing that a journal value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An event.
    Event(EventRef<'a>),
    /// A run and its history are gone. Consumes an id.
    RunDeleted {
        /// The id it consumes.
        id: EventId,
        /// Which run.
        run: RunId,
    },
    /// An idempotency key, right before the first event that was appended with it.
    Key {
        /// Which requests it is compared with.
        scope: KeyScope,
        /// The run that was appended to, or created.
        run: RunId,
        /// As the client sent it.
        key: &'a str,
        /// XXH3-128 of the body.
        fingerprint: u128,
        /// The first event that was appended with it.
        first_id: EventId,
        /// How many events.
        count: u64,
        /// When.
        time: Timestamp,
    },
    /// Where a producer stands, right before the first event of the request that brought it there.
    Producer {
        /// The run it publishes to.
        run: RunId,
        /// Who.
        id: &'a str,
        /// Which life of it.
        epoch: u64,
        /// The last `Producer-Seq` taken.
        seq: u64,
        /// The first event of that request.
        first_id: EventId,
    },
}

/// What `POST /runs` gave along, as it stands before its `RUN_CREATED` event.
#[derive(Clone, Copy, Debug)]
pub struct KeyRecord<'a> {
    /// Which requests it is compared with.
    pub scope: KeyScope,
    /// As the client sent it.
    pub key: &'a str,
    /// XXH3-128 of the body.
    pub fingerprint: u128,
    /// How many events are appended with it.
    pub count: u64,
}

/// What stands before the first event of an append.
#[derive(Clone, Copy, Debug)]
pub enum Preface<'a> {
    /// An idempotency key.
    Key(KeyRecord<'a>),
    /// A producer's id, epoch and seq.
    Producer {
        /// Who.
        id: &'a str,
        /// Which life of it.
        epoch: u64,
        /// Its `Producer-Seq`.
        seq: u64,
    },
}

/// Packs records into values of just under [`VALUE_BYTES_TARGET`]; an event that is larger than
/// that has a value of its own.
#[derive(Debug)]
pub struct Encoder {
    finished: Vec<(EventId, Vec<u8>)>,
    /// The value that is being filled; empty when there is none.
    value: Vec<u8>,
    first_id: EventId,
    /// The id that the next event or deletion takes.
    next_id: EventId,
    time: Timestamp,
    /// Run and seq of the event before in this value.
    previous: Option<(RunId, u64)>,
    /// Where the type of the event before lies in `value`.
    previous_type: std::ops::Range<usize>,
}

impl Encoder {
    /// An encoder whose first record takes `next_id`.
    pub fn new(next_id: EventId) -> Encoder {
        Encoder {
            finished: Vec::new(),
            value: Vec::new(),
            first_id: next_id,
            next_id,
            time: Timestamp::default(),
            previous: None,
            previous_type: 0..0,
        }
    }

    /// The id that the next event or deletion takes.
    pub fn next_id(&self) -> EventId {
        self.next_id
    }

    /// Adds an event, after what stands before it, and gives it the next id: `event.id` must be
    /// that one.
    pub fn event(&mut self, event: &EventRef<'_>, preface: Option<Preface<'_>>) {
        assert_eq!(event.id, self.next_id, "ids are given out in order");
        let preface_bytes = match preface {
            None => 0,
            Some(Preface::Key(key)) => 48 + key.key.len(),
            Some(Preface::Producer { id, .. }) => 41 + id.len(),
        };
        self.make_room(
            preface_bytes + 42 + event.event_type.len() + event.payload.len(),
            event.created_at,
        );
        match preface {
            None => {}
            Some(Preface::Key(key)) => self.key(event, key),
            Some(Preface::Producer { id, epoch, seq }) => {
                self.value.push(KIND_PRODUCER);
                put_varint(&mut self.value, event.run_id.0);
                put_text(&mut self.value, id);
                put_varint(&mut self.value, epoch);
                put_varint(&mut self.value, seq);
            }
        }
        self.plain_event(event);
        self.next_id = self.next_id.next();
    }

    /// Adds the deletion of a run, which takes the next id.
    pub fn run_deleted(&mut self, run: RunId, now: Timestamp) {
        self.make_room(16, now);
        self.value.push(KIND_RUN_DELETED);
        put_varint(&mut self.value, run.0);
        self.next_id = self.next_id.next();
    }

    /// The values, each with the id that it begins at, and in the order of these. None when nothing
    /// was added.
    pub fn finish(mut self) -> Vec<(EventId, Vec<u8>)> {
        self.close_value();
        self.finished
    }

    fn make_room(&mut self, bytes: usize, time: Timestamp) {
        if !self.value.is_empty() && self.value.len() + bytes + CHECKSUM_BYTES > VALUE_BYTES_TARGET
        {
            self.close_value();
        }
        if self.value.is_empty() {
            self.first_id = self.next_id;
            self.time = time;
            self.previous = None;
            self.value.push(FORMAT_VERSION);
            put_varint(&mut self.value, self.first_id.0);
            put_varint(&mut self.value, time.0);
        }
    }

    fn close_value(&mut self) {
        if self.value.is_empty() {
            return;
        }
        let mut value = std::mem::take(&mut self.value);
        put_checksum(&mut value);
        self.finished.push((self.first_id, value));
    }

    fn key(&mut self, event: &EventRef<'_>, key: KeyRecord<'_>) {
        let of_creation = match key.scope {
            KeyScope::Creation => OF_CREATION,
            KeyScope::Run => 0,
        };
        self.value.push(KIND_KEY | of_creation);
        put_varint(&mut self.value, event.run_id.0);
        put_text(&mut self.value, key.key);
        self.value.extend_from_slice(&key.fingerprint.to_le_bytes());
        put_varint(&mut self.value, key.count);
        put_varint(&mut self.value, zigzag(self.time, event.created_at));
    }

    fn plain_event(&mut self, event: &EventRef<'_>) {
        let same_run = self.previous == Some((event.run_id, event.seq.wrapping_sub(1)));
        let same_type = self.previous.is_some()
            && &self.value[self.previous_type.clone()] == event.event_type.as_bytes();
        let same_time = self.time == event.created_at;
        let mut tag = KIND_EVENT;
        for (holds, flag) in [(same_run, SAME_RUN), (same_type, SAME_TYPE), (same_time, SAME_TIME)]
        {
            if holds {
                tag |= flag;
            }
        }
        self.value.push(tag);
        if !same_run {
            put_varint(&mut self.value, event.run_id.0);
            put_varint(&mut self.value, event.seq);
        }
        if !same_time {
            put_varint(&mut self.value, zigzag(self.time, event.created_at));
        }
        if !same_type {
            put_text(&mut self.value, event.event_type);
            self.previous_type = self.value.len() - event.event_type.len()..self.value.len();
        }
        put_text(&mut self.value, event.payload);
        self.previous = Some((event.run_id, event.seq));
        self.time = event.created_at;
    }
}

/// Reads one value, record by record, without copying anything. Ends at the first error.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: Bytes<'a>,
    first_id: EventId,
    next_id: u64,
    time: u64,
    previous: Option<(RunId, u64)>,
    previous_type: &'a str,
    /// A key or a producer state has been read, whose event must follow.
    event_must_follow: bool,
}

impl<'a> Decoder<'a> {
    /// Checks version and checksum of a value.
    ///
    /// # Errors
    /// When one of them does not fit, or there are not even the bytes for them.
    pub fn new(value: &'a [u8]) -> Result<Decoder<'a>, DecodeError> {
        let mut rest = checked(value, FORMAT_VERSION)?;
        let first_id = rest.varint()?;
        let time = rest.varint()?;
        Ok(Decoder {
            rest,
            first_id: EventId(first_id),
            next_id: first_id,
            time,
            previous: None,
            previous_type: "",
            event_must_follow: false,
        })
    }

    /// The id that the value begins at.
    pub fn first_id(&self) -> EventId {
        self.first_id
    }

    /// The id after the last one that has been read.
    pub fn next_id(&self) -> EventId {
        EventId(self.next_id)
    }

    fn record(&mut self) -> Result<Record<'a>, DecodeError> {
        let tag = self.rest.byte()?;
        let kind = tag & KIND_MASK;
        if self.event_must_follow && kind != KIND_EVENT {
            return Err(DecodeError::Malformed("a key or producer without its event"));
        }
        self.event_must_follow = matches!(kind, KIND_KEY | KIND_PRODUCER);
        let flags = tag & !KIND_MASK;
        match (kind, flags) {
            (KIND_EVENT, _) if flags & !(SAME_RUN | SAME_TYPE | SAME_TIME) == 0 => {
                self.event(flags).map(Record::Event)
            }
            (KIND_RUN_DELETED, 0) => {
                Ok(Record::RunDeleted { run: RunId(self.rest.varint()?), id: self.take_id()? })
            }
            (KIND_KEY, 0) => self.key(KeyScope::Run),
            (KIND_KEY, OF_CREATION) => self.key(KeyScope::Creation),
            (KIND_PRODUCER, 0) => Ok(Record::Producer {
                run: RunId(self.rest.varint()?),
                id: self.rest.text()?,
                epoch: self.rest.varint()?,
                seq: self.rest.varint()?,
                first_id: EventId(self.next_id),
            }),
            _ => Err(DecodeError::Malformed("a record of an unknown kind")),
        }
    }

    fn event(&mut self, flags: u8) -> Result<EventRef<'a>, DecodeError> {
        let (run_id, seq) = if flags & SAME_RUN == 0 {
            (RunId(self.rest.varint()?), self.rest.varint()?)
        } else {
            let (run, seq) =
                self.previous.ok_or(DecodeError::Malformed("no event before the first"))?;
            (run, seq.checked_add(1).ok_or(DecodeError::Malformed("a seq beyond 2^64"))?)
        };
        if flags & SAME_TIME == 0 {
            self.time = unzigzag(self.time, self.rest.varint()?);
        }
        if flags & SAME_TYPE == 0 {
            self.previous_type = self.rest.text()?;
        } else if self.previous.is_none() {
            return Err(DecodeError::Malformed("no event before the first"));
        }
        let payload = self.rest.text()?;
        self.previous = Some((run_id, seq));
        Ok(EventRef {
            id: self.take_id()?,
            run_id,
            seq,
            event_type: self.previous_type,
            payload,
            created_at: Timestamp(self.time),
        })
    }

    fn key(&mut self, scope: KeyScope) -> Result<Record<'a>, DecodeError> {
        Ok(Record::Key {
            scope,
            run: RunId(self.rest.varint()?),
            key: self.rest.text()?,
            fingerprint: u128::from_le_bytes(self.rest.array()?),
            first_id: EventId(self.next_id),
            count: self.rest.varint()?,
            time: Timestamp(unzigzag(self.time, self.rest.varint()?)),
        })
    }

    fn take_id(&mut self) -> Result<EventId, DecodeError> {
        let id = self.next_id;
        self.next_id = id.checked_add(1).ok_or(DecodeError::Malformed("an id beyond 2^64"))?;
        Ok(EventId(id))
    }
}

impl<'a> Iterator for Decoder<'a> {
    type Item = Result<Record<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            let dangling = std::mem::take(&mut self.event_must_follow);
            return dangling
                .then_some(Err(DecodeError::Malformed("a key or producer without its event")));
        }
        let record = self.record();
        if record.is_err() {
            self.rest = Bytes(&[]);
            self.event_must_follow = false;
        }
        Some(record)
    }
}

/// The payload of a `RUN_CREATED` event, which is all that is stored of what a run is.
pub fn run_created_payload(labels: &Labels, metadata: &Json) -> Json {
    // Labels need no escapes in JSON.
    let quoted = |label: &Option<Label>| {
        label.as_ref().map_or("null".into(), |label| format!("\"{}\"", label.as_str()))
    };
    Json::from_trusted(format!(
        "{{\"project\":{},\"session\":{},\"metadata\":{}}}",
        quoted(&labels.project),
        quoted(&labels.session),
        metadata.as_str()
    ))
}

/// Takes such a payload apart.
///
/// # Errors
/// When it is not one.
pub fn parse_run_created(payload: &str) -> Result<(Labels, Json), DecodeError> {
    #[derive(Deserialize)]
    struct RunCreated<'a> {
        project: Option<&'a str>,
        session: Option<&'a str>,
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    const MALFORMED: DecodeError = DecodeError::Malformed("a run created without its description");
    let created: RunCreated<'_> = serde_json::from_str(payload).map_err(|_| MALFORMED)?;
    let label = |text: Option<&str>| text.map(Label::new).transpose().map_err(|_| MALFORMED);
    let labels = Labels { project: label(created.project)?, session: label(created.session)? };
    Ok((labels, Json::from_trusted(created.metadata.get())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Event;
    use crate::journal::model::{random_event, seeded};
    use rand::RngExt;

    fn event(id: u64, run: u64, seq: u64, event_type: &str, payload: &str, time: u64) -> Event {
        EventRef {
            id: EventId(id),
            run_id: RunId(run),
            seq,
            event_type,
            payload,
            created_at: Timestamp(time),
        }
        .to_event()
    }

    fn decode(value: &[u8]) -> Result<Vec<Record<'_>>, DecodeError> {
        Decoder::new(value)?.collect()
    }

    /// Bytes with a right checksum, so that the content itself is what is decoded.
    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut value = content.to_vec();
        put_checksum(&mut value);
        value
    }

    fn sample() -> Vec<u8> {
        let mut encoder = Encoder::new(EventId(1_000));
        let key =
            KeyRecord { scope: KeyScope::Run, key: "retry-1", fingerprint: u128::MAX, count: 2 };
        encoder.event(&event(1_000, 7, 3, "A", "1", 5_000).borrowed(), Some(Preface::Key(key)));
        encoder.event(&event(1_001, 7, 4, "A", "{\"ä\":2}", 4_999).borrowed(), None);
        encoder.run_deleted(RunId(6), Timestamp(5_001));
        let producer = Preface::Producer { id: "p", epoch: 1 << 40, seq: 300 };
        encoder.event(&event(1_003, 8, 1, "B", "null", 6_000).borrowed(), Some(producer));
        let mut values = encoder.finish();
        assert_eq!(values.len(), 1);
        assert_eq!(values[0].0, EventId(1_000));
        values.remove(0).1
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let value = sample();
        let events = [
            event(1_000, 7, 3, "A", "1", 5_000),
            event(1_001, 7, 4, "A", "{\"ä\":2}", 4_999),
            event(1_003, 8, 1, "B", "null", 6_000),
        ];
        let expected = [
            Record::Key {
                scope: KeyScope::Run,
                run: RunId(7),
                key: "retry-1",
                fingerprint: u128::MAX,
                first_id: EventId(1_000),
                count: 2,
                time: Timestamp(5_000),
            },
            Record::Event(events[0].borrowed()),
            Record::Event(events[1].borrowed()),
            Record::RunDeleted { id: EventId(1_002), run: RunId(6) },
            Record::Producer {
                run: RunId(8),
                id: "p",
                epoch: 1 << 40,
                seq: 300,
                first_id: EventId(1_003),
            },
            Record::Event(events[2].borrowed()),
        ];
        assert_eq!(decode(&value).unwrap(), expected);
    }

    #[test]
    fn the_format_is_the_one_of_the_documentation() {
        let mut encoder = Encoder::new(EventId(300));
        encoder.event(&event(300, 2, 5, "A", "1", 1_000).borrowed(), None);
        encoder.event(&event(301, 2, 6, "A", "2", 1_001).borrowed(), None);
        encoder.run_deleted(RunId(1), Timestamp(0));
        let value = encoder.finish().remove(0).1;
        let content = [
            1, // version
            0xac,
            0x02, // first id
            0xe8,
            0x07, // time
            0b0010_0001,
            2,
            5,
            1,
            b'A',
            1,
            b'1', // event: run, seq, type, payload
            0b0001_1001,
            2,
            1,
            b'2', // event of the same run and type, a millisecond later
            0b0000_0010,
            1, // run deleted
        ];
        assert_eq!(value, sealed(&content));
    }

    #[test]
    fn a_lone_event_takes_at_most_40_bytes_beside_its_texts_and_a_further_one_less() {
        let now = 1_800_000_000_000;
        let mut encoder = Encoder::new(EventId(u64::from(u32::MAX)));
        let (kind, payload) = ("AGENT_THINKING", "\"x\"");
        let first =
            event(u64::from(u32::MAX), 100_000_000, 10_000_000, kind, payload, now + 999_999);
        encoder.event(&first.borrowed(), None);
        let alone = encoder.value.len() + CHECKSUM_BYTES - kind.len() - payload.len();
        assert!(alone <= 40, "{alone}");
        let mut next = Event { id: first.id.next(), seq: first.seq + 1, ..first };
        let before = encoder.value.len();
        encoder.event(&next.borrowed(), None);
        assert_eq!(encoder.value.len() - before - payload.len(), 2);
        next = Event { id: next.id.next(), run_id: RunId(10_000), seq: 100, ..next };
        let before = encoder.value.len();
        encoder.event(&next.borrowed(), None);
        assert_eq!(encoder.value.len() - before - payload.len(), 5);
    }

    #[test]
    fn a_large_batch_is_cut_into_values_that_each_decode_alone() {
        let mut rng = seeded();
        for _ in 0..20 {
            let mut encoder = Encoder::new(EventId(1));
            let mut events = Vec::new();
            for id in 1..rng.random_range(2..2_000_u64) {
                let new = random_event(&mut rng);
                let next = event(
                    id,
                    rng.random_range(1..4),
                    rng.random_range(1..9),
                    new.event_type.as_str(),
                    new.payload.as_str(),
                    rng.random_range(0..5),
                );
                let preface = rng.random_bool(0.2).then_some(Preface::Producer {
                    id: "producer",
                    epoch: 0,
                    seq: id,
                });
                encoder.event(&next.borrowed(), preface);
                events.push(next);
            }
            let values = encoder.finish();
            let mut decoded = Vec::new();
            for (key, value) in &values {
                let before = decoded.len();
                for record in decode(value).unwrap() {
                    if let Record::Event(event) = record {
                        decoded.push(event.to_event());
                    }
                }
                assert_eq!(decoded[before].id, *key);
                assert!(value.len() <= VALUE_BYTES_TARGET || decoded.len() == before + 1);
            }
            assert_eq!(decoded, events);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let value = sample();
        for bit in 0..value.len() * 8 {
            let mut value = value.clone();
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&value).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_truncated_value_is_noticed() {
        let value = sample();
        for length in 0..value.len() {
            assert!(decode(&value[..length]).is_err());
            // The same when the checksum is right.
            let content = &value[..length.min(value.len() - CHECKSUM_BYTES - 1)];
            let _ = decode(&sealed(content));
        }
    }

    #[test]
    fn a_newer_format_says_so() {
        let error = Decoder::new(&[2, 1, 2, 3]).unwrap_err();
        assert_eq!(error, DecodeError::Newer(2));
        assert!(error.to_string().contains("newer"));
        assert!(matches!(Decoder::new(&[]), Err(DecodeError::Malformed(_))));
        assert!(matches!(Decoder::new(&[0; 30]), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_key_without_its_event_is_malformed() {
        let value = sample();
        let key_ends = 1 + 2 + 2 + 1 + 1 + 8 + 16 + 1 + 1;
        let only_key = sealed(&value[..key_ends]);
        assert!(matches!(decode(&only_key), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_run_is_described_by_its_first_event() {
        let deep = "[".repeat(128) + &"]".repeat(128);
        for (project, session, metadata) in [
            (Some("p"), None, "null"),
            (None, Some("s:1"), "{\"a\":\"\\u00e4\\\"\"}"),
            (None, None, &deep),
        ] {
            let label = |text: Option<&str>| text.map(|text| Label::new(text).unwrap());
            let labels = Labels { project: label(project), session: label(session) };
            let metadata = Json::parse(metadata).unwrap();
            let payload = run_created_payload(&labels, &metadata);
            assert_eq!(parse_run_created(payload.as_str()), Ok((labels, metadata)));
        }
        assert!(parse_run_created("null").is_err());
        assert!(parse_run_created(r#"{"project":"a b","session":null,"metadata":1}"#).is_err());
    }

    proptest! {
        #[test]
        fn garbage_ends_in_an_error_or_in_records(
            content in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = decode(&content);
            let mut content = content;
            content.insert(0, FORMAT_VERSION);
            let _ = decode(&sealed(&content));
        }

        #[test]
        fn numbers_of_any_size_come_back(value in any::<u64>(), other in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= 10);
            prop_assert_eq!(Bytes(&bytes).varint(), Ok(value));
            prop_assert_eq!(unzigzag(value, zigzag(Timestamp(value), Timestamp(other))), other);
        }

        #[test]
        fn records_with_a_byte_changed_do_not_panic(at in any::<usize>(), to in any::<u8>()) {
            let value = sample();
            let mut content = value[..value.len() - CHECKSUM_BYTES].to_vec();
            let at = at % content.len();
            content[at] = to;
            let _ = decode(&sealed(&content));
        }
    }
}
