//! A lane: a node of its own on which one scenario after the other is tried, and the instance it
//! is tried on.
//!
//! Between two points the instance comes back to where all scenarios begin (ACTIVE, with the
//! user's data on its disk) by ordinary operations, so each point also shows that what the one
//! before it left can be worked with.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_protocol::rpc::operation::Kind;
use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::Run;
use ostler_tests::rpc::{Call, CallError};
use ostler_tests::strangers::{Seen, Strangers};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scenarios::{About, Scenario};
use super::wire::Wire;
use crate::node::{Node, gone};

/// What went wrong, in words.
pub(super) type Wrong = String;

/// What the user wrote on the root disk, and what the images have in its place.
pub(super) const USERS: u8 = 0x5a;
const BLANK: u8 = 0xb1;
const OTHER: u8 = 0xc2;
/// Where on the disk: after what firmware and partition tables use.
const PLACE: &str = "1M";

/// How long the agent may take to come to a point, or to die there.
const REACH: Duration = Duration::from_secs(60);
/// Images that stay.
const IMAGES: [&str; 4] = ["kernel", "ramdisk", "blank", "other"];

/// A node, and what is tried on it.
pub(super) struct Lane {
    // Dropped before its libvirtd.
    pub(super) strangers: Strangers,
    /// How they are to stay.
    pub(super) theirs: Seen,
    pub(super) node: Node,
    pub(super) bridge: String,
    /// The instances there ever were.
    pub(super) ever: Vec<String>,
    /// The tables of nftables before.
    pub(super) tables: std::collections::BTreeSet<String>,
    frailty: Option<Frailty>,
    folder: TempDir,
    held: Option<Held>,
    pub(super) serial: u64,
}

/// By what a node can be harmed from outside.
pub(super) struct Frailty {
    /// Its wire to the broker.
    pub(super) wire: Wire,
    /// The file that tells its clock.
    pub(super) clock: PathBuf,
    pub(super) _folder: TempDir,
}

struct Held {
    id: String,
    guest: Option<Mode>,
}

/// An operation about to be asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: &'static str,
    pub(super) params: Value,
    pub(super) key: String,
    /// What it is about: an instance's id, an image's or a network's name.
    pub(super) subject: String,
    /// The instance as it was; null where it is about none.
    pub(super) before: Value,
    /// The process of its QEMU.
    pub(super) machine: Option<u32>,
}

impl Lane {
    /// A lane with this setup of its node.
    pub(super) async fn with(
        setup: Setup,
        state_size: Option<u64>,
        frailty: Option<Frailty>,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("ostler-bench-").tempdir().unwrap();
        let rules = folder.path().join("rules");
        let mut setup = setup;
        setup.env.push(("OSTLER_FAULTS".to_owned(), format!("@{}", rules.display())));
        setup.more.push_str(
            // Of the common configuration's last table, [admission]: a small disk is all there is.
            "disk_reserve = 0\n\
             [guest]\nshutdown_timeout = 1\nanswer_timeout = 3\n\
             [instances]\nreconcile_interval = 1\n",
        );
        let mut node = Node::on_own_libvirt(setup, state_size).await;
        for (name, byte) in [("blank", BLANK), ("other", OTHER)] {
            let file = folder.path().join(name);
            make_image(&file, byte).await;
            let import = json!({"name": name, "source": file, "format": "qcow2"});
            node.done("image.import", import).await;
        }
        // Its bytes are nobody else's.
        std::fs::write(folder.path().join("import"), node.agent.host().repeat(512)).unwrap();
        let networks = node.ask("network.list", Value::Null).await;
        let bridge = networks[0]["bridge"].as_str().unwrap().to_owned();
        let world = ostler_tests::world::World::look_by(node.uri(), &[]).await.unwrap();
        let (ever, tables) = (Vec::new(), world.tables);
        let state = node.agent.state_dir();
        let folders = [
            state.clone(),
            state.join("images"),
            state.join("instances"),
            node.agent.run_dir().join("guest"),
        ];
        let strangers = Strangers::settle(node.uri(), &folders).await.unwrap();
        let theirs = strangers.look().await.unwrap();
        Self {
            strangers,
            theirs,
            node,
            bridge,
            ever,
            tables,
            frailty,
            folder,
            held: None,
            serial: 0,
        }
    }

    /// By what it can be harmed.
    pub(super) fn frailty(&self) -> Result<&Frailty, Wrong> {
        self.frailty.as_ref().ok_or_else(|| "nothing can harm this lane".to_owned())
    }

    /// Ask for something.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Result<Value, Wrong> {
        let answer = self.node.client.call(method, params).await;
        answer.map_err(|error| format!("{method}: {error}"))
    }

    /// Have a change made.
    pub(super) async fn done(&mut self, method: &str, params: Value) -> Result<Value, Wrong> {
        let operation = self.call(method, params).await?;
        let over = self.over(&operation, REACH * 2).await?;
        match over["state"].as_str() {
            Some("succeeded") => Ok(over),
            Some(_) | None => Err(format!("{method} did not succeed: {}", over["error"])),
        }
    }

    /// Wait for the end of an operation.
    pub(super) async fn over(
        &mut self,
        operation: &Value,
        patience: Duration,
    ) -> Result<Value, Wrong> {
        let (mut now, begun) = (operation.clone(), Instant::now());
        while matches!(now["state"].as_str(), Some("queued" | "running")) {
            if begun.elapsed() > patience {
                return Err(format!("it is not over after {patience:?}: {now}"));
            }
            let wait = json!({"id": operation["id"], "timeout": 5000});
            now = self.call("operation.wait", wait).await?;
        }
        Ok(now)
    }

    /// The instance, once its power state is known.
    pub(super) async fn show(&mut self, id: &str) -> Result<Value, Wrong> {
        let client = &mut self.node.client;
        let shown = poll::until("the power state is known", REACH, async || {
            let shown = client.call("instance.show", json!({"id": id})).await;
            let shown = shown.map_err(|error| error.to_string())?;
            // Of one that is deleted nothing is asked any more.
            let known = shown["power_state"] != "unknown" || shown["vm_state"] == "deleted";
            if known { Ok(shown) } else { Err(shown.to_string()) }
        });
        shown.await.map_err(|error| error.to_string())
    }

    /// Ask for an operation under its key: again, if it was asked for before.
    pub(super) async fn ask(&mut self, asked: &Asked) -> Result<Value, CallError> {
        self.node.client.send(&asked.call()).await
    }

    /// From now on these faults.
    pub(super) fn rules(&mut self, rules: &[String]) {
        self.serial += 1;
        let rules: Vec<String> =
            rules.iter().map(|rule| format!("{rule}|{}", self.serial)).collect();
        // Whole or not at all: the agent reads it whenever it likes.
        let (file, new) = (self.folder.path().join("rules"), self.folder.path().join("rules.new"));
        std::fs::write(&new, rules.join(";")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// Wait until the agent's process is in one of these states, as in `/proc/PID/stat`.
    pub(super) async fn agent_is(&mut self, states: &[char]) -> Result<(), Wrong> {
        let Some(pid) = self.node.agent.pid() else { return Err("no agent runs".to_owned()) };
        let stands = poll::until("the point is reached", REACH, async || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            match state {
                Some(state) if states.contains(&state) => Ok(()),
                state => Err(format!("the agent's process is {state:?}")),
            }
        });
        stands.await.map_err(|error| error.to_string())
    }

    /// Start the agent again after its death.
    pub(super) async fn again(&mut self) -> Result<(), Wrong> {
        let agent = &mut self.node.agent;
        agent.kill().await.map_err(|error| error.to_string())?;
        agent.launch().map_err(|error| error.to_string())?;
        agent.ready().await.map_err(|error| error.to_string())?;
        self.node.client = self.node.agent.client().await.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Have everything as a scenario begins with, and its request.
    pub(super) async fn prepare(&mut self, scenario: &Scenario) -> Result<Asked, Wrong> {
        self.serial += 1;
        let (method, params) = scenario.asked;
        let key = format!("bench-{}", self.serial);
        let mut before = Value::Null;
        let (params, subject) = match scenario.about {
            About::Instance => {
                let id = self.active(scenario.guest).await?;
                for (method, params) in &scenario.first {
                    let shown = self.show(&id).await?;
                    self.done(method, of(&id, params(&shown))).await?;
                    if scenario.kind == Kind::SwapVolume && params(&shown)["name"] == "data" {
                        self.write(&id, USERS).await?;
                    }
                }
                let shown = self.show(&id).await?;
                (of(&id, params(&shown)), id)
            }
            About::NewInstance => {
                self.drop_volumes().await?;
                let mut params = self.new_instance("blank");
                let id = params["id"].as_str().unwrap_or_default().to_owned();
                let to_be = json!({"id": id});
                for (method, params) in &scenario.first {
                    self.done(method, params(&to_be)).await?;
                }
                for (key, value) in (scenario.asked.1)(&to_be).as_object().into_iter().flatten() {
                    params[key] = value.clone();
                }
                (params, id)
            }
            About::Image => {
                self.clear().await?;
                let name = "import".to_owned();
                let source = self.exported();
                let import = json!({"name": name, "source": source, "format": "raw"});
                if scenario.kind == Kind::ImageRemove {
                    self.done("image.import", import).await?;
                    (json!({"name": name}), name)
                } else if scenario.kind == Kind::ImageExport {
                    self.done("image.import", import).await?;
                    let exports = self.exports();
                    let _earlier = std::fs::remove_dir_all(&exports);
                    std::fs::create_dir(&exports).map_err(|error| error.to_string())?;
                    (json!({"name": name, "to": exports.join("image")}), name)
                } else {
                    (import, name)
                }
            }
            About::Volume => self.prepare_volume(scenario).await?,
            About::Port => self.prepare_port(scenario).await?,
            About::Network => self.prepare_network(scenario, &mut before).await?,
        };
        if scenario.about == About::Instance {
            before = self.show(&subject).await?;
        }
        let machine = self.node.qemu(&subject);
        Ok(Asked { method, params, key, subject, before, machine })
    }

    fn new_instance(&mut self, image: &str) -> Value {
        let id = uuid::Uuid::new_v4().to_string();
        self.node.adopt(&id);
        self.ever.push(id.clone());
        json!({"id": id, "name": "tried", "image": image, "vcpus": 1, "memory": 48u64 << 20,
               "max_vcpus": 2, "max_memory": 96u64 << 20, "networks": [{"network": "lan"}],
               "hostname": "tried"})
    }

    /// An instance that is ACTIVE, with the user's data where nobody is in the guest.
    pub(super) async fn active(&mut self, guest: Option<Mode>) -> Result<String, Wrong> {
        if self.held.as_ref().is_some_and(|held| held.guest != guest) {
            self.drop_instance().await?;
        }
        self.back().await?;
        self.drop_volumes().await?;
        self.drop_ports().await?;
        let id = match &self.held {
            Some(held) => held.id.clone(),
            None => self.boot(guest).await?,
        };
        if guest.is_none() && self.users_byte(&id).await? != Some(USERS) {
            self.done("instance.stop", json!({"id": id, "manner": "hard"})).await?;
            let write = format!("write -P {USERS:#x} {PLACE} 64k");
            let disk = self.instance_file(&id, "disk.qcow2");
            qemu_io(&disk, &write, &[]).await?;
            self.done("instance.start", json!({"id": id})).await?;
        }
        self.clear().await?;
        Ok(id)
    }

    async fn boot(&mut self, guest: Option<Mode>) -> Result<String, Wrong> {
        let params = match guest {
            None => self.new_instance("blank"),
            Some(mode) => {
                let image = self.node.image(mode).await;
                let mut params = self.new_instance(&image);
                params["memory"] = json!(crate::node::MEMORY);
                params["max_memory"] = json!(crate::node::MEMORY * 2);
                params
            }
        };
        let id = params["id"].as_str().unwrap_or_default().to_owned();
        self.done("instance.boot", params).await?;
        match guest {
            None | Some(Mode::None) => {}
            Some(Mode::Ostler) => drop(self.node.report(&id).await),
            Some(_) => {
                let heard = |shown: &Value| shown["guest"]["state"] != "absent";
                self.node.until(&id, "the guest is up", heard).await;
            }
        }
        self.held = Some(Held { id: id.clone(), guest });
        Ok(id)
    }

    /// Bring the instance back to ACTIVE by ordinary operations; one that cannot come back goes.
    async fn back(&mut self) -> Result<(), Wrong> {
        const WAYS: usize = 5;
        for _ in 0..WAYS {
            let Some(held) = &self.held else { return Ok(()) };
            let id = held.id.clone();
            let shown = self.show(&id).await?;
            let only = json!({"id": id});
            if !shown["locked"].is_null() {
                self.done("instance.unlock", only).await?;
                continue;
            }
            let way = match shown["vm_state"].as_str().unwrap_or_default() {
                "active" if shown["power_state"] == "running" => return Ok(()),
                // It was seen while it started; what is seen next is right.
                "active" => {
                    self.runs(&id).await?;
                    continue;
                }
                "stopped" => "instance.start",
                "paused" => "instance.unpause",
                "suspended" => "instance.resume",
                "rescued" => "instance.unrescue",
                "resized" => "instance.revert_resize",
                "shelved" | "shelved_offloaded" => "instance.unshelve",
                "soft-delete" => "instance.restore",
                "error" | "deleted" => {
                    self.drop_instance().await?;
                    continue;
                }
                other => return Err(format!("what is {other}? {shown}")),
            };
            self.done(way, only).await?;
        }
        Err("the instance does not come back to ACTIVE".to_owned())
    }

    async fn runs(&mut self, id: &str) -> Result<(), Wrong> {
        let client = &mut self.node.client;
        let runs = poll::until("it is seen to run", REACH, async || {
            let shown = client.call("instance.show", json!({"id": id})).await;
            let shown = shown.map_err(|error| error.to_string())?;
            let settled = shown["power_state"] == "running" || shown["vm_state"] != "active";
            if settled { Ok(()) } else { Err(shown.to_string()) }
        });
        runs.await.map_err(|error| error.to_string())
    }

    /// Delete what was tried.
    pub(super) async fn drop_instance(&mut self) -> Result<(), Wrong> {
        let Some(held) = self.held.take() else { return Ok(()) };
        self.remove(&held.id).await
    }

    /// Delete an instance, whatever state it is in.
    pub(super) async fn remove(&mut self, id: &str) -> Result<(), Wrong> {
        let shown = self.show(id).await?;
        if shown["vm_state"] == "deleted" {
            return Ok(());
        }
        if !shown["locked"].is_null() {
            self.done("instance.unlock", json!({"id": id})).await?;
        }
        self.done("instance.delete", gone(id)).await.map(drop)
    }

    /// Remove the images that scenarios have made.
    async fn clear(&mut self) -> Result<(), Wrong> {
        let images = self.call("image.list", Value::Null).await?;
        for image in images.as_array().into_iter().flatten() {
            let name = image["name"].as_str().unwrap_or_default();
            if !IMAGES.contains(&name) && !name.starts_with("mini-") {
                self.done("image.remove", json!({"name": name})).await?;
            }
        }
        Ok(())
    }

    /// What an image holds that is exported.
    pub(super) fn exported(&self) -> PathBuf {
        self.folder.path().join("import")
    }

    /// Where images are exported to.
    pub(super) fn exports(&self) -> PathBuf {
        self.folder.path().join("exports")
    }

    /// A file of an instance.
    pub(super) fn instance_file(&self, id: &str, name: &str) -> PathBuf {
        self.node.agent.state_dir().join("instances").join(id).join(name)
    }

    /// What is where the user wrote, on the instance's root disk; none if there is no disk.
    pub(super) async fn users_byte(&self, id: &str) -> Result<Option<u8>, Wrong> {
        byte(&self.instance_file(id, "disk.qcow2")).await
    }

    /// What an image has where the user writes.
    pub(super) fn images_byte(name: &str) -> u8 {
        if name == "other" { OTHER } else { BLANK }
    }
}

impl Asked {
    /// The request.
    pub(super) fn call(&self) -> Call {
        Call::new(self.method, self.params.clone()).key(&self.key)
    }
}

/// Parameters for an instance, unless they are about something else.
fn of(id: &str, mut params: Value) -> Value {
    if params.get("id").is_none() {
        params["id"] = json!(id);
    }
    params
}

/// The byte of a disk where the user writes; none if there is no such disk.
pub(super) async fn byte(disk: &Path) -> Result<Option<u8>, Wrong> {
    if !disk.exists() {
        return Ok(None);
    }
    let shown = qemu_io(disk, &format!("read -v {PLACE} 512"), &["-r", "-U"]).await?;
    let byte = shown.split_whitespace().nth(1).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    byte.map(Some).ok_or_else(|| format!("{} cannot be read: {shown}", disk.display()))
}

async fn qemu_io(disk: &Path, what: &str, more: &[&str]) -> Result<String, Wrong> {
    let run = Run::new("qemu-io").args(["-f", "qcow2", "-c", what]).args(more).args([disk]);
    run.stdout().await.map_err(|error| error.to_string())
}

async fn make_image(file: &Path, byte: u8) {
    let make = Run::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args([file]);
    make.args(["16M"]).stdout().await.unwrap();
    qemu_io(file, &format!("write -P {byte:#x} {PLACE} 64k"), &[]).await.unwrap();
}
