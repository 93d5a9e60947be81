//! The wire: bytes in, values out, and back. No socket, no clock, and no word about the journal.

pub mod body;
pub mod forwarded;
pub mod framing;
pub mod head_scanner;
pub mod headers;
pub mod method;
pub mod problem;
pub mod refusal;
pub mod request;
pub mod response;
pub mod sse;
pub mod status;
pub mod target;
