//! All that the demo has on this machine, so that it is cleared away whichever way the play ends.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use ostler_tests::agent::HostAgent;
use ostler_tests::guest_image::GuestImage;
use ostler_tests::process::{Run, tail};
use ostler_tests::services::{Broker, Libvirt};
use ostler_tests::world::World;
use ostler_tests::{Error, Result};
use uuid::Uuid;

/// How long clearing waits for work that had been begun and is better let finish.
const FINISH: Duration = Duration::from_secs(60);

/// Something whose making is kept here rather than in the play, so that an interrupt does not cut
/// it off where nobody would know what it had begun.
pub(crate) enum Had<T> {
    Not,
    Coming(Pin<Box<dyn Future<Output = Result<T>>>>),
    Here(T),
}

impl<T> Had<T> {
    pub(crate) async fn make(
        &mut self,
        work: impl Future<Output = Result<T>> + 'static,
    ) -> Result<()> {
        *self = Self::Coming(Box::pin(work));
        self.settle().await
    }

    pub(crate) async fn settle(&mut self) -> Result<()> {
        let Self::Coming(coming) = self else { return Ok(()) };
        let made = coming.await;
        *self = Self::Not;
        *self = Self::Here(made?);
        Ok(())
    }

    pub(crate) fn get(&self) -> Result<&T> {
        match self {
            Self::Here(thing) => Ok(thing),
            Self::Not | Self::Coming(_) => Err(Error::Missing {
                what: "what an earlier step makes".to_owned(),
                remedy: "the steps are out of order".to_owned(),
            }),
        }
    }
}

/// All that there is to be cleared.
pub(crate) struct Scene {
    pub(crate) libvirt: Had<Libvirt>,
    pub(crate) image: Had<GuestImage>,
    pub(crate) broker: Option<Broker>,
    pub(crate) agent: Option<HostAgent>,
    pub(crate) id: String,
    pub(crate) bridge: String,
    pub(crate) tap: Option<String>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let id = Uuid::new_v4();
        // of the same random bytes: two demos at a time do not meet
        let bridge = format!("br-{}", &id.simple().to_string()[..8]);
        let (libvirt, image) = (Had::Not, Had::Not);
        Self { libvirt, image, broker: None, agent: None, id: id.to_string(), bridge, tap: None }
    }

    /// The end of the host agent's log, if there is one.
    pub(crate) fn log(&self) -> Option<String> {
        self.agent.as_ref().map(|agent| tail(&agent.log(), 25))
    }

    /// What is on the machine of the guest and of its network.
    pub(crate) fn names(&self) -> Vec<String> {
        let tap = self.tap.iter().cloned();
        [self.id.clone(), self.bridge.clone()].into_iter().chain(tap).collect()
    }

    /// Take away what is there, however far the play came.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        // What does not come in time is given up, and dropped.
        let coming = async { tokio::join!(self.libvirt.settle(), self.image.settle()) };
        let _failed_or_late = tokio::time::timeout(FINISH, coming).await;
        if let Some(agent) = &mut self.agent
            && agent.stop().await.is_err()
        {
            agent.kill().await?;
        }
        let mut outcome = Ok(());
        if matches!(self.libvirt, Had::Here(_)) {
            for verb in ["destroy", "undefine"] {
                // usually there is none
                let _none = virsh(&[verb, &self.id]).await;
            }
            if Path::new("/sys/class/net").join(&self.bridge).exists() {
                outcome = Run::new("ip")
                    .args(["link", "delete", "dev", &self.bridge])
                    .stdout()
                    .await
                    .map(drop);
            }
            let left = World::look(&[]).await.map(|world| world.of(&self.names()));
            outcome = outcome.and(left.and_then(nothing));
        }
        if let (Some(agent), Some(broker)) = (self.agent.take(), &self.broker)
            && !broker.is_private()
        {
            outcome = outcome.and(broker.forget_host(agent.host()).await);
        }
        // they stop what they started
        self.broker = None;
        self.image = Had::Not;
        self.libvirt = Had::Not;
        outcome
    }
}

async fn virsh(args: &[&str]) -> Result<String> {
    Run::new("virsh").args(["-q", "-c", "qemu:///system"]).args(args).stdout().await
}

/// There is nothing left.
pub(crate) fn nothing(world: World) -> Result<()> {
    expect(world.is_empty(), "what is left on this machine", &world)
}

/// A claim of the demo's.
pub(crate) fn expect(holds: bool, what: &str, seen: &dyn std::fmt::Display) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Garbled { what: what.to_owned(), text: seen.to_string() })
}
