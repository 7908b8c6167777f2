//! The command line: what can be asked for, and where it is asked.
//!
//! clap makes help, completions and man pages of these types, so the words an operator reads stand
//! here. What clap cannot know, which word came from the command line and which from the
//! environment, is asked of [`ArgMatches`] in [`target`](super::target).

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ostler_protocol::rpc::values::IdempotencyKey;

use crate::commands::console::ConsoleArgs;
use crate::commands::guest::GuestCommand;
use crate::commands::host::HostCommand;
use crate::commands::image::ImageCommand;
use crate::commands::instance::InstanceCommand;
use crate::commands::network::NetworkCommand;
use crate::commands::operation::OperationCommand;

/// The end of every `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0    done (with --no-wait: accepted)
  1    the operation failed, was undone or was cancelled
  2    wrong usage, or a local problem such as an unreadable file
  3    refused by the node; the reason is a word such as not_found or conflict
  4    the node or the broker cannot be reached
  5    timed out waiting; an accepted operation goes on
  130  interrupted; an accepted operation, or a program in a guest, goes on

`guest exec` exits as the program did: its code, 128 and the signal that ended it, or 124 if it
was ended for its --timeout; and 5 if its end is not known. What went wrong before or beside the
program begins with error: on standard error.";

/// Operate an Ostler node: its instances, images and networks.
///
/// Speaks to the host agent on this machine over its UNIX socket, or to any node over an AMQP
/// broker. Results go to standard output, progress and errors to standard error.
#[derive(Parser)]
#[command(name = "ostler", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// What every command takes.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The host agent's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "OSTLER_SOCKET",
        hide_env_values = true,
        default_value = "/run/ostler/host-agent.sock"
    )]
    pub(crate) socket: PathBuf,
    /// Reach the node over this AMQP broker instead: amqps://user@broker/vhost
    ///
    /// Never give a password here, where every user of the machine can read it: put the whole URI
    /// into the environment as OSTLER_BROKER, or the password into a file named by
    /// OSTLER_BROKER_PASSWORD_FILE.
    #[arg(long, global = true, value_name = "URI", env = "OSTLER_BROKER", hide_env_values = true)]
    pub(crate) broker: Option<String>,
    /// The node to reach over the broker
    #[arg(long, global = true, value_name = "NAME", env = "OSTLER_HOST")]
    pub(crate) host: Option<String>,
    /// How results are written
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Give up after so long; without it, 30 s for an answer and no limit for an operation
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: one JSON document, sizes in bytes, times in milliseconds since 1970
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What every change takes.
#[derive(Args)]
pub(crate) struct Changing {
    /// Do not wait: print the accepted operation
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// The idempotency key: the same key is the same operation, however often it is sent
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<IdempotencyKey>,
}

/// What a command is about.
#[derive(Subcommand)]
pub(crate) enum Noun {
    /// Virtual machines
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// What guests say of themselves, and work in them
    #[command(subcommand)]
    Guest(GuestCommand),
    /// What instances are made from
    #[command(subcommand)]
    Image(ImageCommand),
    /// The bridges instances are on
    #[command(subcommand)]
    Network(NetworkCommand),
    /// The node itself
    #[command(subcommand)]
    Host(HostCommand),
    /// Changes accepted by the node
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Sit at the serial console of an instance
    ///
    /// What the guest prints comes to standard output as it is, and what is typed goes to the
    /// guest, Ctrl-C included. Ctrl-] leaves. The session outlives reboots of the guest and
    /// restarts of the agent. In a pipe, it ends when the input has ended and the guest is silent.
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

/// A duration in seconds, fractions allowed, as in `30` or `0.5`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    // A month: far beyond any use, and safely addable to the clock.
    const MOST: f64 = 30.0 * 86_400.0;
    match text.strip_suffix('s').unwrap_or(text).parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= MOST => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) | Err(_) => Err("give seconds, more than 0 and at most 30 days, as in 90".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_are_positive_and_bounded() {
        assert_eq!(seconds("90"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "1e99", "", "5m"] {
            assert!(seconds(bad).is_err(), "{bad:?} was taken");
        }
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
