//! One connection as long as it carries requests: a task that reads, asks, answers.
//!
//! ```text
//!   transport ── head ─▶ route, api: can it be served? ── body ─▶ respond ─┐
//!       ▲                                              └─ lines ─▶ upload ─┤
//!       └──────────────────────────── answer ◀─────────────────────────────┤
//!   hub ◀── the socket, and the task ends ── stream ◀──────────────────────┘
//! ```
//!
//! What the bytes mean is [`crate::connection`]'s to say, and what is answered is the api's; here
//! is only the waiting: for bytes, for the journal, for a reader, for the socket to take an
//! answer. When a request turns out to be a stream, its head is written, the socket is parked with
//! the worker, and the task ends.

mod administration;
mod backup;
mod respond;
mod stream;
mod transport;
mod upload;

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use self::{
    stream::Parked,
    transport::{Gone, NextHead, Transport},
};
use crate::{
    admission::{Entry, Refusal},
    api::{self, BodyPlan, answer},
    client_address::ClientAddress,
    connection::After,
    driver::{Pollable, yield_now},
    followers::ConnectionId,
    route::{NO_ROUTE, NoRoute, Route, is_admin, route},
    wire::{forwarded, problem::Problem, request::RequestHead, response::Response},
    worker::Worker,
};

/// Serves a connection until it ends or becomes a stream.
pub async fn serve(worker: Rc<Worker>, socket: Pollable, origin: Origin) {
    let mut transport = Transport::new(Rc::clone(&worker), socket);
    if let Ok(Some((request, parked))) = requests(&mut transport, origin).await {
        stream::park(transport, origin, &request, parked).await;
    } else {
        // First the socket, so that there are never more than are counted.
        drop(transport);
        worker.farewell(origin.entry);
    }
}

/// What is known of a connection when it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Its name in the log.
    pub id: ConnectionId,
    /// Who has connected. Behind a trusted proxy each request has a client of its own.
    pub client: ClientAddress,
    /// It came in at the address for administration.
    pub is_admin: bool,
    /// Whether it has a place, or gets one answer that is no in most cases.
    pub entry: Entry,
}

impl Origin {
    /// It came over a `unix:` socket.
    fn is_local(self) -> bool {
        self.client == ClientAddress::Local
    }

    /// Why it is not served, if it is not.
    fn refusal(self) -> Option<Refusal> {
        match self.entry {
            Entry::Surplus(refusal) => Some(refusal),
            Entry::Open { .. } => None,
        }
    }
}

/// A request that was looked at: what of it is counted and logged.
struct Request {
    head: RequestHead,
    /// [`Route::template`] of its route.
    route: &'static str,
    /// Whose it is, also behind a trusted proxy.
    client: ClientAddress,
    /// When its head was there.
    began: Duration,
}

impl Request {
    /// Counts it, now that it is answered, and logs it if that is wanted.
    fn note_answer(&self, worker: &Worker, id: ConnectionId, status: u16) {
        let Request { head, route, client, began } = self;
        note_answer(worker, id, *client, head.method.as_str(), route, *began, status);
    }
}

fn note_answer(
    worker: &Worker,
    id: ConnectionId,
    client: ClientAddress,
    method: &str,
    route: &'static str,
    began: Duration,
    status: u16,
) {
    let took = worker.uptime().saturating_sub(began);
    worker.stats.note_answer(route, status, took);
    if worker.shared.settings.log_requests {
        log::info!(
            conn:% = id,
            client:%,
            method,
            route,
            status,
            duration_ms = took.as_millis() as u64;
            "request"
        );
    }
}

/// A request whose route is known.
struct Asked {
    head: RequestHead,
    route: Route,
    origin: Origin,
    /// Whose it is, also behind a trusted proxy.
    client: ClientAddress,
}

/// What is to be answered.
enum Answer {
    /// This.
    Response(Response),
    /// A stream.
    Park(Parked),
    /// The head of one: the request was HEAD.
    StreamHead,
    /// A backup of the journal, or the head of one.
    Backup,
    /// A stream that is refused for a time, to a client that understands nothing else.
    RefusedStream(Refusal),
}

impl Answer {
    /// Its status.
    fn status(&self) -> u16 {
        match self {
            Answer::Response(response) => response.status,
            _ => 200,
        }
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Response(response)
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Answer {
        Answer::Response(answer::problem(&problem))
    }
}

/// Request after request, until one becomes a stream or the connection ends.
async fn requests(
    transport: &mut Transport,
    origin: Origin,
) -> Result<Option<(Request, Parked)>, Gone> {
    let worker = Rc::clone(&transport.worker);
    loop {
        let head = match transport.next_head().await? {
            NextHead::Head(head) => *head,
            NextHead::None => {
                if let Some(refusal) = origin.refusal() {
                    transport.worker.note_refusal(refusal, origin.client);
                }
                return Ok(None);
            }
            NextHead::Refused(problem) => {
                let (began, status) = (worker.uptime(), problem.status());
                let sent = transport.answer(None, answer::problem(&problem), false).await;
                note_answer(&worker, origin.id, origin.client, "", NO_ROUTE, began, status);
                return sent.map(|_| None);
            }
        };
        worker.stats.requests.fetch_add(1, Relaxed);
        let began = worker.uptime();
        let proxies = &worker.shared.settings.trusted_proxies;
        let client = forwarded::client(origin.client, &head.headers, proxies);
        let (head, route, answer) = handle(transport, head, origin, client).await?;
        let request = Request { head, route, client, began };
        let (head, status) = (&request.head, answer.status());
        let sent = match answer {
            // Its head is still to be sent.
            Answer::Park(stream) => return Ok(Some((request, stream))),
            Answer::RefusedStream(refusal) => {
                stream::refuse_stream(transport, head, refusal).await.map(|()| After::Close)
            }
            Answer::Backup => backup::backup(transport, head).await.map(|()| After::Close),
            Answer::StreamHead => stream::answer_head(transport, head).await.map(|()| After::Close),
            Answer::Response(response) => {
                let may_stay = origin.refusal().is_none() && !worker.is_draining();
                transport.answer(Some(head), response, may_stay).await
            }
        };
        request.note_answer(&worker, origin.id, status);
        if sent? != After::Next {
            return Ok(None);
        }
        // The next may be here already, and who sends without waiting is one of many.
        yield_now().await;
    }
}

/// Decides on a request and does what it asks for. Gives the template of its route, too.
async fn handle(
    transport: &mut Transport,
    head: RequestHead,
    origin: Origin,
    client: ClientAddress,
) -> Result<(RequestHead, &'static str, Answer), Gone> {
    let worker = Rc::clone(&transport.worker);
    if is_admin(&head) && !origin.is_admin {
        return Ok((head, NO_ROUTE, api::no_route(NoRoute::NotFound).into()));
    }
    if origin.is_admin
        && let Some(refusal) = administration::refuse(&head, origin)
    {
        return Ok((head, NO_ROUTE, refusal));
    }
    let route = match route(&head) {
        Ok(route) => route,
        Err(error) => return Ok((head, NO_ROUTE, api::no_route(error).into())),
    };
    let template = route.template();
    if let Some(refusal) = refusal_now(&worker, &route, origin) {
        let answer = refuse(&worker, &head, &route, client, refusal);
        return Ok((head, template, answer));
    }
    let max_body_bytes = worker.shared.settings.max_body_bytes.0 as usize;
    let plan = match api::check_head(&route, &head, max_body_bytes) {
        Ok(plan) => plan,
        Err(problem) => return Ok((head, template, problem.into())),
    };
    if let Some(interim) = transport.connection.take_continue() {
        transport.send(interim).await?;
    }
    let asked = Asked { head, route, origin, client };
    let answer = match plan {
        BodyPlan::Whole(max) => match transport.whole_body(max).await? {
            Ok(body) => respond::respond(&worker, &asked, &body).await,
            Err(problem) => problem.into(),
        },
        BodyPlan::Lines(run) => upload::upload(transport, run, &asked).await?.into(),
    };
    Ok((asked.head, template, answer))
}

/// Why this server does not take a request now, if it does not. How it is doing it says always. While
/// it drains it still takes those that come on connections which it has, unless they would become
/// streams: nobody else could answer them.
fn refusal_now(worker: &Worker, route: &Route, origin: Origin) -> Option<Refusal> {
    let is_draining = worker.is_draining() && is_stream(route);
    match route {
        Route::Health | Route::Ready | Route::Metrics | Route::Worker | Route::Options(_) => None,
        _ => origin.refusal().or_else(|| is_draining.then_some(Refusal::Draining)),
    }
}

fn is_stream(route: &Route) -> bool {
    matches!(route, Route::Stream(_) | Route::Probe)
}

/// Says no for a time, in words that the client understands.
fn refuse(
    worker: &Worker,
    head: &RequestHead,
    route: &Route,
    client: ClientAddress,
    refusal: Refusal,
) -> Answer {
    worker.note_refusal(refusal, client);
    if is_stream(route) && api::is_event_source(head) {
        return Answer::RefusedStream(refusal);
    }
    unavailable(worker, refusal).into()
}

/// No for a time, and when to ask again: not all at once.
fn unavailable(worker: &Worker, refusal: Refusal) -> Response {
    answer::unavailable(refusal, worker.jitter(worker.shared.settings.reconnect_backoff_max))
}
