//! The driver for libvirt, by the `virt` crate.
//!
//! ```text
//!   async callers          lanes (lane.rs): a connection, a bounded queue, own threads
//!   ─────────────          ────────────────────────────────────────────────────────────
//!   define, start ...  ──> Control     4 threads ─┐
//!   state, list ...    ──> Stats       2 threads ─┤
//!   guest commands     ──> GuestAgent  4 threads ─┼──> libvirtd
//!   events()  <── broadcast ── Events  callbacks ─┘
//!                               ^ event loop (event_loop.rs): one thread for the process
//! ```
//!
//! libvirt's calls block and cannot be cancelled, so a caller that stops waiting leaves a thread
//! behind until libvirt answers. Hence the lanes: a hung guest agent takes guest threads, never
//! those that stop an instance. And hence one turn per instance and lane: a domain that hangs
//! holds one thread, however often it is asked.
//!
//! The driver starts without libvirtd, survives its restarts, and tells both by
//! [`Link`](super::Link).

mod connection;
mod domain;
mod error;
mod event_loop;
mod events;
mod ffi;
mod lane;
mod probe;
pub mod xml;

pub use self::connection::{Libvirt, Settings};
