//! A pool on an NFS server: mounted below the state directory, and a directory pool there.
//!
//! Before each use it is seen in the kernel's list of mounts, which asks no server: the empty folder
//! below a mount that is gone is not the pool. It is mounted when it is first asked of, and again
//! when it is not there, so a server that is down when the agent starts stops nothing but this pool.
//!
//! The mount has to be seen by libvirt and QEMU, so it must not be made in the agent's own namespace,
//! in which its unit puts it: systemd makes it, outside, where there is one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_protocol::rpc::values::{Bytes, Name};
use ostler_protocol::rpc::volume::Format;
use tokio::sync::Mutex;

use super::{Directory, VolumeError};
use crate::durable;
use crate::program::Programs;

/// A server that answers has mounted long before.
const WALL: Duration = Duration::from_secs(60);

/// A failure is told again for so long: who looks at a hundred volumes waits for one mount.
const AGAIN: Duration = Duration::from_secs(10);

/// A guest waits for a server that is away and loses nothing; nothing on it is run or is a device;
/// and `mount` tries once.
const OPTIONS: &str = "hard,nosuid,nodev,noexec,retry=0";

/// Where systemd is, its folder is.
const SYSTEMD: &str = "/run/systemd/system";

/// How file systems are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounter {
    /// By systemd, whose mounts all the node sees.
    Systemd,
    /// By a program that is called as `mount` is.
    Program(PathBuf),
}

impl Mounter {
    /// What this node has.
    pub fn of_this_node() -> Self {
        match Path::new(SYSTEMD).is_dir() {
            true => Self::Systemd,
            false => Self::Program(PathBuf::from("mount")),
        }
    }

    fn command(&self, source: &str, options: &str, at: &Path) -> (PathBuf, Vec<OsString>) {
        let (program, mut words) = match self {
            Self::Program(mount) => {
                (mount.clone(), ["-t", "nfs", "-o", options].map(Into::into).into())
            }
            Self::Systemd => (
                PathBuf::from("systemd-mount"),
                vec![
                    "--quiet".into(),
                    "--no-ask-password".into(),
                    // A try that failed leaves no unit in the way of the next.
                    "--collect".into(),
                    "--property=TimeoutSec=45".into(),
                    "--type=nfs".into(),
                    format!("--options={options}").into(),
                ],
            ),
        };
        words.extend(["--".into(), OsString::from(source), at.into()]);
        (program, words)
    }
}

/// A pool on an NFS server.
#[derive(Debug, Clone)]
pub struct Nfs {
    source: String,
    options: String,
    at: PathBuf,
    directory: Directory,
    mounter: Mounter,
    programs: Programs,
    /// The kernel's list of mounts.
    pub(super) mounts: PathBuf,
    /// What failed last, and when.
    failed: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Nfs {
    /// The pool of this export (`server:/path`), to be mounted at `at` with more `options` than are
    /// usual. Nothing is mounted yet.
    ///
    /// # Errors
    /// There is none that the server could be the cause of.
    pub async fn open(
        (name, at): (Name, PathBuf),
        (source, options): (String, Option<&str>),
        format: Format,
        keep_free: Bytes,
        mounter: Mounter,
    ) -> Result<Self, VolumeError> {
        let options = options.map_or(OPTIONS.to_owned(), |more| format!("{OPTIONS},{more}"));
        let directory = Directory::open(name, &at, format, false, keep_free).await?;
        let (programs, failed) = (Programs::new(), Arc::default());
        let mounts = PathBuf::from("/proc/self/mountinfo");
        Ok(Self { source, options, at, directory, mounter, programs, mounts, failed })
    }

    pub(super) fn name(&self) -> &Name {
        &self.directory.name
    }

    /// The pool, mounted.
    pub(super) async fn mounted(&self) -> Result<&Directory, VolumeError> {
        if self.is_mounted().await? {
            return Ok(&self.directory);
        }
        let mut failed = self.failed.lock().await;
        if let Some((at, why)) = failed.as_ref()
            && at.elapsed() < AGAIN
        {
            return Err(self.unavailable(why.clone()));
        }
        *failed = None;
        // Whoever was before may have mounted it.
        if self.is_mounted().await? {
            return Ok(&self.directory);
        }
        match self.mount().await {
            Ok(()) => Ok(&self.directory),
            Err(why) => {
                *failed = Some((Instant::now(), why.clone()));
                Err(self.unavailable(why))
            }
        }
    }

    async fn mount(&self) -> Result<(), String> {
        let mut above: Vec<&Path> = self.at.ancestors().take(2).collect();
        while let Some(folder) = above.pop() {
            durable::folder(folder, 0o711)
                .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        }
        let (program, words) = self.mounter.command(&self.source, &self.options, &self.at);
        let ran = self.programs.run(&program, &words, WALL).await;
        let ran = ran.map_err(|error| error.to_string())?;
        if !ran.status.success() {
            return Err(format!("it cannot be mounted: {}", ran.complaint()));
        }
        match self.is_mounted().await {
            Ok(true) => Ok(()),
            Ok(false) => Err("it was mounted, and is not there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether our export is mounted in its place. Another one there is an error.
    async fn is_mounted(&self) -> Result<bool, VolumeError> {
        let list = self.mounts.as_path();
        let mounts =
            tokio::fs::read_to_string(list).await.map_err(VolumeError::io("read", list))?;
        match mounted_at(&mounts, &self.at) {
            None => Ok(false),
            Some(source) if source == self.source => Ok(true),
            Some(other) => {
                let at = self.at.display();
                Err(self.unavailable(format!("{other} is mounted at {at}: unmount that first")))
            }
        }
    }

    /// As if it had been long ago.
    #[cfg(test)]
    pub(super) async fn forget_failure(&self) {
        *self.failed.lock().await = None;
    }

    fn unavailable(&self, why: String) -> VolumeError {
        let (pool, place) = (self.name().clone(), self.source.clone());
        VolumeError::Unavailable { pool, place, why }
    }
}

/// What is mounted at a path, in the kernel's list: the last is on top.
fn mounted_at(mounts: &str, at: &Path) -> Option<String> {
    mounts.lines().rev().find_map(|line| {
        let mut words = line.split(' ');
        let place = plain(words.nth(4)?);
        // After as many optional fields as there are.
        let source = words.skip_while(|word| *word != "-").nth(2)?;
        (Path::new(&place) == at).then(|| plain(source))
    })
}

/// A word of the list as it was: blanks and backslashes are octal there.
fn plain(word: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(word.to_owned(), |word, (octal, plain)| word.replace(octal, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_last_at_a_path_is_what_is_there() {
        let mounts = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
60 22 0:50 / /srv/pool\\040one rw - nfs4 first:/a rw,vers=4.2
61 60 0:51 / /srv/pool\\040one rw shared:9 master:3 - nfs4 second:/b rw,vers=4.2
62 22 0:52 / /srv/pool rw - tmpfs tmpfs rw
";
        let at = |path: &str| mounted_at(mounts, Path::new(path));
        assert_eq!(at("/srv/pool one").as_deref(), Some("second:/b"));
        assert_eq!(at("/srv/pool").as_deref(), Some("tmpfs"));
        assert_eq!(at("/srv/pool on"), None);
        assert_eq!(at("/").as_deref(), Some("/dev/vda"));
    }

    #[test]
    fn no_word_of_a_mount_can_be_taken_for_an_option() {
        for mounter in [Mounter::Systemd, Mounter::Program("mount".into())] {
            let (_, words) = mounter.command("server:/export", "hard,ro", Path::new("/at"));
            let last: Vec<_> = words.iter().rev().take(3).rev().collect();
            assert_eq!(last, ["--", "server:/export", "/at"]);
            assert!(words.iter().any(|word| word.to_string_lossy().ends_with("hard,ro")));
        }
    }
}
