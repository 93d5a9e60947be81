//! The `tidewheel` program.

use std::io::Write;
use std::process::ExitCode;

use tidewheel::cli::{self, Command, EXIT_FAILED, EXIT_USAGE};
use tidewheel::client::{self, ClientError};
use tidewheel::config::{self, SERVER_VARIABLE, Serve};
use tidewheel::journal::damage;
use tidewheel::journal_tools::{self, ToolError};
use tidewheel::logging;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    damage::abort_on_panic();
    let server = std::env::var(SERVER_VARIABLE).ok();
    let server = server.as_deref();
    match cli::parse(std::env::args_os()) {
        Ok(Command::Serve(flags)) => serve(&flags),
        Ok(Command::Append(args)) => client_exit(client::append::run(&args, server)),
        Ok(Command::Tail(args)) => client_exit(client::tail::run(&args, server)),
        Ok(Command::Check(args)) => client_exit(client::check::run(&args, server)),
        Ok(Command::Runs(args)) => client_exit(client::runs::run(&args, server)),
        Ok(Command::Health(args)) => client_exit(client::health::run(&args, server)),
        Ok(Command::Journal(args)) => journal_exit(journal_tools::run(&args)),
        Err(exit) if exit.code == 0 => {
            say(&exit.text);
            ExitCode::SUCCESS
        }
        Err(exit) => {
            eprint!("{}", exit.text);
            ExitCode::from(exit.code)
        }
    }
}

fn serve(flags: &Serve) -> ExitCode {
    let resolved = match config::load(flags, std::env::vars_os()) {
        Ok(resolved) => resolved,
        Err(error) => {
            eprintln!("tidewheel: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if flags.print_config {
        say(&resolved.to_toml());
        return ExitCode::SUCCESS;
    }
    let settings = resolved.into_settings();
    if let Err(error) = logging::start(settings.log, settings.log_format) {
        eprintln!("tidewheel: the log cannot be started: {error}");
        return ExitCode::FAILURE;
    }
    let code = tidewheel::server::run(settings);
    log::logger().flush();
    code
}

/// Writes to standard output. Whoever reads it may have seen enough, which is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn client_exit(result: Result<(), ClientError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("tidewheel: {error}");
    ExitCode::from(match error {
        ClientError::Usage(_) => EXIT_USAGE,
        ClientError::Failed(_) => EXIT_FAILED,
    })
}

fn journal_exit(result: Result<(), ToolError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("tidewheel: {error}");
    ExitCode::from(match error {
        ToolError::Usage(_) => EXIT_USAGE,
        ToolError::Failed(_) | ToolError::Problems => EXIT_FAILED,
    })
}
