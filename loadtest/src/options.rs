//! What every measurement needs to know: the server, its shapes, and where the load comes from.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use crate::{
    preset::Preset,
    protocol::Sources,
    target::{Batch, Create, Cursor, Request, Resume, Target, Url, UrlError},
};

/// Options that all measurements have in common.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server listens, for instance `http://127.0.0.1:8000`.
    pub server: String,
    /// The name of the shapes to begin with.
    pub preset: String,
    /// What differs from the preset.
    pub shapes: Shapes,
    /// How many load processes; chosen by the file limit without.
    pub processes: Option<usize>,
    /// Source addresses; all of 127.0.0.0/8 towards a loopback server without.
    pub bind: Vec<IpAddr>,
    /// How many connections may be between `connect` and their head at a time.
    pub in_flight: usize,
    /// How long one may take for that.
    pub timeout: Duration,
    /// A live event that comes later than this after it was due is late.
    pub stall: Duration,
    /// How long all is left alone before memory is read: allocators give back with a delay.
    pub settle: Duration,
    /// How long a published payload is, in bytes.
    pub payload_bytes: usize,
    /// The server's processes; those that listen at its port without.
    pub server_pids: Vec<u32>,
    /// Where the report goes as JSON.
    pub json: Option<PathBuf>,
    /// Where the report goes as a page.
    pub report: Option<PathBuf>,
}

/// What differs from the preset.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    /// URL of a stream.
    pub subscribe: Option<String>,
    /// Further headers of that request.
    pub subscribe_headers: Vec<String>,
    /// Method and URL of a publish.
    pub publish: Option<String>,
    /// Its media type.
    pub publish_type: Option<String>,
    /// Its further headers.
    pub publish_headers: Vec<String>,
    /// Its body.
    pub publish_body: Option<String>,
    /// Method and URL that make a stream; `none` where streams need no making.
    pub create: Option<String>,
    /// The body of that request.
    pub create_body: Option<String>,
    /// The field of its answer that is the stream's name; `none` where the load tester names it.
    pub create_field: Option<String>,
    /// How several events are published at once.
    pub batch_as: Option<Batch>,
    /// `none`, `header`, or the path and query with `{cursor}`.
    pub resume: Option<String>,
    /// `id`, or `EVENT.FIELD`.
    pub cursor: Option<String>,
    /// Whether requests may follow each other on a connection before they are answered.
    pub no_pipelining: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server: "http://127.0.0.1:8000".into(),
            preset: "tidewheel".into(),
            shapes: Shapes::default(),
            processes: None,
            bind: Vec::new(),
            in_flight: 1_000,
            timeout: Duration::from_secs(30),
            stall: Duration::from_millis(500),
            settle: Duration::from_secs(2),
            payload_bytes: 100,
            server_pids: Vec::new(),
            json: None,
            report: None,
        }
    }
}

/// An option that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// A URL is wrong.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// There is no such preset.
    #[error("no preset is called `{0}`: there are {list}", list = Preset::list())]
    UnknownPreset(String),
    /// A request is not `METHOD URL`.
    #[error("`{0}` is not a method and a URL, like `POST http://127.0.0.1/publish`")]
    NotARequest(String),
    /// A header is not `Name: value`.
    #[error("`{0}` is not a header, like `Name: value`")]
    NotAHeader(String),
    /// A cursor is not `EVENT.FIELD`.
    #[error(
        "`{0}` is no cursor: `id`, or an event's name and a field of its data, like `control.next`"
    )]
    NotACursor(String),
    /// What is published is not recognized when it comes back.
    #[error("the body of a publish must hold `{{payload}}`")]
    NoPayload,
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "array" => Ok(Self::Array),
            "ndjson" => Ok(Self::Ndjson),
            "single" => Ok(Self::Single),
            _ => Err(format!("`{text}` is none of array, ndjson, single")),
        }
    }
}

impl Options {
    /// The preset.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn preset(&self) -> Result<&'static Preset, OptionError> {
        Preset::find(&self.preset).ok_or_else(|| OptionError::UnknownPreset(self.preset.clone()))
    }

    /// The shapes of the preset with what differs from them.
    ///
    /// # Errors
    /// When an option is not what it should be.
    pub fn target(&self) -> Result<Target, OptionError> {
        let mut target = self.preset()?.target(&self.server)?;
        let shapes = &self.shapes;
        if let Some(url) = &shapes.subscribe {
            target.subscribe.url = Url::parse(url)?;
            // The preset's way of coming back belongs to its own URL.
            if matches!(target.resume, Resume::Path(_)) {
                target.resume = Resume::None;
            }
        }
        target.subscribe.headers.extend(headers(&shapes.subscribe_headers)?);
        if let Some(request) = &shapes.publish {
            (target.publish.method, target.publish.url) = method_and_url(request)?;
        }
        if let Some(media_type) = &shapes.publish_type {
            set_header(&mut target.publish, "Content-Type", media_type);
        }
        target.publish.headers.extend(headers(&shapes.publish_headers)?);
        if let Some(body) = &shapes.publish_body {
            target.publish.body.clone_from(body);
        }
        if !target.publish.body.contains("{payload}") {
            return Err(OptionError::NoPayload);
        }
        target.create = self.create(target.create)?;
        match shapes.resume.as_deref() {
            None => {}
            Some("none") => target.resume = Resume::None,
            Some("header") => target.resume = Resume::Header,
            Some(path) => target.resume = Resume::Path(path.into()),
        }
        match shapes.cursor.as_deref() {
            None => {}
            Some("id") => target.cursor = Cursor::Id,
            Some(cursor) => {
                let wrong = || OptionError::NotACursor(cursor.into());
                let (event, field) = cursor.split_once('.').ok_or_else(wrong)?;
                target.cursor = Cursor::Field { event: event.into(), field: field.into() };
            }
        }
        if let Some(batch) = shapes.batch_as {
            set_batch(&mut target, batch);
        }
        target.pipelining &= !shapes.no_pipelining;
        Ok(target)
    }

    fn create(&self, preset: Option<Create>) -> Result<Option<Create>, OptionError> {
        let mut create = match (self.shapes.create.as_deref(), preset) {
            (Some("none"), _) | (None, None) => return Ok(None),
            (None, Some(create)) => create,
            (Some(request), preset) => {
                let (method, url) = method_and_url(request)?;
                let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
                let request = Request { method, url, headers, body: String::new() };
                Create { request, name_field: preset.and_then(|create| create.name_field) }
            }
        };
        if let Some(body) = &self.shapes.create_body {
            create.request.body.clone_from(body);
        }
        match self.shapes.create_field.as_deref() {
            None => {}
            Some("none") => create.name_field = None,
            Some(field) => create.name_field = Some(field.into()),
        }
        Ok(Some(create))
    }

    /// Where connections come from.
    pub fn sources(&self, target: &Target) -> Sources {
        let address = target.subscribe.url.address.ip();
        match (&self.bind[..], address) {
            ([], IpAddr::V4(address)) if address.is_loopback() => Sources::Loopback,
            ([], _) => Sources::System,
            (addresses, _) => Sources::Listed(addresses.to_vec()),
        }
    }
}

/// Publishes several events at once in another way than the preset's.
pub fn set_batch(target: &mut Target, batch: Batch) {
    target.batch = batch;
    if batch == Batch::Ndjson {
        set_header(&mut target.publish, "Content-Type", "application/x-ndjson");
    }
}

fn set_header(request: &mut Request, name: &str, value: &str) {
    request.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    request.headers.push((name.into(), value.into()));
}

fn method_and_url(text: &str) -> Result<(String, Url), OptionError> {
    let wrong = || OptionError::NotARequest(text.into());
    let (method, url) = text.split_once(' ').ok_or_else(wrong)?;
    Ok((method.to_ascii_uppercase(), Url::parse(url.trim())?))
}

fn headers(lines: &[String]) -> Result<Vec<(String, String)>, OptionError> {
    let header = |line: &String| {
        let wrong = || OptionError::NotAHeader(line.clone());
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        if name.trim().is_empty() || line.contains(['\r', '\n']) {
            return Err(wrong());
        }
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    lines.iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut Options)) -> Result<Target, String> {
        let mut options = Options::default();
        change(&mut options);
        options.target().map_err(|error| error.to_string())
    }

    #[test]
    fn each_shape_of_a_preset_can_be_replaced() {
        let target = options(|options| {
            options.preset = "nchan".into();
            let shapes = &mut options.shapes;
            shapes.subscribe = Some("http://127.0.0.1:1/s/{run}?n={n}".into());
            shapes.subscribe_headers = vec!["Authorization: Bearer x".into()];
            shapes.publish = Some("put http://127.0.0.1:2/p".into());
            shapes.publish_type = Some("text/plain".into());
            shapes.publish_body = Some("<{payload}>".into());
            shapes.create = Some("POST http://127.0.0.1:3/c".into());
            shapes.create_field = Some("name".into());
            shapes.resume = Some("/s?from={cursor}".into());
            shapes.cursor = Some("control.next".into());
            shapes.batch_as = Some(Batch::Ndjson);
            shapes.no_pipelining = true;
        })
        .unwrap();
        assert_eq!(target.subscribe.url.text(), "http://127.0.0.1:1/s/{run}?n={n}");
        assert!(target.subscribe.headers.contains(&("Authorization".into(), "Bearer x".into())));
        assert_eq!(target.publish.method, "PUT");
        let media_type = ("Content-Type".to_owned(), "application/x-ndjson".to_owned());
        assert_eq!(target.publish.headers, [media_type]);
        assert_eq!(target.create.unwrap().name_field.as_deref(), Some("name"));
        assert_eq!(target.resume, Resume::Path("/s?from={cursor}".into()));
        assert!(!target.pipelining);
    }

    #[test]
    fn a_wrong_option_is_named() {
        let wrong = |change: fn(&mut Options)| options(change).unwrap_err();
        assert!(wrong(|options| options.preset = "nginx".into()).contains("tidewheel"));
        assert!(wrong(|options| options.server = "https://x".into()).contains("http://"));
        assert!(
            wrong(|options| options.shapes.publish = Some("http://x".into())).contains("method")
        );
        assert!(
            wrong(|options| options.shapes.publish_body = Some("x".into())).contains("{payload}")
        );
        assert!(wrong(|options| options.shapes.cursor = Some("x".into())).contains("no cursor"));
        assert!(
            wrong(|options| options.shapes.publish_headers = vec!["x".into()]).contains("header")
        );
    }
}
