//! What the agent does: instances, images and networks, by operations that end.
//!
//! ```text
//!   rpc ── Command + Context ──> submit ──> gate (pure: a change, or why not)
//!                                  │  journal: accepted, on disk
//!                                  v
//!                               worker (one per subject, in order)
//!                                  │  for each step of the plan:
//!                                  │     journal: about to ── do ── journal: done
//!                                  │  on failure: undo what was done, in reverse
//!                                  v
//!                               settle ── journal: over ── event
//!
//!   libvirt's events ──> power ──> the states nobody here asked for
//! ```
//!
//! Where a request is decided:
//! * `gate`: whether it becomes an operation. Pure.
//! * `admission`: whether there is room, and whether what is named exists. Pure.
//! * `lifecycle`: what is legal in which state, and what follows from what is seen. Pure.
//! * `digest`: what tells a repeated request from another one under the same key.
//!
//! Where one operation is described whole:
//! * `operations`: one file for each kind.
//!
//! Where it is carried out:
//! * `worker`: step by step, undoing what failed, and taking up what a crash cut off.
//! * `plan`: how far an operation is in its plan. Pure.
//! * `steps`: the steps, and what does and takes back each.
//!
//! What is known, and told:
//! * `registry`: what is known now, in memory; the journal is its durable copy.
//! * `record`: what follows from the record of an instance. Pure.
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
pub mod command;
mod digest;
mod faults;
mod gate;
mod guest_work;
pub mod inspect;
mod lifecycle;
mod manager;
mod operations;
mod plan;
mod power;
mod reconcile;
mod record;
mod registry;
mod stall;
mod steps;
mod views;
mod virtualization;
mod worker;

pub use manager::{Compute, Node};
pub use operations::plans;
pub use virtualization::Virtualization;
