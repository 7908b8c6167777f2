//! The native RPC: JSON-RPC 2.0, the same methods over a UNIX socket (one message a line) and over
//! AMQP 0-9-1 (one message a delivery).
//!
//! ```text
//!   Request ── method + params ──> Call (typed, closed)      reads   ── Reply at once
//!                                                            changes ── Operation (accepted)
//!                                                                         │ operation.wait
//!                                                                         v
//!                                                              succeeded | failed | undone ...
//! ```
//!
//! Reads answer directly. Every change of state is an [`operation::Operation`]: accepted with an
//! id, or refused with a [`fault::Fault`] and its reason, and from then on observable.
//!
//! Parameters refuse fields they do not know, so that a misspelt option is never silently dropped;
//! replies may gain fields, and readers ignore those they do not know.

pub mod amqp;
pub mod console;
pub mod discover;
pub mod envelope;
pub mod event;
pub mod fault;
pub mod guest;
pub mod hardware;
pub mod host;
pub mod image;
pub mod inspect;
pub mod instance;
pub mod method;
pub mod network;
pub mod operation;
pub mod port;
mod schemas;
mod strict;
pub mod values;
pub mod versions;
pub mod volume;
