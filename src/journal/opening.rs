//! What is read of the cold part when a journal is opened: its small rows, and none of its blocks.

use super::catalog::Catalog;
use super::codec::{DecodeError, parse_run_created};
use super::cold::{
    THE_ONE, Window, each_row, key, numbers, parse_head, parse_key, parse_producer, parse_run,
    state,
};
use super::once::OnceStates;
use super::store::{Store, StoreError, Table};
use crate::event::RunId;

/// Reads what was moved: every run, key and producer as it stood at the end of the last window.
///
/// # Errors
/// When the storage fails, or a row is not as it was written.
pub fn load(
    store: &dyn Store,
    catalog: &mut Catalog,
    once: &mut OnceStates,
) -> Result<(), StoreError> {
    let (state, jumps) = state(store)?;
    if store.removed_through()? > state.moved_through {
        let error = DecodeError::Malformed("what was moved from the log is missing");
        return Err(StoreError::CorruptRow { table: Table::State, key: THE_ONE.to_vec(), error });
    }
    let mut windows = Vec::new();
    each_row(store, Table::Windows, &[], |key, row| {
        windows.push(Window::parse(key, row)?);
        Ok(true)
    })?;
    catalog.restore(state, jumps, windows);
    // Both tables have the same keys; heads are small, and read at once.
    let mut heads = Vec::new();
    each_row(store, Table::Heads, &[], |key, row| {
        let [run] = numbers(key)?;
        let (head, kept) = parse_head(row)?;
        heads.push((RunId(run), head, kept));
        Ok(true)
    })?;
    let mut heads = heads.into_iter();
    each_row(store, Table::Runs, &[], |key, row| {
        const MALFORMED: DecodeError = DecodeError::Malformed("a run that is not known");
        let [run] = numbers(key)?;
        let (of, head, kept) = heads.next().ok_or(MALFORMED)?;
        if of != RunId(run) {
            return Err(MALFORMED);
        }
        let (labels, metadata) = parse_run_created(parse_run(row)?)?;
        catalog.restore_run(of, labels, metadata, head, kept);
        Ok(true)
    })?;
    if let Some((run, ..)) = heads.next() {
        let error = DecodeError::Malformed("a run without its description");
        return Err(StoreError::CorruptRow { table: Table::Heads, key: key(run.0), error });
    }
    each_row(store, Table::Keys, &[], |key, row| {
        let (scope, text, state) = parse_key(key, row)?;
        // A run takes its keys along; their rows go when they are old.
        if catalog.contains(state.run) {
            once.apply_key(scope, text, state);
        }
        Ok(true)
    })?;
    each_row(store, Table::Producers, &[], |key, row| {
        let (run, id, state) = parse_producer(key, row)?;
        once.apply_producer(run, id, state);
        Ok(true)
    })
}
