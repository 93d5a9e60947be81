//! How the hub and those around it name a subscriber, and its socket.

/// The other end of a parked connection: opaque here, a descriptor to the stream ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub i32);

/// Names a subscriber for as long as it lives: a successor in the same place has another
/// generation, so that a late completion is not taken for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Place in the slab.
    pub key: u32,
    /// Counts subscribers, in 30 bits.
    pub generation: u32,
}
