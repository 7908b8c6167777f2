//! The ways to a node: its UNIX socket, or a broker.
//!
//! A [`Link`] carries one request at a time and brings back its response; it keeps its connection
//! between requests and knows nothing of what they say. Sending again after a loss is the
//! [`client`](crate::client)'s part, so a link that failed is dropped, never repaired.

mod amqp;
mod socket;

use std::path::PathBuf;
use std::time::Duration;

use ostler_protocol::rpc::envelope::{Id, Response};
use zeroize::Zeroizing;

use crate::target::Target;

/// The largest response taken. A node has no reason to send more, and this program does not grow
/// at its will.
const RESPONSE_LIMIT: usize = 16 << 20;

/// A request, ready to be sent, as often as needed.
pub(crate) struct Message {
    /// The request's id, which the response repeats.
    pub(crate) id: String,
    /// The idempotency key of a change.
    pub(crate) key: Option<String>,
    /// The JSON-RPC request. Wiped when dropped: it may carry a password.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// A connection to a node.
pub(crate) enum Link {
    /// To its socket.
    Socket(socket::SocketLink),
    /// Through a broker.
    Amqp(Box<amqp::AmqpLink>),
}

/// Why a request brought no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// No agent behind the socket.
    #[error("the host agent cannot be reached at {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Not for this user.
    #[error("this user may not connect to {path}")]
    SocketDenied {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// No broker.
    #[error("the broker cannot be reached at {address}")]
    Broker {
        /// Where it should be.
        address: String,
        /// Why not.
        source: lapin::Error,
    },
    /// A broker that does not let us in.
    #[error("the broker at {address} refused the login or the virtual host")]
    BrokerDenied {
        /// Where it is.
        address: String,
        /// Why not.
        source: lapin::Error,
    },
    /// A broker no host agent ever spoke to.
    #[error(
        "the broker at {address} has no exchange {exchange}: no host agent has ever connected to it"
    )]
    NoExchange {
        /// Where it is.
        address: String,
        /// What is missing.
        exchange: &'static str,
    },
    /// A broker that host's agent never spoke to.
    #[error(
        "no host agent has ever declared a queue for host {host} at the broker at {address}: the \
         request was returned"
    )]
    NoQueue {
        /// The node asked for.
        host: String,
        /// Where the broker is.
        address: String,
    },
    /// The broker could not keep the request.
    #[error(
        "the broker did not take the request: the queue of host {host} is full or has no quorum"
    )]
    NotTaken {
        /// The node asked for.
        host: String,
    },
    /// The connection broke.
    #[error("the connection was lost before the answer came")]
    Lost(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// Nothing came.
    #[error("there was no answer within {:.1} s", .0.as_secs_f32())]
    Silent(Duration),
    /// Too much came.
    #[error("the answer is larger than {} MiB", RESPONSE_LIMIT >> 20)]
    TooLarge,
    /// Something else came.
    #[error("the answer is not a JSON-RPC response")]
    Garbled(#[source] Option<serde_json::Error>),
}

/// What to do about a request that brought no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Connect anew and send again: this passes.
    SendAgain,
    /// Tell the operator.
    GiveUp,
}

impl TransportError {
    /// Whether this passes by itself. Someone who never got through is told at once: the agent is
    /// probably not running. Who had got through before waits for it to come back.
    pub(crate) fn remedy(&self, got_through_before: bool) -> Remedy {
        match self {
            Self::Lost(_) | Self::NotTaken { .. } | Self::Silent(_) => Remedy::SendAgain,
            Self::Socket { .. } | Self::Broker { .. } if got_through_before => Remedy::SendAgain,
            Self::Socket { .. }
            | Self::Broker { .. }
            | Self::SocketDenied { .. }
            | Self::BrokerDenied { .. }
            | Self::NoExchange { .. }
            | Self::NoQueue { .. }
            | Self::TooLarge
            | Self::Garbled(_) => Remedy::GiveUp,
        }
    }

    /// Whether it is certain that the node does not have the request.
    pub(crate) fn came_back(&self) -> bool {
        match self {
            Self::Socket { .. }
            | Self::SocketDenied { .. }
            | Self::Broker { .. }
            | Self::BrokerDenied { .. }
            | Self::NoExchange { .. }
            | Self::NoQueue { .. }
            | Self::NotTaken { .. } => true,
            Self::Lost(_) | Self::Silent(_) | Self::TooLarge | Self::Garbled(_) => false,
        }
    }

    /// Whether the node, or the broker before it, is not there at all.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Socket { .. } | Self::Broker { .. } | Self::Lost(_) | Self::NotTaken { .. } => {
                true
            }
            Self::SocketDenied { .. }
            | Self::BrokerDenied { .. }
            | Self::NoExchange { .. }
            | Self::NoQueue { .. }
            | Self::Silent(_)
            | Self::TooLarge
            | Self::Garbled(_) => false,
        }
    }

    /// What the operator can do.
    pub(crate) fn next(&self) -> Option<&'static str> {
        match self {
            Self::Socket { .. } => Some(
                "see whether the agent runs: systemctl status ostler-host-agent; or name another \
                 socket with --socket",
            ),
            Self::SocketDenied { .. } => Some("run this as root or as a member of group ostler"),
            Self::Broker { .. } => Some("check the broker's address, and that it runs"),
            Self::BrokerDenied { .. } => {
                Some("check user, password, virtual host and permissions at the broker")
            }
            Self::NoExchange { .. } => {
                Some("check the broker's address and virtual host, and the host agent's log")
            }
            Self::NoQueue { .. } => {
                Some("check the spelling of --host, and [broker] in that host's configuration")
            }
            Self::NotTaken { .. } => Some("check the broker's queues and its quorum"),
            Self::Silent(_) => Some("see whether the host agent runs and is not overloaded"),
            Self::Garbled(_) | Self::TooLarge => Some("check that a host agent listens there"),
            Self::Lost(_) => None,
        }
    }
}

impl Link {
    /// Connect, within a time.
    pub(crate) async fn open(target: &Target, within: Duration) -> Result<Self, TransportError> {
        let too_late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        match target {
            Target::Socket(path) => {
                match tokio::time::timeout(within, socket::SocketLink::open(path)).await {
                    Ok(link) => link.map(Self::Socket),
                    Err(_) => {
                        Err(TransportError::Socket { path: path.clone(), source: too_late() })
                    }
                }
            }
            Target::Broker(broker) => {
                match tokio::time::timeout(within, amqp::AmqpLink::open(broker)).await {
                    Ok(link) => link.map(Box::new).map(Self::Amqp),
                    Err(_) => Err(TransportError::Broker {
                        address: broker.address.clone(),
                        source: too_late().into(),
                    }),
                }
            }
        }
    }

    /// Send a request and wait for its response. `keep` is how long the request is worth anything:
    /// a broker drops it after that. A link that failed, or whose future was dropped, must be
    /// dropped too: a late response would be taken for that of the next request.
    pub(crate) async fn exchange(
        &mut self,
        message: &Message,
        keep: Duration,
    ) -> Result<Response, TransportError> {
        match self {
            Self::Socket(link) => link.exchange(message).await,
            Self::Amqp(link) => link.exchange(message, keep).await,
        }
    }

    /// Part in good order.
    pub(crate) async fn close(self) {
        match self {
            Self::Socket(_) => {}
            Self::Amqp(link) => link.close().await,
        }
    }
}

/// Read a response and see that it answers this request.
fn read_response(bytes: &[u8], message: &Message) -> Result<Response, TransportError> {
    let response: Response =
        serde_json::from_slice(bytes).map_err(|error| TransportError::Garbled(Some(error)))?;
    match &response.id {
        Some(Id::Text(id)) if *id == message.id => Ok(response),
        // A request that could not be read has no id to repeat.
        None if response.error.is_some() => Ok(response),
        Some(Id::Text(_) | Id::Number(_)) | None => Err(TransportError::Garbled(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message { id: "a".into(), key: None, body: Zeroizing::new(Vec::new()) }
    }

    #[test]
    fn only_the_answer_to_this_request_is_taken() {
        for (text, taken) in [
            (r#"{"jsonrpc":"2.0","id":"a","result":1}"#, true),
            (r#"{"jsonrpc":"2.0","id":"b","result":1}"#, false),
            (r#"{"jsonrpc":"2.0","id":7,"result":1}"#, false),
            (r#"{"jsonrpc":"2.0","id":null,"result":1}"#, false),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m","data":{"reason":"parse_error"}}}"#,
                true,
            ),
            ("HTTP/1.1 400 Bad Request", false),
            ("", false),
        ] {
            assert_eq!(read_response(text.as_bytes(), &message()).is_ok(), taken, "{text}");
        }
    }

    #[test]
    fn who_never_got_through_is_told_at_once_and_who_had_waits() {
        let refused = TransportError::Socket {
            path: "/s".into(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        assert_eq!(refused.remedy(false), Remedy::GiveUp);
        assert_eq!(refused.remedy(true), Remedy::SendAgain);
        assert_eq!(TransportError::Lost(None).remedy(false), Remedy::SendAgain);
        assert_eq!(TransportError::TooLarge.remedy(true), Remedy::GiveUp);
    }
}
