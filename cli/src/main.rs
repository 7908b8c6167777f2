//! `ostler`: the operator's command.
//!
//! ```text
//!   commands ──> client ──────> transport ──> a node's socket, or a broker
//!      │ line      │ typed calls, waiting, sending again
//!      v           v
//!   output      progress
//!   stdout      stderr
//! ```
//!
//! * [`commands`] has the command line and a file per noun: each turns words into parameters, calls,
//!   and shows. [`args`] is what all of them take, [`target`] where the node is.
//! * [`client`] knows requests, operations and patience; [`transport`] only carries bytes.
//! * [`reply`] is what came back, words newer than this build included.
//! * [`failure`] is everything that can go wrong, with its exit code: the table is in `--help`.
//!
//! A change is sent with an idempotency key and waited for through lost connections; whatever ends
//! the wait (a timeout, Ctrl-C), the operation goes on in the node, and the operator is told how to
//! find it again.

mod args;
mod checksums;
mod clean;
mod client;
mod commands;
mod failure;
mod interrupt;
mod output;
mod password;
mod progress;
mod reply;
mod size;
mod target;
mod transport;

use std::process::ExitCode;

fn main() -> ExitCode {
    let (cli, matches) = commands::line::read();
    ExitCode::from(commands::run(cli, &matches))
}
