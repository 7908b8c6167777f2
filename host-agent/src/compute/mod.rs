//! What the agent does: instances, images and networks, by operations that end.
//!
//! ```text
//!   door ── Command + Context ──> gate ── admission (pure): a change, or why not
//!                                  │  registry: reserved   journal: accepted, on disk
//!                                  v
//!                               engine (a worker for each subject, in order)
//!                                  │  for each step of the plan:
//!                                  │     journal: about to ── do ── journal: done
//!                                  │  on failure: undo what was done, in reverse
//!                                  v
//!                               settle ── journal: over ── event
//!
//!   libvirt's events ──> watch ──> the states nobody here asked for
//!   door ── a question ──> reads ──> what the registry has, or the driver says
//! ```
//!
//! Where a request is decided:
//! * `gate`: takes it, and makes an operation of it.
//! * `admission`: whether it can be: what is named exists, there is room, nobody is at work. Pure.
//! * `authority`, `claims`: who decides what is legal, and whether there is room. Pure.
//! * `lifecycle`: what is legal in which state, and what follows from what is seen. Pure.
//!
//! Where one operation is described whole:
//! * `operations`: one file for each kind.
//! * `describe`, `plan`, `step`: the form they have. Pure.
//!
//! Where it is carried out:
//! * `engine`: step by step, undoing what failed, and taking up what a crash cut off.
//!
//! What is known, and told:
//! * `registry`: what is known now, in memory; the journal is its durable copy.
//! * `watch`: follows libvirt and the guests; UNKNOWN while libvirt cannot tell, and then nothing
//!   is done.
//! * `reads`: answers.
//! * `record`, `stalled`: what follows from what is known. Pure.
//!
//! What it stands on:
//! * `outside`: the drivers; `wires`: what ports lead to. Both are traits.
//! * `measured`: what the machine has and uses.
//!
//! Nothing here knows JSON-RPC, AMQP, libvirt or netlink: requests come as [`Command`], and the
//! drivers are traits.

mod admission;
mod authority;
mod causes;
mod claims;
mod context;
mod describe;
mod engine;
mod faults;
mod gate;
mod keys;
mod lifecycle;
mod manager;
mod measured;
mod operations;
mod outside;
mod plan;
mod reads;
mod record;
mod registry;
mod stalled;
mod step;
mod virtualization;
mod watch;
mod wires;

pub use authority::{Authority, ByState};
pub use claims::{ByCapacity, Claims, Shares};
pub use context::Context;
pub use describe::Legal;
pub use manager::Compute;
pub use operations::{Command, plans};
pub use outside::{Node, Outside};
pub use reads::{Inspection, Reads, Shown, ShownVolume};
pub use wires::{Bridges, Port, Wires};
