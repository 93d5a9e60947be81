//! The socket of a connection that carries requests: bytes in through [`Connection`], answers out.
//!
//! Every wait has a deadline, and a deadline never drops a wait: it shuts the socket down, which
//! ends it. Nothing is read before it is asked for, and a wait owns no buffer.

use std::{rc::Rc, time::Duration};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};

use crate::{
    api,
    connection::{After, BodyProgress, Connection, Lingering},
    deadlines::Deadline,
    driver::{Pollable, yield_now},
    limits::{BODY_BYTES_A_SECOND_MIN, LINGER_MS_MAX},
    wire::{
        problem::Problem,
        request::{Method, RequestHead, Version},
        response::{Encode, Response},
    },
    worker::Worker,
};

/// The connection is broken, or the client has left it: there is nobody to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

/// How a wait for bytes has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// There are more.
    Bytes,
    /// The client sends no more.
    End,
    /// The time is up.
    TooLate,
}

/// What has come of waiting for a request.
pub(super) enum NextHead {
    /// One has come.
    Head(Box<RequestHead>),
    /// One has come that cannot be taken, and the connection ends with the answer.
    Refused(Problem),
    /// The client has no more.
    None,
}

pub(super) struct Transport {
    pub(super) worker: Rc<Worker>,
    pub(super) socket: Rc<Pollable>,
    pub(super) connection: Connection,
    /// Whether anything has ever arrived.
    has_received: bool,
}

impl Transport {
    pub(super) fn new(worker: Rc<Worker>, socket: Pollable) -> Transport {
        Transport {
            worker,
            socket: Rc::new(socket),
            connection: Connection::new(),
            has_received: false,
        }
    }

    /// Waits for the next request.
    ///
    /// A request that has begun has less time than a connection between two, and a connection has
    /// no more time for the head of its first request than for that of any other.
    pub(super) async fn next_head(&mut self) -> Result<NextHead, Gone> {
        let settings = &self.worker.shared.settings;
        let (header_timeout, idle_timeout) = (settings.header_timeout, settings.idle_timeout);
        let mut armed: Option<(Armed, bool)> = None;
        loop {
            match self.connection.poll_head() {
                Err(refusal) => return Ok(NextHead::Refused(Problem::from(&refusal))),
                Ok(Some(head)) => return Ok(NextHead::Head(Box::new(head))),
                Ok(None) => {}
            }
            match self.receive()? {
                Some(Input::Bytes) => continue,
                Some(_) => return Ok(self.no_head(false)),
                None => {}
            }
            // Nothing is here: only now a timer is worth its while.
            let is_idle = self.connection.is_idle();
            if is_idle && self.has_received && self.worker.is_draining() {
                return Ok(NextHead::None);
            }
            if armed.as_ref().is_none_or(|(_, was_idle)| *was_idle != is_idle) {
                let socket = Rc::clone(&self.socket);
                let (deadline, wait) = match is_idle {
                    true if self.has_received => (Deadline::Idle(socket), idle_timeout),
                    true => (Deadline::First(socket), header_timeout),
                    false => (Deadline::Input(socket), header_timeout),
                };
                armed = Some((Armed::new(&self.worker, deadline, wait), is_idle));
            }
            self.socket.readable().await.map_err(|_| Gone)?;
            if armed.as_ref().is_some_and(|(armed, _)| armed.has_struck()) {
                // Both may have come at once.
                if is_idle && self.receive()? == Some(Input::Bytes) {
                    continue;
                }
                return Ok(self.no_head(true));
            }
        }
    }

    /// What becomes of a connection on which no head comes any more.
    fn no_head(&self, is_late: bool) -> NextHead {
        if self.connection.is_idle() {
            return NextHead::None;
        }
        NextHead::Refused(if is_late {
            Problem::new(408).detail("the head of the request took too long")
        } else {
            Problem::new(400).detail("the request ends in the middle of its head")
        })
    }

    /// The body of a request that is taken as a whole. No pause in it may be longer than
    /// `body_timeout`, and all of it must keep to [`body_patience`]: else a byte now and then would
    /// hold the connection for ever.
    pub(super) async fn whole_body(
        &mut self,
        max: usize,
    ) -> Result<Result<Vec<u8>, Problem>, Gone> {
        let timeout = self.worker.shared.settings.body_timeout;
        let began = self.worker.now();
        let too_late = || Problem::new(408).detail("the body took too long");
        let mut body = Vec::new();
        loop {
            match self.connection.poll_body(&mut body) {
                Err(refusal) => return Ok(Err(Problem::from(&refusal))),
                Ok(_) if body.len() > max => return Ok(Err(api::body_too_large(max))),
                Ok(BodyProgress::Complete) => return Ok(Ok(body)),
                Ok(BodyProgress::Incomplete) => {}
            }
            let left = body_patience(timeout, body.len()).checked_sub(self.worker.now() - began);
            let Some(left) = left else { return Ok(Err(too_late())) };
            match self.wait_for_input(Deadline::Input, timeout.min(left)).await? {
                Input::Bytes => {}
                Input::End => return Err(Gone),
                Input::TooLate => return Ok(Err(too_late())),
            }
        }
    }

    /// Takes what the kernel has at hand; none when that is nothing yet.
    pub(super) fn receive(&mut self) -> Result<Option<Input>, Gone> {
        let buffer = &mut *self.worker.read_buffer.borrow_mut();
        loop {
            match rustix::net::recv(&*self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.connection.handle_eof();
                    return Ok(Some(Input::End));
                }
                Ok((count, _)) => {
                    self.has_received = true;
                    self.worker.note_request();
                    self.connection.handle_bytes(&buffer[..count]);
                    return Ok(Some(Input::Bytes));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Waits for bytes, until `deadline` strikes after so long.
    pub(super) async fn wait_for_input(
        &mut self,
        deadline: impl FnOnce(Rc<Pollable>) -> Deadline,
        wait: Duration,
    ) -> Result<Input, Gone> {
        if let Some(input) = self.receive()? {
            // There may be no end to what is at hand.
            yield_now().await;
            return Ok(input);
        }
        let armed = Armed::new(&self.worker, deadline(Rc::clone(&self.socket)), wait);
        let ready = self.socket.readable().await;
        match (ready, armed.has_struck()) {
            (Err(_), _) => Err(Gone),
            (Ok(()), true) => Ok(Input::TooLate),
            // Ready means that a read does not wait, or that there is an error to be had.
            (Ok(()), false) => Ok(self.receive()?.unwrap_or(Input::Bytes)),
        }
    }

    /// Sends everything.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> Result<(), Gone> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            match rustix::net::send(&*self.socket, bytes, flags) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let timeout = self.worker.shared.settings.client_timeout;
                    let deadline = Deadline::Output(Rc::clone(&self.socket));
                    let armed = Armed::new(&self.worker, deadline, timeout);
                    let ready = self.socket.writable().await;
                    if ready.is_err() || armed.has_struck() {
                        return Err(Gone);
                    }
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Answers a request, and sees to it that the answer arrives.
    pub(super) async fn answer(
        &mut self,
        head: Option<&RequestHead>,
        mut response: Response,
        may_stay: bool,
    ) -> Result<After, Gone> {
        // Of a body that was not wanted some may be on its way; if all of it is here already, the
        // connection can stay. A client that waits for `100 Continue` has sent none.
        if !self.connection.needs_continue() {
            let _ = self.connection.discard_body();
        }
        let may_stay = may_stay && self.connection.can_keep_alive();
        let after = self.connection.finish(may_stay);
        let how = Encode {
            head_only: head.is_some_and(|head| head.method == Method::Head),
            version: head.map_or(Version::Http11, |head| head.version),
            keep_alive: after == After::Next,
            date: &self.worker.date(),
        };
        if let Some(head) = head {
            response.headers.extend(self.worker.shared.cors.headers(&head.headers));
        }
        let mut out = Vec::new();
        response.encode(&how, &mut out);
        self.send(&out).await?;
        if after == After::Linger {
            self.linger().await;
            return Ok(After::Close);
        }
        Ok(after)
    }

    /// Ends the sending side and throws away what still comes, so that no reset takes the answer
    /// away from the client (RFC 9112 §9.6).
    pub(super) async fn linger(&mut self) {
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Write);
        let mut lingering = Lingering::default();
        let wait = Duration::from_millis(LINGER_MS_MAX);
        let deadline = Deadline::Input(Rc::clone(&self.socket));
        let armed = Armed::new(&self.worker, deadline, wait);
        loop {
            let received = {
                let buffer = &mut *self.worker.read_buffer.borrow_mut();
                rustix::net::recv(&*self.socket, &mut buffer[..], RecvFlags::DONTWAIT)
            };
            let goes_on = match received {
                Ok((0, _)) => false,
                Ok((count, _)) => lingering.handle_discarded(count),
                Err(Errno::AGAIN) => self.socket.readable().await.is_ok(),
                Err(error) => error == Errno::INTR,
            };
            if !goes_on || armed.has_struck() {
                return;
            }
        }
    }
}

/// How long a body may take of which so many bytes have come.
fn body_patience(timeout: Duration, received: usize) -> Duration {
    timeout + Duration::from_millis(received as u64 * 1_000 / BODY_BYTES_A_SECOND_MIN)
}

/// A deadline that is armed for as long as this lives.
pub(super) struct Armed {
    worker: Rc<Worker>,
    key: usize,
}

impl Armed {
    pub(super) fn new(worker: &Rc<Worker>, deadline: Deadline, wait: Duration) -> Armed {
        Armed { worker: Rc::clone(worker), key: worker.arm(deadline, wait) }
    }

    pub(super) fn has_struck(&self) -> bool {
        self.worker.deadlines.borrow().has_struck(self.key)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.worker.deadlines.borrow_mut().disarm(self.key);
    }
}
