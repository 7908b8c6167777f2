//! What the agent does: instances, images and networks, by operations that end.
//!
//! ```text
//!   rpc ── Command + Context ──> submit ──> admission, lifecycle (pure: yes, or why not)
//!                                  │  journal: accepted, on disk
//!                                  v
//!                               worker (one per subject, in order)
//!                                  │  for each step of the plan:
//!                                  │     journal: about to ── do ── journal: done
//!                                  │  on failure: undo what was done, in reverse
//!                                  v
//!                               settle (pure) ── journal: over ── event
//!
//!   libvirt's events ──> power ──> the states nobody here asked for
//! ```
//!
//! * [`command`]: what can be asked, and the context it is asked in.
//! * `admission`: whether there is room, and whether what is named exists. Pure.
//! * `catalog`: the same for images and networks.
//! * `lifecycle`: which command is legal in which state, and what state follows. Pure.
//! * `registry`: what is known now, in memory; the journal is its durable copy.
//! * `worker`: carries operations out, and takes them up again after a crash.
//! * `operations`: the plans and their steps, one file for each kind.
//! * `power`: follows what libvirt tells; UNKNOWN while it cannot tell, and then nothing is done.
//! * `views`: answers to reads.
//! * [`inspect`]: answers to reads that ask libvirt, and consoles.
//!
//! Nothing here knows JSON-RPC, AMQP, libvirt or netlink: requests come as [`command::Command`],
//! and the drivers are traits.

mod admission;
mod catalog;
pub mod command;
pub mod inspect;
mod lifecycle;
mod manager;
mod operations;
mod power;
mod registry;
mod views;
mod worker;

pub use manager::{Compute, Node};
