//! redb trusts its files: on a page that was damaged after it was checked it may panic. Here that
//! becomes an error of the read, or the write, that met the page.
//!
//! Any other panic is a mistake of ours, after which nothing is certain: the program then ends at
//! once ([`abort_on_panic`]), as it would with `panic = "abort"`, which could not make the exception.
//! So it does when a destructor of redb's panics while a first panic is on its way out, which no
//! program survives: a few of those that end a write do, after damage in what redb keeps about its
//! pages. The log says then what both have said.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::process;

thread_local! {
    /// Whether this thread is inside of [`contain`].
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    /// What a contained panic said that is on its way to [`contain`].
    static UNWINDING: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does it, and makes an error of its panic.
///
/// What it changes must be left alone afterwards, or be as good as new: a read transaction is
/// dropped, and after a write nothing more is written.
///
/// # Errors
/// What the panic said.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outside = CONTAINED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outside);
    UNWINDING.take();
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("a page of it makes no sense ({})", text.unwrap_or("redb does not say why"))
    })
}

/// From now on a panic outside of [`contain`] ends the program.
pub fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !CONTAINED.get() {
            report(panic);
        } else if let Some(first) = UNWINDING.replace(Some(panic.to_string())) {
            log::error!(
                "a file of the journal is damaged, and redb cannot go on: {first}, then {panic}"
            );
        } else {
            return;
        }
        // What was logged before may say why.
        log::logger().flush();
        process::abort();
    }));
}

/// Tests that may end their process.
#[cfg(test)]
pub mod own_process {
    use std::process::{Command, Output};

    const IN_CHILD: &str = "TIDEWHEEL_TEST_OWN_PROCESS";

    struct ToStandardError;

    impl log::Log for ToStandardError {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            eprintln!("{}", record.args());
        }

        fn flush(&self) {}
    }

    /// Does the work of this test in a process of its own, which logs to its standard error and
    /// ends as the program does when it panics. What became of it; nothing in that process.
    pub fn run(test: &str, work: impl FnOnce()) -> Option<Output> {
        if std::env::var_os(IN_CHILD).is_some() {
            log::set_logger(&ToStandardError).unwrap();
            log::set_max_level(log::LevelFilter::Error);
            super::abort_on_panic();
            work();
            return None;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([test, "--exact", "--nocapture"]).env(IN_CHILD, "1");
        Some(child.output().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_panic_inside_is_an_error() {
        assert_eq!(contain(|| 7), Ok(7));
        let error = contain(|| contain(|| ()).map(|()| panic!("page {}", 3))).unwrap_err();
        assert!(error.contains("(page 3)"), "{error}");
        assert!(!CONTAINED.get());
    }

    struct PanicsToo;

    impl Drop for PanicsToo {
        fn drop(&mut self) {
            panic!("page 4");
        }
    }

    #[test]
    fn a_panic_on_top_of_a_panic_says_both() {
        let test = "journal::damage::tests::a_panic_on_top_of_a_panic_says_both";
        let ended = own_process::run(test, || {
            assert!(contain(|| panic!("page 2")).is_err(), "one alone is contained");
            let _: Result<(), _> = contain(|| {
                let _panics_too = PanicsToo;
                panic!("page 3");
            });
        });
        let Some(ended) = ended else { return };
        assert_eq!(ended.status.signal(), Some(6), "SIGABRT: {}", ended.status);
        let said = String::from_utf8_lossy(&ended.stderr);
        let (_, said) = said.split_once("redb cannot go on: ").unwrap_or_default();
        assert!(said.contains("page 3") && said.contains("page 4"), "{said}");
    }
}
