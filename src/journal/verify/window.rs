//! Windows: their rows, their blocks, and their order, which names the same events.

use std::ops::ControlFlow;

use super::{Kind, Place, Verifier, follow};
use crate::event::{EventId, EventRef, RunId};
use crate::journal::block::{Order, Sections};
use crate::journal::codec::DecodeError;
use crate::journal::cold::{self, Window};
use crate::journal::store::Table;

impl Verifier<'_> {
    pub(super) fn cold_windows(&mut self) {
        let mut through = EventId(0);
        self.rows(Table::Windows, &[], |this, key, row| {
            let window = match Window::parse(key, row) {
                Ok(window) => window,
                Err(error) => {
                    this.bytes(Table::Windows, key, &error);
                    // What is in it is still there, but which runs have events in it is not known.
                    this.unreadable_runs.push((RunId(0), RunId(u64::MAX)));
                    return ControlFlow::Continue(());
                }
            };
            let wrong = if window.first_id <= through {
                "it overlaps the window before: events would be read twice"
            } else if window.last_id < window.first_id || window.first_time > window.last_time {
                "it ends before it begins"
            } else if window.last_id > this.state.moved_through {
                "it goes beyond what was moved: its events would be read from the log too"
            } else {
                ""
            };
            if !wrong.is_empty() {
                this.problem(Kind::Window, Place::Window(window.first_id), wrong);
            }
            through = through.max(window.last_id);
            this.windows.push(window);
            ControlFlow::Continue(())
        });
        for table in [Table::Blocks, Table::Order] {
            self.rows_of_windows(table);
        }
        for window in self.windows.clone() {
            self.window(window);
        }
    }

    /// Looks for rows of windows that there are not.
    fn rows_of_windows(&mut self, table: Table) {
        let mut from = Vec::new();
        loop {
            let mut next = None;
            self.rows(table, &from, |_, key, _| {
                next = Some(key.to_vec());
                ControlFlow::Break(())
            });
            let Some(key) = next else { return };
            let Some((first_id, _)) = key.split_first_chunk::<8>() else {
                self.bytes(table, &key, &DecodeError::Malformed("a key of another length"));
                from = [&key[..], &[0]].concat();
                continue;
            };
            let first_id = EventId(u64::from_be_bytes(*first_id));
            let at = self.windows.partition_point(|window| window.first_id < first_id);
            if self.windows.get(at).is_none_or(|window| window.first_id != first_id) {
                if at == 0 || at == self.windows.len() {
                    self.checked.strays += 1;
                } else {
                    let text = "it is of a window that there is not: its events are not read";
                    self.problem(Kind::Window, Place::Row(table, key), text);
                }
            }
            from = cold::key(first_id.0.saturating_add(1));
            if first_id.0 == u64::MAX {
                return;
            }
        }
    }

    fn window(&mut self, window: Window) {
        self.checked.windows += 1;
        let mut ids: Vec<(EventId, RunId)> = Vec::new();
        let mut is_whole = true;
        // From the run of a block that cannot be read to that of the next.
        let mut lost_from = None;
        let mut previous = (RunId(0), EventId(0));
        self.rows(Table::Blocks, &cold::key(window.first_id.0), |this, key, row| {
            let (of, run, id) = match cold::parse_block_key(key) {
                Ok(parsed) => parsed,
                Err(error) => {
                    this.bytes(Table::Blocks, key, &error);
                    return ControlFlow::Continue(());
                }
            };
            if of != window.first_id {
                return ControlFlow::Break(());
            }
            if let Some(first) = lost_from.take() {
                this.unreadable_runs.push((first, run));
            }
            let before = ids.len();
            if let Err(error) = this.block(window, (run, id), &mut previous, row, &mut ids) {
                this.bytes(Table::Blocks, key, &error);
                ids.truncate(before);
                is_whole = false;
                lost_from = Some(run);
            }
            ControlFlow::Continue(())
        });
        if let Some(first) = lost_from {
            self.unreadable_runs.push((first, RunId(u64::MAX)));
        }
        self.checked.window_events += ids.len() as u64;
        if is_whole && (ids.len() as u64) < window.events {
            let text = format!(
                "it has {} events, and had {} when it was last written",
                ids.len(),
                window.events
            );
            self.problem(Kind::Window, Place::Window(window.first_id), text);
        }
        ids.sort_unstable();
        for pair in ids.windows(2) {
            if pair[0].0 == pair[1].0 {
                let text =
                    format!("it is there twice, of run {} and of run {}", pair[0].1, pair[1].1);
                self.problem(Kind::Ids, Place::Event(pair[0].0), text);
            }
        }
        self.order(window, &ids, is_whole);
    }

    /// Follows the events of a block, and adds their ids.
    fn block(
        &mut self,
        window: Window,
        (run, id): (RunId, EventId),
        previous: &mut (RunId, EventId),
        block: &[u8],
        ids: &mut Vec<(EventId, RunId)>,
    ) -> Result<(), DecodeError> {
        let key = || Place::Row(Table::Blocks, cold::block_key(window.first_id, run, id));
        // All of it is decoded before anything is said: what is malformed is lost as a whole.
        let mut events = Vec::new();
        for section in Sections::new(block)? {
            let section = section?;
            let before = events.len();
            for event in section.iter() {
                events.push(event?);
            }
            let last = events[before..].last().map(|event| event.id);
            if last != Some(section.last_id) {
                return Err(DecodeError::Malformed("a section that ends at another id"));
            }
        }
        // It may begin later than its key says: what was before is swept.
        let first = events.first().map(|event| (event.run_id, event.id));
        if (run, id) <= *previous || first.is_none_or(|first| first < (run, id)) {
            let text = "it is under a key at which its events are not found";
            self.problem(Kind::Window, key(), text);
        }
        for event in &events {
            if (event.run_id, event.id) <= *previous {
                let text = "it does not come after the one before it in its run";
                self.problem(Kind::Ids, Place::Event(event.id), text);
            }
            *previous = (event.run_id, event.id);
            let is_in_time = (window.first_time..=window.last_time).contains(&event.created_at);
            if !(window.first_id..=window.last_id).contains(&event.id) {
                let text = format!(
                    "it lies in window {}, to which its id does not belong",
                    window.first_id
                );
                self.problem(Kind::Window, Place::Event(event.id), text);
            } else if !is_in_time {
                let text = format!("it is of another time than window {}", window.first_id);
                self.problem(Kind::Window, Place::Event(event.id), text);
            }
            self.event_in_window(event);
            ids.push((event.id, event.run_id));
        }
        Ok(())
    }

    fn event_in_window(&mut self, event: &EventRef<'_>) {
        self.event_makes_sense(event);
        let is_unreadable = self.is_unreadable(event.run_id);
        // Events of runs that are gone stay until somebody sweeps; of them nothing is promised.
        if self.is_doomed(event.run_id) {
            return;
        }
        if let Some((_, seq)) = self.keys.get(&event.id).filter(|(_, seq)| *seq != event.seq) {
            let text = format!("it says seq {seq} of an event with seq {}", event.seq);
            self.problem(Kind::Key, Place::Row(Table::Keys, cold::key(event.id.0)), text);
        }
        let Some(run) = self.runs.get_mut(&event.run_id) else {
            if event.run_id >= self.state.next_run && !is_unreadable {
                let text = "it is of a run whose id has not been given out yet";
                self.problem(Kind::Run, Place::Event(event.id), text);
            }
            return;
        };
        let expected = run.followed.map_or(1, |last| last.seq + 1);
        let first_kept = run.head.map_or(1, |(_, kept)| kept.first_seq);
        let is_other_creation = event.seq == 1
            && run.created.as_deref().is_some_and(|created| created != event.payload);
        let wrong = if event.seq < expected {
            Some((Kind::Seq, format!("it has seq {} of run {} again", event.seq, event.run_id)))
        } else if event.seq > expected && event.seq > first_kept && !is_unreadable {
            let text = format!(
                "it has seq {} of run {}, where {expected} should follow: events are missing",
                event.seq, event.run_id
            );
            Some((Kind::Seq, text))
        } else if is_other_creation {
            Some((
                Kind::Run,
                format!("it says something else than is known of run {}", event.run_id),
            ))
        } else {
            None
        };
        let after = follow(run, event).map(|text| (Kind::Event, text.to_owned()));
        let wrong = wrong.or(after);
        if let Some((kind, text)) = wrong {
            self.problem(kind, Place::Event(event.id), text);
        }
    }

    /// The order of a window names its events, and no others.
    fn order(&mut self, window: Window, ids: &[(EventId, RunId)], has_all_blocks: bool) {
        let mut left = ids.iter().copied().peekable();
        // The last id of the piece before, and the first of the one that it names.
        let (mut ends, mut next) = (EventId(0), None);
        let mut through = EventId(0);
        let mut unordered = Vec::new();
        let mut keys = std::mem::take(&mut self.keys);
        let mut has_all_order = true;
        self.rows(Table::Order, &cold::key(window.first_id.0), |this, key, row| {
            let place = || Place::Row(Table::Order, key.to_vec());
            let (of, first) = match cold::parse_order_key(key) {
                Ok(parsed) => parsed,
                Err(error) => {
                    this.bytes(Table::Order, key, &error);
                    return ControlFlow::Continue(());
                }
            };
            if of != window.first_id {
                return ControlFlow::Break(());
            }
            let decoded = Order::new(row).and_then(|order| {
                let entries = order.clone().collect::<Result<Vec<_>, _>>()?;
                Ok((order, entries))
            });
            let (piece, entries) = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    this.bytes(Table::Order, key, &error);
                    has_all_order = false;
                    return ControlFlow::Continue(());
                }
            };
            if entries.first().is_none_or(|(id, _)| *id != first) {
                this.problem(Kind::Order, place(), "it is under another key than its first id");
            }
            // What is before one that cannot be decoded was said already.
            if has_all_order && (piece.before, piece.first_id) != (ends, next.unwrap_or(first)) {
                let text = "it and the piece before it do not name each other";
                this.problem(Kind::Order, place(), text);
            }
            (ends, next) = (entries.last().map_or(first, |(id, _)| *id), Some(piece.after));
            for (id, run) in entries {
                if id <= through || !(window.first_id..=window.last_id).contains(&id) {
                    let text = format!("the order of window {of} has it at the wrong place");
                    this.problem(Kind::Order, Place::Event(id), text);
                    continue;
                }
                through = id;
                while let Some(event) = left.next_if(|(other, _)| *other < id) {
                    unordered.push(event);
                }
                let found = left.next_if(|(other, _)| *other == id);
                let key_run = keys.remove(&id).map(|(key_run, _)| key_run);
                if let Some(key_run) = key_run.filter(|key_run| *key_run != run) {
                    let text = format!("its first event is of run {run}, and it of run {key_run}");
                    this.problem(Kind::Key, Place::Row(Table::Keys, cold::key(id.0)), text);
                }
                match found {
                    Some((_, of)) if of != run => {
                        let text = format!("it is of run {of}, and the order says run {run}");
                        this.problem(Kind::Order, Place::Event(id), text);
                    }
                    None if has_all_blocks && !this.may_be_gone(run, id) => {
                        let text =
                            format!("the order has it, of run {run}, and no block: it is lost");
                        this.problem(Kind::Order, Place::Event(id), text);
                    }
                    Some(_) | None => {}
                }
            }
            ControlFlow::Continue(())
        });
        unordered.extend(left);
        // A key whose event should be here is of none.
        let inside = window.first_id..=window.last_id;
        let astray: Vec<(EventId, RunId)> =
            keys.range(inside).map(|(id, (run, _))| (*id, *run)).collect();
        keys.retain(|id, _| !(window.first_id..=window.last_id).contains(id));
        self.keys = keys;
        if !has_all_order {
            return;
        }
        if let Some(lost) = next.filter(|next| *next != EventId(0)) {
            let text = "the piece of the order that begins with it is lost";
            self.problem(Kind::Order, Place::Event(lost), text);
        }
        for (id, run) in unordered {
            let text = format!(
                "it is in a block of run {run}, and not in the order: only streams of that run have it"
            );
            self.problem(Kind::Order, Place::Event(id), text);
        }
        for (id, _) in
            astray.into_iter().filter(|(id, run)| !self.may_be_gone(*run, *id)).collect::<Vec<_>>()
        {
            let text = "the event that it came with is not there: who asks again is not answered";
            self.problem(Kind::Key, Place::Row(Table::Keys, cold::key(id.0)), text);
        }
    }

    /// Whether retention, or a deletion, may have taken an event of a window.
    fn may_be_gone(&self, run: RunId, id: EventId) -> bool {
        let known = self.runs.get(&run).and_then(|run| run.head);
        self.is_unreadable(run)
            || self.is_doomed(run)
            || known.is_none_or(|(_, kept)| id <= kept.removed_through)
    }
}
