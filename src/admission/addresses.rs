//! How many connections each address has.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{client_address::AddressKey, limits::ADDRESS_SHARDS};

/// An entry for each address that has a connection, none for any other: in parts, each behind a lock
/// of its own, so that workers which accept at the same time seldom meet.
#[derive(Debug)]
pub(super) struct Addresses {
    max: u32,
    hasher: RandomState,
    shards: [Mutex<HashMap<AddressKey, u32>>; ADDRESS_SHARDS],
}

impl Addresses {
    pub(super) fn new(max: u32) -> Addresses {
        let shards = std::array::from_fn(|_| Mutex::default());
        Addresses { max, hasher: RandomState::new(), shards }
    }

    /// One more for an address, if it may have it.
    pub(super) fn take(&self, address: AddressKey) -> bool {
        let mut counts = self.shard(address);
        let count = counts.entry(address).or_default();
        if *count >= self.max {
            return false;
        }
        *count += 1;
        true
    }

    /// One less.
    pub(super) fn leave(&self, address: AddressKey) {
        if let Entry::Occupied(mut count) = self.shard(address).entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn shard(&self, address: AddressKey) -> MutexGuard<'_, HashMap<AddressKey, u32>> {
        let shard = self.hasher.hash_one(address) as usize % ADDRESS_SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().unwrap().is_empty())
    }
}
