//! The settings as they are given: the command line over the configuration files, as stock agents read them.
//!
//! ```text
//!  /etc/qemu/qemu-ga.conf ---+
//!  /etc/ostler/guest-agent.conf -> config --+
//!  words -> arguments ----------------------+-> RawOptions -> Settings
//!                                               (as merged)  (as validated)
//! ```
//!
//! A unit written for a stock agent starts this one. An image that had a stock agent keeps its file;
//! Ostler's own is read after it and so wins. Both are read whatever the command line says: a policy in
//! one cannot be left out by naming another file.

mod arguments;
mod config;
pub(crate) mod key;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dispatcher::TABLE;
use crate::log::{Log, Verbosity};
use crate::policy::{Policy, ProfileError};
use crate::settings::{Method, Settings};
use arguments::{Argument, Name};
pub use config::ConfigError;
use config::Contents;
use key::{Key, RawOptions};

pub(crate) const STATE_DIRECTORY: &str = "/run";
pub(crate) const PID_FILE: &str = "/run/qemu-ga.pid";
const HOOK: &str = "/etc/qemu/fsfreeze-hook";
const BAUD: u32 = 38400;
const HEARTBEAT: Duration = Duration::from_secs(10);
const FREEZE_LEASE: Duration = Duration::from_secs(600);
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

const HELP: &str = include_str!("options/help.txt");

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

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// To serve.
    Serve(Box<Settings>),
    /// To write this and end.
    Tell(String),
}

/// What is wrong with the command line or a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// An option there is none of.
    #[error("unknown option '{0}', try --help")]
    Unknown(String),
    /// An option at the end that needs a value.
    #[error("option '{0}' needs a value")]
    NoValue(String),
    /// An option with a value that takes none.
    #[error("option '{0}' takes no value")]
    Value(String),
    /// A word of bytes that are no characters.
    #[error("'{0}' is not UTF-8")]
    NotText(String),
    /// A method there is none of.
    #[error("unknown method '{0}'")]
    Method(String),
    /// A socket without a place.
    #[error("method {0} needs a path")]
    NoPath(&'static str),
    /// A profile there is none of.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No number of seconds.
    #[error("'{0}' is no number of seconds above 0")]
    Seconds(String),
    /// No speed.
    #[error("'{0}' is no speed of a serial line")]
    Baud(String),
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What the agent finds when it starts, apart from its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The stock agent's configuration file, if there may be one.
    pub stock_file: Option<PathBuf>,
    /// Ostler's.
    pub own_file: Option<PathBuf>,
    /// A service manager has opened the standard channel: it needs no path.
    pub activated: bool,
}

impl Surroundings {
    /// Where files are on a system.
    pub fn of_the_system(activated: bool) -> Self {
        let named = std::env::var_os("QGA_CONF");
        Self {
            stock_file: Some(named.unwrap_or_else(|| "/etc/qemu/qemu-ga.conf".into()).into()),
            own_file: Some("/etc/ostler/guest-agent.conf".into()),
            activated,
        }
    }
}

/// Reads a command line alone, the program's name left out.
pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Invocation, OptionsError> {
    read(words, &Surroundings::default())
}

/// Reads a command line, the program's name left out, and the configuration files.
pub fn read(
    words: impl Iterator<Item = OsString>,
    surroundings: &Surroundings,
) -> Result<Invocation, OptionsError> {
    let mut line = RawOptions::default();
    let mut warnings = Vec::new();
    let mut named = None;
    let mut dump = false;
    for argument in arguments::split(words) {
        match argument? {
            Argument::Stray(word) => warnings.push(format!("'{word}' belongs to no option")),
            Argument::Option(Name::Key(Key::Block), Some(value))
                if value == "help" || value == "?" =>
            {
                let names = TABLE.iter().flat_map(|entry| [entry.name, "\n"]);
                return Ok(Invocation::Tell(names.collect()));
            }
            Argument::Option(Name::Key(Key::Hook), None) => line.set(Key::Hook, HOOK.to_owned()),
            Argument::Option(Name::Key(key), value) => {
                line.set(key, value.unwrap_or_else(|| true.to_string()));
            }
            Argument::Option(Name::Config, value) => named = value.map(PathBuf::from),
            Argument::Option(Name::Dump, _) => dump = true,
            Argument::Option(Name::Version, _) => {
                let version = concat!("ostler-guest-agent ", env!("CARGO_PKG_VERSION"), "\n");
                return Ok(Invocation::Tell(version.to_owned()));
            }
            Argument::Option(Name::Help, _) => return Ok(Invocation::Tell(HELP.to_owned())),
            Argument::Option(Name::Service, _) => {
                warnings.push("option '-s' is for Windows".to_owned());
            }
        }
    }
    let first = match (&named, &surroundings.stock_file) {
        (Some(named), _) => Some((named, Some(config::read_named(named)?))),
        (None, Some(usual)) => Some((usual, config::read(usual)?)),
        (None, None) => None,
    };
    let second = match &surroundings.own_file {
        Some(own) => Some((own, config::read(own)?)),
        None => None,
    };
    let mut given = RawOptions::default();
    for (path, contents) in [first, second].into_iter().flatten() {
        let Contents { given: set, unknown } = contents.unwrap_or_default();
        given.overlay(set);
        warnings
            .extend(unknown.iter().map(|key| format!("unknown key '{key}' in {}", path.display())));
    }
    given.overlay(line);
    let settings = settle(given, warnings, surroundings.activated)?;
    Ok(if dump { Invocation::Tell(settings.dump()) } else { Invocation::Serve(Box::new(settings)) })
}

/// From what was said to what holds.
fn settle(
    mut given: RawOptions,
    mut warnings: Vec<String>,
    activated: bool,
) -> Result<Settings, OptionsError> {
    let method = match given.take(Key::Method) {
        None => Method::VirtioSerial,
        Some(name) => Method::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or(OptionsError::Method(name))?,
    };
    let (usual, usual_ostler) = method.usual();
    let path = given.take(Key::Path).or(usual.map(str::to_owned)).map(PathBuf::from);
    let ostler = given
        .take(Key::OstlerPath)
        .or(usual_ostler.map(str::to_owned))
        .filter(|path| path != "none")
        .map(PathBuf::from);
    if path.is_none() && ostler.is_none() && !activated {
        return Err(OptionsError::NoPath(method.name()));
    }
    let mut flag = |key| given.take(key).is_some_and(|value| config::boolean(&value) == Some(true));
    let (daemon, retry) = (flag(Key::Daemon), flag(Key::Retry));
    let verbosity = if flag(Key::Verbose) { Verbosity::All } else { Verbosity::Errors };
    let mut seconds = |key, usual| match given.take(key) {
        None => Ok(usual),
        Some(value) => value
            .trim_end()
            // nobody means more, and clocks end somewhere
            .parse::<u32>()
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into()))
            .ok_or(OptionsError::Seconds(value)),
    };
    let heartbeat = seconds(Key::Heartbeat, HEARTBEAT)?;
    let freeze_lease = seconds(Key::FreezeLease, FREEZE_LEASE)?;
    let hook_timeout = seconds(Key::HookTimeout, HOOK_TIMEOUT)?;
    let baud = match given.take(Key::Baud) {
        None => BAUD,
        Some(value) => {
            let rate = value.trim_end().parse().ok().filter(|rate| *rate > 0);
            rate.ok_or(OptionsError::Baud(value))?
        }
    };
    let mut list = |key, separators: &[char]| {
        let values = given.take_all(key)?;
        let words = values.iter().flat_map(|value| value.split(separators)).map(str::trim);
        Some(words.filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    };
    // a name can hold neither, and a list that was set apart wrongly would not block anything
    let blocked = BTreeSet::from_iter(list(Key::Block, &[',', ';']).unwrap_or_default());
    // an empty one permits all: stock agents dump it so
    let allowed = list(Key::Allow, &[',', ';'])
        .map(BTreeSet::from_iter)
        .filter(|allowed: &BTreeSet<_>| !allowed.is_empty());
    let programs = list(Key::ExecAllow, &[';']);
    let known = |name: &&String| TABLE.iter().any(|entry| entry.name == **name);
    warnings.extend(
        blocked
            .iter()
            .filter(|name| !known(name))
            .map(|name| format!("'{name}' is to be blocked, and there is no such command")),
    );
    let profile = match given.take(Key::Profile) {
        None => Default::default(),
        Some(name) => name.trim_end().parse()?,
    };
    // a daemon leaves the folder it is started in
    let place = |path: PathBuf| match daemon {
        true => std::path::absolute(&path).unwrap_or(path),
        false => path,
    };
    let channel = |path: Option<PathBuf>| match method {
        Method::VsockListen => path,
        Method::VirtioSerial | Method::IsaSerial | Method::UnixListen => path.map(place),
    };
    let path_of =
        |given: Option<String>, usual: &str| place(given.unwrap_or_else(|| usual.into()).into());
    let log_file = given.take(Key::LogFile).filter(|file| !file.is_empty());
    let hook = given.take(Key::Hook).filter(|hook| !hook.is_empty());
    Ok(Settings {
        daemon,
        method,
        path: channel(path),
        ostler: channel(ostler),
        baud,
        retry,
        heartbeat,
        pid_file: path_of(given.take(Key::PidFile), PID_FILE),
        state_directory: path_of(given.take(Key::StateDirectory), STATE_DIRECTORY),
        policy: Policy { profile, allowed, blocked },
        freeze_lease,
        // what `fsfreeze-hook=` in a file means is that there is none
        hook: hook.map(|hook| place(hook.into())),
        hook_timeout,
        programs,
        log: match log_file {
            None => Log::new(verbosity),
            Some(file) => Log::in_file(verbosity, place(file.into())),
        },
        warnings,
    })
}

impl Settings {
    /// A configuration file that says the same.
    fn dump(&self) -> String {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let seconds = |time: Duration| Some(time.as_secs().to_string());
        let names = |names: &BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        let (_, usual_ostler) = self.method.usual();
        // what is as usual is so for this method, and whoever reads this may have another
        let ostler = (self.ostler.as_deref() != usual_ostler.map(Path::new))
            .then(|| self.ostler.as_ref().map_or_else(|| "none".to_owned(), text));
        config::write(
            [
                (Key::Daemon, Some(self.daemon.to_string())),
                (Key::Method, Some(self.method.name().to_owned())),
                (Key::Path, self.path.as_ref().map(text)),
                (Key::LogFile, self.log.file().map(|file| file.to_string_lossy().into_owned())),
                (Key::PidFile, Some(text(&self.pid_file))),
                (Key::Hook, self.hook.as_ref().map(text)),
                (Key::StateDirectory, Some(text(&self.state_directory))),
                (Key::Verbose, Some((self.log.verbosity() == Verbosity::All).to_string())),
                (Key::Retry, Some(self.retry.to_string())),
                (Key::Block, Some(names(&self.policy.blocked))),
                (Key::Allow, Some(self.policy.allowed.as_ref().map(names).unwrap_or_default())),
                (Key::Profile, Some(self.policy.profile.name().to_owned())),
                (Key::ExecAllow, self.programs.as_ref().map(|programs| programs.join(";"))),
                (Key::FreezeLease, seconds(self.freeze_lease)),
                (Key::HookTimeout, seconds(self.hook_timeout)),
                (Key::OstlerPath, ostler),
                (Key::Heartbeat, seconds(self.heartbeat)),
                (Key::Baud, Some(self.baud.to_string())),
            ]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?))),
        )
    }
}

#[cfg(test)]
mod tests;
