//! A volume group, by `lvm` itself.
//!
//! Every run is told to look at the group's own devices only, and never into logical volumes, which
//! guests write to: one could make its disk look like a part of any group. Numbers are bytes, names
//! are never options, and answers are JSON.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::values::Bytes;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::super::VolumeError;
use crate::host::Space;
use crate::program::Programs;

/// Changing a group takes a second; one of many slow disks takes its time.
const WALL: Duration = Duration::from_secs(120);

/// What is read of a logical volume.
const COLUMNS: &str = "lv_name,lv_size,lv_tags,lv_active,lv_device_open";

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logical {
    pub(super) name: String,
    pub(super) size: Bytes,
    pub(super) tags: BTreeSet<String>,
    /// Whether it has a device.
    pub(super) active: bool,
    /// Whether that is open.
    pub(super) open: bool,
}

/// A volume group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    lvm: PathBuf,
    /// More words of each run, for tests.
    more: Vec<String>,
    programs: Programs,
    /// How `lvm` is told of the group's own devices, once they are known.
    devices: Arc<Mutex<Option<String>>>,
}

#[derive(Deserialize)]
struct Answer<T> {
    report: Vec<T>,
}

#[derive(Deserialize)]
struct Volumes {
    lv: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    lv_name: String,
    lv_size: String,
    #[serde(default)]
    lv_tags: String,
    #[serde(default)]
    lv_active: String,
    #[serde(default)]
    lv_device_open: String,
    #[serde(default)]
    data_percent: String,
    #[serde(default)]
    zero: String,
}

#[derive(Deserialize)]
struct Groups {
    vg: Vec<GroupRow>,
}

#[derive(Deserialize)]
struct GroupRow {
    vg_size: String,
    vg_free: String,
    vg_extent_size: String,
}

#[derive(Deserialize)]
struct Devices {
    pv: Vec<DeviceRow>,
}

#[derive(Deserialize)]
struct DeviceRow {
    pv_name: String,
}

impl Group {
    pub(super) fn new(name: String, lvm: PathBuf, more: Vec<String>) -> Self {
        Self { name, lvm, more, programs: Programs::new(), devices: Arc::default() }
    }

    /// A logical volume's name as `lvm` takes it.
    fn full(&self, volume: &str) -> String {
        format!("{}/{volume}", self.name)
    }

    /// Run one of its commands to its end.
    async fn run(
        &self,
        step: &'static str,
        what: &str,
        config: &str,
        words: &[&str],
    ) -> Result<Vec<u8>, VolumeError> {
        let (command, rest) = words.split_first().unwrap_or((&"", &[]));
        let mut all = vec![*command, "--config", config];
        all.extend(self.more.iter().map(String::as_str));
        all.extend(rest);
        let ran = self.programs.run(&self.lvm, &all, WALL).await;
        let ran = ran.map_err(VolumeError::io(step, Path::new(what)))?;
        if ran.status.success() {
            return Ok(ran.said);
        }
        let said = ran.complaint();
        match said.contains("insufficient free space") {
            true => Err(VolumeError::NoSpace { path: what.into(), needed: None, free: None }),
            false => Err(VolumeError::Lvm { step, what: what.to_owned(), said }),
        }
    }

    /// The same, with the group's own devices alone.
    pub(super) async fn lvm(
        &self,
        step: &'static str,
        what: &str,
        words: &[&str],
    ) -> Result<Vec<u8>, VolumeError> {
        let mut devices = self.devices.lock().await;
        let config = match devices.as_ref() {
            Some(known) => known.clone(),
            None => devices.insert(self.own_devices().await?).clone(),
        };
        drop(devices);
        let ran = self.run(step, what, &config, words).await;
        if ran.is_err() {
            // It may have got another one meanwhile.
            *self.devices.lock().await = None;
        }
        ran
    }

    async fn own_devices(&self) -> Result<String, VolumeError> {
        let names = self.made_of().await?;
        let plain = |name: &String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:+@=".contains(c);
            name.starts_with("/dev/") && name.chars().all(plain)
        };
        match !names.is_empty() && names.iter().all(plain) {
            true => Ok(only(&names)),
            false => Err(self.failed("find", "this node has no such group, or not all of it")),
        }
    }

    /// The devices it is made of.
    pub(super) async fn made_of(&self) -> Result<Vec<String>, VolumeError> {
        let group = format!("vg_name={}", self.name);
        let words =
            ["pvs", "--reportformat", "json", "--options", "pv_name", "--select", group.as_str()];
        let said = self.run("find", &self.name, &only(&[]), &words).await?;
        let answer: Answer<Devices> = self.parse("find", &said)?;
        Ok(answer.report.into_iter().flat_map(|part| part.pv).map(|row| row.pv_name).collect())
    }

    fn failed(&self, step: &'static str, said: &str) -> VolumeError {
        VolumeError::Lvm { step, what: self.name.clone(), said: said.to_owned() }
    }

    fn parse<T: for<'a> Deserialize<'a>>(
        &self,
        step: &'static str,
        said: &[u8],
    ) -> Result<T, VolumeError> {
        serde_json::from_slice(said)
            .map_err(|error| self.failed(step, &format!("its answer is not understood: {error}")))
    }

    /// All logical volumes of the group.
    pub(super) async fn list(&self) -> Result<Vec<Logical>, VolumeError> {
        let said = self.rows(COLUMNS, &self.name).await?;
        said.into_iter().map(|row| self.logical(row)).collect()
    }

    async fn rows(&self, columns: &str, of: &str) -> Result<Vec<Row>, VolumeError> {
        const STEP: &str = "list the volumes of";
        let words = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options"];
        let words = [words.as_slice(), &[columns, "--", of]].concat();
        let said = self.lvm(STEP, of, &words).await?;
        let answer: Answer<Volumes> = self.parse(STEP, &said)?;
        Ok(answer.report.into_iter().flat_map(|part| part.lv).collect())
    }

    fn logical(&self, row: Row) -> Result<Logical, VolumeError> {
        let size = self.bytes(&row.lv_size)?;
        let tags = row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned);
        Ok(Logical {
            name: row.lv_name,
            size,
            tags: tags.collect(),
            active: row.lv_active == "active",
            open: row.lv_device_open == "open",
        })
    }

    fn bytes(&self, text: &str) -> Result<Bytes, VolumeError> {
        let number = text.parse().map(Bytes);
        number.map_err(|_| self.failed("measure", &format!("{text:?} is no number of bytes")))
    }

    /// Its room, and the size of which all its volumes are whole numbers.
    pub(super) async fn measure(&self) -> Result<(Space, Bytes), VolumeError> {
        let columns = "vg_size,vg_free,vg_extent_size";
        let words = ["vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options"];
        let words = [words.as_slice(), &[columns, "--", &self.name]].concat();
        let said = self.lvm("measure", &self.name, &words).await?;
        let answer: Answer<Groups> = self.parse("measure", &said)?;
        let row = answer.report.into_iter().flat_map(|part| part.vg).next();
        let row = row.ok_or_else(|| self.failed("measure", "it is not in the answer"))?;
        let (total, free) = (self.bytes(&row.vg_size)?, self.bytes(&row.vg_free)?);
        Ok((Space { total, free }, self.bytes(&row.vg_extent_size)?))
    }

    /// A thin pool's room, and whether what it hands out reads as zeros.
    pub(super) async fn measure_pool(&self, pool: &str) -> Result<(Space, bool), VolumeError> {
        let columns = "lv_name,lv_size,data_percent,zero";
        let row = self.rows(columns, &self.full(pool)).await?.into_iter().next();
        let row =
            row.ok_or_else(|| self.failed("measure", "its thin pool is not in the answer"))?;
        let total = self.bytes(&row.lv_size)?;
        let used: f64 = row.data_percent.parse().unwrap_or(100.0);
        // As a float it is not exact, and need not be.
        let free = Bytes((total.0 as f64 * (100.0 - used.clamp(0.0, 100.0)) / 100.0) as u64);
        Ok((Space { total, free }, row.zero == "zero"))
    }

    /// Make a logical volume as `how` says, with these tags.
    pub(super) async fn create(
        &self,
        name: &str,
        how: &[&str],
        tags: &[&str],
        of: &str,
    ) -> Result<(), VolumeError> {
        let mut words = vec!["lvcreate", "--yes", "--setactivationskip", "n", "--name", name];
        words.extend(how);
        words.extend(tags.iter().flat_map(|tag| ["--addtag", tag]));
        words.extend(["--", of]);
        self.lvm("make", &self.full(name), &words).await.map(drop)
    }

    /// Make one that begins as another one of a thin pool is.
    pub(super) async fn clone_of(
        &self,
        origin: &str,
        name: &str,
        how: &[&str],
        tags: &[&str],
    ) -> Result<(), VolumeError> {
        let how = [&["--snapshot"], how].concat();
        self.create(name, &how, tags, &self.full(origin)).await
    }

    pub(super) async fn remove(&self, names: &[&str]) -> Result<(), VolumeError> {
        let full: Vec<String> = names.iter().map(|name| self.full(name)).collect();
        let mut words = vec!["lvremove", "--yes", "--"];
        words.extend(full.iter().map(String::as_str));
        self.lvm("remove", &full.join(" "), &words).await.map(drop)
    }

    pub(super) async fn extend(&self, name: &str, size: Bytes) -> Result<(), VolumeError> {
        let (full, size) = (self.full(name), format!("{}b", size.0));
        self.lvm("extend", &full, &["lvextend", "--size", &size, "--", &full]).await.map(drop)
    }

    pub(super) async fn activate(&self, name: &str) -> Result<(), VolumeError> {
        let full = self.full(name);
        let words = ["lvchange", "--activate", "y", "--ignoreactivationskip", "--", &full];
        self.lvm("activate", &full, &words).await.map(drop)
    }

    /// `--addtag` or `--deltag`.
    pub(super) async fn tag(&self, name: &str, how: &str, tag: &str) -> Result<(), VolumeError> {
        let full = self.full(name);
        self.lvm("change", &full, &["lvchange", how, tag, "--", &full]).await.map(drop)
    }

    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), VolumeError> {
        let full = self.full(from);
        self.lvm("rename", &full, &["lvrename", "--", &self.name, from, to]).await.map(drop)
    }
}

/// What `lvm` is to look at: these devices, or all but logical volumes. Its own copies of what it
/// notes on each device are left out: where the agent runs, their folder cannot be written to.
fn only(devices: &[String]) -> String {
    let wanted = devices
        .iter()
        .map(|name| format!("\"a|^{}$|\",", name.replace('.', "[.]").replace('+', "[+]")));
    let filter = match devices.is_empty() {
        true => String::new(),
        false => format!(" global_filter=[{}\"r|.*|\"]", wanted.collect::<String>()),
    };
    format!("devices{{scan_lvs=0{filter}}} backup{{backup=0 archive=0}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As LVM 2.03.16 answers.
    const LISTED: &[u8] = br#"  {
      "report": [
          {
              "lv": [
                  {"lv_name":"7c9e6679-7425-40de-944b-e07fc1f90ae7", "lv_size":"8388608", "lv_tags":"ostler,ostler.volume=7c9e6679-7425-40de-944b-e07fc1f90ae7", "lv_active":"unknown", "lv_device_open":"unknown"},
                  {"lv_name":"root", "lv_size":"4194304", "lv_tags":"", "lv_active":"active", "lv_device_open":"open"}
              ]
          }
      ]
  }
"#;

    #[test]
    fn what_lvm_answers_is_understood() {
        let group = Group::new("vg".to_owned(), "lvm".into(), Vec::new());
        let answer: Answer<Volumes> = group.parse("list", LISTED).unwrap();
        let rows = answer.report.into_iter().flat_map(|part| part.lv);
        let found: Vec<Logical> = rows.map(|row| group.logical(row).unwrap()).collect();
        assert_eq!((found[0].size, found[0].tags.len()), (Bytes::mib(8), 2));
        assert_eq!((found[1].active, found[1].open, found[1].tags.len()), (true, true, 0));
        assert!(group.parse::<Answer<Volumes>>("list", b"no JSON").is_err());
    }

    #[test]
    fn only_the_groups_own_devices_are_looked_at() {
        let told = only(&["/dev/sdb".to_owned(), "/dev/disk/by-id/a.1".to_owned()]);
        assert!(told.contains("scan_lvs=0"), "{told}");
        let filter = "global_filter=[\"a|^/dev/sdb$|\",\"a|^/dev/disk/by-id/a[.]1$|\",\"r|.*|\"]";
        assert!(told.contains(filter), "{told}");
    }
}
