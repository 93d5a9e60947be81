//! `tidewheel journal compact`: gives the system back what a journal has to spare.

use std::io::Write;
use std::path::PathBuf;
use std::sync::RwLock;

use argh::FromArgs;
use serde_json::json;

use super::{Place, Progress, ToolResult, bytes, cannot_open, cannot_read, place, say};
use crate::journal::catalog::{Catalog, read};
use crate::journal::commit::Committer;
use crate::journal::redb::RedbStore;
use crate::journal::store::{Store, StoreError};
use crate::journal::windows::{self, NextWindow};
use crate::limits::{COMPACTIONS_MAX, REMOVE_VALUES};

/// make the files of a journal that no server has open as small as they can be
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "compact", help_triggers("-h", "--help"))]
pub(super) struct Compact {
    /// directory of the journal; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &Compact, out: &mut dyn Write) -> ToolResult {
    let place = place(args.journal.as_ref(), args.config.as_ref())?;
    // Opened to be looked at first, so that none is made where there is none.
    drop(RedbStore::open_read_only(&place.directory).map_err(cannot_open)?);
    let mut store = RedbStore::open(&place.directory).map_err(cannot_open)?;
    let before = store.disk_bytes().map_err(cannot_read)?;
    let (packed, swept) = take_in(&store, &place, before).map_err(cannot_read)?;
    for _ in 0..COMPACTIONS_MAX {
        if !store.compact().map_err(cannot_read)? {
            break;
        }
    }
    let after = store.disk_bytes().map_err(cannot_read)?;
    let text = if args.json {
        json!({
            "bytes_before": before,
            "bytes_after": after,
            "windows_made": packed,
            "windows_swept": swept,
        })
        .to_string()
    } else {
        let (before, after) = (bytes(before), bytes(after));
        format!("{before} before, {after} after; windows made: {packed}, packed anew: {swept}")
    };
    say(out, &format!("{text}\n"))
}

/// Packs the log into windows, and removes what is kept no longer from all of them. How many windows
/// were made, and how many were changed.
fn take_in(store: &dyn Store, place: &Place, total: u64) -> Result<(usize, usize), StoreError> {
    let mut catalog = Committer::open(store, place.keys_max)?.catalog;
    if let Some(max) = place.run_events_max {
        catalog.keep_run_events(max);
    }
    let catalog: RwLock<Catalog> = RwLock::new(catalog);
    let mut made = 0;
    loop {
        let moved_through = read(&catalog).moved_through();
        while store.remove_values(moved_through, REMOVE_VALUES)? == REMOVE_VALUES {}
        let next = NextWindow::read(store, moved_through, place.window_bytes as usize)?;
        let Some(next) = next else { break };
        next.make(store, &catalog, place.keys_max)?;
        made += 1;
    }
    let progress = Progress::begin("sweep", total);
    let all = read(&catalog).windows().to_vec();
    windows::remove_strays(store, &all)?;
    let mut swept = 0;
    for window in all {
        if let Some(removal) = windows::sweep(store, &catalog, window)? {
            removal.finish(store, &catalog)?;
            swept += 1;
        }
        progress.add(window.bytes);
    }
    Ok((made, swept))
}
