//! What is on the machine, compared with what the journal says: asked of libvirt, the kernel and
//! the file system, never of the agent.
//!
//! | an instance that is | may have |
//! |---|---|
//! | ACTIVE, PAUSED, SHUTOFF, SHELVED, SOFT_DELETED | a domain, `disk.qcow2`, `config.img`, the console's log |
//! | SUSPENDED | also libvirt's file of its memory |
//! | RESCUE | also `disk.rescue.qcow2` |
//! | VERIFY_RESIZE | also `disk.aside.qcow2` |
//! | ERROR | any of these |
//! | SHELVED_OFFLOADED, DELETED, ERROR without ever having been up | nothing |
//!
//! One whose power state is `running` or `paused` has a QEMU, its taps and its sockets besides, and
//! no other one has. The image cache holds the files of the images that are listed, and the bases
//! of the disks there are. There is nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_tests::process::Run;
use ostler_tests::strangers;
use ostler_tests::world::World;
use serde_json::{Value, json};

use super::lane::{Lane, Wrong};

/// How long what is swept afterwards may take to go.
const PATIENCE: Duration = Duration::from_secs(15);
/// What there may be and must be, each by its name.
#[derive(Debug, Default)]
struct Wanted {
    domains: BTreeSet<String>,
    machines: BTreeSet<String>,
    taps: BTreeSet<String>,
    saves: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    /// What there may be, and need not.
    maybe: BTreeSet<PathBuf>,
}

impl Lane {
    /// What is there and should not be, and what is not there and should be; nothing, if all is
    /// well. What the agent sweeps afterwards gets the time for that.
    pub(super) async fn audit(&mut self) -> Result<Vec<Wrong>, Wrong> {
        let begun = std::time::Instant::now();
        let mut found = self.look().await?;
        while !found.is_empty() && begun.elapsed() < PATIENCE {
            // Told by a change of the node rather than by time, the next look would be too early.
            let wait = json!({"id": uuid::Uuid::new_v4(), "timeout": 100});
            let _nothing = self.call("operation.wait", wait).await;
            found = self.look().await?;
        }
        Ok(found)
    }

    async fn look(&mut self) -> Result<Vec<Wrong>, Wrong> {
        let saves = self.node.own().saves();
        let mut found = Vec::new();
        let mut wanted = Wanted::default();
        let mut shown = Vec::new();
        for filter in [json!({}), json!({"status": "SOFT_DELETED"})] {
            let listed = self.call("instance.list", filter).await?;
            shown.extend(listed.as_array().cloned().unwrap_or_default());
        }
        for instance in &shown {
            self.wanted_of(instance, &saves, &mut wanted, &mut found).await?;
        }
        let images = self.node.agent.state_dir().join("images");
        let listed = self.call("image.list", Value::Null).await?;
        for image in listed.as_array().into_iter().flatten() {
            match (image["state"].as_str(), image["sha256"].as_str()) {
                (Some("ready"), Some(sha256)) => {
                    let format = image["format"].as_str().unwrap_or_default();
                    wanted.files.insert(images.join(format!("{sha256}.{format}")));
                }
                _ => found.push(format!("image {} is {}", image["name"], image["state"])),
            }
        }
        let host = self.call("host.show", Value::Null).await?;
        if !host["orphans"].is_null() && host["orphans"] != json!([]) {
            found.push(format!("orphans: {}", host["orphans"]));
        }
        if host["operations"].as_u64().is_some_and(|live| live > 0) {
            found.push(format!("{} operations are not over", host["operations"]));
        }
        self.audit_volumes(&shown, &mut found).await?;
        self.audit_ports(&shown, &mut found).await?;
        self.compare(&wanted, &saves, &mut found).await?;
        Ok(found)
    }

    /// What an instance in its state has.
    async fn wanted_of(
        &self,
        shown: &Value,
        saves: &Path,
        wanted: &mut Wanted,
        found: &mut Vec<Wrong>,
    ) -> Result<(), Wrong> {
        let id = shown["id"].as_str().unwrap_or_default();
        let state = shown["vm_state"].as_str().unwrap_or_default();
        if !shown["task_state"].is_null() {
            found.push(format!("instance {id} is {}", shown["task_state"]));
        }
        if !shown["drift"].is_null() {
            found.push(format!("instance {id}: drift {}", shown["drift"]));
        }
        let power = shown["power_state"].as_str().unwrap_or_default();
        let fits = match state {
            "active" => power == "running",
            "paused" => power == "paused",
            "stopped" | "suspended" | "shelved" => power == "shutdown" || power == "crashed",
            "rescued" | "resized" => power != "none",
            "soft-delete" => power == "shutdown" || power == "crashed" || power == "none",
            "shelved_offloaded" | "deleted" => power == "none",
            "error" => true,
            _ => false,
        };
        if !fits {
            found.push(format!("instance {id} is {state}, and its power state is {power}"));
        }
        let offloaded = power == "none";
        if matches!(state, "shelved_offloaded" | "deleted") || offloaded {
            return Ok(());
        }
        wanted.domains.insert(id.to_owned());
        if matches!(power, "running" | "paused") {
            wanted.machines.insert(id.to_owned());
            let taps = shown["ports"].as_array().into_iter().flatten();
            wanted.taps.extend(taps.filter_map(|port| port["tap"].as_str().map(str::to_owned)));
            let socket = self.node.agent.run_dir().join("guest").join(format!("{id}.sock"));
            wanted.files.insert(socket);
        }
        let save = format!("ostler-{id}.save");
        if state == "suspended" || (state == "error" && saves.join(&save).exists()) {
            wanted.saves.insert(save);
        }
        if !shown["config_drive"].is_null() {
            wanted.files.insert(self.instance_file(id, "config.img"));
        }
        let mut disks = vec!["disk.qcow2"];
        match state {
            "rescued" => disks.push("disk.rescue.qcow2"),
            "resized" => disks.push("disk.aside.qcow2"),
            _ => {}
        }
        let on_volume =
            shown["volumes"].as_array().into_iter().flatten().any(|v| v["root"] == true);
        if on_volume {
            disks.retain(|name| *name != "disk.qcow2");
        }
        for name in disks {
            let disk = self.instance_file(id, name);
            if let Some(base) = base_of(&disk).await? {
                wanted.files.insert(base);
            }
            wanted.files.insert(disk);
        }
        // What could not be undone is kept, both the disk that was and the one that was to be, until
        // somebody has looked; the fault says what to do.
        if state == "error" {
            for name in ["disk.rescue.qcow2", "disk.aside.qcow2"] {
                wanted.maybe.insert(self.instance_file(id, name));
            }
        }
        for log in ["console.log", "console.log.0", "console.log.1"] {
            wanted.maybe.insert(self.instance_file(id, log));
        }
        Ok(())
    }

    async fn compare(
        &self,
        wanted: &Wanted,
        saves: &Path,
        found: &mut Vec<Wrong>,
    ) -> Result<(), Wrong> {
        let state = self.node.agent.state_dir();
        let run = self.node.agent.run_dir();
        let folders = [state.join("instances"), state.join("images"), run.clone()];
        let looked =
            World::look_by(self.node.uri(), &folders.each_ref().map(PathBuf::as_path)).await;
        let world = looked.map_err(|error| error.to_string())?;

        let ours = |text: &str| self.ever.iter().find(|id| text.contains(id.as_str())).cloned();
        differ(
            "domain",
            &world.domains.iter().filter_map(|d| ours(d)).collect(),
            &wanted.domains,
            found,
        );
        differ(
            "QEMU",
            &world.machines.iter().filter_map(|m| ours(m)).collect(),
            &wanted.machines,
            found,
        );
        differ("tap", &on_bridge(&self.bridge), &wanted.taps, found);
        let saves = names(saves).into_iter().filter(|name| ours(name).is_some());
        differ("saved memory", &saves.collect(), &wanted.saves, found);

        match self.strangers.look().await {
            Ok(now) => found.extend(strangers::changes(&self.theirs, &now)),
            Err(error) => found.push(format!("somebody else's things: {error}")),
        }

        let mut wanted_files = wanted.files.clone();
        wanted_files.extend(self.strangers.files().iter().cloned());
        wanted_files.insert(run.join("host-agent.sock"));
        for file in world.files.difference(&wanted_files) {
            if !wanted.maybe.contains(file) {
                found.push(format!("left: file {}", file.display()));
            }
        }
        for file in wanted_files.difference(&world.files) {
            // the state's own folder is not looked into
            if !file.exists() {
                found.push(format!("missing: file {}", file.display()));
            }
        }
        for folder in names(&state.join("instances")) {
            let file = self.strangers.files().iter().any(|file| file.ends_with(&folder));
            if !wanted.domains.contains(&folder) && !file {
                found.push(format!("left: folder of instance {folder}"));
            }
        }
        if world.tables != self.tables {
            found.push(format!("nft tables {:?}, not {:?}", world.tables, self.tables));
        }
        Ok(())
    }
}

fn differ(what: &str, is: &BTreeSet<String>, wanted: &BTreeSet<String>, found: &mut Vec<Wrong>) {
    found.extend(is.difference(wanted).map(|name| format!("left: {what} {name}")));
    found.extend(wanted.difference(is).map(|name| format!("missing: {what} {name}")));
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The taps on a bridge.
fn on_bridge(bridge: &str) -> BTreeSet<String> {
    names(&Path::new("/sys/class/net").join(bridge).join("brif"))
}

impl Lane {
    /// The image an instance's root disk is on; none if there is no disk.
    pub(super) async fn base(&self, id: &str) -> Result<Option<PathBuf>, Wrong> {
        base_of(&self.instance_file(id, "disk.qcow2")).await
    }
}

/// The image a disk is on.
async fn base_of(disk: &Path) -> Result<Option<PathBuf>, Wrong> {
    if !disk.exists() {
        // It is told as missing.
        return Ok(None);
    }
    let told = Run::new("qemu-img").args(["info", "-U", "--output=json"]).args([disk]);
    let told = told.stdout().await.map_err(|error| error.to_string())?;
    let told: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
    Ok(told["full-backing-filename"].as_str().map(PathBuf::from))
}
