//! A backup of the journal while it is served.
//!
//! The keeper rests, so that everything stays where it is; then a reader's thread makes a piece, and
//! the connection sends it before it asks for the next. So the loop waits for nothing, and no more
//! than a piece is held for however slow a client. One that takes nothing is ended like any other,
//! and a backup that cannot go on is cut off: without its end it is none.

use std::time::Duration;

use super::transport::{Gone, Transport};
use crate::{
    admission::Refusal,
    driver::sleep,
    journal::{backup::BackupWriter, store::StoreError},
    limits::HOLD_PAUSE_MS,
    shared::read_catalog,
    wire::{
        request::{Method, RequestHead},
        response::encode_backup_head,
    },
};

/// Answers a request for a backup.
pub(super) async fn backup(transport: &mut Transport, head: &RequestHead) -> Result<(), Gone> {
    let worker = std::rc::Rc::clone(&transport.worker);
    let mut bytes = Vec::new();
    encode_backup_head(&worker.date(), &mut bytes);
    if head.method == Method::Head {
        transport.send(&bytes).await?;
        transport.linger().await;
        return Ok(());
    }
    let journal = &worker.shared.journal;
    let hold = journal.hold();
    while !hold.has_begun() {
        if worker.is_draining() {
            let response = super::unavailable(&worker, Refusal::Draining);
            transport.answer(Some(head), response, false).await?;
            return Ok(());
        }
        sleep(Duration::from_millis(HOLD_PAUSE_MS)).await;
    }
    // What was answered before this request is in the catalog.
    let now = worker.shared.clock.now();
    let mut writer = read_catalog(&worker.shared, |catalog| {
        BackupWriter::new(catalog, journal.log_bytes(), now)
    });
    log::info!("a backup up to id {} begins", writer.header().last_id);
    transport.send(&bytes).await?;
    loop {
        let step = worker.read(move |store, _| {
            let piece = writer.step(store);
            (writer, piece)
        });
        let reason = match step.await {
            Some((next, Ok(Some(piece)))) if !hold.is_broken() && !worker.is_draining() => {
                writer = next;
                transport.send(&piece).await?;
                continue;
            }
            Some((_, Ok(None))) => {
                log::info!("the backup is complete");
                transport.linger().await;
                return Ok(());
            }
            Some((_, Ok(Some(_)))) if worker.is_draining() => "the server is going down".to_owned(),
            Some((_, Ok(Some(_)))) => "it holds up the journal for too long".to_owned(),
            Some((_, Err(error))) => StoreError::to_string(&error),
            None => "too many reads are waiting".to_owned(),
        };
        log::warn!("a backup is cut off: {reason}");
        return Err(Gone);
    }
}
