//! What is really there, asked of libvirt, the kernel and the file system and
//! never of the agent: so a test can say that nothing was left behind.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Run;
use crate::services::SYSTEM;
use crate::{Error, Result};

/// What there was at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Domains of libvirt, running or not, as `UUID NAME`.
    pub domains: BTreeSet<String>,
    /// QEMU processes, by the instance id on their command line.
    pub machines: BTreeSet<String>,
    /// Network links, by name.
    pub links: BTreeSet<String>,
    /// Tables of nftables, as `FAMILY NAME`.
    pub tables: BTreeSet<String>,
    /// Files and sockets in the folders looked into.
    pub files: BTreeSet<PathBuf>,
}

impl World {
    /// Look at the machine, and into these folders.
    ///
    /// # Errors
    /// If libvirt does not answer. What cannot be looked at for want of
    /// rights is not there.
    pub async fn look(folders: &[&Path]) -> Result<Self> {
        Self::look_by(SYSTEM, folders).await
    }

    /// The same by another libvirtd, as [`OwnLibvirt`](crate::services::OwnLibvirt).
    ///
    /// # Errors
    /// As that.
    pub async fn look_by(uri: &str, folders: &[&Path]) -> Result<Self> {
        let listed = Run::new("virsh")
            .args(["-q", "-c", uri, "list", "--all", "--uuid", "--name"])
            .stdout()
            .await?;
        let domains = listed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.is_empty())
            .collect();
        let tables = match Run::new("nft").args(["list", "tables"]).stdout().await {
            Ok(tables) => tables
                .lines()
                .filter_map(|line| line.strip_prefix("table "))
                // Each agent's own comes and goes, as other tests' do beside this one.
                .filter(|table| !table.starts_with("bridge ostler"))
                .map(str::to_owned)
                .collect(),
            // not installed or not root
            Err(_) => BTreeSet::new(),
        };
        let mut files = BTreeSet::new();
        for folder in folders {
            walk(folder, &mut files)?;
        }
        Ok(Self { domains, machines: machines()?, links: links()?, tables, files })
    }

    /// What is here and was not there before.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> Self {
        fn more<T: Clone + Ord>(now: &BTreeSet<T>, before: &BTreeSet<T>) -> BTreeSet<T> {
            now.difference(before).cloned().collect()
        }
        Self {
            domains: more(&self.domains, &before.domains),
            machines: more(&self.machines, &before.machines),
            links: more(&self.links, &before.links),
            tables: more(&self.tables, &before.tables),
            files: more(&self.files, &before.files),
        }
    }

    /// What here has one of these ids in its name.
    #[must_use]
    pub fn of(&self, ids: &[String]) -> Self {
        let has = |text: &str| ids.iter().any(|id| text.contains(id.as_str()));
        let texts = |set: &BTreeSet<String>| set.iter().filter(|t| has(t)).cloned().collect();
        Self {
            domains: texts(&self.domains),
            machines: texts(&self.machines),
            links: texts(&self.links),
            tables: texts(&self.tables),
            files: self.files.iter().filter(|p| has(&p.to_string_lossy())).cloned().collect(),
        }
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing");
        }
        let texts = [
            ("domain", &self.domains),
            ("QEMU process of", &self.machines),
            ("link", &self.links),
            ("nftables table", &self.tables),
        ];
        for (kind, set) in texts {
            for text in set {
                writeln!(f, "{kind} {text}")?;
            }
        }
        for file in &self.files {
            writeln!(f, "file {}", file.display())?;
        }
        Ok(())
    }
}

/// What is left of these instances: on the machine, and in these folders.
///
/// # Errors
/// If libvirt does not answer.
pub async fn leftovers(ids: &[String], folders: &[&Path]) -> Result<World> {
    Ok(World::look(folders).await?.of(ids))
}

fn links() -> Result<BTreeSet<String>> {
    let folder = Path::new("/sys/class/net");
    let entries = fs::read_dir(folder).map_err(Error::path("reading", folder))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The `-uuid` of every QEMU.
fn machines() -> Result<BTreeSet<String>> {
    let folder = Path::new("/proc");
    let entries = fs::read_dir(folder).map_err(Error::path("reading", folder))?;
    Ok(entries
        .flatten()
        // a process may end while it is looked at
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter_map(|line| {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut words = line.split('\0');
            words.next().filter(|program| program.contains("qemu-system"))?;
            words.find(|word| *word == "-uuid")?;
            words.next().map(str::to_owned)
        })
        .collect())
}

fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::path("reading", folder)(error)),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // not through links: a link is itself a leftover
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(domains: &[&str], files: &[&str]) -> World {
        World {
            domains: domains.iter().map(ToString::to_string).collect(),
            files: files.iter().map(PathBuf::from).collect(),
            ..World::default()
        }
    }

    #[test]
    fn only_what_is_new_is_beyond() {
        let before = world(&["a"], &["/x"]);
        let after = world(&["a", "b"], &["/x", "/y"]);
        assert_eq!(after.beyond(&before), world(&["b"], &["/y"]));
        assert!(before.beyond(&after).is_empty());
    }

    #[test]
    fn leftovers_are_told_by_the_ids_in_their_names() {
        let now = world(&["7-1 web", "8-2 db"], &["/state/7-1/disk.qcow2", "/state/journal"]);
        let left = now.of(&["7-1".to_owned()]);
        assert_eq!(left, world(&["7-1 web"], &["/state/7-1/disk.qcow2"]));
        assert_eq!(left.to_string(), "domain 7-1 web\nfile /state/7-1/disk.qcow2\n");
    }

    #[test]
    fn a_folder_that_is_gone_has_no_files() {
        let mut files = BTreeSet::new();
        walk(Path::new("/nonexistent/ostler"), &mut files).unwrap();
        assert!(files.is_empty());
    }
}
