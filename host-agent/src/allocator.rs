//! How memory is given back: glibc's allocator, told to be small.
//!
//! By itself it gives each thread a heap of its own, of which a node with many processors then has
//! hundreds, and each keeps what its thread has freed. And from the first large buffer that is freed
//! it learns to keep the next, and to fill those with zeros that the kernel would have left unmapped:
//! the buffers of the broker's connections, of which little is ever used.

#![expect(unsafe_code, reason = "the allocator has no other settings")]

use nix::libc;

/// Buffers from here on are mapped one by one, and unmapped when they are dropped.
const LARGE: libc::c_int = 128 << 10;

/// Heaps, shared by all threads: these rarely allocate at the same time.
const HEAPS: libc::c_int = 2;

/// Has memory given back. Must be called before there is a second thread.
pub fn give_back() {
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_ARENA_MAX, HEAPS)] {
        // SAFETY: the call takes two numbers, and the parameters are the library's own.
        let _set = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what is free now, between what is not.
pub(crate) fn trim() {
    // SAFETY: the call takes a number, and what it gives back is what nobody has.
    let _given = unsafe { libc::malloc_trim(0) };
}
