//! `ostler`: the operator's command.
//!
//! ```text
//!   args ──> commands ──> client ──────> transport ──> a node's socket, or a broker
//!   target      │           │ typed calls, waiting, sending again
//!               v           v
//!            output      progress
//!            stdout      stderr
//! ```
//!
//! * [`args`] is what can be asked for, [`target`] where it is asked.
//! * [`commands`] has a file per noun: each turns words into parameters, calls, and shows.
//! * [`client`] knows requests, operations and patience; [`transport`] only carries bytes.
//! * [`reply`] is what came back, words newer than this build included.
//! * [`failure`] is everything that can go wrong, with its exit code: the table is in `--help`.
//!
//! A change is sent with an idempotency key and waited for through lost connections; whatever ends
//! the wait (a timeout, Ctrl-C), the operation goes on in the node, and the operator is told how to
//! find it again.

mod args;
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
    let (cli, matches) = args::read();
    ExitCode::from(commands::run(cli, &matches))
}
