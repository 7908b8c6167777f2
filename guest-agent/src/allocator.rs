//! How memory is given back.
//!
//! A request or a reply may be tens of megabytes, and then for a long time none is. The allocator
//! learns from the first large buffer that such ones are usual, and keeps the next for itself; and it
//! gives each thread that waits for a disk a heap of its own. Neither suits an agent that is to be
//! small whenever it is idle.

use nix::libc;

/// Buffers from here on are mapped one by one, and unmapped when they are dropped.
const LARGE: libc::c_int = 128 << 10;

/// Has large buffers given back at once. Must be called before there is a second thread.
pub(crate) fn give_back() {
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_ARENA_MAX, 1)] {
        #[expect(unsafe_code, reason = "the allocator has no other settings")]
        // SAFETY: the call takes two numbers, and the parameters are the library's own.
        let _set = unsafe { libc::mallopt(parameter, value) };
    }
}
