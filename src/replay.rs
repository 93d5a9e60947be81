//! History for streams: what the hub asks of the journal, read and encoded.

use std::sync::RwLock;

use crate::{
    hub::{History, HistoryJob, HistoryReader},
    journal::{
        catalog::Catalog,
        history::{HistoryRequest, read_end_start, read_forward},
        store::{Store, StoreError},
    },
    limits::{REPLAY_CHUNK_BYTES, REPLAY_CHUNK_VALUES_MAX, TAIL_FILL_BYTES, TAIL_FILL_VALUES_MAX},
    wire::sse,
};

/// Does one job. It waits for the disk: never call it on an event loop.
///
/// # Errors
/// When the store cannot be read, or a value is not as it was written.
pub fn read(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
    job: &HistoryJob,
) -> Result<History, StoreError> {
    let selection = &job.spec.selection;
    let (after, bytes_max, values_max) = match job.reader {
        HistoryReader::Chunk { after, .. } => {
            (Ok(after), REPLAY_CHUNK_BYTES, REPLAY_CHUNK_VALUES_MAX)
        }
        HistoryReader::View { .. } => {
            let (bytes, values) = (TAIL_FILL_BYTES, TAIL_FILL_VALUES_MAX);
            let start = read_end_start(store, catalog, selection, job.upto, bytes, values);
            // Frames are larger than what is stored; whatever begins there is taken whole.
            (start, usize::MAX, usize::MAX)
        }
    };
    let mut bytes = Vec::new();
    let mut events = 0;
    let read = after.and_then(|after| {
        let request = HistoryRequest {
            selection: selection.clone(),
            after,
            upto: job.upto,
            events_max: usize::MAX,
            bytes_max,
            values_max,
        };
        read_forward(store, catalog, &request, &mut |event| {
            let before = bytes.len();
            events += 1;
            sse::event(&mut bytes, event, job.spec.format);
            bytes.len() - before
        })
        .map(|read| (after, read))
    });
    // It is kept for a while, and counted by its length.
    bytes.shrink_to_fit();
    read.map(|(covered_after, read)| History {
        reader: job.reader,
        bytes,
        events,
        covered_after,
        scanned_to: read.scanned_to,
        truncated: read.truncated.is_some(),
        failed: false,
    })
}
