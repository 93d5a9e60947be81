//! Programs that others wrote, which a test needs and may not find.
//!
//! What is not there is skipped, unless `TIDEWHEEL_TEST_ALL` is set: then it fails.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Whether a test can go on. Says so if not, or fails when everything has to be there.
pub fn is_there(what: &str, there: bool) -> bool {
    if !there {
        let all = std::env::var_os("TIDEWHEEL_TEST_ALL").is_some_and(|value| !value.is_empty());
        assert!(!all, "{what} is missing, and TIDEWHEEL_TEST_ALL is set");
        eprintln!("skipped: {what} is missing");
    }
    there
}

/// Whether a program runs at all.
pub fn runs(program: impl AsRef<Path>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
