//! The obvious twin of a stream: it knows all events, and says of every byte whether it may come.

use std::collections::VecDeque;

use memchr::memmem;

use super::Coverage;
use super::journal::{Journal, Stored};
use crate::event::{EventId, Scope};
use crate::hub::ViewSpec;
use crate::timer_wheel::Tick;
use crate::wire::sse;

/// What a stream may still say.
#[derive(Debug)]
pub(super) struct Twin {
    /// None of a probe.
    pub(super) spec: Option<ViewSpec>,
    /// What it says to say something.
    pub(super) keepalive: &'static [u8],
    pub(super) is_local: bool,
    /// What must come first.
    pub(super) greeting: VecDeque<u8>,
    /// Every event of the view up to here has come, or may not come any more.
    pub(super) cursor: EventId,
    /// Probes so far.
    pub(super) probes: u64,
    /// Bytes of a frame that is not whole.
    pub(super) pending: Vec<u8>,
    /// Of the last byte, or since when one could have come.
    pub(super) last_output: Tick,
    /// No keepalive comes after less silence.
    pub(super) quiet_ticks_min: u32,
    pub(super) said_goodbye: bool,
    /// A read for it has failed.
    pub(super) has_failed: bool,
    /// Of several runs: what retention had taken by this removal, it was told.
    pub(super) told_of: u64,
    /// Bytes that have come, and events of the journal that have come whole.
    pub(super) bytes: u64,
    pub(super) events: u32,
}

impl Twin {
    /// Looks at bytes that the kernel has taken. Each must be one that may come now.
    pub(super) fn hear(
        &mut self,
        bytes: &[u8],
        now: Tick,
        journal: &Journal,
        coverage: &mut Coverage,
    ) {
        // Of a frame that begins here; of any other one it is not asked.
        let is_start = self.pending.is_empty() && self.greeting.is_empty();
        let mut quiet_ticks = if is_start { self.last_output.until(now) } else { u32::MAX };
        self.last_output = now;
        self.bytes += bytes.len() as u64;
        let said_goodbye = self.said_goodbye;
        let greeted = self.greeting.len().min(bytes.len());
        assert!(self.greeting.drain(..greeted).eq(bytes[..greeted].iter().copied()));
        let mut from = self.pending.len().saturating_sub(1);
        self.pending.extend_from_slice(&bytes[greeted..]);
        let pending = std::mem::take(&mut self.pending);
        let mut start = 0;
        while let Some(at) = memmem::find(&pending[from..], b"\n\n") {
            let end = from + at + 2;
            self.hear_frame(&pending[start..end], quiet_ticks, journal, coverage);
            quiet_ticks = u32::MAX;
            (start, from) = (end, end);
        }
        self.pending = pending[start..].to_vec();
        assert!(!said_goodbye, "nothing comes after the goodbye");
    }

    fn hear_frame(
        &mut self,
        frame: &[u8],
        quiet_ticks: u32,
        journal: &Journal,
        coverage: &mut Coverage,
    ) {
        let check_rhythm = || {
            let min = self.quiet_ticks_min;
            assert!(quiet_ticks >= min, "a keepalive after {quiet_ticks} of {min} quiet ticks");
        };
        let text = String::from_utf8_lossy(&frame[..frame.len().min(100)]);
        if let Some(rest) = text.strip_prefix("id: ") {
            let id = EventId(rest.split('\n').next().unwrap().parse().unwrap());
            self.hear_event(id, frame, journal, coverage);
        } else if let Some(rest) = text.strip_prefix("event: stream.cursor\nid: ") {
            let id = EventId(rest.split('\n').next().unwrap().parse().unwrap());
            let mut expected = Vec::new();
            sse::cursor(&mut expected, id);
            assert_eq!(frame, expected);
            assert!(id >= self.cursor && id <= journal.end);
            assert_eq!(self.missing(journal, id), None, "it would not be sent again");
            check_rhythm();
            self.cursor = id;
            coverage.cursors += 1;
        } else if let Some(rest) = text.strip_prefix("event: stream.truncated\ndata: ") {
            self.hear_truncated(rest.trim_end(), frame, journal);
            coverage.truncated += 1;
        } else if text.starts_with("retry: ") {
            self.said_goodbye = true;
        } else if self.spec.is_none() {
            assert!(text.starts_with(&format!("event: probe\ndata: {{\"n\":{},", self.probes + 1)));
            self.probes += 1;
        } else {
            assert_eq!(frame, self.keepalive, "{text}");
            check_rhythm();
            coverage.keepalives += 1;
        }
    }

    fn hear_event(
        &mut self,
        id: EventId,
        frame: &[u8],
        journal: &Journal,
        coverage: &mut Coverage,
    ) {
        let spec = self.spec.as_ref().expect("a probe has no events");
        assert!(id > self.cursor, "{id} again after {}", self.cursor);
        let index = journal.after(EventId(id.0 - 1));
        let stored = &journal.events[index];
        assert!(stored.id() == id && stored.belongs_to(spec));
        assert!(stored.frame(spec.format) == frame, "event {id} is not what it was");
        let before = EventId(id.0 - 1);
        assert_eq!(self.missing(journal, before), None, "left out before {id}");
        let skipped = &journal.events[journal.after(self.cursor)..index];
        coverage.left_out += skipped.iter().filter(|stored| stored.belongs_to(spec)).count() as u64;
        self.cursor = id;
        self.events += 1;
    }

    /// Something between two ids is gone, and nothing else is between them.
    fn hear_truncated(&mut self, data: &str, frame: &[u8], journal: &Journal) {
        let spec = self.spec.as_ref().expect("a probe has no events");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        let id = |name| EventId(data[name].as_u64().unwrap());
        let (after, first) = (id("requested_after_id"), id("first_available_id"));
        let mut expected = Vec::new();
        sse::truncated(&mut expected, after, first);
        assert_eq!(frame, expected);
        assert!(after >= self.cursor && first > after.next() && first <= journal.end.next());
        assert_eq!(self.missing(journal, after), None, "left out before what is said to be gone");
        let last = EventId(first.0 - 1);
        assert!(journal.removed_through(spec) > after, "nothing is gone");
        let there = journal.read(spec, after, last);
        assert!(there.is_empty(), "{:?} is said to be gone", there[0].id());
        self.told_of = journal.removals;
        self.cursor = last;
    }

    /// The first event up to `upto` that has not come and should have.
    pub(super) fn missing(&self, journal: &Journal, upto: EventId) -> Option<EventId> {
        let spec = self.spec.as_ref()?;
        // What is gone of a single run comes before all that is there, and is named exactly. Of
        // several runs it is told once for a part of the stream.
        let is_one_run = matches!(&spec.selection.scope, Scope::Runs(runs) if runs.len() == 1);
        let told_of = if is_one_run { 0 } else { self.told_of };
        let rest = &journal.events[journal.after(self.cursor)..journal.after(upto)];
        let is_owed = |stored: &&Stored| {
            let is_told = stored.removed.is_some_and(|removal| removal <= told_of);
            stored.belongs_to(spec) && !is_told && !journal.is_deleted(stored)
        };
        rest.iter().find(is_owed).map(Stored::id)
    }

    /// Whether a part of an event was sent that is gone since, with its run or by retention.
    pub(super) fn is_inside_removed(&self, journal: &Journal) -> bool {
        let Some(spec) = &self.spec else { return false };
        !self.pending.is_empty()
            && journal.events[journal.after(self.cursor)..].iter().any(|stored| {
                stored.belongs_to(spec)
                    && (journal.is_deleted(stored) || stored.removed.is_some())
                    && stored.frame(spec.format).starts_with(&self.pending)
            })
    }
}
