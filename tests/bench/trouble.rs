//! The troubles whose neighbours are asked in `isolation`, made and unmade.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_tests::rpc::{Call, Client};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::by_hand::Qemu;
use crate::error::{Error, Result};
use crate::stand::{PATIENCE, Stand};

/// Those who ask a hung guest, each on a connection of its own.
const ASKERS: usize = 4;
/// Imports from a server that says nothing: more than are begun at a time.
const IMPORTS: usize = 3;

/// A trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A guest that hangs is asked things.
    HungGuest,
    /// An operation waits in libvirt for a QEMU that hangs.
    HungJob,
    /// Images are imported from a server that accepts and says nothing.
    DeadSource,
}

/// A trouble that is there.
pub(crate) struct Stuck {
    /// Goes on when dropped.
    qemu: Option<Stopped>,
    /// Who asks meanwhile.
    asking: JoinSet<()>,
    operations: Vec<Value>,
    _server: Option<TcpListener>,
}

/// A process that was stopped. It goes on when this is dropped.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _already_gone = kill(self.0, Signal::SIGCONT);
    }
}

impl Trouble {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::HungGuest, Self::HungJob, Self::DeadSource];

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HungGuest => "a hung guest",
            Self::HungJob => "a hung libvirt job",
            Self::DeadSource => "a dead source",
        }
    }

    /// Make it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) async fn begin(self, stand: &mut Stand, victim: Uuid) -> Result<Stuck> {
        let mut stuck =
            Stuck { qemu: None, asking: JoinSet::new(), operations: Vec::new(), _server: None };
        let it = json!({"id": victim});
        match self {
            Self::HungGuest => {
                stuck.qemu = Some(stopped(victim)?);
                for _ in 0..ASKERS {
                    let client = stand.agent.client().await.map_err(Error::call("connect"))?;
                    stuck.asking.spawn(ask(client, it.clone()));
                }
            }
            Self::HungJob => {
                stuck.qemu = Some(stopped(victim)?);
                stuck.operations.push(stand.call("instance.pause", it.clone()).await?);
                let client = stand.agent.client().await.map_err(Error::call("connect"))?;
                stuck.asking.spawn(look(client, it));
            }
            Self::DeadSource => {
                let server = TcpListener::bind(("127.0.0.1", 0));
                let server = server.map_err(Error::io("listening"))?;
                let port = server.local_addr().map_err(Error::io("listening"))?.port();
                stuck._server = Some(server);
                for n in 0..IMPORTS {
                    let import = json!({
                        "name": format!("dead-{n}-{}", &Uuid::new_v4().simple().to_string()[..8]),
                        "source": format!("http://127.0.0.1:{port}/{n}.qcow2"), "format": "qcow2",
                        "sha256": "00".repeat(32),
                    });
                    stuck.operations.push(stand.call("image.import", import).await?);
                }
            }
        }
        Ok(stuck)
    }
}

impl Stuck {
    /// Unmake it; over when what hung has ended.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub(crate) async fn end(mut self, stand: &mut Stand) -> Result<()> {
        drop(self.qemu.take());
        self.asking.shutdown().await;
        for operation in std::mem::take(&mut self.operations) {
            if operation["kind"] == "image.import" {
                let cancel = json!({"id": operation["id"]});
                stand.call("operation.cancel", cancel).await?;
            }
            let over = stand.over(operation).await?;
            if over["kind"] == "instance.pause" && over["state"] == "succeeded" {
                let id = over["subject"]["instance"].clone();
                stand.change("instance.unpause", json!({"id": id})).await?;
            }
        }
        Ok(())
    }
}

/// Ask the guest again and again; each question is given up by the agent, in its time.
async fn ask(mut client: Client, it: Value) {
    loop {
        let call = Call::new("guest.time", it.clone()).patience(PATIENCE);
        let _given_up = client.send(&call).await;
        // if it is refused at once, asking is not to be the load
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Look at the instance again and again: questions to libvirt that wait for the job.
async fn look(mut client: Client, it: Value) {
    loop {
        let call = Call::new("instance.diagnostics", it.clone()).patience(PATIENCE);
        let _given_up = client.send(&call).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Stop the QEMU of an instance.
fn stopped(id: Uuid) -> Result<Stopped> {
    let pid = Pid::from_raw(Qemu::of(id)?.pid);
    kill(pid, Signal::SIGSTOP).map_err(|errno| Error::io("stopping QEMU")(errno.into()))?;
    Ok(Stopped(pid))
}
