//! `[[pools]]`: where volumes are kept.

use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::Name;
use ostler_protocol::rpc::volume::Format;
use serde::Deserialize;

use super::{Error, absolute, wrong};

/// The folder below `state_dir` where pools of servers are mounted.
const MOUNTS: &str = "mounts";

/// A pool as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolFile {
    name: Name,
    driver: Kind,
    path: Option<PathBuf>,
    source: Option<String>,
    options: Option<String>,
    volume_group: Option<String>,
    thin_pool: Option<String>,
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Directory,
    Nfs,
    Lvm,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Nfs => "nfs",
            Self::Lvm => "lvm",
        }
    }
}

/// What kind of pool it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// A directory of the node, or one that is mounted there.
    Directory {
        /// Where it is.
        path: PathBuf,
    },
    /// A directory of an NFS server.
    Nfs {
        /// The export, as in `server:/path`.
        source: String,
        /// More options than are usual.
        options: Option<String>,
        /// Where it is mounted.
        at: PathBuf,
    },
    /// An LVM volume group.
    Lvm {
        /// The group.
        volume_group: String,
        /// The thin pool in it that volumes are made in.
        thin_pool: Option<String>,
    },
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// What it is called.
    pub name: Name,
    /// What kind it is.
    pub driver: Driver,
    /// How volumes are laid out in it, unless asked otherwise.
    pub format: Format,
    /// Whether its room is that of the instances' disks.
    pub is_shared: bool,
}

const fn usual() -> Format {
    Format::Qcow2
}

impl PoolFile {
    fn needed<T>(&self, field: &'static str, value: Option<T>) -> Result<T, Error> {
        let Self { name, driver, .. } = self;
        let missing = || format!("pool {name} needs it: its driver is {}", driver.as_str());
        value.map_or_else(|| wrong(field, missing()), Ok)
    }

    fn checked(self, state_dir: &Path) -> Result<Pool, Error> {
        let Self { path, source, options, volume_group, thin_pool, format, .. } = &self;
        let fields: [(&str, bool, &[Kind]); 6] = [
            ("pools.path", path.is_some(), &[Kind::Directory]),
            ("pools.source", source.is_some(), &[Kind::Nfs]),
            ("pools.options", options.is_some(), &[Kind::Nfs]),
            ("pools.volume_group", volume_group.is_some(), &[Kind::Lvm]),
            ("pools.thin_pool", thin_pool.is_some(), &[Kind::Lvm]),
            ("pools.format", format.is_some(), &[Kind::Directory, Kind::Nfs]),
        ];
        let strange = |(_, given, of): &(&str, bool, &[Kind])| *given && !of.contains(&self.driver);
        if let Some((field, ..)) = fields.into_iter().find(strange) {
            let Self { name, driver, .. } = &self;
            let text = format!("pool {name} has none: its driver is {}", driver.as_str());
            return wrong(field, text);
        }
        let driver = match self.driver {
            Kind::Directory => {
                let path = self.needed("pools.path", self.path.clone())?;
                Driver::Directory { path: absolute("pools.path", path)? }
            }
            Kind::Nfs => {
                let source = self.needed("pools.source", self.source.clone())?;
                let options = self.options.clone();
                is_export(&source)?;
                options.as_deref().map_or(Ok(()), are_options)?;
                let at = state_dir.join(MOUNTS).join(self.name.as_str());
                Driver::Nfs { source, options, at }
            }
            Kind::Lvm => {
                let volume_group = self.needed("pools.volume_group", self.volume_group.clone())?;
                let thin_pool = self.thin_pool.clone();
                is_lvm_name("pools.volume_group", &volume_group)?;
                thin_pool.as_deref().map_or(Ok(()), |name| is_lvm_name("pools.thin_pool", name))?;
                Driver::Lvm { volume_group, thin_pool }
            }
        };
        let is_shared = match &driver {
            Driver::Directory { path } => path.starts_with(state_dir),
            Driver::Nfs { .. } | Driver::Lvm { .. } => false,
        };
        let format = match driver {
            Driver::Directory { .. } | Driver::Nfs { .. } => self.format.unwrap_or(usual()),
            Driver::Lvm { .. } => Format::Raw,
        };
        Ok(Pool { name: self.name, driver, format, is_shared })
    }
}

/// The kernel's list of mounts has it in these words: a slash more would make it another.
fn is_export(source: &str) -> Result<(), Error> {
    let plain = source.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '\\' | ','));
    let parts = source.split_once(":/");
    let named = parts.is_some_and(|(server, path)| {
        !server.is_empty() && !server.starts_with(['-', '/']) && !path.ends_with('/')
    });
    match plain && named {
        true => Ok(()),
        false => wrong("pools.source", "use server:/path, without blanks, and no slash at its end"),
    }
}

fn are_options(options: &str) -> Result<(), Error> {
    if options.is_empty() || !options.chars().all(|c| c.is_ascii_graphic()) {
        return wrong("pools.options", "use words with commas between them, and no blanks");
    }
    match options.split(',').find(|word| matches!(*word, "bg" | "remount" | "bind" | "move")) {
        Some(word) => {
            wrong("pools.options", format!("{word} is none of an NFS mount of the agent's"))
        }
        None => Ok(()),
    }
}

/// As LVM takes them; no name can be taken for an option.
fn is_lvm_name(field: &'static str, name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    match !name.starts_with(['-', '.'])
        && (1..=127).contains(&name.len())
        && name.chars().all(plain)
    {
        true => Ok(()),
        false => wrong(field, "use letters, digits, and + _ . - between them"),
    }
}

/// The pools of a configuration; the one there is without any is in `state_dir`.
pub(super) fn checked(pools: Option<Vec<PoolFile>>, state_dir: &Path) -> Result<Vec<Pool>, Error> {
    let Some(pools) = pools else {
        let driver = Driver::Directory { path: state_dir.join("volumes") };
        let name = "default".parse().or_else(|_| wrong("pools.name", "not a name"))?;
        return Ok(vec![Pool { name, driver, format: usual(), is_shared: true }]);
    };
    let mut checked: Vec<Pool> = Vec::new();
    for pool in pools {
        let pool = pool.checked(state_dir)?;
        let name = &pool.name;
        if checked.iter().any(|known| known.name == *name) {
            return wrong("pools.name", format!("there are two pools called {name}"));
        }
        if let Some(other) =
            checked.iter().find(|known| known.driver.place() == pool.driver.place())
        {
            let text = format!("pools {} and {name} are in the same place", other.name);
            return wrong(pool.driver.field(), text);
        }
        checked.push(pool);
    }
    Ok(checked)
}

impl Driver {
    /// Where its volumes are: no two pools are in one place.
    fn place(&self) -> (&str, &Path) {
        match self {
            Self::Directory { path } => ("", path),
            Self::Nfs { source, .. } => (source, Path::new("")),
            Self::Lvm { volume_group, thin_pool } => {
                (volume_group, Path::new(thin_pool.as_deref().unwrap_or_default()))
            }
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "pools.path",
            Self::Nfs { .. } => "pools.source",
            Self::Lvm { .. } => "pools.volume_group",
        }
    }
}

#[cfg(test)]
mod tests {
    fn refused(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, format!("host = \"n\"\n[[pools]]\nname = \"p\"\n{text}\n")).unwrap();
        crate::config::Settings::load(Some(&file)).err().map_or(String::new(), |e| e.to_string())
    }

    #[test]
    fn a_field_that_a_driver_lacks_or_does_not_know_is_named() {
        for (text, told) in [
            ("driver = \"directory\"", "pools.path: pool p needs it: its driver is directory"),
            (
                "driver = \"directory\"\npath = \"/a\"\nsource = \"s:/b\"",
                "pools.source: pool p has none",
            ),
            ("driver = \"nfs\"", "pools.source: pool p needs it: its driver is nfs"),
            ("driver = \"nfs\"\nsource = \"s:/b\"\npath = \"/a\"", "pools.path: pool p has none"),
            ("driver = \"nfs\"\nsource = \"s:/b\"\nexport = \"/a\"", "unknown field `export`"),
            ("driver = \"nfs\"\nsource = \"-o:/b\"", "pools.source: use server:/path"),
            ("driver = \"nfs\"\nsource = \"/b\"", "pools.source: use server:/path"),
            ("driver = \"nfs\"\nsource = \"s:/b/\"", "pools.source: use server:/path"),
            ("driver = \"nfs\"\nsource = \"s:/b\"\noptions = \"ro,bg\"", "pools.options: bg"),
            (
                "driver = \"nfs\"\nsource = \"s:/b\"\noptions = \"ro -x\"",
                "pools.options: use words",
            ),
            ("driver = \"lvm\"", "pools.volume_group: pool p needs it: its driver is lvm"),
            ("driver = \"lvm\"\nvolume_group = \"-a\"", "pools.volume_group: use letters"),
            (
                "driver = \"lvm\"\nvolume_group = \"a\"\npath = \"/a\"",
                "pools.path: pool p has none",
            ),
            (
                "driver = \"lvm\"\nvolume_group = \"a\"\nformat = \"qcow2\"",
                "pools.format: pool p has",
            ),
            (
                "driver = \"directory\"\npath = \"/a\"\nthin_pool = \"t\"",
                "pools.thin_pool: pool p has",
            ),
            ("driver = \"ceph\"", "unknown variant `ceph`"),
        ] {
            let said = refused(text);
            assert!(said.contains(told), "{text}: {said:?}");
        }
        assert_eq!(refused("driver = \"nfs\"\nsource = \"s:/b\"\noptions = \"vers=4.2\""), "");
        assert_eq!(refused("driver = \"nfs\"\nsource = \"[fd00::1]:/b\""), "");
    }

    #[test]
    fn two_pools_are_not_in_one_place() {
        let twice = "driver = \"nfs\"\nsource = \"s:/b\"\n[[pools]]\nname = \"q\"\ndriver = \"nfs\"\nsource = \"s:/b\"";
        assert!(refused(twice).contains("pools.source: pools p and q are in the same place"));
    }
}
