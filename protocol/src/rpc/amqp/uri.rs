//! Where a broker is, read from its URI: by the agent and by the command alike, so that one line
//! means one thing. The client library reads `amqps://broker/` as the virtual host "", which no
//! broker has, takes an IPv6 address for `localhost`, and fills a missing password in.
//!
//! ```text
//!   amqps://USER:PASSWORD@HOST:PORT/VHOST?heartbeat=SECONDS
//! ```
//!
//! No error repeats what it is about: a URI holds a password, and one that cannot be read may hold
//! it anywhere.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use zeroize::Zeroizing;

/// How long a virtual host's name can be, bytes: a short string of AMQP.
const VHOST_MAX: usize = 255;

/// A broker, and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is reached by TLS.
    pub tls: bool,
    /// The user; none where the URI names none.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Zeroizing<String>>,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port: 5672, or 5671 by TLS, unless told.
    pub port: u16,
    /// The virtual host: `/` unless told.
    pub vhost: String,
    /// How often each side shows that it is there, seconds.
    pub heartbeat: Option<u16>,
}

impl Endpoint {
    /// `host:port`, for messages.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Why a broker's URI cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Something else altogether.
    #[error("a broker's URI begins with amqp or amqps, a colon and two slashes")]
    Scheme,
    /// It ends the URI, so whatever comes after it would be lost.
    #[error("a # in the broker's URI: in a user or a password, write %23")]
    Hash,
    /// One of these ends the part before the host.
    #[error("a / or ? before the @ of the broker's URI: in a user or a password, write %2F or %3F")]
    Login,
    /// It begins an escape.
    #[error("a % without two hexadecimal digits in the broker's URI: write %25")]
    Percent,
    /// What the escapes mean is no text.
    #[error("an escape in the broker's URI stands for no character, or for a control character")]
    Text,
    /// A password of nobody.
    #[error("the broker's URI has a password and no user")]
    NoUser,
    /// Which machine?
    #[error("the host in the broker's URI is no name and no address; IPv6 goes in brackets")]
    Host,
    /// Which port?
    #[error("the port in the broker's URI is not a number from 1 to 65535")]
    Port,
    /// No broker can have one of this name.
    #[error("the virtual host in the broker's URI is longer than {VHOST_MAX} bytes")]
    Vhost,
    /// What cannot be set.
    #[error("the broker's URI sets something else than heartbeat, in seconds up to 65535")]
    Query,
}

impl FromStr for Endpoint {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(UriError::Scheme),
        };
        if rest.contains('#') {
            return Err(UriError::Hash);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if rest.contains('@') {
            return Err(UriError::Login);
        }
        // The last one: one in a password is clear enough without an escape.
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some(("", _)) => return Err(UriError::NoUser),
            Some((user, password)) => (Some(user), Some(Zeroizing::new(unescape(password)?))),
            None => (Some(login).filter(|login| !login.is_empty()), None),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A slash and no slash mean the same to people, and no broker has a virtual host "".
        let vhost = match unescape(path.strip_prefix('/').unwrap_or(path))? {
            vhost if vhost.is_empty() => "/".to_owned(),
            vhost if vhost.len() > VHOST_MAX => return Err(UriError::Vhost),
            vhost => vhost,
        };
        let (host, port) = place_of(place)?;
        Ok(Self {
            tls,
            user: user.map(unescape).transpose()?,
            password,
            host,
            port: port.unwrap_or(if tls { 5671 } else { 5672 }),
            vhost,
            heartbeat: heartbeat(query)?,
        })
    }
}

/// The host and the port after the login.
fn place_of(place: &str) -> Result<(String, Option<u16>), UriError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UriError::Host)?;
            let address: Ipv6Addr = host.parse().map_err(|_| UriError::Host)?;
            (address.to_string(), port)
        }
        None => {
            let (host, port) = place.split_at(place.find(':').unwrap_or(place.len()));
            let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if host.is_empty() || !host.chars().all(name) {
                return Err(UriError::Host);
            }
            (host.to_owned(), port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err(UriError::Host),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(UriError::Port),
            Ok(port) => Some(port),
        },
    };
    Ok((host, port))
}

fn heartbeat(query: &str) -> Result<Option<u16>, UriError> {
    if query.is_empty() {
        return Ok(None);
    }
    let seconds = query.strip_prefix("heartbeat=").and_then(|seconds| seconds.parse().ok());
    seconds.map(Some).ok_or(UriError::Query)
}

/// What percent escapes stand for.
fn unescape(text: &str) -> Result<String, UriError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |n: usize| after.get(n).and_then(|&b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(UriError::Percent) };
        bytes.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Ok(text),
        Ok(_) | Err(_) => Err(UriError::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Endpoint, UriError> {
        text.parse()
    }

    #[test]
    fn addresses_and_virtual_hosts_are_as_people_mean_them() {
        for (text, address, vhost) in [
            ("amqp://b", "b:5672", "/"),
            ("amqps://ostler:word@broker.example/", "broker.example:5671", "/"),
            ("amqps://u:p@b", "b:5671", "/"),
            ("AMQP://127.0.0.1:99/%2f", "127.0.0.1:99", "/"),
            ("amqp://u:p@b//", "b:5672", "/"),
            ("amqp://u:p@[::1]:99/v", "[::1]:99", "v"),
            ("amqp://[2001:db8::1]/a%2Fb?heartbeat=5", "[2001:db8::1]:5672", "a/b"),
            ("amqp://b?heartbeat=5", "b:5672", "/"),
        ] {
            let endpoint = read(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((endpoint.address().as_str(), endpoint.vhost.as_str()), (address, vhost));
            assert_eq!(endpoint.heartbeat.is_some(), text.contains('?'), "{text}");
        }
    }

    #[test]
    fn a_user_and_a_password_are_what_their_escapes_stand_for() {
        for (text, user, password) in [
            ("amqp://u:pa%23ss@h/", Some("u"), Some("pa#ss")),
            ("amqp://u%40x:100%25@h/", Some("u@x"), Some("100%")),
            ("amqp://u:a@b:c@h/", Some("u"), Some("a@b:c")),
            ("amqp://u:%c3%bc%2f@h/", Some("u"), Some("ü/")),
            ("amqp://u@h/", Some("u"), None),
            ("amqp://u:@h/", Some("u"), Some("")),
            ("amqp://h/", None, None),
        ] {
            let Endpoint { user: read_user, password: read_password, .. } = read(text).unwrap();
            assert_eq!(read_user.as_deref(), user, "{text}");
            assert_eq!(read_password.as_ref().map(|word| word.as_str()), password, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for (text, wrong) in [
            ("http://u:hunter2@h/", UriError::Scheme),
            ("h:5672", UriError::Scheme),
            ("amqp://u:hunter2#x@h/", UriError::Hash),
            ("amqp://u:hunter2/x@h/", UriError::Login),
            ("amqp://u:hunter2?x@h/", UriError::Login),
            ("amqp://u:hunter2%@h/", UriError::Percent),
            ("amqp://u:hunter2%é1@h/", UriError::Percent),
            ("amqp://u:hunter2%ff@h/", UriError::Text),
            ("amqp://u:hunter2%00@h/", UriError::Text),
            ("amqp://:hunter2@h/", UriError::NoUser),
            ("amqp://u:hunter2@/", UriError::Host),
            ("amqp://u:hunter2@[::1/", UriError::Host),
            ("amqp://u:hunter2@[::1]1/", UriError::Host),
            ("amqp://u:hunter2@::1/", UriError::Host),
            ("amqp://u:hunter2@a b/", UriError::Host),
            ("amqp://u:hunter2@h:/", UriError::Port),
            ("amqp://u:hunter2@h:0/", UriError::Port),
            ("amqp://u:hunter2@h:65536/", UriError::Port),
            ("amqp://u:hunter2@h/?heartbeat=x", UriError::Query),
            ("amqp://u:hunter2@h/?verify=none", UriError::Query),
        ] {
            assert_eq!(read(text).unwrap_err(), wrong, "{text}");
            assert!(!wrong.to_string().contains("hunter2"));
        }
        assert_eq!(read(&format!("amqp://h/{}", "v".repeat(256))).unwrap_err(), UriError::Vhost);
        assert!(!format!("{:?}", read("amqp://u:hunter2@h/").unwrap()).contains("hunter2"));
    }
}
