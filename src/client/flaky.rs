//! A server for tests that does only what it is told, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::Timing;

/// What the server does with one connection, after it has read one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Closes it without a word.
    HangUp,
    /// Writes this and closes it.
    Answer(&'static str),
    /// Writes this and leaves it open.
    Stall(&'static str),
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Request line and header section.
    pub(crate) head: String,
    /// Body, by its `Content-Length`.
    pub(crate) body: String,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// The server, on a port of its own. When its steps are used up it listens no more.
pub(crate) struct Flaky {
    pub(crate) url: String,
    requests: Arc<(Mutex<Vec<Recorded>>, Condvar)>,
}

impl Flaky {
    pub(crate) fn start<I>(steps: I) -> Flaky
    where
        I: IntoIterator<Item = Step>,
        I::IntoIter: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<(Mutex<Vec<Recorded>>, Condvar)>::default();
        let recorded = Arc::clone(&requests);
        let steps = steps.into_iter();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for step in steps {
                let (mut stream, _) = listener.accept().unwrap();
                recorded.0.lock().unwrap().push(read_request(&stream));
                recorded.1.notify_all();
                match step {
                    Step::HangUp => {}
                    Step::Answer(answer) => {
                        let answer =
                            answer.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                    Step::Stall(answer) => {
                        stream.write_all(answer.as_bytes()).unwrap();
                        open.push(stream);
                    }
                }
            }
        });
        Flaky { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.requests.0.lock().unwrap().clone()
    }

    pub(crate) fn wait_for_requests(&self, count: usize) {
        let (requests, changed) = &*self.requests;
        drop(
            changed
                .wait_while(requests.lock().unwrap(), |requests| requests.len() < count)
                .unwrap(),
        );
    }
}

fn read_request(stream: &TcpStream) -> Recorded {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the request is cut off: {head}");
    }
    let mut recorded = Recorded { head, body: String::new() };
    let length = recorded.header("content-length").map_or(0, |length| length.parse().unwrap());
    reader.take(length).read_to_string(&mut recorded.body).unwrap();
    recorded
}

/// Waits that a test can afford.
pub(crate) fn timing() -> Timing {
    Timing {
        // Nobody else is as late as a server that stalls, on a busy machine too.
        silence: Duration::from_secs(5),
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        reconnect: Duration::from_millis(1),
        ..Timing::default()
    }
}
