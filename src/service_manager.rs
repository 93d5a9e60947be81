//! What a service manager such as systemd gives the server, and what it is told.
//!
//! It may hold the listening sockets itself and hand them over (`sd_listen_fds(3)`): then who connects while
//! the server is restarted waits in them for the next one, and nobody is refused. It is told when the
//! server is ready and when it stops, and if it wants to, again and again that every worker still
//! turns (`sd_notify(3)`). Without a service manager all of this is nothing.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use sd_notify::NotifyState;
use socket2::SockRef;

use crate::{mailbox::Mailbox, worker::Letter};

// ---- sockets ------------------------------------------------------------------------------------

/// Listening sockets that were handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For `listen`.
    pub http: Option<OwnedFd>,
    /// For `admin_listen`.
    pub admin: Option<OwnedFd>,
}

impl Inherited {
    /// Takes what is meant for this process, and lets no other have it.
    ///
    /// # Errors
    /// When it is no listening stream socket, or it is not clear what it is for.
    pub fn take() -> io::Result<Inherited> {
        // Only while there is no other thread may the environment be changed.
        let is_alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
        let handed_over: Vec<_> = if is_alone {
            // SAFETY: there is no other thread that could read the environment.
            unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?.collect()
        } else {
            sd_notify::listen_fds_with_names()?.collect()
        };
        let sockets = handed_over.into_iter().map(|(fd, name)| {
            // SAFETY: whoever started this process has opened it for this process, and
            // `listen_fds_with_names` has found it open. Nothing else takes it.
            (name, unsafe { OwnedFd::from_raw_fd(fd) })
        });
        assign(sockets.collect())
    }
}

/// Finds out what each is for: by its name, or by its place when none has a name that we know.
fn assign(sockets: Vec<(String, OwnedFd)>) -> io::Result<Inherited> {
    let is_named = sockets.iter().any(|(name, _)| name == "http" || name == "admin");
    let mut inherited = Inherited::default();
    for (nth, (name, socket)) in sockets.into_iter().enumerate() {
        let known = if is_named { &*name } else { ["http", "admin"].get(nth).unwrap_or(&"") };
        let place = match known {
            "http" => &mut inherited.http,
            "admin" => &mut inherited.admin,
            _ if is_named => return Err(refuse(&name, "is neither http nor admin")),
            _ => return Err(refuse(&name, "is one more than http and admin")),
        };
        check(&name, &socket, known == "admin")?;
        if place.replace(socket).is_some() {
            return Err(refuse(&name, "is there twice"));
        }
    }
    Ok(inherited)
}

/// Sees that connections come in at it, and none from elsewhere if it is for the administrator.
fn check(name: &str, socket: &OwnedFd, is_admin: bool) -> io::Result<()> {
    let is_stream = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM);
    let listens = is_stream && sockopt::socket_acceptconn(socket).unwrap_or(false);
    let domain = sockopt::socket_domain(socket).unwrap_or(AddressFamily::UNSPEC);
    let families = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX];
    if !listens || !families.contains(&domain) {
        return Err(refuse(name, "is no stream socket that listens"));
    }
    let address = SockRef::from(socket).local_addr()?.as_socket();
    if is_admin && address.is_some_and(|address| !address.ip().is_loopback()) {
        return Err(refuse(name, "is for administration, and can be reached from elsewhere"));
    }
    Ok(())
}

fn refuse(name: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name} {why}"))
}

// ---- words --------------------------------------------------------------------------------------

/// The server is ready, and this is where.
pub fn tell_ready(address: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("Serving on {address}"))]);
}

/// The server is going down, and how.
pub fn tell_stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        log::warn!("the service manager cannot be told: {error}");
    }
}

/// Tells the service manager, as often as it wants to hear it, that every worker still turns.
pub struct Watchdog {
    every: Duration,
    due: Instant,
    /// How many have been asked to answer, and how many have.
    asked: usize,
    answered: Arc<AtomicUsize>,
}

impl Watchdog {
    /// None when nobody wants to hear it.
    pub fn wanted(now: Instant) -> Option<Watchdog> {
        // An answer is heard of one round later, and two more may be late.
        let every = sd_notify::watchdog_enabled()? / 4;
        Some(Watchdog { every, due: now, asked: 0, answered: Arc::default() })
    }

    /// When to call [`Watchdog::turn`] next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Says that all is well if all have answered, and asks them again.
    pub fn turn(&mut self, now: Instant, mailboxes: &[Arc<Mailbox<Letter>>]) {
        if now < self.due {
            return;
        }
        self.due = now + self.every;
        if self.answered.load(Relaxed) < self.asked {
            return;
        }
        tell(&[NotifyState::Watchdog]);
        (self.asked, self.answered) = (mailboxes.len(), Arc::default());
        for mailbox in mailboxes {
            mailbox.post(Letter::Ping(Arc::clone(&self.answered)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn listener(address: &str) -> OwnedFd {
        TcpListener::bind(address).unwrap().into()
    }

    fn assigned(names: &[&str]) -> Result<(bool, bool), String> {
        let sockets = names.iter().map(|name| ((*name).to_owned(), listener("127.0.0.1:0")));
        let inherited = assign(sockets.collect()).map_err(|error| error.to_string())?;
        Ok((inherited.http.is_some(), inherited.admin.is_some()))
    }

    #[test]
    fn sockets_have_names_or_an_order() {
        assert_eq!(assigned(&[]), Ok((false, false)));
        assert_eq!(assigned(&["unknown"]), Ok((true, false)));
        assert_eq!(assigned(&["tidewheel.socket", "tidewheel.socket"]), Ok((true, true)));
        assert_eq!(assigned(&["admin"]), Ok((false, true)));
        assert_eq!(assigned(&["admin", "http"]), Ok((true, true)));
        assert_eq!(
            assigned(&["http", "metrics"]).unwrap_err(),
            "metrics is neither http nor admin"
        );
        assert_eq!(assigned(&["http", "http"]).unwrap_err(), "http is there twice");
        assert!(assigned(&["a", "b", "c"]).unwrap_err().contains("one more"));
    }

    #[test]
    fn only_sockets_that_listen_are_taken() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [OwnedFd::from(connected), file.into(), datagrams.into()] {
            let error = assign(vec![("http".to_owned(), socket)]).unwrap_err();
            assert!(error.to_string().contains("is no stream socket that listens"), "{error}");
        }
    }

    #[test]
    fn a_worker_that_hangs_is_not_vouched_for() {
        let mailboxes: Vec<_> = (0..2).map(|_| Arc::new(Mailbox::new().unwrap())).collect();
        let begin = Instant::now();
        let every = Duration::from_secs(1);
        let mut watchdog = Watchdog { every, due: begin, asked: 0, answered: Arc::default() };
        let pings = |mailbox: &Mailbox<Letter>| {
            let mut letters = Vec::new();
            mailbox.drain(&mut letters);
            let pings = letters.into_iter().map(|letter| match letter {
                Letter::Ping(answered) => answered,
                _ => unreachable!(),
            });
            pings.collect::<Vec<_>>()
        };
        // Nobody is asked again before all have answered: until then nothing is said.
        watchdog.turn(begin, &mailboxes);
        let asked: Vec<_> = mailboxes.iter().flat_map(|mailbox| pings(mailbox)).collect();
        assert_eq!((asked.len(), watchdog.due()), (2, begin + every));
        asked[0].fetch_add(1, Relaxed);
        watchdog.turn(begin + every, &mailboxes);
        assert!(mailboxes.iter().all(|mailbox| pings(mailbox).is_empty()));
        asked[1].fetch_add(1, Relaxed);
        watchdog.turn(begin + every, &mailboxes);
        assert!(mailboxes.iter().all(|mailbox| pings(mailbox).is_empty()), "it is not due");
        watchdog.turn(begin + 2 * every, &mailboxes);
        assert!(mailboxes.iter().all(|mailbox| pings(mailbox).len() == 1));
    }

    #[test]
    fn administration_is_for_whoever_is_here() {
        let (anywhere, here) = (listener("0.0.0.0:0"), listener("127.0.0.1:0"));
        let error = assign(vec![("admin".to_owned(), anywhere)]).unwrap_err();
        assert!(error.to_string().contains("from elsewhere"), "{error}");
        assert!(assign(vec![("admin".to_owned(), here)]).is_ok());
    }
}
