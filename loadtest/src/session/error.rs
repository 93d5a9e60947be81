//! Why there is no measurement.

use std::io;

use crate::options::OptionError;

/// Why a measurement cannot begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The server cannot be reached.
    #[error("{url}: {error}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why not.
        error: io::Error,
    },
    /// The server's answer shows that the shapes are not its own.
    #[error("{method} {url} was answered with {answer}")]
    WrongAnswer {
        /// The request's method.
        method: String,
        /// Its URL.
        url: String,
        /// What came.
        answer: String,
    },
    /// More connections than this machine lets a process have.
    #[error(
        "{processes} processes with {limit} files each cannot hold {subscribers} subscribers: \
         use --processes {needed}, or raise the limit (ulimit -n)"
    )]
    FileLimit {
        /// How many there are to be.
        processes: usize,
        /// Connections that each can hold.
        limit: u64,
        /// Connections wanted.
        subscribers: usize,
        /// How many processes would do.
        needed: usize,
    },
    /// A number that makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// The server cannot do what is to be measured.
    #[error("{0}")]
    Unsupported(String),
    /// The operating system, or a load process.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An option that counts something of which there must be one.
///
/// # Errors
/// When it is 0.
pub fn at_least_one(name: &str, value: usize) -> Result<(), Error> {
    if value > 0 { Ok(()) } else { Err(Error::Senseless(format!("{name} must be at least 1"))) }
}

/// An option that is a rate.
///
/// # Errors
/// When it is not above 0, or is nonsense.
pub fn above_zero(name: &str, per_second: f64) -> Result<(), Error> {
    if per_second.is_finite() && per_second > 0.0 {
        return Ok(());
    }
    Err(Error::Senseless(format!("{name} must be more than 0 a second")))
}
