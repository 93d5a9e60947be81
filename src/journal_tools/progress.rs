//! A bar on standard error while a command takes long, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;

/// Shows how many bytes are done. It vanishes with this.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Of about so many bytes.
    pub(super) fn begin(what: &'static str, bytes: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(
                "{prefix:>12} {bar:32.cyan/dim} {bytes}/{total_bytes} {elapsed}",
            );
            bar.set_style(style.expect("the template is a constant"));
            bar.set_prefix(what);
            bar
        });
        Progress(bar)
    }

    /// So many bytes more are done.
    pub(super) fn add(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
