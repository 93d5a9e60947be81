//! A store in memory: the obvious twin of [`super::redb`], for tests.

use std::collections::BTreeMap;
use std::sync::{RwLock, RwLockReadGuard};

use super::store::{Store, StoreError, ValueVisitor};
use crate::event::EventId;

/// Keeps values for as long as it lives.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: RwLock<BTreeMap<EventId, Vec<u8>>>,
}

impl MemoryStore {
    fn values(&self) -> RwLockReadGuard<'_, BTreeMap<EventId, Vec<u8>>> {
        self.values.read().expect("no one panics while holding the lock")
    }
}

impl Store for MemoryStore {
    fn append(&self, values: &[(EventId, Vec<u8>)], _sync: bool) -> Result<(), StoreError> {
        let mut stored = self.values.write().expect("no one panics while holding the lock");
        for (key, value) in values {
            debug_assert!(stored.last_key_value().is_none_or(|(last, _)| last < key));
            stored.insert(*key, value.clone());
        }
        Ok(())
    }

    fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        Ok(self.values().get(&key).map(|value| visit(value)).is_some())
    }

    fn scan(&self, from: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        let values = self.values();
        let first = values.range(..=from).next_back().map_or(from, |(key, _)| *key);
        for (key, value) in values.range(first..) {
            if visit(*key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(&self, upto: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        for (key, value) in self.values().range(..=upto).rev() {
            if visit(*key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.values().values().map(|value| value.len() as u64).sum())
    }
}
