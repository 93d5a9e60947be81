//! What is shown while a measurement goes on: a bar on a terminal, a plain line now and then
//! anywhere else.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line appears where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows on standard error what goes on.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    next_line: Instant,
    quiet: bool,
}

impl Progress {
    /// Something begins; `total` is how much of it there is. `quiet` shows nothing of it.
    pub fn begin(what: &str, total: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(
                "{prefix:>22} {bar:32.cyan/dim} {human_pos}/{human_len} {elapsed} {msg}",
            );
            bar.set_style(style.expect("the template is a constant"));
            bar.set_prefix(what.to_owned());
            bar
        });
        if bar.is_none() && !quiet {
            eprintln!("{what} …");
        }
        Self { bar, what: what.into(), next_line: Instant::now() + LINE_EVERY, quiet }
    }

    /// So much is done, with a remark.
    pub fn set(&mut self, done: u64, total: u64, remark: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(total));
            bar.set_message(remark.to_owned());
        } else if !self.quiet && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            eprintln!("{}: {done} of {total}, {remark}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
