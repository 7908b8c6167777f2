//! What the demo, the system tests and the benchmark share: real libvirt, real
//! QEMU, a real RabbitMQ, and the built programs between them.
//!
//! ```text
//!  services::Libvirt  services::Broker      used if they run, started if not
//!          |                |
//!          +-------+--------+
//!                  v
//!            agent::HostAgent               the built program, in a Place of its own
//!              ^         ^
//!     rpc::Client    cli::Cli               two ways to ask it, written apart
//!
//!     console::Console   world::World       what is really so: a login on the
//!                                           guest's serial line; domains, links,
//!                                           sockets and files on this machine
//!                       strangers::Strangers  what is there too, and not ours
//! ```
//!
//! Whatever starts something is a guard: dropping it stops what it started and
//! nothing else, so a failed test or an interrupted demo leaves the machine as
//! it was. Everything that waits has a deadline, and waits for a condition
//! ([`poll`]), never for a time.

pub mod agent;
pub mod cli;
pub mod console;
pub mod error;
pub mod guest_image;
pub mod interrupt;
pub mod place;
pub mod poll;
pub mod process;
pub mod programs;
pub mod rfb;
pub mod rpc;
pub mod seat;
pub mod services;
pub mod strangers;
pub mod world;

pub use error::{Error, Result};
