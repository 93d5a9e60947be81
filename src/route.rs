//! Which resource a request is about, and what may be done with it.

use crate::{
    event::{Label, RunId},
    wire::request::{Method, RequestHead},
};

/// A request that is understood as far as its path and method go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /runs`
    CreateRun,
    /// `GET /runs`
    ListRuns,
    /// `GET /runs/{id}`
    GetRun(RunId),
    /// `PATCH /runs/{id}`
    EndRun(RunId),
    /// `DELETE /runs/{id}`
    DeleteRun(RunId),
    /// `POST /runs/{id}/events`
    AppendEvents(RunId),
    /// `GET /runs/{id}/events`
    ListEvents(RunId),
    /// `GET …/events/stream`
    Stream(StreamPath),
    /// `GET /health/sse`
    Probe,
    /// `GET /projects`
    ListProjects,
    /// `GET /worker`
    Worker,
    /// `GET /health`
    Health,
    /// `GET /health/ready`
    Ready,
    /// `GET /openapi.json`
    Openapi,
    /// `GET /metrics`
    Metrics,
    /// `GET /admin/backup`
    Backup,
    /// `OPTIONS` of anything
    Options(Allow),
}

/// Whose stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamPath {
    /// `/runs/{id}/events/stream`
    Run(RunId),
    /// `/projects/{project}/events/stream`
    Project(Label),
    /// `/api/sse/session/{session}`
    Session(Label),
    /// `/events/stream`
    All,
}

/// The value of an `Allow` header.
pub type Allow = &'static str;

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// 404.
    NotFound,
    /// 405, with what is allowed.
    MethodNotAllowed(Allow),
}

/// What [`Route::template`] gives, for all routes, and [`NO_ROUTE`].
pub const TEMPLATES: [&str; 17] = [
    "/runs",
    "/runs/{id}",
    "/runs/{id}/events",
    "/runs/{id}/events/stream",
    "/projects/{project}/events/stream",
    "/api/sse/session/{session}",
    "/events/stream",
    "/projects",
    "/worker",
    "/health",
    "/health/ready",
    "/health/sse",
    "/metrics",
    "/openapi.json",
    "/admin/backup",
    "*",
    NO_ROUTE,
];

/// The place of a template in [`TEMPLATES`]; of any other text that of [`NO_ROUTE`].
pub fn template_number(template: &str) -> usize {
    let place = |wanted: &str| TEMPLATES.iter().position(|template| *template == wanted);
    place(template).or_else(|| place(NO_ROUTE)).unwrap_or_default()
}

/// Stands for the template of a request that has no route, so that whatever clients think of is one
/// label.
pub const NO_ROUTE: &str = "none";

const READ: Allow = "GET, HEAD, OPTIONS";
const RUNS: Allow = "GET, HEAD, OPTIONS, POST";
const RUN: Allow = "DELETE, GET, HEAD, OPTIONS, PATCH";

/// Finds the route of a request. HEAD is routed as GET (RFC 9110 §9.3.2).
///
/// # Errors
/// When there is no such resource, or it does not know the method.
pub fn route(head: &RequestHead) -> Result<Route, NoRoute> {
    let segments: Vec<&str> = head.segments.iter().map(String::as_str).collect();
    let allow = match segments[..] {
        [] if head.method == Method::Options => READ,
        ["runs"] | ["runs", _, "events"] => RUNS,
        ["runs", _] => RUN,
        ["runs" | "projects", _, "events", "stream"]
        | ["api", "sse", "session", _]
        | ["events", "stream"]
        | ["projects" | "worker" | "health" | "metrics" | "openapi.json"]
        | ["health", "sse" | "ready"]
        | ["admin", "backup"] => READ,
        _ => return Err(NoRoute::NotFound),
    };
    let is_read = matches!(head.method, Method::Get | Method::Head);
    Ok(match (&head.method, &segments[..]) {
        (Method::Options, _) => Route::Options(allow),
        (Method::Post, ["runs"]) => Route::CreateRun,
        (_, ["runs"]) if is_read => Route::ListRuns,
        (_, ["runs", id]) if is_read => Route::GetRun(run_id(id)?),
        (Method::Patch, ["runs", id]) => Route::EndRun(run_id(id)?),
        (Method::Delete, ["runs", id]) => Route::DeleteRun(run_id(id)?),
        (Method::Post, ["runs", id, "events"]) => Route::AppendEvents(run_id(id)?),
        (_, ["runs", id, "events"]) if is_read => Route::ListEvents(run_id(id)?),
        (_, ["runs", id, "events", "stream"]) if is_read => {
            Route::Stream(StreamPath::Run(run_id(id)?))
        }
        (_, ["projects", project, "events", "stream"]) if is_read => {
            Route::Stream(StreamPath::Project(label(project)?))
        }
        (_, ["api", "sse", "session", session]) if is_read => {
            Route::Stream(StreamPath::Session(label(session)?))
        }
        (_, ["events", "stream"]) if is_read => Route::Stream(StreamPath::All),
        (_, ["projects"]) if is_read => Route::ListProjects,
        (_, ["worker"]) if is_read => Route::Worker,
        (_, ["health"]) if is_read => Route::Health,
        (_, ["health", "ready"]) if is_read => Route::Ready,
        (_, ["metrics"]) if is_read => Route::Metrics,
        (_, ["health", "sse"]) if is_read => Route::Probe,
        (_, ["openapi.json"]) if is_read => Route::Openapi,
        (_, ["admin", "backup"]) if is_read => Route::Backup,
        _ => return Err(NoRoute::MethodNotAllowed(allow)),
    })
}

/// Whether only the address for administration has this path.
pub fn is_admin(head: &RequestHead) -> bool {
    head.segments.first().is_some_and(|segment| segment == "admin")
}

/// A run's id is written in one way only, so that a run has one URL.
fn run_id(text: &str) -> Result<RunId, NoRoute> {
    let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_canonical).map(RunId).ok_or(NoRoute::NotFound)
}

fn label(text: &str) -> Result<Label, NoRoute> {
    Label::new(text).map_err(|_| NoRoute::NotFound)
}

impl Route {
    /// The path with its variable parts named, for logs and metrics.
    pub fn template(&self) -> &'static str {
        match self {
            Route::CreateRun | Route::ListRuns => "/runs",
            Route::GetRun(_) | Route::EndRun(_) | Route::DeleteRun(_) => "/runs/{id}",
            Route::AppendEvents(_) | Route::ListEvents(_) => "/runs/{id}/events",
            Route::Stream(StreamPath::Run(_)) => "/runs/{id}/events/stream",
            Route::Stream(StreamPath::Project(_)) => "/projects/{project}/events/stream",
            Route::Stream(StreamPath::Session(_)) => "/api/sse/session/{session}",
            Route::Stream(StreamPath::All) => "/events/stream",
            Route::Probe => "/health/sse",
            Route::ListProjects => "/projects",
            Route::Worker => "/worker",
            Route::Health => "/health",
            Route::Ready => "/health/ready",
            Route::Openapi => "/openapi.json",
            Route::Metrics => "/metrics",
            Route::Backup => "/admin/backup",
            Route::Options(_) => "*",
        }
    }
}
