//! The wire types of Ostler, and nothing else: no tokio, no I/O.
//!
//! ```text
//!   cli ──── rpc ──── host-agent ──── qga ──── guest-agent
//! ```
//!
//! * [`qga`]: the QEMU guest agent protocol, which host and guest speak over virtio-serial.
//! * `rpc` (feature `rpc`): the native JSON-RPC 2.0, which operators and control planes speak to
//!   a node, over its UNIX socket or over AMQP. The guest agent builds without it.

pub mod qga;
#[cfg(feature = "rpc")]
pub mod rpc;
