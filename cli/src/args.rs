//! What commands take, whichever they are: where the node is, how results are written, how long to
//! wait.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ostler_protocol::rpc::values::IdempotencyKey;

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
    /// Never give a password here: every user of the machine can read it. Put the whole URI into the
    /// environment as OSTLER_BROKER, or the password into a file and the file's path into
    /// OSTLER_BROKER_PASSWORD_FILE.
    #[arg(long, global = true, value_name = "URI", env = "OSTLER_BROKER", hide_env_values = true)]
    pub(crate) broker: Option<String>,
    /// The node to reach over the broker
    #[arg(long, global = true, value_name = "NAME", env = "OSTLER_HOST")]
    pub(crate) host: Option<String>,
    /// How results are written
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Give up after this time; default: 30 s for an answer, no limit for an operation
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
#[derive(Args, Clone)]
pub(crate) struct Changing {
    /// Do not wait: print the accepted operation
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// The idempotency key: the same key is done once, however often it is sent
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<IdempotencyKey>,
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

/// A span of days, hours or minutes, as in `30d`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let read = units.iter().find_map(|(unit, seconds)| {
        let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_secs(u64::from(number) * seconds))
    });
    read.ok_or_else(|| "give days, hours or minutes, as in 30d, 12h or 90m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_positive_and_bounded() {
        assert_eq!(seconds("90"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "1e99", "", "5m"] {
            assert!(seconds(bad).is_err(), "{bad:?} was taken");
        }
    }
}
