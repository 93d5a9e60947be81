//! What the process asks of the system, and gives back to it.
//!
//! mimalloc keeps pages that have become free for a while, and looks at them again when somebody
//! allocates. A server whose ten thousand new subscribers have fallen silent does not, and would
//! keep the room of all the requests with which they came: five times what the subscribers need.

/// Has memory come in pages of 4 KiB only. The allocator asks for huge ones, of which a single byte
/// in use keeps 2 MiB: of ten thousand subscribers that is as much as they need themselves.
pub fn use_small_pages() {
    // Where this is refused, memory moves in larger steps, and all else is the same.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Gives back what this thread's heap has free.
pub fn give_back() {
    // SAFETY: it takes no pointer, and may be called at any time by any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
