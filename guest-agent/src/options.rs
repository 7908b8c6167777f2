//! The command line, spelled as the stock agent's is: a unit written for one starts the other.
//!
//! Parsing is by hand. A parser crate would be a fifth of the program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::dispatcher::TABLE;
use crate::log::{Log, Verbosity};
use crate::policy::{Policy, ProfileError};

pub(crate) const STANDARD_PORT: &str = "/dev/virtio-ports/org.qemu.guest_agent.0";
pub(crate) const OSTLER_PORT: &str = "/dev/virtio-ports/org.ostler.guest.0";
const STATE_DIRECTORY: &str = "/run";
const HEARTBEAT: Duration = Duration::from_secs(10);
const FREEZE_LEASE: Duration = Duration::from_secs(600);
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

const HELP: &str = "\
Usage: ostler-guest-agent [OPTION]...

The agent of a virtual machine, for its host.

  -m, --method METHOD      virtio-serial (default) or unix-listen
  -p, --path PATH          port or socket; default /dev/virtio-ports/org.qemu.guest_agent.0
      --ostler-path PATH   port or socket of Ostler's own channel, or none;
                           default /dev/virtio-ports/org.ostler.guest.0, none with unix-listen
      --heartbeat SECONDS  between two heartbeats on Ostler's channel; default 10
  -t, --statedir DIR       for what outlives a restart of the agent; default /run
  -b, --block-rpcs LIST    commands to refuse, set apart by commas; 'help' lists all
  -a, --allow-rpcs LIST    commands to permit, and no others
      --profile NAME       how far commands may go: observe, manage or full (default)
  -r, --retry-path         wait for the port to come (back); always so here
  -v, --verbose            log everything
  -V, --version            tell the version
  -h, --help               tell this
";

/// How the agent is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What its channels are.
    pub method: Method,
    /// The standard channel.
    pub path: Option<PathBuf>,
    /// Ostler's own channel.
    pub ostler: Option<PathBuf>,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// For what outlives a restart of the agent.
    pub state_directory: PathBuf,
    /// What it may do.
    pub policy: Policy,
    /// How long file systems may stay frozen before they are thawed unasked.
    pub freeze_lease: Duration,
    /// The program that is told of freezing and thawing.
    pub hook: Option<PathBuf>,
    /// How long it may take.
    pub hook_timeout: Duration,
    /// If given, only programs whose command line begins with one of these may be run.
    pub programs: Option<Vec<String>>,
    /// What it tells.
    pub log: Log,
}

#[cfg(test)]
impl Settings {
    /// What an empty command line gives.
    pub(crate) fn for_tests() -> Self {
        match parse(std::iter::empty()) {
            Ok(Invocation::Serve(settings)) => *settings,
            other => panic!("{other:?}"),
        }
    }
}

/// What a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A virtio-serial port, waited for if it is not there.
    VirtioSerial,
    /// A socket that is bound at the path and takes one client at a time.
    UnixListen,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// To serve.
    Serve(Box<Settings>),
    /// To write this and end.
    Tell(String),
}

/// What is wrong with the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// An option there is none of.
    #[error("unknown option '{0}'")]
    Unknown(String),
    /// An argument that belongs to no option.
    #[error("unexpected argument '{0}'")]
    Stray(String),
    /// An option at the end that needs a value.
    #[error("option '{0}' needs a value")]
    NoValue(String),
    /// An option with a value that takes none.
    #[error("option '{0}' takes no value")]
    Value(String),
    /// A method there is none of.
    #[error("unknown method '{0}'")]
    Method(String),
    /// A profile there is none of.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No number of seconds.
    #[error("'{0}' is no number of seconds above 0")]
    Seconds(String),
}

#[derive(Clone, Copy)]
enum Name {
    Method,
    Path,
    OstlerPath,
    Heartbeat,
    StateDirectory,
    Block,
    Allow,
    Profile,
    Retry,
    Verbose,
    Version,
    Help,
}

const NAMES: &[(Name, Option<char>, &str)] = &[
    (Name::Method, Some('m'), "method"),
    (Name::Path, Some('p'), "path"),
    (Name::OstlerPath, None, "ostler-path"),
    (Name::Heartbeat, None, "heartbeat"),
    (Name::StateDirectory, Some('t'), "statedir"),
    (Name::Block, Some('b'), "block-rpcs"),
    (Name::Block, None, "blacklist"),
    (Name::Allow, Some('a'), "allow-rpcs"),
    (Name::Profile, None, "profile"),
    (Name::Retry, Some('r'), "retry-path"),
    (Name::Verbose, Some('v'), "verbose"),
    (Name::Version, Some('V'), "version"),
    (Name::Help, Some('h'), "help"),
];

impl Name {
    fn takes_value(self) -> bool {
        match self {
            Self::Method
            | Self::Path
            | Self::OstlerPath
            | Self::Heartbeat
            | Self::StateDirectory
            | Self::Block
            | Self::Allow
            | Self::Profile => true,
            Self::Retry | Self::Verbose | Self::Version | Self::Help => false,
        }
    }
}

/// Reads the command line, the program's name left out.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Invocation, OptionsError> {
    let mut method = Method::VirtioSerial;
    let mut path = None;
    let mut ostler = None;
    let mut heartbeat = HEARTBEAT;
    let mut state_directory = PathBuf::from(STATE_DIRECTORY);
    let mut policy = Policy::default();
    let mut verbosity = Verbosity::Errors;
    for given in split(arguments) {
        let (name, value) = given?;
        match name {
            Name::Method => {
                method = match value.as_str() {
                    "virtio-serial" => Method::VirtioSerial,
                    "unix-listen" => Method::UnixListen,
                    _ => return Err(OptionsError::Method(value)),
                }
            }
            Name::Path => path = Some(PathBuf::from(value)),
            Name::OstlerPath => ostler = Some(value),
            Name::Heartbeat => {
                let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                heartbeat = Duration::from_secs(seconds.ok_or(OptionsError::Seconds(value))?);
            }
            Name::StateDirectory => state_directory = value.into(),
            Name::Block if value == "help" || value == "?" => {
                let names = TABLE.iter().flat_map(|entry| [entry.name, "\n"]);
                return Ok(Invocation::Tell(names.collect()));
            }
            Name::Block => policy.blocked.extend(list(&value)),
            Name::Allow => policy.allowed.get_or_insert_default().extend(list(&value)),
            Name::Profile => policy.profile = value.parse()?,
            Name::Retry => {}
            Name::Verbose => verbosity = Verbosity::All,
            Name::Version => {
                let version = concat!("ostler-guest-agent ", env!("CARGO_PKG_VERSION"), "\n");
                return Ok(Invocation::Tell(version.to_owned()));
            }
            Name::Help => return Ok(Invocation::Tell(HELP.to_owned())),
        }
    }
    let (path, ostler) = match method {
        Method::VirtioSerial => (
            Some(path.unwrap_or_else(|| STANDARD_PORT.into())),
            Some(ostler.unwrap_or_else(|| OSTLER_PORT.to_owned())),
        ),
        Method::UnixListen => (path, ostler),
    };
    let ostler = ostler.filter(|path| path != "none").map(PathBuf::from);
    if path.is_none() && ostler.is_none() {
        return Err(OptionsError::NoValue("--path".to_owned()));
    }
    Ok(Invocation::Serve(Box::new(Settings {
        method,
        path,
        ostler,
        heartbeat,
        state_directory,
        policy,
        freeze_lease: FREEZE_LEASE,
        hook: None,
        hook_timeout: HOOK_TIMEOUT,
        programs: None,
        log: Log::new(verbosity),
    })))
}

fn list(value: &str) -> BTreeSet<String> {
    value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The options with their values: `-xVALUE`, `-x VALUE`, `--name=VALUE`, `--name VALUE`, `-xyz`.
fn split(
    arguments: impl Iterator<Item = OsString>,
) -> impl Iterator<Item = Result<(Name, String), OptionsError>> {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    // what is left of a cluster of single letters
    let mut letters = String::new();
    std::iter::from_fn(move || {
        let argument = if letters.is_empty() {
            let argument = arguments.next()?;
            if let Some(long) = argument.strip_prefix("--") {
                let (word, value) = match long.split_once('=') {
                    Some((word, value)) => (word, Some(value.to_owned())),
                    None => (long, None),
                };
                let Some((name, ..)) = NAMES.iter().find(|(_, _, long)| *long == word) else {
                    return Some(Err(OptionsError::Unknown(argument)));
                };
                return Some(match (name.takes_value(), value) {
                    (true, Some(value)) => Ok((*name, value)),
                    (true, None) => arguments
                        .next()
                        .map(|value| (*name, value))
                        .ok_or(OptionsError::NoValue(argument)),
                    (false, Some(_)) => Err(OptionsError::Value(argument)),
                    (false, None) => Ok((*name, String::new())),
                });
            }
            match argument.strip_prefix('-') {
                Some(cluster) if !cluster.is_empty() => cluster.to_owned(),
                _ => return Some(Err(OptionsError::Stray(argument))),
            }
        } else {
            std::mem::take(&mut letters)
        };
        let mut characters = argument.chars();
        let letter = characters.next()?;
        let rest = characters.as_str().to_owned();
        let Some((name, ..)) = NAMES.iter().find(|(_, short, _)| *short == Some(letter)) else {
            return Some(Err(OptionsError::Unknown(format!("-{letter}"))));
        };
        Some(if !name.takes_value() {
            letters = rest;
            Ok((*name, String::new()))
        } else if rest.is_empty() {
            arguments
                .next()
                .map(|value| (*name, value))
                .ok_or_else(|| OptionsError::NoValue(format!("-{letter}")))
        } else {
            Ok((*name, rest))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Settings {
        match parse(line.split_whitespace().map(Into::into)) {
            Ok(Invocation::Serve(settings)) => *settings,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(line: &str) -> OptionsError {
        parse(line.split_whitespace().map(Into::into)).unwrap_err()
    }

    #[test]
    fn both_ports_are_served_unless_told_otherwise() {
        let standard = settings("");
        assert_eq!(standard.method, Method::VirtioSerial);
        assert_eq!(standard.path, Some(STANDARD_PORT.into()));
        assert_eq!(standard.ostler, Some(OSTLER_PORT.into()));
        assert_eq!(standard.heartbeat, HEARTBEAT);
        assert_eq!(settings("--ostler-path none").ostler, None);
    }

    #[test]
    fn every_way_to_give_a_value_is_understood() {
        for line in [
            "-m unix-listen -p /s -t /state -b a,b",
            "-munix-listen -p/s -t/state -ba -bb",
            "--method=unix-listen --path=/s --statedir=/state --block-rpcs=a --blacklist b",
            "-rv -m unix-listen --path /s -vt /state --block-rpcs b,a,",
        ] {
            let settings = settings(line);
            assert_eq!(settings.method, Method::UnixListen, "{line}");
            assert_eq!(settings.path, Some("/s".into()), "{line}");
            assert_eq!(settings.ostler, None, "{line}");
            assert_eq!(settings.state_directory, PathBuf::from("/state"), "{line}");
            assert_eq!(settings.policy.blocked, ["a", "b"].map(str::to_owned).into(), "{line}");
            assert_eq!(settings.policy.allowed, None, "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(error("-x"), OptionsError::Unknown("-x".into()));
        assert_eq!(error("--extra=1"), OptionsError::Unknown("--extra=1".into()));
        assert_eq!(error("extra"), OptionsError::Stray("extra".into()));
        assert_eq!(error("-p"), OptionsError::NoValue("-p".into()));
        assert_eq!(error("--path"), OptionsError::NoValue("--path".into()));
        assert_eq!(error("--verbose=1"), OptionsError::Value("--verbose=1".into()));
        assert_eq!(error("-m tcp"), OptionsError::Method("tcp".into()));
        assert_eq!(error("--heartbeat 0"), OptionsError::Seconds("0".into()));
        assert_eq!(error("-m unix-listen"), OptionsError::NoValue("--path".into()));
    }

    #[test]
    fn the_commands_can_be_listed() {
        let Ok(Invocation::Tell(text)) = parse(["-b", "help"].into_iter().map(Into::into)) else {
            panic!("a list is told");
        };
        assert_eq!(text.lines().count(), TABLE.len());
        assert!(text.lines().any(|line| line == "guest-ping"));
    }
}
