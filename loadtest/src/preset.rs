//! The shapes of servers that are known, by name.

use crate::target::{Batch, Create, Cursor, Request, Resume, Target, Url, UrlError};

/// A server that is known.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Whether a stream can be read from its first event on, however long it is.
    pub keeps_all: bool,
    target: fn(&str) -> Result<Target, UrlError>,
}

/// All of them.
pub const PRESETS: &[Preset] = &[
    Preset { name: "tidewheel", keeps_all: true, target: tidewheel },
    Preset { name: "plain", keeps_all: false, target: plain },
    Preset { name: "nchan", keeps_all: false, target: nchan },
    Preset { name: "mercure", keeps_all: false, target: mercure },
    Preset { name: "durable-streams", keeps_all: true, target: durable_streams },
    Preset { name: "pushpin", keeps_all: false, target: pushpin },
];

impl Preset {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Its shapes for a server at `base`, for instance `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// When that is no URL.
    pub fn target(&self, base: &str) -> Result<Target, UrlError> {
        Url::parse(base)?;
        (self.target)(base.trim_end_matches('/'))
    }

    /// The names of all.
    pub fn list() -> String {
        PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
    }
}

fn request(method: &str, url: &str, content_type: &str, body: &str) -> Result<Request, UrlError> {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = if content_type.is_empty() {
        vec![header("Accept", "text/event-stream")]
    } else {
        vec![header("Content-Type", content_type)]
    };
    Ok(Request { method: method.into(), url: Url::parse(url)?, headers, body: body.into() })
}

fn tidewheel(base: &str) -> Result<Target, UrlError> {
    Ok(Target {
        subscribe: request("GET", &format!("{base}/runs/{{run}}/events/stream"), "", "")?,
        resume: Resume::Header,
        cursor: Cursor::Id,
        create: Some(Create {
            request: request("POST", &format!("{base}/runs"), "application/json", "{}")?,
            name_field: Some("id".into()),
        }),
        publish: request(
            "POST",
            &format!("{base}/runs/{{run}}/events"),
            "application/json",
            r#"{"type":"LOAD","payload":{payload}}"#,
        )?,
        batch: Batch::Array,
        pipelining: true,
    })
}

fn plain(base: &str) -> Result<Target, UrlError> {
    Ok(Target {
        subscribe: request("GET", &format!("{base}/streams/{{run}}"), "", "")?,
        resume: Resume::Header,
        cursor: Cursor::Id,
        create: None,
        publish: request(
            "POST",
            &format!("{base}/streams/{{run}}"),
            "application/x-ndjson",
            "{payload}",
        )?,
        batch: Batch::Ndjson,
        pipelining: true,
    })
}

fn nchan(base: &str) -> Result<Target, UrlError> {
    Ok(Target {
        subscribe: request("GET", &format!("{base}/sub/{{run}}"), "", "")?,
        publish: request("POST", &format!("{base}/pub/{{run}}"), "application/json", "{payload}")?,
        batch: Batch::Single,
        ..plain(base)?
    })
}

fn mercure(base: &str) -> Result<Target, UrlError> {
    let hub = format!("{base}/.well-known/mercure");
    Ok(Target {
        subscribe: request("GET", &format!("{hub}?topic={{run}}"), "", "")?,
        publish: request(
            "POST",
            &hub,
            "application/x-www-form-urlencoded",
            "topic={run}&data={payload}",
        )?,
        batch: Batch::Single,
        ..plain(base)?
    })
}

fn durable_streams(base: &str) -> Result<Target, UrlError> {
    let stream = format!("{base}/{{run}}");
    Ok(Target {
        subscribe: request("GET", &format!("{stream}?offset=-1&live=sse"), "", "")?,
        resume: Resume::Path("/{run}?offset={cursor}&live=sse".into()),
        cursor: Cursor::Field { event: "control".into(), field: "streamNextOffset".into() },
        create: Some(Create {
            request: request("PUT", &stream, "application/json", "")?,
            name_field: None,
        }),
        publish: request("POST", &stream, "application/json", "{payload}")?,
        batch: Batch::Array,
        pipelining: true,
    })
}

fn pushpin(base: &str) -> Result<Target, UrlError> {
    let mut target = plain(base)?;
    target.publish.url.address.set_port(target.publish.url.address.port() + 1);
    Ok(target)
}
