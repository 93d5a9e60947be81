//! What is loaded: where it listens, and the shapes of its requests.
//!
//! A shape is a template. `{run}` stands for the stream's name, `{n}` for the subscriber's number,
//! `{cursor}` for where it left off, `{payload}` for the JSON that is published.

use std::net::{SocketAddr, ToSocketAddrs};

use serde::{Deserialize, Serialize};

/// A server and how one talks to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// How a stream is read.
    pub subscribe: Request,
    /// How a subscriber says where it left off.
    pub resume: Resume,
    /// Where it learns its cursor.
    pub cursor: Cursor,
    /// How a stream comes into being, where it does not by itself.
    pub create: Option<Create>,
    /// How one event is published.
    pub publish: Request,
    /// How several are published at once.
    pub batch: Batch,
    /// Whether requests may follow each other on one connection before they are answered.
    pub pipelining: bool,
}

/// A request as a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// For instance `GET`.
    pub method: String,
    /// Where to.
    pub url: Url,
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: String,
}

/// How a subscriber says where it left off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// It cannot.
    None,
    /// By the header `Last-Event-ID`.
    Header,
    /// By this path and query.
    Path(String),
}

/// Where a subscriber learns its cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cursor {
    /// From `id:`.
    Id,
    /// From a field of the JSON object that the data of such an event is.
    Field {
        /// The event's name.
        event: String,
        /// The field's.
        field: String,
    },
}

/// How a stream comes into being.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// The request.
    pub request: Request,
    /// The field of the answer's JSON object that is the stream's name; else the load tester
    /// names it.
    pub name_field: Option<String>,
}

/// How several events are published at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batch {
    /// As one JSON array of what a single one would be.
    Array,
    /// As lines of what a single one would be, as `application/x-ndjson`.
    Ndjson,
    /// One request each, one after the other on a connection.
    Single,
}

/// An `http:` URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// The address that its host has.
    pub address: SocketAddr,
    /// Host and port as they were written: the `Host` header.
    pub authority: String,
    /// Path and query, with templates.
    pub path: String,
}

/// A URL that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Another scheme than `http`.
    #[error(
        "`{0}` is no http:// URL (https is measured at the proxy that speaks it, with http behind it)"
    )]
    Scheme(String),
    /// No host in it, or a bad port.
    #[error("`{0}` has no usable host and port")]
    Authority(String),
    /// The name leads nowhere.
    #[error("`{0}` cannot be resolved: {1}")]
    Unknown(String, std::io::Error),
}

impl Url {
    /// Takes a URL apart and resolves its host.
    ///
    /// # Errors
    /// When it is none, is not `http:`, or its host has no address.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("http://").ok_or_else(|| UrlError::Scheme(text.into()))?;
        let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let wrong = || UrlError::Authority(text.into());
        if authority.is_empty() || authority.contains(['@', ' ', '\r', '\n']) {
            return Err(wrong());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !port.is_empty() && (!host.contains(':') || host.ends_with(']')) && !port.contains(']')
        });
        let resolvable = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let unknown = |error| UrlError::Unknown(authority.into(), error);
        let mut addresses: Vec<_> = resolvable.to_socket_addrs().map_err(unknown)?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = *addresses.first().ok_or_else(wrong)?;
        Ok(Self { address, authority: authority.into(), path })
    }

    /// The URL as text.
    pub fn text(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }
}

/// What the placeholders of a template stand for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// `{run}`
    pub run: &'a str,
    /// `{n}`
    pub n: usize,
    /// `{cursor}`
    pub cursor: &'a str,
}

impl Values<'_> {
    fn fill(self, template: &str) -> String {
        // Most templates hold one placeholder, and requests are built by the ten thousand.
        let mut text = template.to_owned();
        for (name, value) in [("{run}", self.run), ("{cursor}", self.cursor)] {
            if text.contains(name) {
                text = text.replace(name, value);
            }
        }
        if text.contains("{n}") {
            text = text.replace("{n}", &self.n.to_string());
        }
        text
    }
}

impl Request {
    /// The head, up to and with its empty line, for a body of `body_bytes`.
    pub fn head(&self, values: Values<'_>, body_bytes: usize) -> String {
        self.head_with(values, body_bytes, &self.url.path, &[])
    }

    /// The same with another path and further headers.
    pub fn head_with(
        &self,
        values: Values<'_>,
        body_bytes: usize,
        path: &str,
        more: &[(&str, &str)],
    ) -> String {
        use std::fmt::Write;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, values.fill(path));
        let mut line = |name: &str, value: &str| {
            write!(head, "{name}: {value}\r\n").expect("writing to memory does not fail");
        };
        line("Host", &self.url.authority);
        for (name, value) in &self.headers {
            line(name, &values.fill(value));
        }
        for (name, value) in more {
            line(name, value);
        }
        if body_bytes > 0 || self.method != "GET" {
            line("Content-Length", &body_bytes.to_string());
        }
        head.push_str("\r\n");
        head
    }
}

impl Target {
    /// The request of subscriber `n`, with its cursor when it comes back.
    pub fn subscription(&self, run: &str, n: usize, cursor: Option<&str>) -> String {
        let values = Values { run, n, cursor: cursor.unwrap_or_default() };
        let request = &self.subscribe;
        match (&self.resume, cursor) {
            (Resume::Header, Some(cursor)) => {
                request.head_with(values, 0, &request.url.path, &[("Last-Event-ID", cursor)])
            }
            (Resume::Path(path), Some(_)) => request.head_with(values, 0, path, &[]),
            _ => request.head(values, 0),
        }
    }

    /// Whether what a subscriber missed while it was away can be had.
    pub fn resumes(&self) -> bool {
        self.resume != Resume::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("http://127.0.0.1:8000/runs/{run}?n={n}").unwrap();
        assert_eq!(url.address, "127.0.0.1:8000".parse().unwrap());
        assert_eq!(
            (url.authority.as_str(), url.path.as_str()),
            ("127.0.0.1:8000", "/runs/{run}?n={n}")
        );
        assert_eq!(Url::parse("http://127.0.0.1").unwrap().address.port(), 80);
        assert_eq!(Url::parse("http://127.0.0.1?a").unwrap().path, "/?a");
        assert_eq!(Url::parse("http://[::1]:81/").unwrap().address, "[::1]:81".parse().unwrap());
        assert_eq!(Url::parse("http://[::1]/").unwrap().address, "[::1]:80".parse().unwrap());
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for wrong in [
            "https://127.0.0.1/",
            "127.0.0.1:80",
            "http://",
            "http://:80/",
            "http://a b/",
            "http://127.0.0.1:99999/",
            "http://u@127.0.0.1/",
            "http://nowhere.invalid/",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_its_template_filled_in() {
        let request = Request {
            method: "POST".into(),
            url: Url::parse("http://127.0.0.1:8000/runs/{run}/events").unwrap(),
            headers: vec![("X-N".into(), "{n}".into())],
            body: String::new(),
        };
        assert_eq!(
            request.head(Values { run: "7", n: 3, cursor: "" }, 5),
            "POST /runs/7/events HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nX-N: 3\r\nContent-Length: 5\r\n\r\n"
        );
    }
}
