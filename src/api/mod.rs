//! The HTTP contract, as far as it is about values: what a request asks for, and what the answer
//! to it says. No socket, no clock, no thread.
//!
//! - [`body`] and [`query`] read requests into checked values, or into a problem;
//! - [`answer`] writes values as responses;
//! - [`openapi`] is the contract for programs;
//! - [`cors`] is what browsers of other origins need;
//! - this file decides what can be decided from the head of a request alone.

pub mod answer;
pub mod body;
pub mod cors;
pub mod openapi;
pub mod query;

use self::query::Accepts;
use crate::{
    event::RunId,
    route::{NoRoute, Route},
    wire::{
        problem::Problem,
        request::{BodyFraming, Expect, Method, RequestHead},
        response::Response,
    },
};

/// What is done with the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// It is read in full, at most so many bytes, before the request is looked at.
    Whole(usize),
    /// It is taken line by line, and appended to this run.
    Lines(RunId),
}

/// The answer to a request without a route.
pub fn no_route(error: NoRoute) -> Response {
    match error {
        NoRoute::NotFound => {
            Response::problem(&Problem::new(404).detail("there is nothing at this path"))
        }
        NoRoute::MethodNotAllowed(allow) => {
            Response::problem(&Problem::new(405).detail(format!("this resource allows {allow}")))
                .with_header("Allow", allow)
        }
    }
}

/// Decides from the head alone whether a request can be served, and what becomes of its body.
///
/// # Errors
/// 406, 411, 413, 415, 417: before the body is read, so that a client that waits for
/// `100 Continue` need not send it.
pub fn check_head(
    route: &Route,
    head: &RequestHead,
    max_body_bytes: usize,
) -> Result<BodyPlan, Problem> {
    if head.expect == Expect::Other {
        return Err(Problem::new(417).detail("only 100-continue can be expected"));
    }
    check_accept(route, head)?;
    let mut plan = BodyPlan::Whole(max_body_bytes);
    let takes_body = matches!(route, Route::CreateRun | Route::EndRun(_) | Route::AppendEvents(_));
    if takes_body {
        let needs_body = *route != Route::CreateRun;
        if needs_body
            && head.framing == BodyFraming::None
            && !head.headers.contains("content-length")
        {
            return Err(Problem::new(411).detail("this request needs a body"));
        }
        if let (true, Route::AppendEvents(run)) = (is_ndjson(route, head)?, route) {
            plan = BodyPlan::Lines(*run);
        }
    }
    match (plan, head.framing) {
        (BodyPlan::Whole(max), BodyFraming::Fixed(length)) if length > max as u64 => {
            Err(body_too_large(max))
        }
        _ => Ok(plan),
    }
}

/// 413.
pub fn body_too_large(max: usize) -> Problem {
    Problem::new(413).detail(format!("the body has more than {max} bytes (max_body_bytes)"))
}

fn check_accept(route: &Route, head: &RequestHead) -> Result<(), Problem> {
    let (kind, subtype) = match route {
        Route::Stream(_) | Route::Probe => ("text", "event-stream"),
        Route::Backup => ("application", "octet-stream"),
        // Who asks whether all is well reads the status: a checker that names some other type is
        // not to take a server for dead.
        // Of the two forms of the metrics one is for everybody.
        Route::Options(_) | Route::DeleteRun(_) | Route::Health | Route::Ready | Route::Metrics => {
            return Ok(());
        }
        _ => ("application", "json"),
    };
    if query::accepts(&head.headers, kind, subtype) == Accepts::Not {
        return Err(Problem::new(406).detail(format!("this resource is {kind}/{subtype}")));
    }
    Ok(())
}

/// Whether the body is NDJSON; if not, it is JSON, or 415.
fn is_ndjson(route: &Route, head: &RequestHead) -> Result<bool, Problem> {
    let Some(content_type) = head.headers.get("content-type") else { return Ok(false) };
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let charset = parameters
        .split(';')
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim_matches('"').to_ascii_lowercase());
    let is_utf8 = charset.is_none_or(|charset| charset == "utf-8" || charset == "us-ascii");
    match media_type.trim().to_ascii_lowercase().as_str() {
        "application/json" if is_utf8 => Ok(false),
        "application/x-ndjson" if is_utf8 && matches!(route, Route::AppendEvents(_)) => Ok(true),
        _ => Err(Problem::new(415)
            .detail("send application/json, or application/x-ndjson to append, in UTF-8")),
    }
}

/// Whether the client named `text/event-stream`, as a browser's `EventSource` does: then a refusal
/// must be a stream, since after any other status it never asks again.
pub fn is_event_source(head: &RequestHead) -> bool {
    matches!(head.method, Method::Get)
        && query::accepts(&head.headers, "text", "event-stream") == Accepts::Named
}
