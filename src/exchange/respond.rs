//! What requests ask for, other than streams and uploads: from a request that was read in full to
//! its answer.

use std::{
    rc::Rc,
    sync::{Arc, RwLock},
    time::Duration,
};

use super::{Answer, Asked, stream, transport::Armed};
use crate::{
    api::{
        answer::{self, EventsPage, Uploaded},
        body, openapi,
        query::{self, Accepts, PageQuery},
    },
    deadlines::Deadline,
    event::{Event, EventId, NewEvent, RunId, RunStatus, Scope, Selection},
    journal::{
        Write, WriteResult, Written,
        catalog::{self, Catalog, RunFilter},
        history::{self, HistoryRequest, read_forward},
        store::{Store, StoreError},
    },
    limits::{EVENT_OVERHEAD_BYTES, PAGE_BYTES_MAX, WRITE_ROOM_SECONDS_MAX},
    metrics::{self, Form},
    route::Route,
    shared::read_catalog,
    status,
    wire::{problem::Problem, request::RequestHead, response::Response, sse},
    worker::Worker,
};

pub(super) async fn respond(worker: &Rc<Worker>, asked: &Asked, body: &[u8]) -> Answer {
    let Asked { head, route, .. } = asked;
    let answer = match route {
        Route::CreateRun => create_run(worker, head, body).await,
        Route::AppendEvents(run) => append(worker, *run, head, body).await,
        Route::EndRun(run) => end_run(worker, *run, head, body).await,
        Route::DeleteRun(run) => delete_run(worker, *run, head).await,
        Route::GetRun(run) => Ok(get_run(worker, *run)),
        Route::ListRuns => list_runs(worker, head).await,
        Route::ListProjects => {
            read(worker, |_, catalog| answer::projects(&catalog::projects(catalog))).await
        }
        Route::ListEvents(run) => list_events(worker, *run, head).await,
        Route::Stream(path) => {
            return stream::stream(worker, path, asked).unwrap_or_else(Into::into);
        }
        Route::Probe => return stream::probe(worker, asked),
        Route::Backup => return Answer::Backup,
        Route::Worker => Ok(status::worker(&worker.shared, first_kept(worker).await)),
        Route::Health => Ok(status::health()),
        Route::Ready => Ok(status::ready(&worker.shared)),
        Route::Openapi => Ok(openapi::document(&head.headers)),
        Route::Metrics => metrics(worker, head).await,
        Route::Options(allow) => Ok(worker.shared.cors.options(&head.headers, allow)),
    };
    answer.map_or_else(Answer::from, Answer::from)
}

pub(super) fn max_event_bytes(worker: &Worker) -> usize {
    worker.shared.settings.max_event_bytes.0 as usize
}

/// Has the journal do a write; waits for room there for a bounded time.
async fn commit(worker: &Worker, write: Write) -> Option<WriteResult> {
    worker.write(write, Some(Duration::from_secs(WRITE_ROOM_SECONDS_MAX))).await
}

async fn create_run(
    worker: &Rc<Worker>,
    head: &RequestHead,
    body: &[u8],
) -> Result<Response, Problem> {
    let key = query::idempotency_key(&head.headers, body)?;
    let new_run = body::new_run(body, max_event_bytes(worker))?;
    let write = Write::CreateRun { labels: new_run.labels, metadata: new_run.metadata, key };
    match commit(worker, write).await {
        Some(Ok(Written::Created(run))) => Ok(answer::created(&run)),
        Some(Ok(Written::CreatedBefore { run, first_id })) => {
            let found = read_catalog(&worker.shared, |catalog| catalog.run(run));
            Ok(match found {
                Some(mut run) => {
                    run.status = RunStatus::Running;
                    run.updated_at = run.created_at;
                    run.last_event_id = first_id;
                    run.event_count = 1;
                    answer::created(&run)
                }
                None => answer::no_such_run(run),
            })
        }
        other => Ok(refusal_of(other, None)),
    }
}

async fn append(
    worker: &Rc<Worker>,
    run: RunId,
    head: &RequestHead,
    body: &[u8],
) -> Result<Response, Problem> {
    let once = query::once(&head.headers, body)?;
    let if_match = query::if_match(&head.headers)?;
    let new = body::new_events(body, max_event_bytes(worker))?;
    let write = Write::Append { run, events: new.events, once, if_match };
    match commit(worker, write).await {
        Some(Ok(Written::Appended { batch, range })) => {
            Ok(answer::appended(batch.events[range].iter().map(|one| &one.event), new.is_array))
        }
        Some(Ok(Written::AppendedBefore { run, first_id, first_seq, created_at, .. })) => {
            // The events may be gone; the body is the same.
            let again = body::new_events(body, max_event_bytes(worker))?.events.into_iter();
            let events = again.zip(0..).map(|(NewEvent { event_type, payload }, nth)| Event {
                id: EventId(first_id.0 + nth),
                run_id: run,
                seq: first_seq + nth,
                event_type,
                payload,
                created_at,
            });
            let events: Vec<Event> = events.collect();
            Ok(answer::appended(&events, new.is_array))
        }
        Some(Ok(Written::Duplicate { epoch, last_seq })) => Ok(answer::duplicate(epoch, last_seq)),
        other => Ok(refusal_of(other, None)),
    }
}

async fn end_run(
    worker: &Rc<Worker>,
    run: RunId,
    head: &RequestHead,
    body: &[u8],
) -> Result<Response, Problem> {
    let if_match = query::if_match(&head.headers)?;
    let end = body::run_end(body, max_event_bytes(worker))?;
    let write = Write::EndRun { run, status: end.status, payload: end.payload, if_match };
    match commit(worker, write).await {
        Some(Ok(Written::Ended(run))) => Ok(answer::run(200, &run)),
        other => Ok(refusal_of(other, None)),
    }
}

async fn delete_run(
    worker: &Rc<Worker>,
    run: RunId,
    head: &RequestHead,
) -> Result<Response, Problem> {
    let if_match = query::if_match(&head.headers)?;
    match commit(worker, Write::DeleteRun { run, if_match }).await {
        Some(Ok(Written::Deleted)) => Ok(Response::empty(204)),
        other => Ok(refusal_of(other, None)),
    }
}

fn get_run(worker: &Rc<Worker>, run: RunId) -> Response {
    match read_catalog(&worker.shared, |catalog| catalog.run(run)) {
        Some(run) => answer::run(200, &run),
        None => answer::no_such_run(run),
    }
}

async fn list_runs(worker: &Rc<Worker>, head: &RequestHead) -> Result<Response, Problem> {
    let query = query::runs_query(&head.query)?;
    let filter = RunFilter { project: query.project, session: query.session, status: query.status };
    read(worker, move |_, catalog| {
        let page = catalog::list_runs(catalog, &filter, query.before, query.limit);
        answer::runs(&page.runs, page.has_more)
    })
    .await
}

/// The first event that is kept. While all readers are busy nobody looks, since an operator is not to
/// wait behind others: then it is what is known, an id below which there is none.
async fn first_kept(worker: &Worker) -> Option<EventId> {
    if worker.shared.readers.has_idle()
        && let Ok(Ok(first)) = read(worker, history::first_kept).await
    {
        return first;
    }
    read_catalog(&worker.shared, |catalog| {
        let window = catalog.windows().first().map(|window| window.first_id);
        let in_log = catalog.moved_through().next();
        window.or((in_log <= catalog.last_id()).then_some(in_log))
    })
}

/// A page of events; with `wait` a long poll.
async fn list_events(
    worker: &Rc<Worker>,
    run: RunId,
    head: &RequestHead,
) -> Result<Response, Problem> {
    let query = query::page_query(&head.query)?;
    // Watched before it is looked at, so that nothing can happen between the two.
    let watch = worker.watch_run(run);
    let armed = (query.wait_seconds > 0).then(|| {
        let wait = Duration::from_secs(query.wait_seconds);
        Armed::new(worker, Deadline::Poll(watch.clone()), wait)
    });
    // What was looked at in vain need not be looked at again.
    let mut from = query.after;
    let response = loop {
        let (head, is_ahead) = read_catalog(&worker.shared, |catalog| {
            (catalog.head(run), catalog.is_ahead(query.after))
        });
        let Some(head) = head else { break Ok(answer::no_such_run(run)) };
        let must_answer = head.status.has_ended()
            || worker.is_draining()
            || is_ahead
            || armed.as_ref().is_none_or(Armed::has_struck);
        if must_answer || head.last_event_id > from {
            let query = query.clone();
            let found = read(worker, move |store, catalog| page(store, catalog, run, &query, from));
            match found.await {
                Err(problem) => break Err(problem),
                Ok(Err(error)) => break Err(unreadable(worker, &error)),
                Ok(Ok(None)) => break Ok(answer::no_such_run(run)),
                // A filter may have passed nothing of what there is.
                Ok(Ok(Some((page, scanned_to)))) if page.says_nothing() && !must_answer => {
                    from = scanned_to;
                }
                Ok(Ok(Some((page, _)))) => break Ok(page.response()),
            }
        }
        watch.wait().await;
    };
    worker.unwatch_run(run, &watch);
    response
}

/// Has a reader thread find something out.
async fn read<T: Send + 'static>(
    worker: &Worker,
    job: impl FnOnce(&dyn Store, &RwLock<Catalog>) -> T + Send + 'static,
) -> Result<T, Problem> {
    worker
        .read(job)
        .await
        .ok_or_else(|| Problem::new(503).of_type("busy", "Too many reads are waiting"))
}

/// What the server has counted. It goes before all other reads: it is asked for when many wait too.
async fn metrics(worker: &Worker, head: &RequestHead) -> Result<Response, Problem> {
    let form = match query::accepts(&head.headers, "application", "openmetrics-text") {
        Accepts::Named => Form::OpenMetrics,
        Accepts::Anyhow | Accepts::Not => Form::Plain,
    };
    let shared = Arc::clone(&worker.shared);
    let text = worker.read_first(move |_, _| metrics::scrape(&shared, form)).await;
    let text =
        text.ok_or_else(|| Problem::new(503).of_type("draining", "The server is going down"))?;
    let response = Response::new(200, form.media_type(), text);
    Ok(response.with_header("Cache-Control", "no-store"))
}

/// The answer to a write that was not done; `uploaded` is what went before it of the same request.
pub(super) fn refusal_of(result: Option<WriteResult>, uploaded: Option<&Uploaded>) -> Response {
    match result {
        None => {
            let problem =
                Problem::new(503).of_type("queue-full", "There is no room in the journal's queue");
            answer::problem(&uploaded.map_or(problem.clone(), |done| done.problem(problem)))
        }
        Some(Err(error)) => answer::refused(&error, uploaded),
        Some(Ok(written)) => unreachable!("{written:?} is no answer to this write"),
    }
}

/// A page of a run's events, those up to `from` passed over; and up to where it has looked.
fn page(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
    run: RunId,
    query: &PageQuery,
    from: EventId,
) -> Result<Option<(EventsPage, EventId)>, StoreError> {
    let found = {
        let catalog = catalog::read(catalog);
        let reset = catalog.is_ahead(query.after);
        catalog.head(run).map(|head| (head, catalog.last_id(), reset))
    };
    let Some((head, last_id, reset)) = found else { return Ok(None) };
    let mut after = if reset { EventId(0) } else { from };
    let selection = Selection { scope: Scope::Runs([run].into()), types: query.types.clone() };
    let mut page = EventsPage {
        events: Vec::new(),
        next_after: if reset { EventId(0) } else { query.after },
        has_more: false,
        status: head.status,
        truncated: None,
        reset,
    };
    let asked_after = page.next_after;
    let (mut is_truncated, mut first) = (false, None);
    let mut count = 0;
    loop {
        let request = HistoryRequest {
            selection: selection.clone(),
            after,
            upto: last_id,
            // One more than wanted tells whether there is one.
            events_max: query.limit - count + 1,
            bytes_max: PAGE_BYTES_MAX,
            values_max: usize::MAX,
        };
        let (bytes_before, next_before) = (page.events.len(), page.next_after);
        let read = read_forward(store, catalog, &request, &mut |event| {
            let before = page.events.len();
            let separator = usize::from(count > 0);
            // Too many, or too large to go with the others.
            let size = event.payload.len() + EVENT_OVERHEAD_BYTES + 64;
            if count == query.limit || (count > 0 && before + size > PAGE_BYTES_MAX) {
                page.has_more = true;
            }
            if page.has_more {
                return PAGE_BYTES_MAX;
            }
            first.get_or_insert(event.id);
            page.events.extend_from_slice(&b","[..separator]);
            sse::event_json(&mut page.events, event);
            page.next_after = event.id;
            count += 1;
            page.events.len() - before
        })?;
        after = read.scanned_to;
        if read.truncated.is_some() && bytes_before > 0 {
            // What comes after the hole is for the next page, which says so first.
            page.events.truncate(bytes_before);
            (page.next_after, page.has_more) = (next_before, true);
            return Ok(Some((page, next_before)));
        }
        is_truncated |= read.truncated.is_some();
        if read.complete || page.has_more {
            if is_truncated {
                let first = first.unwrap_or(after.next());
                page.truncated = Some((asked_after, first));
                // What is gone is not asked for again.
                page.next_after = page.next_after.max(EventId(first.0 - 1));
            }
            return Ok(Some((page, after)));
        }
    }
}

fn unreadable(worker: &Worker, error: &StoreError) -> Problem {
    worker.note_unreadable(error);
    Problem::new(503).of_type("unreadable", "The journal cannot be read")
}
