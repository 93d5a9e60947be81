//! What is appended.

use tidewheel::event::{EventType, Json, NewEvent};

/// Some 200 bytes of payload.
pub fn event() -> NewEvent {
    NewEvent {
        event_type: EventType::new("AGENT_THINKING").unwrap(),
        payload: Json::from_trusted(format!("{{\"text\":\"{}\"}}", "x".repeat(175))),
    }
}
