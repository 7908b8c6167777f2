//! The driver for libvirt, by the `virt` crate.
//!
//! ```text
//!   async callers          lanes (lane.rs): a connection, a bounded queue, own threads
//!   ─────────────          ────────────────────────────────────────────────────────────
//!   define, start ...  ──> Control     3 lanes of up to 4 threads ─┐
//!   state, list ...    ──> Stats       2 lanes of up to 4 threads ─┤
//!   guest commands     ──> GuestAgent  2 lanes of up to 4 threads ─┼──> libvirtd
//!   save, restore      ──> Save        1 lane of up to 4 threads  ─┤
//!   events()  <── broadcast ── Events  1 lane, callbacks          ─┘
//!                               ^ event loop (event_loop.rs): one thread for the process
//! ```
//!
//! libvirt's calls block and cannot be cancelled, so a caller that stops waiting leaves a thread
//! behind until libvirt answers. Hence the lanes: a hung guest agent takes guest threads, never
//! those that stop an instance, and a save takes its hour where nobody else waits. And hence one turn per instance and kind of call: a domain that
//! hangs holds one thread, however often it is asked; only pulling its plug goes past the turn.
//!
//! The driver starts without libvirtd, survives its restarts, and tells both by
//! [`Link`](super::Link).

mod adjust;
mod connection;
mod domain;
mod driver;
mod error;
mod event_loop;
mod events;
mod ffi;
mod handle;
mod inspect;
mod jobs;
mod lane;
mod mark;
mod mirror;
mod outcomes;
mod plug;
mod probe;
mod secrets;
mod stats;
pub mod xml;

pub use self::driver::{Libvirt, Settings};
