//! AMQP 0-9-1: connections supervised here rather than by the client library.
//!
//! ```text
//!   connect ──> declare ──> consume ──> serve ──> anything goes wrong ──> drop it all
//!      ^                                                                     │
//!      └────────────── next endpoint, after a jittered pause ────────────────┘
//!
//!   inward    deliveries, acknowledgements                     session.rs
//!   outward   events, dead letters, probes                     outbox.rs, dead.rs
//!   replies   answers                                          replies.rs
//! ```
//!
//! There are three connections. A broker that runs out of memory or disk stops reading from those
//! that publish, and acknowledgements must not wait behind events for hours; and an answer with
//! an address no broker knows what to do with ends the one it goes by.
//!
//! A command is acknowledged when it is in the journal and its answer is at the broker, never
//! held through its operation; one that is delivered again finds its own operation. A read is
//! acknowledged at once: whoever does not get its answer asks again. That the consumer lives is
//! proven by messages the agent sends to itself through the broker, for a TCP connection proves
//! nothing.

mod caller;
mod dead;
mod outbox;
mod proof;
mod publish;
mod replies;
mod session;
mod topology;
mod wire;

use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use ostler_protocol::rpc::amqp::uri::Endpoint;
use ostler_protocol::rpc::host::Link;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::outbox::Outbox;
use self::replies::Replies;
use self::session::Session;
use super::service::Service;
use crate::compute::Outside;

/// How long a connection may take to stand.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long parting from a broker may take, which may not be there any more.
const PARTING: Duration = Duration::from_secs(2);
/// The pause before the next endpoint is tried: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Heartbeats asked for where the URI names no interval, seconds. After twice that, a broker gives
/// what a lost agent had to the next; RabbitMQ's own minute would hold commands for two.
const HEARTBEAT: u16 = 10;

/// Why a session with a broker ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the broker could not be reached in {} s", CONNECT_PATIENCE.as_secs())]
    Connect,
    #[error("the broker refused the login, the virtual host, or a right in it")]
    Denied {
        #[source]
        source: lapin::Error,
    },
    #[error("{what} is at the broker already, and not as this version makes it")]
    Otherwise {
        what: String,
        #[source]
        source: lapin::Error,
    },
    #[error("cannot {step}")]
    Amqp {
        step: String,
        #[source]
        source: lapin::Error,
    },
    #[error("the broker ended the subscription")]
    Cancelled,
    #[error("the consumer does not get its own messages")]
    Deaf,
    #[error("another consumer has this host's queue")]
    Shared,
    #[error("the broker does not take messages")]
    Stuck,
    #[error("there is no connection for answers")]
    Mute,
    #[error("the handling of a message failed")]
    Broken,
    #[error("the agent is stopping")]
    Shutdown,
}

impl Ended {
    /// What a failed `step` means.
    fn of(step: &str, source: lapin::Error) -> Self {
        let kind = source.kind();
        let refused = matches!(kind, ErrorKind::ProtocolError(error) if matches!(
            error.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
        ));
        let denied = refused || matches!(kind, ErrorKind::AuthProviderError(_));
        if denied { Self::Denied { source } } else { Self::Amqp { step: step.to_owned(), source } }
    }

    /// What somebody can do; none where time does it.
    fn next(&self) -> Option<&'static str> {
        match self {
            Self::Connect | Self::Stuck | Self::Mute => {
                Some("see whether the broker runs, and whether this node reaches it")
            }
            Self::Shared => Some(
                "see whether a second node has this name, and who consumes the queue (rabbitmqctl \
                 list_consumers); what is left of a broken connection goes within half a minute",
            ),
            Self::Denied { .. } => Some(
                "check user, password and virtual host in [broker], and the user's rights: \
                 configure, write and read on ostler\\..*, write on the default exchange",
            ),
            Self::Otherwise { .. } => Some(
                "if nothing waits in it, delete it at the broker (rabbitmqctl delete_queue NAME): \
                 the agent makes it anew at its next try",
            ),
            Self::Amqp { .. } | Self::Cancelled | Self::Deaf | Self::Broken | Self::Shutdown => {
                None
            }
        }
    }
}

fn amqp(step: &str) -> impl FnOnce(lapin::Error) -> Ended {
    move |source| Ended::of(step, source)
}

/// When the agent stops: first it takes no more, and when its work has come to rest it says no
/// more either.
#[derive(Debug, Clone)]
pub struct Stopping {
    /// No more requests are taken; what was not acknowledged goes back to the queue.
    pub taking: CancellationToken,
    /// Nothing is left to be told.
    pub telling: CancellationToken,
}

impl Stopping {
    /// The end of one session, by itself or with all.
    fn child(&self) -> Self {
        Self { taking: self.taking.child_token(), telling: self.telling.child_token() }
    }
}

/// Serve over AMQP until told to stop, whatever becomes of the brokers; `link` tells how it stands.
/// When the endpoints change, the session ends as at a stop, and the next is with the new ones.
pub async fn serve<O: Outside>(
    mut endpoints: watch::Receiver<Vec<Endpoint>>,
    host: String,
    service: Service<O>,
    link: watch::Sender<Link>,
    stopping: Stopping,
) {
    let (mut pause, mut turn) = (PAUSE.0, 0);
    while !stopping.taking.is_cancelled() {
        let known = endpoints.borrow_and_update().clone();
        let Some(endpoint) = known.get(turn % known.len().max(1)) else {
            link.send_replace(Link::None);
            tokio::select! {
                changed = endpoints.changed() => if changed.is_err() { return },
                () = stopping.taking.cancelled() => return,
            }
            continue;
        };
        link.send_replace(Link::Down);
        let (mut stood, parting) = (false, stopping.child());
        let ended = {
            let session = session(endpoint, &host, &service, &link, &parting, &mut stood);
            tokio::pin!(session);
            tokio::select! {
                ended = &mut session => ended,
                Ok(()) = endpoints.changed() => {
                    parting.taking.cancel();
                    parting.telling.cancel();
                    session.await
                }
            }
        };
        link.send_replace(Link::Down);
        if stopping.taking.is_cancelled() {
            return;
        }
        if parting.taking.is_cancelled() {
            tracing::info!("the brokers have changed");
            (pause, turn) = (PAUSE.0, 0);
            continue;
        }
        // One that stood is there: if it ended for a message, the others are not to wait for that.
        if stood {
            pause = PAUSE.0;
        }
        let cause = std::error::Error::source(&ended).map(ToString::to_string);
        // The endpoint is named by number: its URI holds a password.
        tracing::warn!(endpoint = turn % known.len() + 1, reason = %ended, cause, next = ended.next(), "no broker");
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            // What is new is not to wait for what was there before.
            Ok(()) = endpoints.changed() => (pause, turn) = (PAUSE.0, usize::MAX),
            () = stopping.taking.cancelled() => return,
        }
        (pause, turn) = ((pause * 2).min(PAUSE.1), turn.wrapping_add(1));
    }
}

/// Between half and the whole, so that nodes do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause / 2 + pause / 2 * (random % 1000) / 1000
}

/// One session with one broker. It does not return `Ok`: it ends for a reason. `stood` tells whether
/// it got as far as to serve.
async fn session<O: Outside>(
    endpoint: &Endpoint,
    host: &str,
    service: &Service<O>,
    link: &watch::Sender<Link>,
    stopping: &Stopping,
    stood: &mut bool,
) -> Ended {
    let opening = async {
        let inward = connect(endpoint, host, Side::In).await?;
        let outward = connect(endpoint, host, Side::Out).await?;
        let replies = Replies::open(endpoint, host).await?;
        let outbox = Outbox::open(outward, replies).await?;
        Session::open(inward, outbox, host, service).await
    };
    let opened = tokio::select! {
        () = stopping.taking.cancelled() => return Ended::Shutdown,
        opened = tokio::time::timeout(CONNECT_PATIENCE, opening) => match opened {
            Err(_) => return Ended::Connect,
            Ok(opened) => opened,
        },
    };
    let session = match opened {
        Err(ended) => return ended,
        Ok(session) => session,
    };
    *stood = true;
    link.send_replace(Link::Up);
    tracing::info!(host, "broker connected");
    let ended = session.serve(stopping).await;
    session.part().await;
    ended
}

/// What a connection is for.
#[derive(Debug, Clone, Copy)]
enum Side {
    In,
    Out,
    Replies,
}

async fn connect(endpoint: &Endpoint, host: &str, side: Side) -> Result<Connection, Ended> {
    let (side, frame_max) = match side {
        Side::In => ("in", wire::FRAME_IN),
        Side::Out => ("out", wire::FRAME_OUT),
        Side::Replies => ("replies", wire::FRAME_OUT),
    };
    let name: LongString = format!("ostler-host-agent {host} {side}").into();
    let properties = ConnectionProperties::default().with_connection_name(name);
    let connected = wire::connect(uri(endpoint), properties, frame_max).await;
    connected.map_err(amqp("connect to the broker"))
}

/// A broker in the library's words; nobody's login is the broker's own for its own machine.
fn uri(endpoint: &Endpoint) -> AMQPUri {
    let Endpoint { tls, user, password, host, port, vhost, heartbeat } = endpoint.clone();
    let userinfo = match (user, password) {
        (Some(username), Some(word)) => AMQPUserInfo { username, password: String::clone(&word) },
        (None | Some(_), None) | (None, Some(_)) => AMQPUserInfo::default(),
    };
    let heartbeat = Some(heartbeat.unwrap_or(HEARTBEAT));
    AMQPUri {
        scheme: if tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority { userinfo, host, port },
        vhost,
        query: AMQPQueryString { heartbeat, ..AMQPQueryString::default() },
    }
}

/// Part from a broker. One that does not answer is left without a word.
async fn close(connection: &Connection) {
    let closing = connection.close(200, "bye".into());
    let _ = tokio::time::timeout(PARTING, closing).await;
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    #[test]
    fn a_refused_login_is_told_with_what_to_check() {
        let kind = AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED);
        let error = AMQPError::new(kind, "ACCESS_REFUSED - Login was refused".into());
        let ended = Ended::of("connect", ErrorKind::ProtocolError(error).into());
        assert!(matches!(ended, Ended::Denied { .. }), "{ended}");
        assert!(ended.next().unwrap().contains("password"));
    }

    #[test]
    fn the_library_is_told_what_was_read() {
        let uri = uri(&"amqps://ostler:a%23b@[::1]/".parse().unwrap());
        assert_eq!((uri.vhost.as_str(), uri.authority.host.as_str()), ("/", "::1"));
        assert_eq!((uri.scheme, uri.authority.port), (AMQPScheme::AMQPS, 5671));
        let AMQPUserInfo { username, password } = uri.authority.userinfo;
        assert_eq!((username.as_str(), password.as_str()), ("ostler", "a#b"));
        assert_eq!(uri.query.heartbeat, Some(HEARTBEAT));
    }

    #[test]
    fn nodes_do_not_come_back_all_at_once() {
        let pauses: Vec<_> = (0..20).map(|_| jittered(PAUSE.1)).collect();
        assert!(pauses.iter().all(|pause| (PAUSE.1 / 2..=PAUSE.1).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
