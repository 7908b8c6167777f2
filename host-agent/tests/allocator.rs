//! What the agent tells the C library's allocator, seen in its own counters. By itself, because they
//! are those of the whole process.

#![expect(unsafe_code, reason = "the allocator's counters have no other door")]

use nix::libc;
use ostler_host_agent::allocator;

const LARGE: usize = 1 << 20;

/// Buffers that are mapped one by one.
fn mapped() -> usize {
    // SAFETY: the call takes nothing and returns numbers.
    unsafe { libc::mallinfo2() }.hblks
}

#[test]
fn a_large_buffer_is_given_back_whatever_was_freed_before_it() {
    allocator::give_back();
    drop(std::hint::black_box(vec![1u8; 4 * LARGE]));
    let before = mapped();
    let buffer = std::hint::black_box(vec![1u8; LARGE]);
    assert_eq!(mapped(), before + 1, "it is part of a heap, which keeps it");
    drop(buffer);
    assert_eq!(mapped(), before);
}
