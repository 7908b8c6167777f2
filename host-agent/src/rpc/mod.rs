//! The front doors: JSON-RPC 2.0 over a UNIX socket and over AMQP. Messages are turned into typed
//! requests and outcomes into replies; nothing is decided here.
//!
//! ```text
//!   socket ──┐                          ┌── change ──> Compute::submit ──> Operation
//!            ├─> service: read, decode ─┤
//!   amqp  ───┘                          └── read ────> Compute's views
//! ```
//!
//! What may wait (a long poll, a guest) is answered from a task of its own, so that it holds
//! neither its connection nor its queue.

pub mod amqp;
mod fault;
mod seats;
mod service;
mod shares;
pub mod socket;

pub use service::{Asked, Service};
