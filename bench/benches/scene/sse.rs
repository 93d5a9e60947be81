//! Events, and a segment of a tail that is full of their frames.

use tidewheel::event::{Event, EventId, EventType, Format, Json, RunId, Timestamp};
use tidewheel::limits::TAIL_SEGMENT_BYTES;
use tidewheel::wire::sse;

/// An event whose frame has about `bytes`.
pub fn event(id: u64, bytes: usize) -> Event {
    let beside = 150;
    let text = "x".repeat(bytes.saturating_sub(beside));
    Event {
        id: EventId(id),
        run_id: RunId(12_345),
        seq: 678,
        event_type: EventType::new("TOKEN").expect("a type"),
        payload: Json::parse(&format!("{{\"text\":\"{text}\"}}")).expect("JSON"),
        created_at: Timestamp(1_767_225_600_007),
    }
}

/// Frames of about `bytes` each, as many as a segment has.
pub fn segment(bytes: usize) -> Vec<u8> {
    let mut segment = Vec::new();
    for id in 1_000_000.. {
        sse::event(&mut segment, &event(id, bytes).borrowed(), Format::Envelope);
        if segment.len() >= TAIL_SEGMENT_BYTES {
            break;
        }
    }
    segment
}
