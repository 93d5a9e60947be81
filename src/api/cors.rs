//! Cross-origin requests of browsers (the Fetch standard, §3.3).

use crate::{
    config::{CorsOrigins, Settings},
    wire::{request::Headers, response::Response},
};

/// Which origins may use the server from a browser, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsPolicy {
    origins: CorsOrigins,
    /// Whether these may send cookies and the like; never with `*`.
    credentials: bool,
}

impl From<&Settings> for CorsPolicy {
    fn from(settings: &Settings) -> CorsPolicy {
        CorsPolicy {
            origins: settings.cors_origins.clone(),
            credentials: settings.cors_credentials,
        }
    }
}

const REQUEST_HEADERS: &str = "Last-Event-ID, Idempotency-Key, If-Match, Producer-Id, \
     Producer-Epoch, Producer-Seq, Content-Type, Authorization";
const EXPOSED_HEADERS: &str = "Location, Retry-After, ETag";
/// How long a browser may remember a preflight, in seconds: Chromium keeps none longer.
const PREFLIGHT_SECONDS: &str = "7200";

impl CorsPolicy {
    /// The fields that every answer to this request carries, errors and streams too.
    pub fn headers(&self, request: &Headers) -> Vec<(&'static str, String)> {
        let mut headers = self.vary();
        let Some(origin) = request.get("origin") else { return headers };
        match &self.origins {
            CorsOrigins::Any => headers.push(("Access-Control-Allow-Origin", "*".to_owned())),
            CorsOrigins::Exact(origins) => {
                if !origins.iter().any(|allowed| allowed.as_str() == origin) {
                    return headers;
                }
                headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
                if self.credentials {
                    headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
                }
            }
        }
        headers.push(("Access-Control-Expose-Headers", EXPOSED_HEADERS.to_owned()));
        headers
    }

    /// The answer to OPTIONS, which is a preflight when it says so; `allow` are the methods.
    pub fn options(&self, request: &Headers, allow: &'static str) -> Response {
        let mut response = Response::empty(204).with_header("Allow", allow);
        let is_allowed =
            self.headers(request).iter().any(|(name, _)| *name == "Access-Control-Allow-Origin");
        if is_allowed && request.contains("access-control-request-method") {
            response = response
                .with_header("Access-Control-Allow-Methods", allow)
                .with_header("Access-Control-Allow-Headers", REQUEST_HEADERS)
                .with_header("Access-Control-Max-Age", PREFLIGHT_SECONDS);
        }
        response
    }

    /// A cache must not give one origin the answer that was made for another.
    fn vary(&self) -> Vec<(&'static str, String)> {
        match &self.origins {
            CorsOrigins::Exact(origins) if !origins.is_empty() => {
                vec![("Vary", "Origin".to_owned())]
            }
            _ => Vec::new(),
        }
    }
}
