//! The command `tidewheel-loadtest`.

use std::{
    error::Error,
    fs,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use argh::FromArgs;
use tidewheel_loadtest::{
    cli::{Arguments, Task},
    fleet::{LOAD_PROCESS, run_load_process},
    report::{Report, comparison, html, table},
    session::Control,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The measurement was made, and something was broken or failed.
const NOT_CLEAN: u8 = 1;
/// There was no measurement.
const NO_MEASUREMENT: u8 = 2;
/// It was stopped before its end: 128 and the number of SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let outcome = if std::env::args().nth(1).as_deref() == Some(LOAD_PROCESS) {
        run_load_process().map(|()| ExitCode::SUCCESS).map_err(Into::into)
    } else {
        match arguments() {
            Ok(arguments) => measure(arguments),
            Err(code) => return code,
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("tidewheel-loadtest: {error}");
        ExitCode::from(NO_MEASUREMENT)
    })
}

/// The command line; or the exit code, when help was asked for or it makes no sense.
fn arguments() -> Result<Arguments, ExitCode> {
    let all: Vec<String> =
        std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    Arguments::from_args(&["tidewheel-loadtest"], &all).map_err(|exit| {
        if exit.status.is_ok() {
            println!("{}", exit.output.trim_end());
            ExitCode::SUCCESS
        } else {
            eprintln!("{}", exit.output.trim_end());
            ExitCode::from(NO_MEASUREMENT)
        }
    })
}

fn measure(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let control = Control::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends it at once.
        let code = i32::from(INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&control.stop))?;
        signal_hook::flag::register(signal, Arc::clone(&control.stop))?;
    }
    let (scenario, options) = match arguments.command.task() {
        Task::Measure(scenario, options) => (scenario, options),
        Task::Compare(compare) => {
            let comparison = compare.run(&control)?;
            print!("{}", comparison::markdown(&comparison));
            eprintln!("\nwritten to {}", compare.out.display());
            let is_clean = comparison.entries.iter().all(|entry| entry.faults.is_empty());
            return Ok(exit_code(is_clean, control.is_stopped()));
        }
    };
    let report = scenario.run(&options, &control)?;
    // A file that cannot be written is no reason to keep it all to oneself.
    let shown = show(&report);
    if let Some(file) = &options.json {
        write(file, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(file) = &options.report {
        write(file, &html::page(std::slice::from_ref(&report)))?;
    }
    shown?;
    Ok(exit_code(report.is_clean(), report.interrupted))
}

/// What was found wrong counts for more than that the rest was not looked at.
fn exit_code(is_clean: bool, interrupted: bool) -> ExitCode {
    match (is_clean, interrupted) {
        (false, _) => ExitCode::from(NOT_CLEAN),
        (true, true) => ExitCode::from(INTERRUPTED),
        (true, false) => ExitCode::SUCCESS,
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn show(report: &Report) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    let colour = output.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    output.write_all(table::render(report, colour).as_bytes())
}
