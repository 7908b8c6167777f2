//! Guests that behave, and guests that do not, over real sockets and the hypervisor in memory.

mod agent;
mod hostile;
mod ostler;
mod stock;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::guest::GuestState;
use ostler_protocol::rpc::values::InstanceId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::settings::{GuestSettings, Pace};
use super::{Error, Guests};
use crate::hypervisor::Hypervisor as _;
use crate::hypervisor::fake::Fake;
use crate::hypervisor::spec::sample;

/// The longest any test waits for what must happen.
const SOON: Duration = Duration::from_secs(20);

/// A node with guests on it.
struct Node {
    fake: Fake,
    guests: Guests<Fake>,
}

impl Node {
    fn new() -> Self {
        Self::with(Duration::from_secs(10))
    }

    /// Guests have so long for an answer.
    fn with(answer_timeout: Duration) -> Self {
        let ms = Duration::from_millis;
        let pace = Pace {
            reopen: ms(5),
            reopen_most: ms(50),
            penalty: ms(50),
            penalty_most: ms(200),
            doubt: ms(100),
            probe: ms(20),
            probe_most: ms(100),
        };
        let settings = GuestSettings {
            quiet: ms(100),
            grace: ms(50),
            pace,
            ..GuestSettings::new(answer_timeout)
        };
        let fake = Fake::new();
        let guests = Guests::new(Arc::new(fake.clone()), settings, CancellationToken::new());
        Self { fake, guests }
    }

    /// A new instance that runs, its port at `socket`.
    fn instance(&self, socket: PathBuf) -> InstanceId {
        let id = InstanceId::random();
        self.guests.running(id, socket);
        id
    }

    /// The same, which the hypervisor knows of; it has no port of Ostler's.
    async fn stock(&self) -> InstanceId {
        let spec = sample();
        let id = spec.id();
        self.fake.define(&spec).await.unwrap();
        self.fake.start(id).await.unwrap();
        id
    }

    /// Waits until the guest is in this state.
    async fn is(&self, id: InstanceId, state: GuestState) {
        let mut standing = self.guests.entry(id).unwrap().standing();
        let reached = timeout(SOON, standing.wait_for(|standing| standing.state() == state)).await;
        if reached.is_err() {
            panic!("the guest is {:?} and never became {state:?}", self.guests.summary(id));
        }
    }
}

fn why(error: Error) -> String {
    let Error::Unavailable { why, .. } = error else { panic!("{error:?}") };
    why
}
