//! A small blocking HTTP/1.1 client: what it sends is what the test says, byte for byte, and it
//! is strict about what it reads.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// One connection. A `unix:` socket is held in a `TcpStream` too, which reads, writes and shuts
/// down whatever socket it has.
pub struct Client {
    stream: TcpStream,
    /// What was read and not used yet.
    unread: Vec<u8>,
}

/// An answer that was read in full.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names and values as they were sent.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("the server listens")
    }

    /// Connects, if somebody listens.
    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        // On the loopback interface a connection can be its own other end.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Client { stream, unread: Vec::new() })
    }

    /// Connects from this address of the loopback interface, which is all of 127.0.0.0/8.
    pub fn connect_from(source: [u8; 4], address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("it is an address of this host");
        socket.connect(&address.into()).expect("the server listens");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("it is TCP");
        stream.set_write_timeout(Some(DEADLINE)).expect("it is a socket");
        Client { stream, unread: Vec::new() }
    }

    /// Connects so that a client which does not read is sent little: its kernel takes a few KiB,
    /// and the server's, to which the segments look small, keeps no more than some hundred.
    pub fn connect_frugally(address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
        socket.set_recv_buffer_size(4096).expect("it is a socket");
        socket.set_tcp_mss(1_000).expect("it is not connected yet");
        socket.connect(&address.into()).expect("the server listens");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("it is TCP");
        stream.set_write_timeout(Some(DEADLINE)).expect("it is a socket");
        Client { stream, unread: Vec::new() }
    }

    /// Connects to a `unix:` socket, if somebody listens.
    pub fn try_connect_local(path: &Path) -> io::Result<Client> {
        let stream = TcpStream::from(OwnedFd::from(UnixStream::connect(path)?));
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Client { stream, unread: Vec::new() })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket and what was read from it and not used.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.unread)
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends these bytes, if the server still takes them.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// One request and its answer.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.send(request(method, target, headers, body));
        self.answer_to(method)
    }

    /// The same for a server that may go away in the middle of it.
    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        self.try_send(request(method, target, headers, body))?;
        self.try_answer_to(method)
    }

    /// Reads the next answer.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// Reads the next answer, which is to a request with this method.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer_to(method).expect("the server answers")
    }

    /// Reads the next answer, if there is one.
    pub fn try_answer_to(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.try_head()?;
        if method != "HEAD" {
            answer.body = self.content_of(&answer)?;
        }
        Ok(answer)
    }

    /// Reads the content that belongs to this head.
    pub fn content_of(&mut self, head: &Answer) -> io::Result<Vec<u8>> {
        if head.status < 200 || matches!(head.status, 204 | 304) {
            assert_eq!(head.header("Content-Length"), None, "{head:?}");
            return Ok(Vec::new());
        }
        let length: usize = head
            .header("Content-Length")
            .unwrap_or_else(|| panic!("no Content-Length: {head:?}"))
            .parse()
            .expect("Content-Length is a number");
        while self.unread.len() < length {
            self.fill()?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    /// Reads the head of the next answer and leaves its content unread.
    pub fn try_head(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Ok(parse_head(std::str::from_utf8(&head).expect("a head is ASCII")));
            }
            self.fill()?;
        }
    }

    /// Waits for the end of the connection: `Ok` when the server has closed it after all that it
    /// sent, with nothing behind what was read.
    pub fn end(&mut self) -> Result<(), String> {
        match self.fill() {
            Ok(()) => Err(format!("more came: {}", self.unread.escape_ascii())),
            Err(error) if !self.unread.is_empty() => {
                Err(format!("{error} after {}", self.unread.escape_ascii()))
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return std::mem::take(&mut self.unread);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether something has come, or the end.
    pub fn has_something(&mut self) -> bool {
        !self.unread.is_empty() || {
            self.stream.set_nonblocking(true).expect("it is open");
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false).expect("it is open");
            !peeked.is_err_and(|error| is_timeout(&error))
        }
    }

    /// Whether nothing comes for so long.
    pub fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.unread.is_empty() && self.fill_within(time).is_err_and(|error| is_timeout(&error))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.fill_within(DEADLINE)
    }

    fn fill_within(&mut self, time: Duration) -> io::Result<()> {
        fill_within(&mut self.stream, &mut self.unread, time)
    }
}

/// Reads something more. The end of the connection is `UnexpectedEof`.
pub fn fill_within(stream: &mut TcpStream, unread: &mut Vec<u8>, time: Duration) -> io::Result<()> {
    let started = Instant::now();
    let mut piece = [0; 16 * 1024];
    loop {
        let left = time.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                unread.extend_from_slice(&piece[..count]);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a read has waited for too long.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A request as bytes. A body brings its length, unless the headers say something about it.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let says = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let is_framed = says("content-length") || says("transfer-encoding");
    let has_body = !body.is_empty() || matches!(method, "POST" | "PATCH");
    if has_body && !says("content-type") {
        text.push_str("Content-Type: application/json\r\n");
    }
    if has_body && !is_framed {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// A body in chunked coding, each piece a chunk.
pub fn chunked(pieces: &[&str]) -> String {
    let mut text = String::new();
    for piece in pieces {
        text.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    text + "0\r\n\r\n"
}

fn parse_head(head: &str) -> Answer {
    let mut lines = head.strip_suffix("\r\n\r\n").expect("a head ends there").split("\r\n");
    let status_line = lines.next().expect("split gives at least one");
    let rest = status_line
        .strip_prefix("HTTP/1.1 ")
        .unwrap_or_else(|| panic!("no status line: {status_line:?}"));
    let (status, reason) = rest.split_once(' ').expect("a space after the status");
    assert!(!reason.is_empty(), "{status_line:?}");
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("header {line:?}"));
            (name.to_owned(), value.to_owned())
        })
        .collect();
    Answer { status: status.parse().expect("a status is a number"), headers, body: Vec::new() }
}

impl Answer {
    /// The value of a header field that is there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "more than one {name}: {self:?}");
        value
    }

    /// The content as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("every answer is UTF-8")
    }

    /// The content as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Checks the status, and with an error that it is a problem.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if status >= 400 {
            self.problem();
        }
        self
    }

    /// The content of an error (RFC 9457).
    #[track_caller]
    pub fn problem(&self) -> Value {
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for member in ["type", "title"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    /// The fields that a problem calls wrong, each with a reason.
    #[track_caller]
    pub fn wrong_fields(&self) -> Vec<String> {
        let problem = self.problem();
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem}"));
        errors
            .iter()
            .map(|error| {
                assert!(error["reason"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
                error["field"].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned()
            })
            .collect()
    }
}

/// Where one sequence of bytes is in another.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
