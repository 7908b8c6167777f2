//! The guests the tests boot, baked by the scripts in `tests/guests`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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

/// A system without any agent, into which `ostler-bake` has put ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baked {
    /// Debian, with systemd and udev.
    Debian,
    /// busybox and OpenRC, laid out as Alpine is.
    Alpine,
}

impl Baked {
    /// The script that makes it.
    fn script(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Alpine => "alpine",
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
    /// The first file system that brings our agent along, if the root disk lacks it.
    bringing: Option<PathBuf>,
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

    /// A Debian with systemd and its own stock agent, which ours takes the
    /// place of in [`Mode::Ostler`]; there are no other modes.
    ///
    /// # Errors
    /// If it cannot be baked: packages are fetched, and only root can.
    pub async fn bake_debian() -> Result<Self> {
        let mini = Self::bake_without_agent().await?;
        let out = programs::build_folder().join("bake-debian");
        bake("debian", &["--out".as_ref(), out.as_os_str()]).await?;
        let place = Place::new("image")?;
        let bringing = place.join("initramfs-ostler");
        Run::new(programs::workspace().join("tests/guests/overlay"))
            .args(["--agent".as_ref(), programs::guest_agent()?.as_os_str()])
            .args(["--initramfs".as_ref(), mini.initramfs.as_os_str()])
            .args(["--out".as_ref(), bringing.as_os_str()])
            .stdout()
            .await?;
        open(&bringing)?;
        Ok(Self {
            kernel: copy(&mini.kernel, &place)?,
            initramfs: copy(&mini.initramfs, &place)?,
            root: copy(&out.join("root.qcow2"), &place)?,
            bringing: Some(bringing),
            cmdline: read_cmdline(&out)?,
            _place: place,
        })
    }

    /// The same Debian with its own cloud-init, and the stock agent.
    ///
    /// # Errors
    /// As there.
    pub async fn bake_cloud_init() -> Result<Self> {
        let mini = Self::bake_without_agent().await?;
        let out = programs::build_folder().join("bake-cloud-init");
        let args = ["--cloud-init", "--size", "1024", "--out"].map(OsStr::new);
        bake("debian", &[&args[..], &[out.as_os_str()]].concat()).await?;
        Self::of(&mini, &out)
    }

    /// A system that `ostler-bake` put our agent into; the mode of a guest is none of its concern.
    ///
    /// # Errors
    /// If it cannot be baked: packages are fetched, and only root can.
    pub async fn baked(system: Baked) -> Result<Self> {
        let mini = Self::bake_without_agent().await?;
        let out = programs::build_folder().join(format!("baked-{}", system.script()));
        let programs = programs::folder();
        let args = ["--bake".as_ref(), programs.as_os_str(), "--out".as_ref(), out.as_os_str()];
        bake(system.script(), &args).await?;
        Self::of(&mini, &out)
    }

    /// What was baked into a folder, with this one's kernel.
    fn of(mini: &Self, out: &Path) -> Result<Self> {
        let place = Place::new("image")?;
        Ok(Self {
            kernel: copy(&mini.kernel, &place)?,
            initramfs: copy(&mini.initramfs, &place)?,
            root: copy(&out.join("root.qcow2"), &place)?,
            bringing: None,
            cmdline: read_cmdline(out)?,
            _place: place,
        })
    }

    async fn bake_with(agent: &OsStr, folder: &str) -> Result<Self> {
        let out = programs::build_folder().join(folder);
        bake("guest", &["--agent".as_ref(), agent, "--out".as_ref(), out.as_os_str()]).await?;
        let place = Place::new("image")?;
        Ok(Self {
            kernel: copy(&out.join("vmlinuz"), &place)?,
            initramfs: copy(&out.join("initramfs"), &place)?,
            root: copy(&out.join("root.qcow2"), &place)?,
            bringing: None,
            cmdline: read_cmdline(&out)?,
            _place: place,
        })
    }

    /// The kernel's command line for a guest in this mode.
    pub fn cmdline(&self, mode: Mode) -> String {
        format!("{} ostler.agent={}", self.cmdline, mode.word())
    }

    /// The first file system for a guest in this mode.
    pub fn initramfs(&self, mode: Mode) -> &Path {
        match (&self.bringing, mode) {
            (Some(bringing), Mode::Ostler) => bringing,
            _ => &self.initramfs,
        }
    }
}

async fn bake(script: &str, args: &[&OsStr]) -> Result<()> {
    Run::new(programs::workspace().join("tests/guests").join(script))
        .args(args)
        .args(["--cache".as_ref(), programs::build_folder().join("bake-cache").as_os_str()])
        // packages may have to be fetched over a slow line
        .patience(Duration::from_secs(600))
        .stdout()
        .await
        .map(drop)
}

/// Into a folder QEMU's user may enter: the build folder may lie in a home it may not.
fn copy(from: &Path, place: &Place) -> Result<PathBuf> {
    let to = place.join(from.file_name().unwrap_or_default());
    fs::copy(from, &to).map_err(Error::path("copying", from))?;
    open(&to)?;
    Ok(to)
}

fn open(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .map_err(Error::path("opening to QEMU", path))
}

fn read_cmdline(out: &Path) -> Result<String> {
    let path = out.join("cmdline");
    let text = fs::read_to_string(&path).map_err(Error::path("reading", &path))?;
    Ok(text.trim().to_owned())
}
