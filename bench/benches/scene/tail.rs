//! The tail of a busy view: a megabyte of events, some 300 bytes each.

use std::hint::black_box;

use tidewheel::{
    event::{Event, EventId, EventType, Format, Json, RunId, Timestamp},
    tail::Tail,
    wire::sse,
};

/// Events in the tail.
pub const EVENTS: u64 = 3_500;
/// Places or cursors that are looked up.
pub const LOOKUPS: u64 = 1_000;
/// A prime, and no divisor of the lengths here: its multiples fall everywhere.
const STRIDE: u64 = 1_299_709;

/// The frames of the events from 1 on.
pub fn frames() -> Vec<Vec<u8>> {
    let frame = |id| {
        let event = Event {
            id: EventId(id),
            run_id: RunId(1),
            seq: id,
            event_type: EventType::new("AGENT_THINKING").expect("a type"),
            payload: Json::from_trusted(format!("{{\"text\":\"{}\"}}", "x".repeat(175))),
            created_at: Timestamp(1_800_000_000_000),
        };
        let mut frame = Vec::new();
        sse::event(&mut frame, &event.borrowed(), Format::Envelope);
        frame
    };
    (1..=EVENTS).map(frame).collect()
}

/// Appends them all.
pub fn append(tail: &mut Tail, frames: &[Vec<u8>]) {
    for (id, frame) in (1..).map(EventId).zip(frames) {
        tail.append(id, frame);
    }
}

/// A tail that holds them all.
pub fn full() -> Tail {
    let mut tail = Tail::new(EventId(0));
    append(&mut tail, &frames());
    tail
}

/// Reads from places that lie anywhere.
pub fn read(tail: &Tail) {
    for offset in offsets(tail) {
        black_box(tail.read(offset));
    }
}

/// Asks what lies before them.
pub fn place(tail: &Tail) {
    for offset in offsets(tail) {
        black_box(tail.place(offset));
    }
}

/// Looks for what follows cursors that lie anywhere.
pub fn offset_after(tail: &Tail) {
    for cursor in (0..LOOKUPS).map(|n| EventId(n * STRIDE % EVENTS)) {
        black_box(tail.offset_after(cursor));
    }
}

fn offsets(tail: &Tail) -> impl Iterator<Item = u64> {
    let (start, length) = (tail.start(), tail.end() - tail.start());
    (0..LOOKUPS).map(move |n| start + n * STRIDE % length)
}
