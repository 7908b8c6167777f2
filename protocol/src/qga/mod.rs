//! The QEMU guest agent protocol.
//!
//! ```text
//!  bytes --> framing::Parser --> Value --> envelope::Request --> arguments --> commands::X::Arguments
//!  bytes <-- encode <------------------ envelope::Response <------------------ commands::X::Reply
//! ```
//!
//! The protocol is a stream of JSON values with extensions of its own (single quotes, the byte 0xFF as
//! a reset), so [`framing`] reads it instead of a general JSON parser: it takes any split of the
//! stream, keeps hard limits, and moves each string once, however long.
//!
//! [`events`] are ours alone: the standard protocol has none, and only Ostler's own port carries them.

pub mod arguments;
pub mod base64;
pub mod bounds;
pub mod commands;
pub mod encode;
pub mod envelope;
pub mod events;
pub mod framing;

pub use commands::Command;
pub use envelope::{ErrorClass, Fault};
