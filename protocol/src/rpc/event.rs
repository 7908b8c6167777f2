//! Events: what a node tells without being asked, on the topic exchange of
//! [`amqp`](super::amqp::EXCHANGE_EVENTS) with the routing key `<kind>.<host>.<id>`.
//!
//! An event says what is now, not what changed: a listener that missed some is right again with
//! the next. What must not be missed is asked for, with `operation.wait`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::guest::GuestSummary;
use super::instance::{PowerState, Stalled, Status};
use super::operation::Operation;
use super::values::{InstanceId, Timestamp};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct Event<E = Fault> {
    /// The node.
    pub host: String,
    /// When.
    pub time: Timestamp,
    /// What.
    pub news: News<E>,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "News")]
pub enum News<E = Fault> {
    /// An operation moved on.
    Operation(Box<Operation<E>>),
    /// An instance's state changed.
    Instance {
        /// The instance.
        id: InstanceId,
        /// What an operator sees.
        status: Status,
        /// What the hypervisor says.
        power_state: PowerState,
        /// That QEMU itself has paused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stalled: Option<Stalled>,
    },
    /// What is known of a guest changed.
    Guest {
        /// The instance.
        id: InstanceId,
        /// What is known.
        guest: GuestSummary,
    },
}

impl<E> Event<E> {
    /// The routing key: `<kind>.<host>.<id>`.
    pub fn routing_key(&self) -> String {
        match &self.news {
            News::Operation(operation) => format!("operation.{}.{}", self.host, operation.id),
            News::Instance { id, .. } => format!("instance.{}.{id}", self.host),
            News::Guest { id, .. } => format!("guest.{}.{id}", self.host),
        }
    }

    /// The same event with an operation's error in other words.
    pub fn map_error<F>(self, words: impl FnOnce(E) -> F) -> Event<F> {
        let news = match self.news {
            News::Operation(operation) => News::Operation(Box::new(operation.map_error(words))),
            News::Instance { id, status, power_state, stalled } => {
                News::Instance { id, status, power_state, stalled }
            }
            News::Guest { id, guest } => News::Guest { id, guest },
        };
        Event { host: self.host, time: self.time, news }
    }
}
