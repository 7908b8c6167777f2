//! The host agent: instances on one hypervisor node, by message.
//!
//! ```text
//!   operator, control plane
//!        │ JSON-RPC 2.0: UNIX socket, AMQP
//!        v
//!      rpc ──> compute ──> hypervisor   libvirt, QEMU
//!                 │   ├──> network      rtnetlink
//!                 │   ├──> disk         files
//!                 │   ├──> image        cache, qemu-img
//!                 │   ├──> guest        the agent inside, two transports
//!                 │   └──> console      its serial line, by sessions
//!                 v
//!              journal                  SQLite
//! ```
//!
//! Dependencies point one way: `rpc -> compute -> drivers -> protocol`. Drivers do not know
//! `compute`, nor each other (only `guest` uses the hypervisor's agent channel, and `console` asks it where a pty is).
//!
//! [`run()`] is the whole life of an agent: settings in, a reason to end out. Guests outlive it.

pub mod allocator;
pub mod compute;
pub mod config;
mod config_drive;
pub mod console;
pub mod disk;
mod durable;
pub mod guest;
pub mod host;
pub mod hypervisor;
pub mod image;
pub mod journal;
pub mod network;
mod notify;
mod program;
mod qcow2;
mod qemu_img;
pub mod refusal;
pub mod reload;
pub mod rpc;
mod run;
mod threads;
mod turns;
pub mod volume;

pub use run::{Error, run};
