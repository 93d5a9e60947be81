//! What the query and the header fields of requests say.

use crate::{
    event::{EventId, EventType, Format, Label, RunId, RunStatus},
    hub::Start,
    journal::{IdempotencyKey, IfMatch, Once, Producer},
    limits::{
        KEY_BYTES_MAX, PAGE_EVENTS_MAX, PAGE_RUNS_MAX, STREAM_RUNS_MAX, STREAM_TYPES_MAX,
        WAIT_SECONDS_MAX,
    },
    wire::{
        problem::Problem,
        request::{Headers, Query},
    },
};

use super::body::invalid;

/// Which types of events; `None` is all.
pub type Types = Option<Box<[EventType]>>;

/// `GET /runs/{id}/events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Events after this one.
    pub after: EventId,
    /// So many at most.
    pub limit: usize,
    /// Wait so long for the first, in seconds.
    pub wait_seconds: u64,
    /// Only these types.
    pub types: Types,
}

/// `GET /runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunsQuery {
    /// Only of this project.
    pub project: Option<Label>,
    /// Only of this session.
    pub session: Option<Label>,
    /// Only in this status.
    pub status: Option<RunStatus>,
    /// Only runs older than this one.
    pub before: Option<RunId>,
    /// So many at most.
    pub limit: usize,
}

/// `GET …/events/stream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamQuery {
    /// Where to begin.
    pub start: Start,
    /// Only these types.
    pub types: Types,
    /// How events are written.
    pub format: Format,
    /// Keepalives as events.
    pub heartbeat: bool,
    /// Only these runs; `None` when the query names none.
    pub runs: Option<Box<[RunId]>>,
}

/// Reads the query of `GET /runs/{id}/events`.
///
/// # Errors
/// 400 for what is no number, 422 for one that is out of range.
pub fn page_query(query: &Query) -> Result<PageQuery, Problem> {
    Ok(PageQuery {
        after: EventId(number(query, "after_id")?.unwrap_or(0)),
        limit: limit(query, 100, PAGE_EVENTS_MAX)?,
        wait_seconds: match number(query, "wait")?.unwrap_or(0) {
            wait @ 0..=WAIT_SECONDS_MAX => wait,
            _ => return Err(invalid("wait", &format!("must be 0 to {WAIT_SECONDS_MAX} seconds"))),
        },
        types: types(query)?,
    })
}

/// Reads the query of `GET /runs`.
///
/// # Errors
/// As [`page_query`].
pub fn runs_query(query: &Query) -> Result<RunsQuery, Problem> {
    let label = |name: &str| {
        value(query, name)
            .map(|text| Label::new(text).map_err(|error| invalid(name, &error.to_string())))
            .transpose()
    };
    let status = match value(query, "status") {
        None => None,
        Some("running") => Some(RunStatus::Running),
        Some("completed") => Some(RunStatus::Completed),
        Some("failed") => Some(RunStatus::Failed),
        Some("cancelled") => Some(RunStatus::Cancelled),
        Some(_) => {
            return Err(invalid("status", "must be running, completed, failed or cancelled"));
        }
    };
    Ok(RunsQuery {
        project: label("project")?,
        session: label("session")?,
        status,
        before: number(query, "before_id")?.map(RunId),
        limit: limit(query, 100, PAGE_RUNS_MAX)?,
    })
}

/// Reads the query of a stream, and the `Last-Event-ID` that wins over it: a browser repeats the
/// URL with its old query when it reconnects (HTML §9.2.3).
///
/// # Errors
/// 400 for a cursor that is no id, 422 for anything else that is wrong.
pub fn stream_query(query: &Query, headers: &Headers) -> Result<StreamQuery, Problem> {
    if !headers.is_text("last-event-id") {
        return Err(no_id("Last-Event-ID"));
    }
    let header = headers.get("last-event-id").map(|text| ("Last-Event-ID", text));
    let of_query = |name| value(query, name).map(|text| (name, text));
    let header = header.filter(|(_, text)| !text.is_empty());
    let cursors = ["last_event_id", "lastEventId", "after_id"].map(of_query);
    // The first counts; one that makes no sense is a mistake in any place.
    let mut start = None;
    for (name, text) in header.into_iter().chain(cursors.into_iter().flatten()) {
        let read = match text {
            "now" => Start::Now,
            text => Start::After(EventId(digits(text).ok_or_else(|| no_id(name))?)),
        };
        start.get_or_insert(read);
    }
    let start = start.unwrap_or(Start::After(EventId(0)));
    Ok(StreamQuery {
        start,
        types: types(query)?,
        format: match value(query, "format") {
            None | Some("event") => Format::Envelope,
            Some("payload") => Format::Payload,
            Some(_) => return Err(invalid("format", "must be event or payload")),
        },
        heartbeat: match value(query, "heartbeat") {
            None | Some("comment") => false,
            Some("event") => true,
            Some(_) => return Err(invalid("heartbeat", "must be comment or event")),
        },
        runs: value(query, "runs").map(runs).transpose()?,
    })
}

/// Reads `Idempotency-Key`, or `Producer-Id`, `Producer-Epoch` and `Producer-Seq`.
///
/// # Errors
/// 400 when only some of the producer's fields are there or one of them is malformed, 422 when
/// both ways are used at once.
pub fn once(headers: &Headers, body: &[u8]) -> Result<Once, Problem> {
    let key = idempotency_key(headers, body)?;
    let producer = producer(headers)?;
    match (key, producer) {
        (None, None) => Ok(Once::No),
        (Some(key), None) => Ok(Once::Key(key)),
        (None, Some(producer)) => Ok(Once::Producer(producer)),
        (Some(_), Some(_)) => Err(invalid(
            "Idempotency-Key",
            "cannot be used together with Producer-Id, Producer-Epoch and Producer-Seq",
        )),
    }
}

/// Reads `Idempotency-Key` alone.
///
/// # Errors
/// 400 when it is malformed.
pub fn idempotency_key(headers: &Headers, body: &[u8]) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = name_field(headers, "idempotency-key", "Idempotency-Key")? else {
        return Ok(None);
    };
    let fingerprint = xxhash_rust::xxh3::xxh3_128(body);
    Ok(Some(IdempotencyKey { key: key.into(), fingerprint }))
}

/// Whether a request names a key or a producer, in any way.
pub fn names_once(headers: &Headers) -> bool {
    ["idempotency-key", "producer-id", "producer-epoch", "producer-seq"]
        .iter()
        .any(|name| headers.contains(name))
}

/// Reads `If-Match` (RFC 9110 §13.1.1): the entity tag of a run is the id of its last event.
///
/// # Errors
/// 400 when it is no list of entity tags.
pub fn if_match(headers: &Headers) -> Result<IfMatch, Problem> {
    let malformed = |what| Problem::new(400).detail(format!("If-Match is {what}"));
    if !headers.contains("if-match") {
        return Ok(IfMatch::Any);
    }
    let tags = entity_tags(headers, "if-match")
        .ok_or_else(|| malformed("no list of quoted entity tags"))?;
    if tags.is_empty() {
        return Err(malformed("empty"));
    }
    let mut ids = Vec::new();
    for tag in tags {
        match tag {
            EntityTag::Any => return Ok(IfMatch::Any),
            EntityTag::Strong(opaque) => ids.extend(digits(opaque).map(EventId)),
            // It never matches (strong comparison).
            EntityTag::Weak(_) => {}
        }
    }
    Ok(IfMatch::LastEvent(ids.into()))
}

/// A member of `If-Match` or `If-None-Match` (RFC 9110 §8.8.3): what stands between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityTag<'a> {
    /// `*`
    Any,
    /// `"…"`
    Strong(&'a str),
    /// `W/"…"`
    Weak(&'a str),
}

/// Reads a list of entity tags; `None` when it is none. A comma may stand in a tag, so that this is
/// no list as others are.
pub fn entity_tags<'a>(headers: &'a Headers, name: &str) -> Option<Vec<EntityTag<'a>>> {
    if !headers.is_text(name) {
        return None;
    }
    let mut tags = Vec::new();
    for line in headers.get_all(name) {
        let mut rest = line.trim_start_matches([' ', '\t', ',']);
        while !rest.is_empty() {
            let (tag, after) = entity_tag(rest)?;
            tags.push(tag);
            let after = after.trim_start_matches([' ', '\t']);
            if !after.is_empty() && !after.starts_with(',') {
                return None;
            }
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
    }
    Some(tags)
}

/// The tag at the beginning of a text, and what follows it.
fn entity_tag(text: &str) -> Option<(EntityTag<'_>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((EntityTag::Any, rest));
    }
    let (kind, quoted) = match text.strip_prefix("W/") {
        Some(quoted) => (EntityTag::Weak as fn(_) -> _, quoted),
        None => (EntityTag::Strong as fn(_) -> _, text),
    };
    let (opaque, rest) = quoted.strip_prefix('"')?.split_once('"')?;
    Some((kind(opaque), rest))
}

/// How a client wants a representation: what `Accept` says of one media type (RFC 9110 §12.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// By its own name.
    Named,
    /// By a wildcard, or since there is no `Accept` at all.
    Anyhow,
    /// Not at all: 406.
    Not,
}

/// Reads what `Accept` says of `kind/subtype`.
pub fn accepts(headers: &Headers, kind: &str, subtype: &str) -> Accepts {
    // The most specific range that matches decides: (specificity, whether its weight is not 0).
    let mut best: Option<(u8, bool)> = None;
    let mut is_empty = true;
    for range in headers.list("accept") {
        is_empty = false;
        let mut parts = range.split(';').map(str::trim);
        let Some((range_kind, range_subtype)) =
            parts.next().and_then(|range| range.split_once('/'))
        else {
            continue;
        };
        let specificity = if range_kind.eq_ignore_ascii_case(kind)
            && range_subtype.eq_ignore_ascii_case(subtype)
        {
            2
        } else if range_kind.eq_ignore_ascii_case(kind) && range_subtype == "*" {
            1
        } else if range_kind == "*" && range_subtype == "*" {
            0
        } else {
            continue;
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let wanted = weight.and_then(|weight| weight.parse::<f32>().ok()) != Some(0.0);
        if best.is_none_or(|(known, _)| specificity >= known) {
            best = Some((specificity, wanted));
        }
    }
    match best {
        None if is_empty => Accepts::Anyhow,
        Some((2, true)) => Accepts::Named,
        Some((_, true)) => Accepts::Anyhow,
        None | Some((_, false)) => Accepts::Not,
    }
}

fn producer(headers: &Headers) -> Result<Option<Producer>, Problem> {
    let id = name_field(headers, "producer-id", "Producer-Id")?;
    let number = |name: &str, shown: &str| {
        let malformed = || Problem::new(400).detail(format!("{shown} is not a whole number"));
        if !headers.contains(name) {
            return Ok(None);
        }
        headers.get(name).and_then(digits).map(Some).ok_or_else(malformed)
    };
    let epoch = number("producer-epoch", "Producer-Epoch")?;
    let seq = number("producer-seq", "Producer-Seq")?;
    match (id, epoch, seq) {
        (None, None, None) => Ok(None),
        (Some(id), Some(epoch), Some(seq)) => Ok(Some(Producer { id: id.into(), epoch, seq })),
        _ => Err(Problem::new(400)
            .detail("Producer-Id, Producer-Epoch and Producer-Seq go together: all three or none")),
    }
}

/// A field that names something: 1 to 255 visible ASCII characters or spaces, once.
fn name_field<'a>(
    headers: &'a Headers,
    name: &str,
    shown: &str,
) -> Result<Option<&'a str>, Problem> {
    if !headers.contains(name) {
        return Ok(None);
    }
    let mut values = headers.get_all(name);
    let is_good = |text: &&str| {
        (1..=KEY_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    match (values.next().filter(is_good), values.next(), headers.is_text(name)) {
        (Some(text), None, true) => Ok(Some(text)),
        _ => Err(Problem::new(400)
            .detail(format!("{shown} must be one value of 1 to {KEY_BYTES_MAX} ASCII characters"))),
    }
}

/// A value that is there and not empty.
fn value<'a>(query: &'a Query, name: &str) -> Option<&'a str> {
    query.get(name).filter(|text| !text.is_empty())
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Problem> {
    let malformed = || Problem::new(400).detail(format!("{name} is not a whole number"));
    value(query, name).map(|text| digits(text).ok_or_else(malformed)).transpose()
}

/// Digits and nothing else: `u64::from_str` takes a sign too.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn no_id(name: &str) -> Problem {
    Problem::new(400).detail(format!("{name} is not the id of an event"))
}

fn limit(query: &Query, default: usize, max: usize) -> Result<usize, Problem> {
    match number(query, "limit")? {
        None => Ok(default),
        Some(limit) if (1..=max as u64).contains(&limit) => Ok(limit as usize),
        Some(_) => Err(invalid("limit", &format!("must be 1 to {max}"))),
    }
}

fn types(query: &Query) -> Result<Types, Problem> {
    let Some(list) = value(query, "types") else { return Ok(None) };
    let mut types = list
        .split(',')
        .filter(|text| !text.is_empty())
        .map(EventType::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid("types", &error.to_string()))?;
    types.sort();
    types.dedup();
    if types.is_empty() || types.len() > STREAM_TYPES_MAX {
        return Err(invalid("types", &format!("must be 1 to {STREAM_TYPES_MAX} types")));
    }
    Ok(Some(types.into()))
}

fn runs(list: &str) -> Result<Box<[RunId]>, Problem> {
    let mut runs = list
        .split(',')
        .filter(|text| !text.is_empty())
        .map(|text| digits(text).filter(|id| *id > 0).map(RunId))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Problem::new(400).detail("runs is not a list of run ids"))?;
    runs.sort_unstable();
    runs.dedup();
    if runs.is_empty() || runs.len() > STREAM_RUNS_MAX {
        return Err(invalid("runs", &format!("must be 1 to {STREAM_RUNS_MAX} runs")));
    }
    Ok(runs.into())
}
