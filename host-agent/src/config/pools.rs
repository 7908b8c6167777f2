//! `[[pools]]`: where volumes are kept.

use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::Name;
use ostler_protocol::rpc::volume::Format;
use serde::Deserialize;

use super::{Error, absolute, wrong};

/// A pool as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolFile {
    name: Name,
    driver: Driver,
    path: PathBuf,
    #[serde(default = "usual")]
    format: Format,
}

/// What kind of pool it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A directory of the node, or one that is mounted there.
    Directory,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// What it is called.
    pub name: Name,
    /// What kind it is.
    pub driver: Driver,
    /// Where it is.
    pub path: PathBuf,
    /// How volumes are laid out in it, unless asked otherwise.
    pub format: Format,
    /// Whether its room is that of the instances' disks.
    pub is_shared: bool,
}

const fn usual() -> Format {
    Format::Qcow2
}

/// The pools of a configuration; the one there is without any is in `state_dir`.
pub(super) fn checked(pools: Option<Vec<PoolFile>>, state_dir: &Path) -> Result<Vec<Pool>, Error> {
    let Some(pools) = pools else {
        let path = state_dir.join("volumes");
        let (driver, format) = (Driver::Directory, usual());
        let name = "default".parse().or_else(|_| wrong("pools.name", "not a name"))?;
        return Ok(vec![Pool { name, driver, path, format, is_shared: true }]);
    };
    let mut checked: Vec<Pool> = Vec::new();
    for PoolFile { name, driver, path, format } in pools {
        let path = absolute("pools.path", path)?;
        if checked.iter().any(|known| known.name == name) {
            return wrong("pools.name", format!("there are two pools called {name}"));
        }
        if checked.iter().any(|known| known.path == path) {
            return wrong("pools.path", format!("two pools are in {}", path.display()));
        }
        let is_shared = path.starts_with(state_dir);
        checked.push(Pool { name, driver, path, format, is_shared });
    }
    Ok(checked)
}
