//! Each kind of damage, planted in a journal that was whole, and found.

use super::*;
use crate::event::Event;
use crate::journal::block::{BlockWriter, Order, OrderWriter, Sections};
use crate::journal::bytes::{CHECKSUM_BYTES, put_checksum};
use crate::journal::codec::{Encoder, KeyRecord, KeyScope, Preface};
use crate::journal::cold;
use crate::journal::fixture::Journal;
use crate::journal::memory::MemoryStore;
use crate::journal::model::seeded;
use crate::journal::once::{KeyState, ProducerState};
use crate::journal::store::Change;

const BOTH: Readable = Readable { log: true, cold: true };

fn problems(store: &dyn Store) -> (Vec<Problem>, Checked) {
    let mut problems = Vec::new();
    let checked = verify(store, BOTH, &mut |told| {
        if let Told::Problem(problem) = told {
            problems.push(problem);
        }
    });
    (problems, checked)
}

#[test]
fn a_journal_that_was_written_has_no_problem() {
    let mut rng = seeded();
    let mut seen = Checked::default();
    for _ in 0..50 {
        let journal = Journal::random(&mut rng);
        let (found, checked) = problems(&journal.store);
        assert_eq!(found, []);
        assert!(checked.runs >= journal.catalog.read().unwrap().counts().runs as u64);
        seen.windows += checked.windows;
        seen.log_events += checked.log_events;
        seen.keys += checked.keys;
        seen.producers += checked.producers;
    }
    let all = [seen.windows, seen.log_events, seen.keys, seen.producers];
    assert!(all.iter().all(|count| *count > 50), "{seen:?}");
}

// ---- what is planted ------------------------------------------------------------------------

/// The rows of a table.
fn rows(store: &dyn Store, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store
        .rows(table, &[], &mut |key, row| {
            rows.push((key.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

fn put(store: &dyn Store, change: Change) {
    store.change_rows(&[change]).unwrap();
}

fn remove(store: &dyn Store, table: Table, at: usize) {
    put(store, cold::remove(table, rows(store, table).swap_remove(at).0));
}

fn window(store: &dyn Store, at: usize) -> Window {
    let (key, row) = rows(store, Table::Windows).swap_remove(at);
    Window::parse(&key, &row).unwrap()
}

fn head(store: &dyn Store, run: u64, change: impl FnOnce(&mut RunHead, &mut Kept)) {
    let (mut head, mut kept) = cold::head(store, RunId(run)).unwrap().unwrap();
    change(&mut head, &mut kept);
    put(store, cold::head_change(RunId(run), &head, &kept));
}

fn state(store: &dyn Store, change: impl FnOnce(&mut State)) {
    let (mut state, _) = cold::state(store).unwrap();
    change(&mut state);
    put(store, state.change());
}

/// The first window's only block, packed again of other events.
fn repack(store: &dyn Store, change: impl FnOnce(&mut Vec<Event>)) {
    let (key, block) = rows(store, Table::Blocks).swap_remove(0);
    let mut events = Vec::new();
    for section in Sections::new(&block).unwrap() {
        events.extend(section.unwrap().iter().map(|event| event.unwrap().to_event()));
    }
    change(&mut events);
    let mut writer = BlockWriter::default();
    for event in &events {
        writer.push(&event.borrowed());
    }
    let (_, block) = writer.finish().swap_remove(0);
    put(store, Change { table: Table::Blocks, key, row: Some(block) });
}

/// The first window's only piece of order, written again.
fn reorder(store: &dyn Store, change: impl FnOnce(&mut Vec<(EventId, RunId)>)) {
    let (key, piece) = rows(store, Table::Order).swap_remove(0);
    let mut entries: Vec<_> = Order::new(&piece).unwrap().map(Result::unwrap).collect();
    change(&mut entries);
    let mut writer = OrderWriter::default();
    for (id, run) in entries {
        writer.push(id, run);
    }
    let (_, piece) = writer.finish().swap_remove(0);
    put(store, Change { table: Table::Order, key, row: Some(piece) });
}

fn key_row(store: &dyn Store, run: u64, first_id: u64) {
    let (run, first_id) = (RunId(run), EventId(first_id));
    let state =
        KeyState { run, fingerprint: 1, first_id, first_seq: 1, count: 1, time: Timestamp(1) };
    put(store, cold::key_change(KeyScope::Run, "k", &state));
}

fn producer_row(store: &dyn Store, run: u64, id: &str, heard: u64) {
    let state = ProducerState { epoch: 0, last_seq: 0, heard: EventId(heard) };
    put(store, cold::producer_change(RunId(run), id, &state));
}

/// The same journal with something wrong in its rows: what is found is all of these kinds.
fn planted(what: &str, kinds: &[Kind], plant: impl FnOnce(&MemoryStore)) {
    let store = Journal::small().store;
    plant(&store);
    expect(what, kinds, &store);
}

fn expect(what: &str, kinds: &[Kind], store: &MemoryStore) {
    let (found, _) = problems(store);
    let mut found_kinds: Vec<Kind> = found.iter().map(|problem| problem.kind).collect();
    found_kinds.sort_unstable();
    found_kinds.dedup();
    let said: Vec<String> = found
        .iter()
        .map(|Problem { kind, place, text }| format!("{}: {place}: {text}", kind.as_str()))
        .collect();
    let mut kinds = kinds.to_vec();
    kinds.sort_unstable();
    assert_eq!(found_kinds, kinds, "{what}: {said:#?}");
}

#[test]
fn the_journal_that_is_planted_in_is_whole() {
    let journal = Journal::small();
    let (found, checked) = problems(&journal.store);
    assert_eq!(found, []);
    let expected = Checked {
        runs: 4,
        windows: 2,
        window_events: 14,
        log_values: 3,
        log_events: 5,
        keys: 3,
        producers: 1,
        strays: 0,
    };
    assert_eq!(checked, expected);
}

#[test]
fn a_flipped_bit_is_found_in_every_table() {
    for table in Table::ALL {
        let kind = if table == Table::State { Kind::State } else { Kind::Bytes };
        for at in [0, 5] {
            let store = Journal::small().store;
            let (key, mut row) = rows(&store, table).swap_remove(0);
            let at = at % row.len();
            row[at] ^= 0x10;
            put(&store, Change { table, key: key.clone(), row: Some(row) });
            let (found, _) = problems(&store);
            let is_it = |problem: &Problem| {
                problem.kind == kind && problem.place == Place::Row(table, key.clone())
            };
            assert!(found.iter().any(is_it), "{table:?}: {found:#?}");
        }
    }
}

#[test]
fn a_flipped_bit_is_found_in_every_value() {
    let journal = Journal::small();
    let mut keys = Vec::new();
    journal
        .store
        .scan(EventId(0), &mut |key, _| {
            keys.push(key);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(keys.len(), 3);
    for key in keys {
        let flipped = journal.copy(|other, value| {
            let mut value = value.to_vec();
            if other == key {
                value[4] ^= 1;
            }
            Some((other, value))
        });
        let (found, _) = problems(&flipped);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!((found[0].kind, &found[0].place), (Kind::Bytes, &Place::Value(key)));
    }
}

#[test]
fn windows_are_checked() {
    use Kind::{Ids, Key, Order, Producer, Run, Seq, State, Window as Windows};
    planted("overlap", &[Windows, Run, Key], |store| {
        let mut second = window(store, 1);
        let first_id = second.first_id;
        second.first_id = window(store, 0).last_id;
        store.change_rows(&[cold::remove(Table::Windows, cold::key(first_id.0))]).unwrap();
        put(store, second.change());
    });
    planted("not there", &[Windows, Run], |store| {
        // The blocks of the second are between it and a third, which is empty.
        let mut second = window(store, 1);
        remove(store, Table::Windows, 1);
        (second.first_id, second.events) = (second.last_id, 0);
        put(store, second.change());
    });
    planted("beyond what was moved", &[Windows], |store| {
        let mut second = window(store, 1);
        second.last_id.0 += 1;
        put(store, second.change());
    });
    planted("too few events", &[Windows], |store| {
        let mut first = window(store, 0);
        first.events += 1;
        put(store, first.change());
    });
    planted("of another time", &[Windows], |store| {
        let mut first = window(store, 0);
        first.last_time.0 -= 1;
        put(store, first.change());
    });
    planted("under another key", &[Windows], |store| {
        let (key, row) = rows(store, Table::Blocks).swap_remove(0);
        put(store, cold::remove(Table::Blocks, key.clone()));
        let key = [&key[..23], &[key[23] + 1]].concat();
        put(store, Change { table: Table::Blocks, key, row: Some(row) });
    });
    planted("outside of its window", &[Windows, Order], |store| {
        repack(store, |events| events.last_mut().unwrap().id.0 = 1_000);
    });
    planted("a block is gone", &[Windows, Order, Seq], |store| {
        remove(store, Table::Blocks, 0);
    });
    planted("two events have one id", &[Ids, Order], |store| {
        repack(store, |events| events[4].id = events[0].id);
    });
    planted("an id is in no order", &[Order], |store| {
        reorder(store, |entries| entries.retain(|(id, _)| *id != EventId(5)));
    });
    planted("an id is of another run", &[Order], |store| {
        reorder(store, |entries| entries[4].1 = RunId(2));
    });
    planted("an id is in the order only", &[Windows, Order, Seq], |store| {
        repack(store, |events| drop(events.remove(3)));
    });
    planted("an order is gone", &[Order, Key], |store| remove(store, Table::Order, 0));
    for at in [2, 3] {
        planted("a piece that names another", &[Order], |store| {
            let (key, mut row) = rows(store, Table::Order).swap_remove(0);
            row.truncate(row.len() - CHECKSUM_BYTES);
            assert_eq!(row[at], 0, "the only piece of its window");
            row[at] = 1;
            put_checksum(&mut row);
            put(store, Change { table: Table::Order, key, row: Some(row) });
        });
    }
    planted("the key of a piece", &[Order], |store| {
        let (key, row) = rows(store, Table::Order).swap_remove(0);
        put(store, cold::remove(Table::Order, key.clone()));
        let key = [&key[..15], &[key[15] + 1]].concat();
        put(store, Change { table: Table::Order, key, row: Some(row) });
    });
    planted("moved less far than removed", &[State, Windows, Run, Key, Producer], |store| {
        state(store, |state| state.moved_through.0 -= 4);
    });
    planted("a jump over events", &[Ids], |store| {
        put(store, cold::jumps_change(&[Jump { after: EventId(3), next: EventId(6) }]));
    });
}

#[test]
fn what_no_interruption_leaves_is_told_from_what_one_does() {
    let store = Journal::small().store;
    let (_, row) = rows(&store, Table::Blocks).swap_remove(0);
    let key = cold::block_key(EventId(1_000), RunId(1), EventId(1_000));
    put(&store, Change { table: Table::Blocks, key, row: Some(row) });
    let (found, checked) = problems(&store);
    assert_eq!((found, checked.strays), (vec![], 1));
}

#[test]
fn events_are_checked() {
    use Kind::{Bytes, Event as Events, Run};
    planted("type", &[Events], |store| {
        repack(store, |events| {
            let mut other = events[2].borrowed();
            other.event_type = "no type";
            events[2] = other.to_event();
        });
    });
    planted("payload", &[Events], |store| {
        repack(store, |events| {
            let mut other = events[2].borrowed();
            other.payload = "{";
            events[2] = other.to_event();
        });
    });
    planted("a second beginning", &[Events], |store| {
        repack(store, |events| events[2].event_type = EventType::run_created());
    });
    planted("another beginning", &[Run], |store| {
        repack(store, |events| {
            let mut other = events[0].borrowed();
            other.payload = r#"{"project":"p","session":null,"metadata":null}"#;
            events[0] = other.to_event();
        });
    });
    planted("an end before the end", &[Events, Run], |store| {
        repack(store, |events| {
            events[2].event_type = RunStatus::Failed.closing_event().unwrap();
        });
    });
    planted("back in time", &[Events], |store| {
        repack(store, |events| events[2].created_at.0 -= 3);
    });
    planted("a seq is left out", &[Bytes], |store| {
        repack(store, |events| {
            events
                .iter_mut()
                .filter(|event| event.run_id == RunId(1))
                .skip(2)
                .for_each(|event| event.seq += 1);
        });
    });
}

#[test]
fn runs_keys_and_producers_are_checked() {
    use Kind::{Key, Producer, Run, Seq};
    planted("what a run is", &[Run], |store| remove(store, Table::Runs, 0));
    planted("where a run stands", &[Run], |store| remove(store, Table::Heads, 0));
    planted("a seq too far", &[Seq, Run], |store| head(store, 1, |head, _| head.event_count += 1));
    planted("another last event", &[Run], |store| {
        head(store, 1, |head, _| head.last_event_id.0 -= 1);
    });
    planted("another status", &[Run], |store| {
        head(store, 2, |head, _| head.status = RunStatus::Failed);
    });
    planted("another time", &[Run], |store| head(store, 2, |head, _| head.updated_at.0 += 1));
    planted("removed, and the journal does not know", &[Run], |store| {
        head(store, 1, |_, kept| *kept = Kept { first_seq: 2, removed_through: EventId(1) });
    });
    planted("a run of the future", &[Run, Key], |store| {
        state(store, |state| state.next_run = RunId(1));
    });
    planted("the key of no run", &[Key], |store| key_row(store, 1_000, 500));
    planted("the key of another run", &[Key], |store| key_row(store, 2, 1));
    planted("the key of another seq", &[Key], |store| key_row(store, 1, 5));
    planted("the producer of no run", &[Producer], |store| producer_row(store, 77, "p", 1));
    planted("a producer that was not heard", &[Producer], |store| {
        producer_row(store, 1, "p", 1_000);
    });
    planted("too many producers", &[Producer], |store| {
        for number in 0..=crate::limits::PRODUCERS_PER_RUN_MAX {
            producer_row(store, 1, &format!("p{number}"), 1);
        }
    });
}

#[test]
fn the_log_is_checked() {
    use Kind::{Event as Events, Ids, Key, Run, Seq, State};
    let journal = Journal::small();
    let last_id = journal.catalog.read().unwrap().last_id();
    // One more value, with these events, after what may stand before the first.
    let with =
        |what: &str, kinds: &[Kind], preface: Option<Preface<'_>>, events: &[EventRef<'_>]| {
            let store = journal.copy(|key, value| Some((key, value.to_vec())));
            let mut encoder = Encoder::new(events[0].id);
            for (at, event) in events.iter().enumerate() {
                encoder.event(event, preface.filter(|_| at == 0));
            }
            store.append(&encoder.finish(), true).unwrap();
            expect(what, kinds, &store);
        };
    let time = journal.catalog.read().unwrap().head(RunId(1)).unwrap().updated_at;
    let next = EventRef {
        id: last_id.next(),
        run_id: RunId(1),
        seq: 8,
        event_type: "A",
        payload: "1",
        created_at: time,
    };
    with("nothing wrong", &[], None, &[next]);
    let later = EventRef { id: EventId(last_id.0 + 1_000), ..next };
    with("ids may jump", &[], None, &[later]);
    with("a hole", &[Seq], None, &[EventRef { seq: 9, ..next }]);
    with("again", &[Seq], None, &[EventRef { seq: 7, ..next }]);
    with("no run", &[Run], None, &[EventRef { run_id: RunId(77), ..next }]);
    with("a deleted run", &[Run], None, &[EventRef { run_id: RunId(3), seq: 4, ..next }]);
    with("a run that has ended", &[Events], None, &[EventRef { run_id: RunId(2), seq: 6, ..next }]);
    with("back in time", &[Events], None, &[EventRef { created_at: Timestamp(1), ..next }]);
    let created = r#"{"project":null,"session":null,"metadata":null}"#;
    let creation = EventRef { seq: 1, event_type: "RUN_CREATED", payload: created, ..next };
    with("a run for the second time", &[Run], None, &[creation]);
    let key = KeyRecord { scope: KeyScope::Run, key: "k", fingerprint: 0, count: 0 };
    with("a key of nothing", &[Key], Some(Preface::Key(key)), &[next]);

    let store = journal.copy(|key, value| Some((key.next(), value.to_vec())));
    expect("values under other keys", &[Ids], &store);
    let store = journal.copy(|_, _| None);
    store.append(&[(EventId(1), Vec::new())], true).unwrap();
    expect("an empty value", &[Kind::Bytes], &store);
    let store = Journal::small().store;
    store.remove_values(EventId(u64::MAX), 1).unwrap();
    expect("removed and not moved", &[State, Run], &store);
    for (at, kind) in [(0, Run), (1, Seq)] {
        let seen = std::cell::Cell::new(0);
        let store = journal
            .copy(|key, value| (seen.replace(seen.get() + 1) != at).then(|| (key, value.to_vec())));
        expect("a value is gone", &[kind], &store);
    }
}
