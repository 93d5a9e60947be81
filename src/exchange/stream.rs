//! Requests that become streams: what they ask for, and how the socket is handed over.

use std::rc::Rc;

use super::{
    Answer, Asked, Origin, Request, refuse,
    transport::{Gone, Transport},
};
use crate::{
    admission::{Refusal, StreamKeys, StreamPlace},
    api::{
        answer, body,
        query::{self, StreamQuery},
    },
    event::{EventId, RunId, Scope, Selection},
    followers::Follower,
    hub::{Start, Subscribe, ViewSpec},
    route::StreamPath,
    shared::read_catalog,
    wire::{
        problem::Problem,
        request::{Method, RequestHead},
        response::{Response, encode_stream_head},
        sse,
    },
    worker::{ParkedSocket, Worker},
};

/// A request that becomes a stream.
pub(super) struct Parked {
    what: What,
    /// Its place in the counts that have a limit.
    place: Option<StreamPlace>,
}

/// What a stream is of.
enum What {
    /// Events.
    Events(Scope, StreamQuery),
    /// What tells an operator what buffers between server and client.
    Probe,
}

/// What a request for a stream comes to, by its query and by what is known of its runs.
pub(super) fn stream(worker: &Worker, path: &StreamPath, asked: &Asked) -> Result<Answer, Problem> {
    let head = &asked.head;
    let query = query::stream_query(&head.query, &head.headers)?;
    let scope = match path {
        StreamPath::Run(run) => Scope::Runs([*run].into()),
        StreamPath::Project(project) => Scope::Project(project.clone()),
        StreamPath::Session(session) => Scope::Session(session.clone()),
        StreamPath::All => query.runs.clone().map_or(Scope::All, Scope::Runs),
    };
    if query.runs.is_some() && *path != StreamPath::All {
        return Err(body::invalid("runs", "goes with /events/stream only"));
    }
    let shared = &worker.shared;
    if let Scope::Runs(runs) = &scope {
        let (heads, last_id, is_ahead) = read_catalog(shared, |catalog| {
            let heads: Result<Vec<_>, RunId> =
                runs.iter().map(|run| catalog.head(*run).ok_or(*run)).collect();
            let is_ahead = matches!(query.start, Start::After(at) if catalog.is_ahead(at));
            (heads, catalog.last_id(), is_ahead)
        });
        let heads = match heads {
            Ok(heads) => heads,
            Err(missing) => return Ok(answer::no_such_run(missing).into()),
        };
        let has_everything = |cursor: EventId| {
            heads.iter().all(|run| run.status.has_ended() && cursor >= run.last_event_id)
        };
        match query.start {
            Start::After(cursor) if !is_ahead && has_everything(cursor) => {
                return Ok(Response::empty(204).into());
            }
            Start::Now if has_everything(last_id) => {
                return Ok(Response::empty(204).into());
            }
            _ => {}
        }
    }
    Ok(open(worker, asked, What::Events(scope, query)))
}

/// The same for the probe.
pub(super) fn probe(worker: &Worker, asked: &Asked) -> Answer {
    open(worker, asked, What::Probe)
}

/// Opens a stream that can be served, if there is a place for it.
fn open(worker: &Worker, asked: &Asked, what: What) -> Answer {
    let Asked { head, route, origin, client } = asked;
    if head.method == Method::Head {
        return Answer::StreamHead;
    }
    let keys = match &what {
        What::Events(scope, _) => StreamKeys::from(scope),
        What::Probe => StreamKeys::default(),
    };
    let is_forwarded = worker.shared.settings.trusted_proxies.trusts(origin.client);
    let forwarded = client.key().filter(|_| is_forwarded && !origin.is_admin);
    match worker.shared.admissions.admit_stream(worker.id(), forwarded, keys) {
        Ok((place, superseded)) => {
            worker.supersede(superseded);
            Answer::Park(Parked { what, place })
        }
        Err(refusal) => refuse(worker, head, route, *client, refusal),
    }
}

/// Says no in a way that an `EventSource` survives: as a stream that ends at once.
pub(super) async fn refuse_stream(
    transport: &mut Transport,
    head: &RequestHead,
    refusal: Refusal,
) -> Result<(), Gone> {
    let mut out = Vec::new();
    stream_head(&transport.worker, head, &mut out);
    let longest = transport.worker.shared.settings.reconnect_backoff_max;
    sse::refused(&mut out, transport.worker.jitter(longest), refusal.as_str());
    transport.send(&out).await?;
    transport.linger().await;
    Ok(())
}

fn stream_head(worker: &Worker, head: &RequestHead, out: &mut Vec<u8>) {
    let cors = worker.shared.cors.headers(&head.headers);
    encode_stream_head(&worker.date(), &cors, out);
}

/// Answers HEAD: what GET would begin with, and no more.
pub(super) async fn answer_head(transport: &mut Transport, head: &RequestHead) -> Result<(), Gone> {
    let mut out = Vec::new();
    stream_head(&transport.worker, head, &mut out);
    transport.send(&out).await?;
    transport.linger().await;
    Ok(())
}

/// Writes the head of a stream and hands the socket over.
pub(super) async fn park(transport: Transport, origin: Origin, request: &Request, stream: Parked) {
    let worker = Rc::clone(&transport.worker);
    let mut out = Vec::new();
    stream_head(&worker, &request.head, &mut out);
    sse::retry(&mut out, worker.shared.settings.retry);
    let sent = transport.send(&out).await;
    request.note_answer(&worker, origin.id, 200);
    if sent.is_err() {
        drop((transport, stream));
        worker.farewell(origin.entry);
        return;
    }
    let Ok(socket) = Rc::try_unwrap(transport.socket) else {
        unreachable!("every deadline was disarmed when its wait ended");
    };
    let parked = ParkedSocket {
        socket: socket.into_fd(),
        follower: Follower::new(origin.id, request.client, request.route),
        place: StreamPlace::with_connection(stream.place, &worker.shared.admissions, origin.entry),
    };
    match stream.what {
        What::Probe => {
            worker.park(parked, |hub, peer| hub.subscribe_probe(peer, origin.is_local()));
        }
        What::Events(scope, query) => subscribe(&worker, parked, origin, scope, &query),
    }
}

/// Parks a socket as the subscriber that a request asked for.
fn subscribe(
    worker: &Worker,
    parked: ParkedSocket,
    origin: Origin,
    scope: Scope,
    query: &StreamQuery,
) {
    let seen = worker.seen();
    let (last_id, is_ahead, runs) = read_catalog(&worker.shared, |catalog| {
        let runs: Vec<_> = match &scope {
            Scope::Runs(runs) => runs.iter().map(|run| (*run, catalog.head(*run))).collect(),
            _ => Vec::new(),
        };
        let is_ahead = matches!(query.start, Start::After(at) if catalog.is_ahead(at));
        (catalog.last_id(), is_ahead, runs)
    });
    // Of a label the newest event is not known; that it is the newest of all is safe to assume.
    let newest = match &scope {
        Scope::Runs(_) => {
            let newest = runs.iter().filter_map(|(_, head)| Some(head.as_ref()?.last_event_id));
            newest.max().unwrap_or_default()
        }
        _ => last_id,
    };
    // A run whose end this worker has not seen yet is one that will end.
    let unended = runs
        .iter()
        .filter(|(_, head)| {
            head.as_ref().is_some_and(|run| !run.status.has_ended() || run.last_event_id > seen)
        })
        .map(|(run, _)| *run)
        .collect();
    let mut greeting = Vec::new();
    let mut start = query.start;
    if is_ahead {
        sse::reset(&mut greeting);
        start = Start::After(EventId(0));
    }
    if let Start::After(cursor) = query.start
        && cursor > EventId(0)
    {
        worker.note_resumed(parked.follower, cursor, last_id);
    }
    let is_local = origin.is_local();
    let selection = Selection { scope, types: query.types.clone() };
    worker.park(parked, |hub, peer| {
        hub.subscribe(Subscribe {
            peer,
            is_local,
            spec: ViewSpec { selection, format: query.format },
            start,
            greeting,
            heartbeat: query.heartbeat,
            newest,
            unended,
        })
    });
}
