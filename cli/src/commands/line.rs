//! The command line: all that can be asked for.
//!
//! clap makes help, completions and man pages of these types, so the words an operator reads stand
//! here, and each noun's in its file. What clap cannot know, which word came from the command line and
//! which from the environment, is asked of [`ArgMatches`] in [`target`](crate::target).

use std::path::PathBuf;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::console::ConsoleArgs;
use super::guest::GuestCommand;
use super::host::HostCommand;
use super::image::ImageCommand;
use super::instance::InstanceCommand;
use super::network::NetworkCommand;
use super::operation::OperationCommand;
use super::port::PortCommand;
use super::volume::VolumeCommand;
use crate::args::Global;

/// The end of every `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done (with --no-wait: accepted)
  1    the operation failed, was undone or was cancelled
  2    wrong usage, or a local problem such as an unreadable file
  3    refused by the node; the reason is a word such as not_found or conflict
  4    the node or the broker cannot be reached
  5    timed out waiting; an accepted operation goes on
  130  interrupted; an accepted operation, or a program in a guest, goes on

`guest exec` exits as the program did: with its code, with 128 + the signal that ended it, or with
124 if it ran longer than its --timeout; and with 5 if nobody knows how it ended. If ostler itself
failed, a line on standard error begins with error:";

/// Operate an Ostler node: its instances, images and networks.
///
/// Talks to the host agent on this machine over its UNIX socket, or to any node over an AMQP
/// broker. Results go to standard output, progress and errors to standard error.
#[derive(Parser)]
#[command(name = "ostler", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// What a command is about.
#[derive(Subcommand)]
pub(crate) enum Noun {
    /// Virtual machines
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Reports, programs, files, clock and SSH keys of guests
    #[command(subcommand)]
    Guest(GuestCommand),
    /// Images that instances are made from
    #[command(subcommand)]
    Image(ImageCommand),
    /// Bridges that instances are connected to
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Where instances meet networks
    #[command(subcommand)]
    Port(PortCommand),
    /// Disks that outlive instances
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// The node itself
    #[command(subcommand)]
    Host(HostCommand),
    /// Changes that the node has accepted
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Use the serial console of an instance
    ///
    /// The guest's output goes to standard output unchanged, and what you type goes to the guest,
    /// Ctrl-C included. Ctrl-] leaves. The session survives reboots of the guest and restarts of
    /// the agent. In a pipe, it ends when the input has ended and the guest is silent.
    Console(ConsoleArgs),
    /// Write a completion script for a shell to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// Read the command line; ends the program with usage or help where that is the answer.
pub(crate) fn read() -> (Cli, ArgMatches) {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    (cli, matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_parses_with_global_options_on_either_side() {
        for line in [
            "ostler -o json instance list",
            "ostler instance list -o json",
            "ostler --timeout 5 instance stop web --hard --no-wait",
            "ostler instance delete a b c",
            "ostler host ping --broker amqp://b --host n1",
        ] {
            Cli::try_parse_from(line.split(' ')).map(|_| ()).unwrap();
        }
    }
}
