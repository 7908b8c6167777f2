//! Volumes in the bench: made for a point, judged after it, and gone before the next.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ostler_protocol::rpc::operation::Kind;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use super::lane::{Asked, Lane, USERS, Wrong};
use super::scenarios::{Scenario, other_of};
use super::tally::Ended;

/// What is written to a volume after its snapshot.
const LATER: u8 = 0x3c;
const PLACE: &str = "64k";

impl Lane {
    /// A volume as a scenario begins with, and the request.
    pub(super) async fn prepare_volume(
        &mut self,
        scenario: &Scenario,
    ) -> Result<(Value, String), Wrong> {
        self.drop_volumes().await?;
        let id = uuid::Uuid::new_v4().to_string();
        let mut params = (scenario.asked.1)(&json!({"id": id}));
        params["id"] = json!(id);
        if scenario.kind == Kind::VolumeCreate {
            return Ok((params, id));
        }
        let create = json!({"id": id, "name": "tried", "size": 2 << 20, "format": "raw"});
        self.done("volume.create", create).await?;
        self.write(&id, USERS).await?;
        if matches!(scenario.kind, Kind::VolumeRevert | Kind::VolumeDeleteSnapshot) {
            self.done("volume.snapshot", json!({"id": id, "name": "before"})).await?;
            self.write(&id, LATER).await?;
        }
        Ok((params, id))
    }

    /// What a volume should be like now.
    pub(super) async fn volume_fits(
        &mut self,
        scenario: &Scenario,
        asked: &Asked,
        ended: Ended,
    ) -> Result<Vec<Wrong>, Wrong> {
        let mut wrongs = Vec::new();
        let listed = self.call("volume.list", json!({})).await?;
        let shown = listed.as_array().into_iter().flatten().find(|v| v["id"] == asked.subject);
        let finished = ended == Ended::Finished;
        let status = shown.map_or("gone", |shown| shown["status"].as_str().unwrap_or_default());
        let statuses: &[&str] = match (scenario.kind, ended) {
            (Kind::VolumeDelete, Ended::Finished) | (Kind::VolumeCreate, Ended::Cancelled) => {
                &["gone"]
            }
            (Kind::VolumeCreate, Ended::Undone | Ended::Told) => &["error"],
            (Kind::VolumeDelete, Ended::Told) => &["error_deleting"],
            _ => &["available"],
        };
        if !statuses.contains(&status) {
            wrongs.push(format!("the volume is {status}, not {statuses:?}"));
        }
        let snapshots = shown.and_then(|shown| shown["snapshots"].as_array()).map_or(0, Vec::len);
        let kind = scenario.kind;
        let forgets = kind == Kind::VolumeDeleteSnapshot;
        let has_one = (kind == Kind::VolumeSnapshot && finished)
            || kind == Kind::VolumeRevert
            || (forgets && !finished);
        let wanted = usize::from(has_one);
        if status == "available" && snapshots != wanted {
            wrongs.push(format!("it has {snapshots} snapshots, not {wanted}"));
        }
        let later = forgets || (kind == Kind::VolumeRevert && !finished);
        let wanted = if later { LATER } else { USERS };
        // A new one holds nothing, and what a revert came to that failed is not known.
        let known =
            kind != Kind::VolumeCreate && !(kind == Kind::VolumeRevert && ended == Ended::Told);
        if known && status == "available" {
            let found = self.read(&asked.subject).await?;
            if found != wanted {
                wrongs.push(format!("the volume holds {found:#x}, not {wanted:#x}"));
            }
        }
        Ok(wrongs)
    }

    /// What is wrong with the volumes of an instance that had one swapped: it has one of the two, with
    /// what the user wrote, and the guest knows it by the same serial number.
    pub(super) async fn swap_fits(
        &mut self,
        shown: &Value,
        ended: Ended,
    ) -> Result<Vec<Wrong>, Wrong> {
        let (id, other) = (&shown["id"], json!(other_of(&shown["id"])));
        let there = &shown["volumes"][0];
        let mut wrongs = Vec::new();
        let wanted = if ended == Ended::Finished { &other } else { id };
        if there["volume"] != *wanted || there["serial"] != *id {
            wrongs.push(format!("it has {there}, and not volume {wanted} known as {id}"));
        }
        let found = self.read(there["volume"].as_str().unwrap_or_default()).await?;
        if found != USERS {
            wrongs.push(format!("its volume holds {found:#x}"));
        }
        Ok(wrongs)
    }

    /// Take the volumes from the instance, and delete all there are.
    pub(super) async fn drop_volumes(&mut self) -> Result<(), Wrong> {
        let listed = self.call("volume.list", json!({})).await?;
        for volume in listed.as_array().into_iter().flatten() {
            for there in volume["attachments"].as_array().into_iter().flatten() {
                let instance = &there["instance"];
                let shown = self.call("instance.show", json!({"id": instance})).await?;
                let ran = shown["vm_state"] == "active";
                if ran {
                    // Nobody may be in the guest who could let go.
                    let stop = json!({"id": instance, "manner": "hard"});
                    self.done("instance.stop", stop).await?;
                }
                let detach = json!({"id": instance, "volume": volume["id"]});
                self.done("instance.detach_volume", detach).await?;
                if ran {
                    self.done("instance.start", json!({"id": instance})).await?;
                }
            }
            // One that is kept elsewhere is forgotten with that.
            if volume["elsewhere"].is_null() {
                let delete = json!({"id": volume["id"], "force": true});
                self.done("volume.delete", delete).await?;
            }
        }
        Ok(())
    }

    /// What is wrong with the pool, and with the volumes that instances have.
    pub(super) async fn audit_volumes(
        &mut self,
        instances: &[Value],
        found: &mut Vec<Wrong>,
    ) -> Result<(), Wrong> {
        let listed = self.call("volume.list", json!({})).await?;
        let mut wanted = BTreeSet::new();
        for volume in listed.as_array().into_iter().flatten() {
            if volume["status"] != "error" && volume["elsewhere"].is_null() {
                wanted.insert(volume["id"].as_str().unwrap_or_default().to_owned());
            }
            if !volume["operation"].is_null() {
                found.push(format!("volume {} is being worked on", volume["id"]));
            }
        }
        let pool = self.node.agent.state_dir().join("volumes");
        let is: BTreeSet<String> = std::fs::read_dir(&pool)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        found.extend(is.difference(&wanted).map(|id| format!("left: volume {id}")));
        found.extend(wanted.difference(&is).map(|id| format!("missing: volume {id}")));
        for instance in instances {
            let id = instance["id"].as_str().unwrap_or_default();
            if instance["power_state"] == "none" || instance["power_state"] == "unknown" {
                continue;
            }
            let has: BTreeSet<String> = instance["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|there| there["serial"].as_str().map(str::to_owned))
                .collect();
            let disks = |xml: &str| {
                let disks = xml.split("<disk ").skip(1);
                disks.filter_map(|rest| rest.split("</disk>").next()).collect::<String>()
            };
            for flags in [&[][..], &["--inactive"]] {
                let xml = Run::new("virsh")
                    .args(["-q", "-c", self.node.uri(), "dumpxml", id])
                    .args(flags)
                    .stdout()
                    .await
                    .map_err(|error| error.to_string())?;
                let plugged: BTreeSet<String> = disks(&xml)
                    .split("<alias name='ua-")
                    .skip(1)
                    .filter_map(|rest| rest.split('\'').next().map(str::to_owned))
                    .collect();
                if plugged != has {
                    found.push(format!(
                        "instance {id} {flags:?} has volumes {plugged:?}, and {has:?} by its record"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The file a volume is written to, and its format: as its manifest says.
    fn top(&self, id: &str) -> Result<(PathBuf, String), Wrong> {
        let folder = self.node.agent.state_dir().join("volumes").join(id);
        let file = folder.join("volume.json");
        let text = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let manifest: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let format = manifest["layers"][manifest["top"].to_string()]["format"].as_str();
        let format = format.ok_or_else(|| format!("no top: {manifest}"))?.to_owned();
        Ok((folder.join(format!("{}.{format}", manifest["top"])), format))
    }

    pub(super) async fn write(&self, id: &str, byte: u8) -> Result<(), Wrong> {
        self.qemu_io(id, &format!("write -P {byte:#x} {PLACE} 4k"), &[]).await.map(drop)
    }

    async fn read(&self, id: &str) -> Result<u8, Wrong> {
        let shown = self.qemu_io(id, &format!("read -v {PLACE} 512"), &["-r", "-U"]).await?;
        let byte = shown.split_whitespace().nth(1).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        byte.ok_or_else(|| format!("volume {id} cannot be read: {shown}"))
    }

    async fn qemu_io(&self, id: &str, what: &str, more: &[&str]) -> Result<String, Wrong> {
        let (path, format) = self.top(id)?;
        let run = Run::new("qemu-io").args(["-f", &format, "-c", what]).args(more).args([path]);
        run.stdout().await.map_err(|error| error.to_string())
    }
}
