//! Which node is reached, and how: decided once, from the command line and the environment.
//!
//! What stands on the command line wins over the environment; a broker wins over a socket, because
//! the socket has a default and so is always there. Secrets are never taken from the command line,
//! where every user of the machine can read them: a password in `--broker` is refused.

use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use ostler_protocol::rpc::amqp::uri::{Endpoint, UriError};
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
    /// Not a URI.
    #[error("the URI of the broker cannot be read")]
    Uri(#[source] UriError),
    /// Whose password?
    #[error("the broker's user {0} needs a password")]
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
            Self::Uri(_) => Some("write it as in amqps://user@broker.example/vhost"),
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
    if typed("broker") && holds_password(broker) {
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

/// Whether there may be a password in a URI, readable or not: what counts is that none slips through.
fn holds_password(uri: &str) -> bool {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
}

/// A broker in the library's words, and its address for messages. Nobody's login is the broker's
/// own for its own machine.
fn login(
    text: &str,
    password: Option<Zeroizing<String>>,
) -> Result<(AMQPUri, String), TargetError> {
    let endpoint: Endpoint = text.parse().map_err(TargetError::Uri)?;
    let address = endpoint.address();
    let Endpoint { tls, user, password: written, host, port, vhost, heartbeat } = endpoint;
    let mut userinfo = AMQPUserInfo::default();
    match (user, password.or(written)) {
        (Some(user), None) => return Err(TargetError::NoPassword(user)),
        (user, password) => {
            userinfo.username = user.unwrap_or(userinfo.username);
            userinfo.password =
                password.map_or(userinfo.password, |password| String::clone(&password));
        }
    }
    let uri = AMQPUri {
        scheme: if tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority { userinfo, host, port },
        vhost,
        query: AMQPQueryString { heartbeat, ..AMQPQueryString::default() },
    };
    Ok((uri, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};

    fn chosen(line: &str) -> Result<Target, TargetError> {
        let matches = crate::commands::line::Cli::command().get_matches_from(line.split(' '));
        let cli = crate::commands::line::Cli::from_arg_matches(&matches).unwrap();
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
            ("amqps://u:p@b/", "b:5671", "/"),
            ("amqp://[::1]:99/v", "[::1]:99", "v"),
        ] {
            let (uri, shown) = login(text, None).unwrap();
            assert_eq!((shown.as_str(), uri.vhost.as_str()), (address, vhost), "{text}");
            assert!(uri.authority.host == "b" || uri.authority.host == "::1");
        }
        assert!(matches!(login("http://b", None), Err(TargetError::Uri(_))));
    }
}
