//! A connection for a request now and then: creating streams, looking whether the server is right.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::http::Head;

/// A connection that waits for its answers.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
}

/// An answer, its body read.
#[derive(Debug)]
pub struct Answer {
    /// For instance 201.
    pub status: u16,
    /// The media type, in lower case.
    pub media_type: String,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// Whether the server did what it was asked.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Client {
    /// Connects; the server may take so long for that, and for each read.
    ///
    /// # Errors
    /// When the server does not take the connection in time.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket })
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no answer.
    pub fn request(&mut self, head: &str, body: &str) -> io::Result<Answer> {
        self.socket.write_all(format!("{head}{body}").as_bytes())?;
        let mut received = Vec::new();
        let head = self.read_head(&mut received)?;
        let Head { mut body, status, media_type, .. } = head;
        let mut text = Vec::new();
        let mut piece = received.split_off(head.bytes);
        loop {
            let mut rest = piece.as_slice();
            while let Some(part) = body.next(&mut rest).map_err(invalid)? {
                text.extend_from_slice(part);
            }
            if body.is_done() {
                break;
            }
            piece.resize(16 * 1024, 0);
            let count = read(&mut self.socket, &mut piece)?;
            piece.truncate(count);
            if count == 0 {
                if body == crate::http::Body::until_close() {
                    break;
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Answer { status, media_type, body: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Sends a request and waits for the head of the answer only.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no answer.
    pub fn request_head(mut self, head: &str) -> io::Result<Head> {
        self.socket.write_all(head.as_bytes())?;
        self.read_head(&mut Vec::new())
    }

    fn read_head(&mut self, received: &mut Vec<u8>) -> io::Result<Head> {
        let mut buffer = [0; 4096];
        loop {
            let count =
                read(&mut self.socket, &mut buffer).map_err(|error| match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
                    }
                    _ => error,
                })?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed without an answer",
                ));
            }
            received.extend_from_slice(&buffer[..count]);
            if let Some(head) = Head::parse(received).map_err(invalid)? {
                return Ok(head);
            }
        }
    }
}

/// Reads what has come. Whoever is stopped and goes on (Ctrl-Z, `fg`) finds a read that has a time
/// limit interrupted, and makes it again.
pub(crate) fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
