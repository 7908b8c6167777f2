//! The guest the tests boot, baked by `packaging/bake/guest`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::place::Place;
use crate::process::Run;
use crate::{Error, Result, programs};

/// An account of the image.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Its name.
    pub user: &'static str,
    /// Its password.
    pub password: &'static str,
}

/// The administrator of the image as it was baked.
pub const ROOT: Account = Account { user: "root", password: "ostler" };
/// Its ordinary user.
pub const DEMO: Account = Account { user: "demo", password: "demo" };

/// Who serves the agent ports of a guest; `rootfs/usr/lib/ostler/agent` has
/// the other side of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Our guest agent, on both ports.
    Ostler,
    /// The stock agent, on the standard port only.
    QemuGa,
    /// Nobody.
    None,
    /// Random bytes for ever, on both ports; so too the ones below.
    Garbage,
    /// A JSON string that never ends.
    Flood,
    /// An array that never stops nesting.
    Deep,
    /// Well-formed events, as fast as they go.
    Babble,
    /// Everything is read, nothing is answered.
    Mute,
}

impl Mode {
    /// The modes no host should ever suffer from.
    pub const HOSTILE: [Self; 5] =
        [Self::Garbage, Self::Flood, Self::Deep, Self::Babble, Self::Mute];

    /// Its word on the kernel's command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ostler => "ostler",
            Self::QemuGa => "qemu-ga",
            Self::None => "none",
            Self::Garbage => "garbage",
            Self::Flood => "flood",
            Self::Deep => "deep",
            Self::Babble => "babble",
            Self::Mute => "mute",
        }
    }
}

/// The baked files, where QEMU's user can read them.
#[derive(Debug)]
pub struct GuestImage {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first file system.
    pub initramfs: PathBuf,
    /// The root disk, qcow2 without a backing file.
    pub root: PathBuf,
    cmdline: String,
    _place: Place,
}

impl GuestImage {
    /// Bake it with the built guest agent, or take what was baked if nothing
    /// has changed since.
    ///
    /// # Errors
    /// If the agent is not built, or the kernel cannot be fetched.
    pub async fn bake() -> Result<Self> {
        let agent = programs::guest_agent()?;
        Self::bake_with(agent.as_os_str(), "bake").await
    }

    /// The same without our guest agent: for what is to be shown before, or
    /// without, it.
    ///
    /// # Errors
    /// If the kernel cannot be fetched.
    pub async fn bake_without_agent() -> Result<Self> {
        Self::bake_with("none".as_ref(), "bake-bare").await
    }

    async fn bake_with(agent: &std::ffi::OsStr, folder: &str) -> Result<Self> {
        let out = programs::build_folder().join(folder);
        Run::new(programs::workspace().join("packaging/bake/guest"))
            .args(["--agent".as_ref(), agent, "--out".as_ref(), out.as_os_str()])
            .args(["--cache".as_ref(), programs::build_folder().join("bake-cache").as_os_str()])
            // a kernel may have to be fetched over a slow line
            .patience(Duration::from_secs(600))
            .stdout()
            .await?;

        // the build folder may lie in a home QEMU's user may not enter
        let place = Place::new("image")?;
        let copy = |name: &str| {
            let to = place.join(name);
            fs::copy(out.join(name), &to).map_err(Error::path("copying", out.join(name)))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644))
                .map_err(Error::path("opening to QEMU", &to))?;
            Ok::<_, Error>(to)
        };
        let cmdline = fs::read_to_string(out.join("cmdline"))
            .map_err(Error::path("reading", out.join("cmdline")))?;
        Ok(Self {
            kernel: copy("vmlinuz")?,
            initramfs: copy("initramfs")?,
            root: copy("root.qcow2")?,
            cmdline: cmdline.trim().to_owned(),
            _place: place,
        })
    }

    /// The kernel's command line for a guest in this mode.
    pub fn cmdline(&self, mode: Mode) -> String {
        format!("{} ostler.agent={}", self.cmdline, mode.word())
    }
}
