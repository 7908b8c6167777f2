//! Which node is reached, and how: decided once, from the command line and the environment.
//!
//! What stands on the command line wins over the environment; a broker wins over a socket, because
//! the socket has a default and so is always there. Secrets are never taken from the command line,
//! where every user of the machine can read them: a password in `--broker` is refused.

use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use lapin::uri::AMQPUri;
use zeroize::Zeroizing;

use crate::args::Global;

/// Names the file that holds the broker's password.
const PASSWORD_FILE: &str = "OSTLER_BROKER_PASSWORD_FILE";

/// Where the node is.
pub(crate) enum Target {
    /// The host agent of this machine.
    Socket(PathBuf),
    /// A node behind a broker.
    Broker(Box<Broker>),
}

/// A node behind a broker.
pub(crate) struct Broker {
    /// How to log in. Never printed: it holds the password.
    pub(crate) uri: AMQPUri,
    /// `host:port`, for messages.
    pub(crate) address: String,
    /// The node's name.
    pub(crate) host: String,
}

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// A secret on the command line.
    #[error("a password in --broker can be read by every user of this machine")]
    PasswordInArguments,
    /// Which node?
    #[error("--broker needs --host: which node behind the broker?")]
    NoHost,
    /// Two ways at once.
    #[error("--socket and --broker are two ways to a node: give one")]
    Both,
    /// Not what a host agent can be called: it becomes a routing key, of 255 bytes at most.
    #[error("the name given as --host is longer than 200 bytes")]
    HostTooLong,
    /// Not a URI. What it is instead is not repeated: it may hold a password.
    #[error("the broker's URI is not one")]
    Uri,
    /// Whose password?
    #[error("there is no password for the broker's user {0}")]
    NoPassword(String),
    /// The password's file.
    #[error("cannot read the broker's password from {path}")]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl TargetError {
    /// What to do about it.
    pub(crate) fn next(&self) -> Option<&'static str> {
        match self {
            Self::PasswordInArguments | Self::NoPassword(_) => Some(
                "put the whole URI into the environment as OSTLER_BROKER, or the password into a \
                 file and its path into OSTLER_BROKER_PASSWORD_FILE",
            ),
            Self::NoHost => Some("add --host NAME, or set OSTLER_HOST"),
            Self::Uri => Some("write it as in amqps://user@broker.example/vhost"),
            Self::Both | Self::HostTooLong | Self::PasswordFile { .. } => None,
        }
    }
}

/// Decide.
pub(crate) fn choose(global: &Global, matches: &ArgMatches) -> Result<Target, TargetError> {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let broker = match (&global.broker, typed("socket"), typed("broker")) {
        (Some(_), true, true) => return Err(TargetError::Both),
        // An empty variable is an unset one.
        (Some(uri), false, _) if !uri.is_empty() => uri,
        (Some(_), _, _) | (None, _, _) => return Ok(Target::Socket(global.socket.clone())),
    };
    if typed("broker") && Parts::of(broker).password {
        return Err(TargetError::PasswordInArguments);
    }
    let host = global.host.clone().filter(|host| !host.is_empty()).ok_or(TargetError::NoHost)?;
    if host.len() > 200 {
        return Err(TargetError::HostTooLong);
    }
    let file = std::env::var_os(PASSWORD_FILE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let password = file.map(read_password).transpose()?;
    let (uri, address) = login(broker, password)?;
    Ok(Target::Broker(Box::new(Broker { uri, address, host })))
}

fn read_password(path: PathBuf) -> Result<Zeroizing<String>, TargetError> {
    match std::fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(source) => Err(TargetError::PasswordFile { path, source }),
    }
}

/// The parts of a URI that its parser does not tell: it fills in defaults for what is absent, and
/// takes an IPv6 address for an absent host.
struct Parts<'a> {
    user: bool,
    password: bool,
    ipv6: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(uri: &'a str) -> Self {
        let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        // A password may hold an unescaped `@`, and then even a `/`: what counts is that none slips
        // through, so the last `@` of the whole URI counts for that.
        let login = authority.rsplit_once('@').map(|(login, _)| login);
        let anywhere = rest.rsplit_once('@').map(|(login, _)| login);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Self {
            user: login.is_some_and(|login| !login.is_empty()),
            password: anywhere.is_some_and(|login| login.contains(':')),
            ipv6: host.strip_prefix('[').and_then(|host| host.split(']').next()),
        }
    }
}

fn login(
    text: &str,
    password: Option<Zeroizing<String>>,
) -> Result<(AMQPUri, String), TargetError> {
    let parts = Parts::of(text);
    let mut uri: AMQPUri = text.parse().map_err(|_| TargetError::Uri)?;
    // amqp://broker and amqp://broker/ both mean the default virtual host to people.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    if uri.vhost.len() > 255 {
        return Err(TargetError::Uri);
    }
    if let Some(address) = parts.ipv6 {
        uri.authority.host = address.to_owned();
    }
    match password {
        Some(password) => uri.authority.userinfo.password = String::clone(&password),
        None if parts.user && !parts.password => {
            return Err(TargetError::NoPassword(uri.authority.userinfo.username));
        }
        None => {}
    }
    let address = match parts.ipv6 {
        Some(ipv6) => format!("[{ipv6}]:{}", uri.authority.port),
        None => format!("{}:{}", uri.authority.host, uri.authority.port),
    };
    Ok((uri, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};

    fn chosen(line: &str) -> Result<Target, TargetError> {
        let matches = crate::args::Cli::command().get_matches_from(line.split(' '));
        let cli = crate::args::Cli::from_arg_matches(&matches).unwrap();
        choose(&cli.global, &matches)
    }

    #[test]
    fn a_password_on_the_command_line_is_refused_wherever_it_stands() {
        for line in [
            "ostler --broker amqp://u:p@b --host n host ping",
            "ostler host ping --broker amqps://u:p@b/vhost --host n",
            "ostler host ping --broker amqp://u:p/w@b --host n",
            "ostler host ping --broker amqp://:p@b --host n",
        ] {
            assert!(matches!(chosen(line), Err(TargetError::PasswordInArguments)), "{line}");
        }
    }

    #[test]
    fn a_broker_needs_a_host_and_excludes_a_socket() {
        assert!(matches!(chosen("ostler --broker amqp://b host ping"), Err(TargetError::NoHost)));
        let both = "ostler --broker amqp://b --host n --socket /s host ping";
        assert!(matches!(chosen(both), Err(TargetError::Both)));
        assert!(matches!(chosen("ostler host ping --socket /s"), Ok(Target::Socket(_))));
    }

    #[test]
    fn a_user_without_a_password_is_not_given_a_default_one() {
        assert!(matches!(login("amqp://u@b", None), Err(TargetError::NoPassword(_))));
        let (uri, _) = login("amqp://u@b", Some(Zeroizing::new("p/@:".into()))).unwrap();
        assert_eq!(uri.authority.userinfo.password, "p/@:");
    }

    #[test]
    fn addresses_and_virtual_hosts_are_as_people_mean_them() {
        for (text, address, vhost) in [
            ("amqp://b", "b:5672", "/"),
            ("amqps://b/", "b:5671", "/"),
            ("amqp://127.0.0.1:99/%2f", "127.0.0.1:99", "/"),
            ("amqp://[::1]:99/v", "[::1]:99", "v"),
        ] {
            let (uri, shown) = login(text, None).unwrap();
            assert_eq!((shown.as_str(), uri.vhost.as_str()), (address, vhost), "{text}");
        }
        assert!(matches!(login("http://b", None), Err(TargetError::Uri)));
        assert!(matches!(login("b:5672", None), Err(TargetError::Uri)));
    }
}
