//! The wire types of Ostler.
//!
//! Two protocols cross the boundaries of a node, and each has its module:
//!
//! ```text
//!  operator / control plane --- rpc ---> host agent --- qga ---> guest agent
//! ```
//!
//! - [`qga`]: the QEMU guest agent protocol, as stock agents and clients speak it, and the events
//!   Ostler adds on its own port.
//! - `rpc` (feature `rpc`): the native JSON-RPC 2.0 of the host agent.
//!
//! Nothing here does I/O or knows a runtime: bytes and values in, values and bytes out. Both ends of a
//! channel build against the same types, so what one writes the other can read.

pub mod qga;
#[cfg(feature = "rpc")]
pub mod rpc;
