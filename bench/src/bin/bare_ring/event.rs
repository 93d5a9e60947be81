//! What the ring answers: completions, and the events that they are read as.

use std::os::fd::RawFd;

use rustix::io::Errno;

use crate::lent;

/// What has happened. A connection is named by its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody has connected.
    Accepted(RawFd),
    /// Nobody is accepted any more, until it is asked for again; with the error, if it was one.
    AcceptEnded(Option<Errno>),
    /// A watched connection has something to read, or has ended.
    Readable(RawFd),
    /// A watched connection has ended.
    HungUp(RawFd),
    /// Of what was sent, not all has found room.
    Unsent(RawFd),
}

/// What kind of request a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An accept, which goes on.
    Accept,
    /// A poll for something to read.
    Readable,
    /// A poll for the peer's end.
    HangUp,
    /// A send that posts nothing when it goes well.
    Send,
    /// A send of a delivery that posts its completion in any case.
    Counted,
    /// Nothing: all requests before it have been taken.
    Taken,
}

const KINDS: [Kind; 6] =
    [Kind::Accept, Kind::Readable, Kind::HangUp, Kind::Send, Kind::Counted, Kind::Taken];

/// What a completion is about. In its user data, from the top: 8 bits, [`lent::NUMBER_BITS`], and
/// 32 for the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// What kind of request it is of.
    pub kind: Kind,
    /// The number of the delivery; of nothing else there is one.
    pub number: u32,
    /// The connection.
    pub fd: RawFd,
}

impl About {
    /// A request that is of no delivery.
    pub fn new(kind: Kind, fd: RawFd) -> About {
        About { kind, number: 0, fd }
    }

    /// The user data of the request.
    pub fn user_data(self) -> u64 {
        const { assert!(lent::NUMBER_BITS == 24) };
        (self.kind as u64) << 56 | u64::from(self.number) << 32 | u64::from(self.fd.cast_unsigned())
    }

    /// What [`About::user_data`] has been made of.
    pub fn from_user_data(data: u64) -> About {
        let number = (data >> 32) as u32 & lent::NUMBER_MASK;
        About { kind: KINDS[(data >> 56) as usize], number, fd: data as RawFd }
    }
}

/// Appends what a completion tells of a request, and whether that goes on.
pub fn report(about: About, result: i32, goes_on: bool, events: &mut Vec<Event>) {
    let About { kind, fd, .. } = about;
    match kind {
        Kind::Accept => {
            let error = (result < 0).then(|| Errno::from_raw_os_error(-result));
            if result >= 0 {
                events.push(Event::Accepted(result));
            }
            // A full completion queue ends it too, with a connection and no error.
            if !goes_on {
                events.push(Event::AcceptEnded(error));
            }
        }
        Kind::Readable => events.push(Event::Readable(fd)),
        Kind::HangUp => events.push(Event::HungUp(fd)),
        Kind::Send | Kind::Counted if is_hang_up(result) => {}
        Kind::Send | Kind::Counted => events.push(Event::Unsent(fd)),
        Kind::Taken => {}
    }
}

/// A send to a peer that has gone: the poll of that connection reports it too.
fn is_hang_up(result: i32) -> bool {
    [Errno::PIPE, Errno::CONNRESET].iter().any(|errno| result == -errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(result: i32, goes_on: bool) -> Vec<Event> {
        let mut events = Vec::new();
        report(About::new(Kind::Accept, 0), result, goes_on, &mut events);
        events
    }

    /// Over 4,096 connections at a time fill the completion queue, and were the last.
    #[test]
    fn accepting_that_ends_with_a_connection_is_reported() {
        assert_eq!(accepted(7, true), [Event::Accepted(7)]);
        assert_eq!(accepted(7, false), [Event::Accepted(7), Event::AcceptEnded(None)]);
        let error = Errno::MFILE;
        assert_eq!(accepted(-error.raw_os_error(), false), [Event::AcceptEnded(Some(error))]);
    }

    #[test]
    fn user_data_tells_what_it_was_made_of() {
        for kind in KINDS {
            let about = About { kind, number: lent::NUMBER_MASK, fd: RawFd::MAX };
            assert_eq!(About::from_user_data(about.user_data()), about);
        }
    }
}
