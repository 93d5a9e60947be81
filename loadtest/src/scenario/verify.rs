//! Reads streams back and looks whether all that was answered with success is there, once and in
//! the order in which each writer wrote it.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    net::TcpStream,
    time::Duration,
};

use crate::{
    client,
    http::Head,
    marker::Marker,
    order::{Order, Published},
    progress::Progress,
    publisher::Written,
    report::Unit,
    session::Session,
    sse::{self, Event},
    subscriber::Failure,
    tally::{Broken, Tally},
};

/// So many streams are read back, from the first on.
const STREAMS_MAX: usize = 16;
/// When nothing more has come for so long, nothing comes twice.
const SILENCE: Duration = Duration::from_millis(100);

/// Reads back and adds what is wrong to the report.
pub(super) fn read_back(session: &mut Session, written: &[Written]) {
    let mut by_stream: BTreeMap<u32, Vec<&Written>> = BTreeMap::new();
    for written in written {
        by_stream.entry(written.stream).or_default().push(written);
    }
    by_stream.retain(|stream, _| (*stream as usize) < STREAMS_MAX);
    let total = by_stream.len() as u64;
    let mut progress = Progress::begin("reading back", total, session.is_quiet());
    let mut tally = Tally::default();
    let mut checked = 0;
    for (done, (stream, written)) in by_stream.into_iter().enumerate() {
        checked += read_stream(session, stream, &written, &mut tally);
        progress.set(done as u64 + 1, total, &format!("{checked} events"));
        if session.is_stopped() {
            break;
        }
    }
    session.figure("events_checked", "events read back and checked", Unit::Count, checked as f64);
    let found = tally.tick(true);
    session.add_violations(&found.violations);
    session.add_failures(&found.failures);
}

/// What is read of one stream, by writer.
struct Reader<'a> {
    token: u32,
    stream: u32,
    writers: HashMap<u32, Order>,
    events: u64,
    tally: &'a mut Tally,
}

impl sse::Sink for Reader<'_> {
    fn event(&mut self, _: &Event<'_>, markers: &[Marker]) {
        for marker in markers.iter().filter(|marker| marker.token == self.token) {
            self.events += 1;
            let &Marker { stream, writer, number, .. } = marker;
            if stream != self.stream {
                let describe =
                    || format!("event {number} of stream {stream} in stream {}", self.stream);
                self.tally.violate(Broken::Foreign, 1, describe);
                continue;
            }
            if let Some((broken, count)) = self.writers.entry(writer).or_default().handle(number) {
                self.tally.violate(broken, count, || {
                    format!("event {number} of writer {writer} in stream {stream}")
                });
            }
        }
    }

    fn comment(&mut self) {}
}

fn read_stream(session: &Session, stream: u32, written: &[&Written], tally: &mut Tally) -> u64 {
    let mut reader =
        Reader { token: session.token(), stream, writers: HashMap::new(), events: 0, tally };
    let published: Vec<(u32, Published)> =
        written.iter().map(|written| (written.writer, written.published())).collect();
    let broken = read_until(session, stream, &mut reader, |reader| {
        let has_all = |(writer, published): &(u32, Published)| match reader.writers.get(writer) {
            Some(order) => order.has_all(published),
            None => published.last == 0,
        };
        published.iter().all(has_all)
    });
    let Reader { mut writers, events, tally, .. } = reader;
    let is_whole = broken.is_ok();
    if let Err(error) = broken {
        tally.fail(format!("reading back: {error}"));
    }
    for (writer, published) in published {
        let order = writers.remove(&writer).unwrap_or_default();
        // Where the stream broke, what comes after that is not known to be missing.
        let missing =
            if is_whole { order.missing(&published) } else { order.jumped_over(&published) };
        for (first, last) in missing {
            tally.violate(Broken::Missing, u64::from(last - first + 1), || {
                format!(
                    "events {first} to {last} of writer {writer} in stream {stream} were \
                     answered with success and are not there"
                )
            });
        }
    }
    events
}

/// Reads a stream until all is there and nothing more comes, or until nothing comes for long.
///
/// # Errors
/// When the stream ends before.
fn read_until(
    session: &Session,
    stream: u32,
    reader: &mut Reader<'_>,
    done: impl Fn(&Reader<'_>) -> bool,
) -> io::Result<()> {
    let target = &session.target;
    let run = &session.streams[stream as usize];
    let mut socket = TcpStream::connect(target.subscribe.url.address)?;
    socket.set_read_timeout(Some(session.options.timeout))?;
    socket.write_all(target.subscription(run, 0, None).as_bytes())?;
    let (mut head, mut body) = (Vec::new(), None);
    let (mut carry, mut room) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = match client::read(&mut socket, &mut buffer) {
            Ok(0) if done(reader) => return Ok(()),
            Ok(0) => return Err(io::Error::other(Failure::ClosedEarly)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && body.is_some() => {
                return Ok(());
            }
            Err(error) => return Err(io::Error::other(Failure::from(error))),
        };
        let mut bytes = &buffer[..count];
        if body.is_none() {
            head.extend_from_slice(bytes);
            let parsed = Head::parse(&head).map_err(io::Error::other)?;
            let Some(parsed) = parsed else { continue };
            if parsed.status != 200 {
                return Err(io::Error::other(Failure::Status(parsed.status)));
            }
            body = Some(parsed.body);
            bytes = &head[parsed.bytes..];
        }
        let body = body.as_mut().expect("it was just set");
        while let Some(piece) = body.next(&mut bytes).map_err(io::Error::other)? {
            sse::feed(&mut carry, piece, &mut room, reader).map_err(io::Error::other)?;
        }
        let is_done = done(reader);
        if is_done {
            socket.set_read_timeout(Some(SILENCE))?;
        }
        if body.is_done() {
            let ended = io::Error::other(Failure::ClosedEarly);
            return if is_done { Ok(()) } else { Err(ended) };
        }
    }
}
