//! Where it is measured: the services and the image of the whole run, and a node with guests that
//! are gone when it is dropped, also on Ctrl-C.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::guest_image::{GuestImage, Mode};
use ostler_tests::process::{Run, command};
use ostler_tests::rpc::{Call, Client, Events};
use ostler_tests::services::{Broker, Libvirt, SYSTEM};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::settings::Settings;

/// How long an operation or a boot may take: there may be no KVM, and other work on the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Guests that start at a time.
const AT_A_TIME: usize = 4;

/// What one run shares.
#[derive(Debug)]
pub(crate) struct Lab {
    /// How much is measured.
    pub(crate) settings: Settings,
    /// The broker.
    pub(crate) broker: Broker,
    /// The image.
    pub(crate) image: GuestImage,
    _libvirt: Libvirt,
}

impl Lab {
    /// Have all of it.
    ///
    /// # Errors
    /// If a service is missing, or a program is not built.
    pub(crate) async fn open(settings: Settings) -> Result<Self> {
        let (libvirt, broker) = tokio::join!(Libvirt::ensure(), Broker::ensure());
        let (libvirt, broker) = (libvirt?, broker?);
        Ok(Self { settings, broker, image: GuestImage::bake().await?, _libvirt: libvirt })
    }
}

/// A node, its network, its images, and what runs on it.
#[derive(Debug)]
pub(crate) struct Stand {
    // before the agent: their domains are ended while their folders are there
    guests: Guests,
    /// The agent.
    pub(crate) agent: HostAgent,
    client: Client,
    /// MiB for each instance.
    memory: u64,
}

/// Domains and a bridge, taken away when dropped, whatever the agent thinks of them.
#[derive(Debug)]
struct Guests {
    ids: Vec<Uuid>,
    bridge: String,
    uri: String,
}

/// An instance that was booted.
#[derive(Debug)]
pub(crate) struct Booted {
    /// Its id.
    pub(crate) id: Uuid,
    /// The operation, over.
    pub(crate) operation: Value,
}

impl Booted {
    /// libvirt's name of it.
    pub(crate) fn domain(&self) -> String {
        domain(self.id)
    }
}

fn domain(id: Uuid) -> String {
    format!("ostler-{id}")
}

impl Stand {
    /// A node on the lab's broker, with the image in these modes.
    ///
    /// # Errors
    /// If the agent does not start, or refuses something.
    pub(crate) async fn open(lab: &Lab, modes: &[Mode]) -> Result<Self> {
        Self::open_on(lab, modes, SYSTEM, "").await
    }

    /// The same on this libvirt, with more in its configuration.
    ///
    /// # Errors
    /// As that.
    pub(crate) async fn open_on(lab: &Lab, modes: &[Mode], uri: &str, more: &str) -> Result<Self> {
        let setup = Setup {
            // more small guests than processors
            more: format!(
                "[hypervisor]\nuri = \"{uri}\"\n\
                 [admission]\ncpu_ratio = 1000\nmemory_reserve = 0\n{more}"
            ),
            ..Setup::with_broker(lab.broker.uri())
        };
        let agent = HostAgent::start(setup).await?;
        let client = agent.client().await.map_err(Error::call("connect"))?;
        let short = &Uuid::new_v4().simple().to_string()[..8];
        let guests =
            Guests { ids: Vec::new(), bridge: format!("obench{short}"), uri: uri.to_owned() };
        let bridge = guests.bridge.clone();
        let mut stand = Self { guests, agent, client, memory: lab.settings.memory };
        stand.change("network.ensure", json!({"name": "bench", "bridge": bridge})).await?;
        let image = &lab.image;
        stand.import("kernel", &image.kernel, "kernel", json!({})).await?;
        stand.import("initramfs", &image.initramfs, "ramdisk", json!({})).await?;
        for mode in modes {
            let properties = json!({
                "kernel": "kernel", "ramdisk": "initramfs", "command_line": image.cmdline(*mode),
            });
            stand.import(mode.word(), &image.root, "qcow2", properties).await?;
        }
        Ok(stand)
    }

    async fn import(
        &mut self,
        name: &str,
        source: &std::path::Path,
        format: &str,
        properties: Value,
    ) -> Result<()> {
        let import =
            json!({"name": name, "source": source, "format": format, "properties": properties});
        self.change("image.import", import).await.map(drop)
    }

    /// Ask for a change and wait until it is done; the operation.
    ///
    /// # Errors
    /// If it is refused or fails.
    pub(crate) async fn change(&mut self, method: &str, params: Value) -> Result<Value> {
        let accepted = self.call(method, params).await?;
        self.finished(accepted).await
    }

    /// Ask.
    ///
    /// # Errors
    /// If the agent does not answer, or refuses.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.client.call(method, params).await.map_err(Error::call(method))
    }

    /// Wait until an operation has succeeded.
    ///
    /// # Errors
    /// If it fails.
    pub(crate) async fn finished(&mut self, operation: Value) -> Result<Value> {
        let over = self.over(operation).await?;
        if over["state"] == "succeeded" {
            return Ok(over);
        }
        Err(Error::Operation {
            kind: over["kind"].as_str().unwrap_or("an operation").to_owned(),
            why: over["error"].to_string(),
        })
    }

    /// Wait for the end of an operation, whatever that is.
    ///
    /// # Errors
    /// If the agent does not tell.
    pub(crate) async fn over(&mut self, mut operation: Value) -> Result<Value> {
        while matches!(operation["state"].as_str(), Some("queued" | "running")) {
            let wait = json!({"id": operation["id"], "timeout": 60_000});
            let call = Call::new("operation.wait", wait).patience(PATIENCE);
            operation = self.client.send(&call).await.map_err(Error::call("operation.wait"))?;
        }
        Ok(operation)
    }

    /// Boot an instance and wait until the agent says that it runs.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) async fn boot(&mut self, image: Mode) -> Result<Booted> {
        let (id, accepted) = self.ask_for_boot(image).await?;
        Ok(Booted { id, operation: self.finished(accepted).await? })
    }

    /// Boot so many until they are ready, a few at a time: their processors are emulated.
    ///
    /// # Errors
    /// If one is not.
    pub(crate) async fn boot_many(&mut self, image: Mode, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let few = left.min(AT_A_TIME);
            let mut accepted = Vec::with_capacity(few);
            for _ in 0..few {
                accepted.push(self.ask_for_boot(image).await?);
            }
            for (id, operation) in accepted {
                self.finished(operation).await?;
                self.ready(id).await?;
            }
            left -= few;
            crate::tell(&format!("{} of {count} are ready", count - left));
        }
        Ok(())
    }

    /// Ask for so many boots at once, through the broker; each with its accepted operation.
    ///
    /// # Errors
    /// If one is refused.
    pub(crate) async fn ask_for_boots(
        &mut self,
        image: Mode,
        count: usize,
    ) -> Result<Vec<(Uuid, Value)>> {
        let mut client = self.agent.amqp_client().await.map_err(Error::call("connect"))?;
        let Client::Amqp(amqp) = &mut client else {
            return Err(Error::Nothing { what: "a client through the broker".to_owned() });
        };
        let boots: Vec<(Uuid, Value)> = (0..count).map(|_| self.boot_params(image)).collect();
        let calls: Vec<Call> = boots
            .iter()
            .map(|(_, params)| Call::new("instance.boot", params.clone()).patience(PATIENCE))
            .collect();
        let answers = amqp.send_all(&calls).await.map_err(Error::call("instance.boot"))?;
        boots
            .iter()
            .zip(answers)
            .map(|((id, _), answer)| Ok((*id, answer.map_err(Error::call("instance.boot"))?)))
            .collect()
    }

    async fn ask_for_boot(&mut self, image: Mode) -> Result<(Uuid, Value)> {
        let (id, boot) = self.boot_params(image);
        Ok((id, self.call("instance.boot", boot).await?))
    }

    fn boot_params(&mut self, image: Mode) -> (Uuid, Value) {
        let id = Uuid::new_v4();
        // before it is asked for: the answer may be lost
        self.guests.ids.push(id);
        let boot = json!({
            "id": id, "name": format!("bench-{}", &id.simple().to_string()[..8]),
            "image": image.word(), "vcpus": 1, "memory": self.memory << 20,
            "networks": [{"network": "bench"}],
        });
        (id, boot)
    }

    /// Delete it and wait until it is gone.
    ///
    /// # Errors
    /// If it cannot be.
    pub(crate) async fn delete(&mut self, id: Uuid) -> Result<()> {
        self.change("instance.delete", json!({"id": id, "mode": "hard", "ignore_error": true}))
            .await?;
        self.guests.ids.retain(|known| *known != id);
        Ok(())
    }

    /// What the node says of its guests, from now on.
    ///
    /// # Errors
    /// If the broker refuses.
    pub(crate) async fn guest_events(&self) -> Result<News> {
        let client = self.agent.amqp_client().await.map_err(Error::call("connect"))?;
        let Client::Amqp(amqp) = &client else {
            return Err(Error::Nothing { what: "a client through the broker".to_owned() });
        };
        let pattern = format!("guest.{}.#", self.agent.host());
        let events = amqp.events(&pattern).await.map_err(Error::call("events"))?;
        Ok(News { events, _client: client })
    }

    /// Wait until the agent in the guest answers the host agent.
    ///
    /// # Errors
    /// If it does not in time.
    pub(crate) async fn ready(&mut self, id: Uuid) -> Result<()> {
        let wait = json!({"id": id, "wait": 60_000});
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            let call = Call::new("guest.report", wait.clone()).patience(PATIENCE);
            match self.client.send(&call).await {
                Ok(report) if report["state"] == "ready" => return Ok(()),
                Ok(_) | Err(_) if std::time::Instant::now() < until => {}
                Ok(report) => {
                    return Err(Error::Garbled {
                        what: "the report of a guest",
                        text: report.to_string(),
                    });
                }
                Err(source) => return Err(Error::call("guest.report")(source)),
            }
        }
    }

    /// Stop the agent, leaving its guests to themselves.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) async fn stop_agent(&mut self) -> Result<()> {
        self.agent.stop().await?;
        Ok(())
    }

    /// Start it again.
    ///
    /// # Errors
    /// If it does not come back.
    pub(crate) async fn start_agent(&mut self) -> Result<()> {
        self.agent.launch()?;
        self.agent.ready().await?;
        self.connect().await
    }

    /// Connect anew, to an agent that was started again.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn connect(&mut self) -> Result<()> {
        self.client = self.agent.client().await.map_err(Error::call("connect"))?;
        Ok(())
    }

    /// The socket of an instance's Ostler port.
    pub(crate) fn port(&self, id: Uuid) -> PathBuf {
        self.agent.run_dir().join("guest").join(format!("{id}.sock"))
    }

    /// Delete what is left by the agent's own means, and take what it left on the broker.
    ///
    /// # Errors
    /// If something stays.
    pub(crate) async fn close(mut self, lab: &Lab) -> Result<()> {
        for id in self.guests.ids.clone() {
            self.delete(id).await?;
        }
        self.agent.stop().await?;
        lab.broker.forget_host(self.agent.host()).await?;
        Ok(())
    }
}

/// Events about the guests of a node.
#[derive(Debug)]
pub(crate) struct News {
    events: Events,
    _client: Client,
}

impl News {
    /// Wait until this guest is ready.
    ///
    /// # Errors
    /// If it is not in time.
    pub(crate) async fn ready(&mut self, id: Uuid) -> Result<()> {
        let id = id.to_string();
        let fits = |event: &Value| {
            let guest = &event["news"]["guest"];
            guest["id"] == id.as_str() && guest["guest"]["state"] == "ready"
        };
        self.events.next(PATIENCE, fits).await.map(drop).map_err(Error::call("guest event"))
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        let quiet = |program: &str, args: &[&str]| {
            let mut run = command(program);
            run.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // what is gone already is refused, which is as well
            let _gone = run.status();
        };
        for id in &self.ids {
            let domain = domain(*id);
            quiet("virsh", &["-q", "-c", &self.uri, "destroy", &domain]);
            quiet("virsh", &["-q", "-c", &self.uri, "undefine", "--managed-save", &domain]);
        }
        quiet("ip", &["link", "del", &self.bridge]);
    }
}

/// What virsh prints.
///
/// # Errors
/// If it refuses.
pub(crate) async fn virsh(args: &[&str]) -> Result<String> {
    Ok(Run::new("virsh").args(["-q", "-c", "qemu:///system"]).args(args).stdout().await?)
}
