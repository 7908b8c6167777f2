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
//! * `requests`: what each command becomes, or why it is refused.
//! * `change`: what a change makes of an instance's record. Pure.
//! * `catalog`: the same for images and networks.
//! * `lifecycle`: which command is legal in which state, and what state follows. Pure.
//! * `registry`: what is known now, in memory; the journal is its durable copy.
//! * `worker`: carries operations out, and takes them up again after a crash.
//! * `operations`: the plans and their steps, one file for each kind.
//! * `power`: follows what libvirt tells; UNKNOWN while it cannot tell, and then nothing is done.
//! * `reconcile`: compares what is known with what is, at start and from time to time.
//! * `virtualization`: what domains run on, KVM or emulation.
//! * `stall`: what QEMU paused because its disk failed, and that it goes on when there is room.
//! * `views`: answers to reads.
//! * `guest_work`: what is done in guests directly, without an operation.
//! * [`inspect`]: answers to reads that ask libvirt, and consoles.
//!
//! Nothing here knows JSON-RPC, AMQP, libvirt or netlink: requests come as [`command::Command`],
//! and the drivers are traits.

mod admission;
mod catalog;
mod change;
pub mod command;
mod faults;
mod guest_work;
pub mod inspect;
mod lifecycle;
mod manager;
mod operations;
mod power;
mod reconcile;
mod registry;
mod requests;
mod stall;
mod views;
mod virtualization;
mod worker;

pub use manager::{Compute, Node};
pub use operations::plans;
pub use virtualization::Virtualization;
