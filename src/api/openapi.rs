//! `/openapi.json`: the contract for programs.
//!
//! The document is written by hand, beside this file, since what it says of a field no type can say.
//! `tests/openapi.rs` holds it to the code: routes and bounds by comparison, answers by asking.

use std::sync::LazyLock;

use super::query::{EntityTag, entity_tags};
use crate::wire::{request::Headers, response::Response};

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| include_str!("openapi.json").replace("{version}", env!("CARGO_PKG_VERSION")));
static ETAG: LazyLock<String> =
    LazyLock::new(|| format!("{:032x}", xxhash_rust::xxh3::xxh3_128(DOCUMENT.as_bytes())));

/// The document; 304 to who has it already (RFC 9110 §13.1.2).
pub fn document(headers: &Headers) -> Response {
    let is_it = |tag: &EntityTag| match tag {
        EntityTag::Any => true,
        EntityTag::Strong(opaque) | EntityTag::Weak(opaque) => *opaque == *ETAG,
    };
    let known = entity_tags(headers, "if-none-match").unwrap_or_default();
    let response = if known.iter().any(is_it) {
        Response::empty(304)
    } else {
        Response::json(200, DOCUMENT.as_str())
    };
    response.with_header("ETag", format!("\"{}\"", *ETAG)).with_header("Cache-Control", "no-cache")
}
