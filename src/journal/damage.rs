//! redb trusts its files: on a page that was damaged after it was checked it may panic. Here that
//! becomes an error of the read, or the write, that met the page.
//!
//! Any other panic is a mistake of ours, after which nothing is certain: the program then ends at
//! once ([`abort_on_panic`]), as it would with `panic = "abort"`, which could not make the exception.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::process;

thread_local! {
    /// Whether this thread is inside of [`contain`].
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
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
            // What was logged before may say why.
            log::logger().flush();
            process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_an_error() {
        assert_eq!(contain(|| 7), Ok(7));
        let error = contain(|| contain(|| ()).map(|()| panic!("page {}", 3))).unwrap_err();
        assert!(error.contains("(page 3)"), "{error}");
        assert!(!CONTAINED.get());
    }
}
