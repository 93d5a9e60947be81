//! The command line: which command, with which flags.
//!
//! Each command's flags stand beside its code; those of `serve` come from the table of settings.
//! What the user asked wrongly is exit code 2, what failed while it was done is 1.

use std::ffi::OsString;

use argh::FromArgs;

use crate::client::STANDARD_INPUT;
use crate::client::append::Append;
use crate::client::check::Check;
use crate::client::health::Health;
use crate::client::runs::Runs;
use crate::client::tail::Tail;
use crate::config::Serve;
use crate::journal_tools::Journal;

/// Exit code when the command line, or a setting, makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// Exit code when something went wrong on the way.
pub const EXIT_FAILED: u8 = 1;

/// an event streamer: REST in, Server-Sent Events out
#[derive(FromArgs, Debug)]
#[argh(name = "tidewheel", help_triggers("-h", "--help"))]
struct TopLevel {
    /// print the version and exit
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process makes one")]
pub enum Command {
    /// Serve a journal.
    Serve(Serve),
    /// Append lines to a run.
    Append(Append),
    /// Follow a stream.
    Tail(Tail),
    /// List runs.
    Runs(Runs),
    /// Check from outside that streams pass.
    Check(Check),
    /// Ask whether a server is well.
    Health(Health),
    /// Look after a journal.
    Journal(Journal),
}

/// The program has nothing to do but to say this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyExit {
    /// What to say, with its line feed.
    pub text: String,
    /// Exit code; 0 means that the user asked for the text.
    pub code: u8,
}

impl EarlyExit {
    fn usage(text: &str) -> EarlyExit {
        EarlyExit { text: format!("{}\n", text.trim_end()), code: EXIT_USAGE }
    }
}

/// Reads the arguments of the process, the first of which is its own name.
///
/// # Errors
/// [`EarlyExit`] when the user asked for help or the version, or for something that makes no
/// sense.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, EarlyExit> {
    let args = normalized(args.into_iter().skip(1))?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let top_level = TopLevel::from_args(&["tidewheel"], &args).map_err(|exit| match exit.status {
        Ok(()) => EarlyExit { text: exit.output, code: 0 },
        Err(()) => EarlyExit::usage(&format!(
            "tidewheel: {}\nRun tidewheel --help, or tidewheel COMMAND --help, for what there is.",
            exit.output.trim_end()
        )),
    })?;
    match top_level {
        TopLevel { version: true, .. } => {
            Err(EarlyExit { text: format!("tidewheel {}\n", env!("CARGO_PKG_VERSION")), code: 0 })
        }
        TopLevel { command: Some(command), .. } => Ok(command),
        TopLevel { command: None, .. } => {
            let help = TopLevel::from_args(&["tidewheel"], &["--help"]).map(drop);
            Err(EarlyExit::usage(&help.expect_err("--help never parses").output))
        }
    }
}

/// The arguments in the form that the parser takes: `--flag=value` in two, and a lone `-`, which
/// it would take for a flag, as [`STANDARD_INPUT`].
fn normalized(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, EarlyExit> {
    let mut out = Vec::new();
    let mut flags_ended = false;
    for arg in args {
        let arg = arg.into_string().map_err(|arg| {
            EarlyExit::usage(&format!("tidewheel: the argument {} is not UTF-8", arg.display()))
        })?;
        flags_ended |= arg == "--";
        match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") && !flags_ended => {
                out.extend([flag.to_owned(), value.to_owned()]);
            }
            _ if arg == "-" => out.push(STANDARD_INPUT.to_owned()),
            _ => out.push(arg),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<Command, EarlyExit> {
        parse(std::iter::once("tidewheel").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn commands_are_told_apart() {
        assert!(matches!(check(&["serve"]), Ok(Command::Serve(_))));
        assert!(matches!(check(&["append", "7"]), Ok(Command::Append(_))));
        assert!(matches!(check(&["tail", "7"]), Ok(Command::Tail(_))));
        assert!(matches!(check(&["runs"]), Ok(Command::Runs(_))));
        assert!(matches!(check(&["check", "http://a", "--for", "5s"]), Ok(Command::Check(_))));
        assert!(matches!(check(&["health", "--ready"]), Ok(Command::Health(_))));
        assert!(matches!(check(&["journal", "stats"]), Ok(Command::Journal(_))));
    }

    #[test]
    fn flags_take_their_value_after_a_space_or_an_equals_sign() {
        for args in [&["serve", "--listen", "[::1]:1"][..], &["serve", "--listen=[::1]:1"]] {
            let Ok(Command::Serve(serve)) = check(args) else { panic!("{args:?}") };
            assert_eq!(serve.listen.as_deref(), Some("[::1]:1"));
        }
    }

    #[test]
    fn a_dash_is_standard_input() {
        let args = ["append", "--new-run", "--type-from", "reason", "-"];
        let Ok(Command::Append(append)) = check(&args) else { panic!() };
        assert_eq!(append.arguments, [STANDARD_INPUT]);
        assert_eq!(append.type_from.as_deref(), Some("reason"));
    }

    #[test]
    fn help_and_version_are_asked_for() {
        for args in [&["--version"][..], &["-V"], &["--help"], &["serve", "--help"]] {
            let exit = check(args).unwrap_err();
            assert_eq!(exit.code, 0, "{args:?}");
            assert!(!exit.text.is_empty());
        }
        let version = check(&["--version"]).unwrap_err().text;
        assert_eq!(version, format!("tidewheel {}\n", env!("CARGO_PKG_VERSION")));
        let help = check(&["append", "--help"]).unwrap_err().text;
        assert!(help.contains("--retry-for"), "{help}");
    }

    #[test]
    fn what_makes_no_sense_is_exit_code_2() {
        for args in
            [&[][..], &["dance"], &["serve", "--dance"], &["tail"], &["runs", "--limit", "x"]]
        {
            let exit = check(args).unwrap_err();
            assert_eq!(exit.code, EXIT_USAGE, "{args:?}: {}", exit.text);
        }
    }
}
