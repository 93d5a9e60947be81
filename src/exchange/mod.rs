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

mod backup;
mod respond;
mod stream;
mod transport;
mod upload;

use std::{net::IpAddr, rc::Rc, sync::atomic::Ordering::Relaxed};

use self::{
    stream::Parked,
    transport::{Gone, NextHead, Transport},
};
use crate::{
    api::{self, BodyPlan, answer},
    client_address::ClientAddress,
    connection::After,
    driver::{Pollable, yield_now},
    route::{NoRoute, Route, is_admin, route},
    wire::{problem::Problem, request::RequestHead, response::Response},
    worker::Worker,
};

/// Serves a connection until it ends or becomes a stream.
pub async fn serve(worker: Rc<Worker>, socket: Pollable, origin: Origin) {
    let mut transport = Transport::new(Rc::clone(&worker), socket);
    match requests(&mut transport, origin).await {
        Ok(Some((head, parked))) => stream::park(transport, origin, &head, parked).await,
        Ok(None) | Err(Gone) => worker.farewell(),
    }
}

/// What is known of a connection when it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Who has connected.
    pub client: ClientAddress,
    /// It came in at the address for administration.
    pub is_admin: bool,
    /// It is one more than there may be: it gets one answer, and that is no in most cases.
    pub is_surplus: bool,
}

impl Origin {
    /// It came over a `unix:` socket.
    fn is_local(self) -> bool {
        self.client == ClientAddress::Local
    }
}

/// A request whose route is known.
struct Asked {
    head: RequestHead,
    route: Route,
    origin: Origin,
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
    RefusedStream(&'static str),
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
) -> Result<Option<(RequestHead, Parked)>, Gone> {
    loop {
        let head = match transport.next_head().await? {
            NextHead::Head(head) => *head,
            NextHead::None => return Ok(None),
            NextHead::Refused(problem) => {
                transport.answer(None, answer::problem(&problem), false).await?;
                return Ok(None);
            }
        };
        transport.worker.stats.requests.fetch_add(1, Relaxed);
        let (head, answer) = handle(transport, head, origin).await?;
        match answer {
            Answer::Park(stream) => return Ok(Some((head, stream))),
            Answer::RefusedStream(reason) => {
                stream::refuse_stream(transport, &head, reason).await?;
                return Ok(None);
            }
            Answer::Backup => {
                backup::backup(transport, &head).await?;
                return Ok(None);
            }
            Answer::StreamHead => {
                stream::answer_head(transport, &head).await?;
                return Ok(None);
            }
            Answer::Response(response) => {
                let may_stay = !origin.is_surplus && !transport.worker.is_draining();
                if transport.answer(Some(&head), response, may_stay).await? == After::Close {
                    return Ok(None);
                }
                // The next may be here already, and who sends without waiting is one of many.
                yield_now().await;
            }
        }
    }
}

/// Decides on a request and does what it asks for.
async fn handle(
    transport: &mut Transport,
    head: RequestHead,
    origin: Origin,
) -> Result<(RequestHead, Answer), Gone> {
    let worker = Rc::clone(&transport.worker);
    if is_admin(&head) && !origin.is_admin {
        return Ok((head, api::no_route(NoRoute::NotFound).into()));
    }
    if origin.is_admin
        && let Some(refusal) = refuse_administration(&head, origin)
    {
        return Ok((head, refusal));
    }
    let route = match route(&head) {
        Ok(route) => route,
        Err(error) => return Ok((head, api::no_route(error).into())),
    };
    if let Some(refusal) = refuse(&worker, &head, &route, origin) {
        return Ok((head, refusal));
    }
    let max_body_bytes = worker.shared.settings.max_body_bytes.0 as usize;
    let plan = match api::check_head(&route, &head, max_body_bytes) {
        Ok(plan) => plan,
        Err(problem) => return Ok((head, problem.into())),
    };
    if let Some(interim) = transport.connection.take_continue() {
        transport.send(interim).await?;
    }
    let asked = Asked { head, route, origin };
    let answer = match plan {
        BodyPlan::Whole(max) => match transport.whole_body(max).await? {
            Ok(body) => respond::respond(&worker, &asked, &body).await,
            Err(problem) => problem.into(),
        },
        BodyPlan::Lines(run) => upload::upload(transport, run, &asked).await?.into(),
    };
    Ok((asked.head, answer))
}

/// Why the address for administration does not take a request, if it does not: what is asked is
/// for the public one, or a page of a browser asks. Such a page reaches what listens on its own
/// host, by `fetch` or under a name of its own that leads here (DNS rebinding).
fn refuse_administration(head: &RequestHead, origin: Origin) -> Option<Answer> {
    let is_asked_of_it =
        head.segments.first().is_some_and(|first| ADMINISTRATION.contains(&&**first));
    // A browser has no way to a `unix:` socket.
    let is_ours = |host: &str| origin.is_local() || is_loopback(host);
    if !is_asked_of_it {
        return Some(api::no_route(NoRoute::NotFound).into());
    }
    if head.headers.contains("origin") || !head.headers.get("host").is_none_or(is_ours) {
        let detail = "this address is for programs on this host, which ask it as localhost";
        return Some(Problem::new(403).detail(detail).into());
    }
    None
}

/// Where the paths begin that the address for administration has.
const ADMINISTRATION: [&str; 4] = ["admin", "health", "metrics", "worker"];

/// Whether a `Host` can only mean this host: `localhost`, or an address of the loopback interface.
fn is_loopback(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    // The last colon of a bare `[::1]` is part of it.
    let name = if port.ends_with(']') { host } else { name };
    let ip = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || ip.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Why this server does not take a request now, if it does not.
fn refuse(worker: &Worker, head: &RequestHead, route: &Route, origin: Origin) -> Option<Answer> {
    let (slug, title) = match route {
        Route::Health | Route::Ready | Route::Worker | Route::Options(_) => return None,
        _ if origin.is_surplus => ("full", "The server holds as many connections as it may"),
        _ if worker.is_draining() => ("draining", "The server is going down"),
        _ => return None,
    };
    let is_stream = matches!(route, Route::Stream(_) | Route::Probe);
    if is_stream && api::is_event_source(head) {
        return Some(Answer::RefusedStream(slug));
    }
    Some(answer::unavailable(slug, title).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_host_is_told_from_a_name_that_may_lead_anywhere() {
        for host in [
            "localhost",
            "LocalHost:8001",
            "127.0.0.1",
            "127.8.9.10:80",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "localhost.page.example",
            "page.example:80",
            "127.0.0.1.page.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::2]:80",
            "[fe80::1]",
            "2130706433",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
