//! A store in memory: the obvious twin of [`super::redb`], for tests.

use std::collections::BTreeMap;
use std::sync::{RwLock, RwLockReadGuard};

use super::store::{Change, RowVisitor, Store, StoreError, Table, ValueVisitor};
use crate::event::EventId;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Keeps values for as long as it lives.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: RwLock<BTreeMap<EventId, Vec<u8>>>,
    rows: RwLock<Rows>,
    removed_through: RwLock<EventId>,
}

impl MemoryStore {
    fn values(&self) -> RwLockReadGuard<'_, BTreeMap<EventId, Vec<u8>>> {
        self.values.read().expect("no one panics while holding the lock")
    }

    fn read_rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().expect("no one panics while holding the lock")
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
        let values: usize = self.values().values().map(Vec::len).sum();
        let rows: usize = self.read_rows().values().map(Vec::len).sum();
        Ok((values + rows) as u64)
    }

    fn remove_values(&self, upto: EventId, max: usize) -> Result<usize, StoreError> {
        let mut stored = self.values.write().expect("no one panics while holding the lock");
        let keys: Vec<EventId> = stored.range(..=upto).take(max).map(|(key, _)| *key).collect();
        for key in &keys {
            stored.remove(key);
        }
        if let Some(last) = keys.last() {
            *self.removed_through.write().expect("no one panics while holding the lock") = *last;
        }
        Ok(keys.len())
    }

    fn removed_through(&self) -> Result<EventId, StoreError> {
        Ok(*self.removed_through.read().expect("no one panics while holding the lock"))
    }

    fn change_rows(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut rows = self.rows.write().expect("no one panics while holding the lock");
        for Change { table, key, row } in changes.iter().cloned() {
            match row {
                Some(row) => drop(rows.insert((table, key), row)),
                None => drop(rows.remove(&(table, key))),
            }
        }
        Ok(())
    }

    fn rows(&self, table: Table, from: &[u8], visit: RowVisitor<'_>) -> Result<(), StoreError> {
        for ((of, key), row) in self.read_rows().range((table, from.to_vec())..) {
            if *of != table || visit(key, row).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn rows_back(
        &self,
        table: Table,
        from: &[u8],
        visit: RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        for ((of, key), row) in self.read_rows().range(..=(table, from.to_vec())).rev() {
            if *of != table || visit(key, row).is_break() {
                break;
            }
        }
        Ok(())
    }
}
