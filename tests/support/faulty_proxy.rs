//! A reverse proxy with a fault, which can be changed while it runs: what stands between a server
//! and its clients when a runbook is needed.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::http::{find, is_timeout};

/// What is wrong with the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// What comes is passed on at this interval only.
    Buffers(Duration),
    /// A connection is closed when the server is silent for so long, while this process runs.
    IdleTimeout(Duration),
    /// A connection is closed so long after what came with its head was passed on.
    Closes(Duration),
    /// The same with a reset.
    Resets(Duration),
    /// Says that it has compressed what it passes on.
    Compresses,
    /// Answers itself, with a page of HTML.
    Answers(u16),
    /// Takes `Last-Event-ID` out of requests.
    LosesCursors,
}

/// The proxy; it serves to the end of the process.
pub struct FaultyProxy {
    address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
}

impl FaultyProxy {
    /// A proxy in front of this server.
    pub fn start(upstream: SocketAddr, fault: Fault) -> FaultyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let address = listener.local_addr().expect("it is bound");
        let fault = Arc::new(Mutex::new(fault));
        let shared = Arc::clone(&fault);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let fault = *shared.lock().unwrap();
                thread::spawn(move || {
                    // A client or a server that goes away is what is tested.
                    let _ = serve(client, upstream, fault);
                });
            }
        });
        FaultyProxy { address, fault }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next connection on it is this that is wrong.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

/// A head up to its empty line, and what was read behind it.
fn head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = find(&read, b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => read.extend_from_slice(&piece[..count]),
        }
    }
}

/// The head without the fields of these names, and with these lines at its end.
fn edited(head: &str, without: &[&str], with: &str) -> String {
    let kept = head.trim_end().split("\r\n").filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !without.iter().any(|without| name.eq_ignore_ascii_case(without))
    });
    kept.collect::<Vec<_>>().join("\r\n") + "\r\n" + with + "\r\n"
}

/// How long the server is waited for, before it is looked whether something else is due.
const GLANCE: Duration = Duration::from_millis(10);

fn serve(mut client: TcpStream, upstream: SocketAddr, fault: Fault) -> std::io::Result<()> {
    let (request, body) = head(&mut client)?;
    if let Fault::Answers(status) = fault {
        let page = format!("<html><head><title>{status} Not today</title></head></html>\n");
        let length = page.len();
        let answer = format!(
            "HTTP/1.1 {status} Not today\r\nServer: faulty\r\nContent-Type: text/html\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{page}"
        );
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(upstream)?;
    let lost = if fault == Fault::LosesCursors { "last-event-id" } else { "connection" };
    // One request a connection, so that the end of an answer is that of the connection.
    let request = edited(&request, &["connection", lost], "Connection: close\r\n");
    server.write_all(request.as_bytes())?;
    server.write_all(&body)?;
    pass_on_requests(&client, &server)?;
    let (answer, body) = head(&mut server)?;
    let with = if fault == Fault::Compresses { "Content-Encoding: gzip\r\n" } else { "" };
    client.write_all(edited(&answer, &[], with).as_bytes())?;

    let mut held = body;
    let mut passed_on = Instant::now();
    let mut began = None;
    // Counted in glances, so that a time in which nothing here ran is no silence of the server.
    let mut silence = Duration::ZERO;
    let mut piece = [0; 16 * 1024];
    server.set_read_timeout(Some(GLANCE))?;
    loop {
        let is_due = match fault {
            Fault::Buffers(interval) => passed_on.elapsed() >= interval,
            _ => true,
        };
        if is_due {
            client.write_all(&held)?;
            held.clear();
            passed_on = Instant::now();
        }
        let age = began.get_or_insert_with(Instant::now).elapsed();
        match server.read(&mut piece) {
            Ok(0) => {
                client.write_all(&held)?;
                break;
            }
            Ok(count) => {
                held.extend_from_slice(&piece[..count]);
                silence = Duration::ZERO;
            }
            Err(error) if is_timeout(&error) => silence += GLANCE,
            // A process that was stopped goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        match fault {
            Fault::IdleTimeout(limit) if silence >= limit => break,
            Fault::Closes(at) if age >= at => break,
            Fault::Resets(at) if age >= at => {
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                server.shutdown(Shutdown::Both)?;
                // The last that holds the socket is about to let go of it.
                thread::sleep(Duration::from_millis(50));
                return Ok(());
            }
            _ => {}
        }
    }
    client.shutdown(Shutdown::Both)?;
    server.shutdown(Shutdown::Both)
}

/// Passes on what the client sends, up to its end or that of the server.
fn pass_on_requests(client: &TcpStream, server: &TcpStream) -> std::io::Result<()> {
    let (mut client, mut server) = (client.try_clone()?, server.try_clone()?);
    client.set_read_timeout(Some(GLANCE))?;
    thread::spawn(move || {
        let mut piece = [0; 16 * 1024];
        loop {
            match client.read(&mut piece) {
                Ok(count @ 1..) if server.write_all(&piece[..count]).is_ok() => {}
                Err(error) if is_timeout(&error) && is_open(&server) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Whether this side has not shut the connection down, and the other has not reset it.
fn is_open(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok()
        && !asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
