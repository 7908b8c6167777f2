//! Configuration: the file as written, and [`Settings`] as checked. The rest of the agent sees
//! only `Settings`.
//!
//! A file that is absent at the default place means all defaults; one that is named and absent, or
//! malformed, or has a field nobody knows, is an error that names it.

mod pools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::amqp::uri::{Endpoint, UriError};
use ostler_protocol::rpc::host::Flavor;
use ostler_protocol::rpc::instance::DriveLayout;
use ostler_protocol::rpc::values::{Bytes, Name};
use serde::Deserialize;
use toml::Spanned;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::image::{NotAProxy, Proxy};

pub use self::pools::{Driver, Pool};

/// Where the configuration is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/ostler/host-agent.toml";

/// Where state is kept unless told otherwise.
pub const STATE_DIR: &str = "/var/lib/ostler";

/// The folder below `state_dir` for images to be imported, which the agent makes.
pub const INCOMING: &str = "incoming";

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a field of the wrong type or name.
    #[error("{path}, line {line}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value cannot be.
    #[error("{field}: {why}")]
    Value {
        /// The field, as in `admission.cpu_ratio`.
        field: &'static str,
        /// What is wrong and what would be right.
        why: String,
    },
}

/// A size in the file: bytes, or text such as `"512MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
struct Size(Bytes);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;
    fn try_from(text: SizeText) -> Result<Self, String> {
        let text = match text {
            SizeText::Bytes(n) => return Ok(Self(Bytes(n))),
            SizeText::Text(text) => text,
        };
        let wrong =
            || format!("{text:?} is not a size: use bytes, or a number with KiB, MiB, GiB or TiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let shift = match text[digits..].trim() {
            "" | "B" => 0,
            "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(wrong()),
        };
        number.checked_mul(1 << shift).map(|n| Self(Bytes(n))).ok_or_else(wrong)
    }
}

/// What domains run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// `kvm` where a guest really runs on it, else `qemu`.
    #[default]
    Auto,
    /// Hardware virtualization.
    Kvm,
    /// QEMU's own emulation (TCG).
    Qemu,
}

/// Where and how the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// To journald where it started the agent, else as text.
    #[default]
    Auto,
    /// Lines for people, on standard error.
    Text,
    /// JSON lines, on standard error.
    Json,
    /// Text for journald: without the time, with its priority.
    Journald,
}

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    host: Option<Name>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    socket: SocketFile,
    broker: BrokerFile,
    hypervisor: HypervisorFile,
    limits: LimitsFile,
    admission: AdmissionFile,
    guest: GuestFile,
    images: ImagesFile,
    instances: InstancesFile,
    flavors: Option<BTreeMap<Name, FlavorFile>>,
    pools: Option<Vec<pools::PoolFile>>,
    journal: JournalFile,
    log: LogFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SocketFile {
    path: Option<PathBuf>,
    group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BrokerFile {
    uris: Vec<Spanned<String>>,
    uris_file: Option<PathBuf>,
    #[serde(skip)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HypervisorFile {
    uri: Option<String>,
    virt_type: VirtType,
    vnc: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsFile {
    boots: Option<usize>,
    downloads: Option<usize>,
    copies: Option<usize>,
    queue: Option<usize>,
    operations: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdmissionFile {
    cpu_ratio: Option<f64>,
    memory_ratio: Option<f64>,
    memory_reserve: Option<Size>,
    disk_ratio: Option<f64>,
    disk_reserve: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GuestFile {
    shutdown_timeout: Option<u64>,
    answer_timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ImagesFile {
    max_size: Option<Size>,
    directories: Option<Vec<PathBuf>>,
    export_directories: Vec<PathBuf>,
    bandwidth: Option<Size>,
    proxy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InstancesFile {
    reclaim_after: Option<u64>,
    orphans: Orphans,
    autostart: Option<bool>,
    resume_when_room: Option<bool>,
    reconcile_interval: Option<u64>,
    config_drive: Option<DriveLayout>,
}

/// What becomes of a domain that is ours by its own word and that the journal does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orphans {
    /// It is told of, and left as it is.
    #[default]
    Report,
    /// It becomes an instance again, as its own metadata describes it.
    Adopt,
    /// It is switched off and removed, with its files.
    Remove,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlavorFile {
    vcpus: u32,
    memory: Size,
    disk: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JournalFile {
    keep_days: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogFile {
    format: LogFormat,
    filter: Option<String>,
}

/// How many of each may run or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Boots, starts, resumes, unshelves and restores at a time.
    pub boots: usize,
    /// Image imports at a time.
    pub downloads: usize,
    /// Copies of disks at a time: snapshots, shelves, resizes.
    pub copies: usize,
    /// Operations waiting on one instance, image or network.
    pub queue: usize,
    /// Operations not over, in all.
    pub operations: usize,
}

/// What admission counts with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Admission {
    /// vCPUs promised for each hardware thread.
    pub cpu_ratio: f64,
    /// Memory promised for each byte there is, after the reserve.
    pub memory_ratio: f64,
    /// Memory kept for the node itself.
    pub memory_reserve: Bytes,
    /// Disk promised for each byte that instances can have, after the reserve.
    pub disk_ratio: f64,
    /// Disk kept free on the filesystem instances live on.
    pub disk_reserve: Bytes,
}

/// The checked settings.
#[derive(Clone)]
pub struct Settings {
    /// The node's name: the routing key of its queue.
    pub host: Name,
    /// What outlives a reboot: journal, images, disks.
    pub state_dir: PathBuf,
    /// What does not: sockets.
    pub run_dir: PathBuf,
    /// The UNIX socket.
    pub socket: PathBuf,
    /// The group that may use it, besides root.
    pub socket_group: Option<String>,
    /// The broker's endpoints, tried in turn.
    pub broker: Vec<Endpoint>,
    /// libvirt's URI.
    pub hypervisor_uri: String,
    /// What domains run on.
    pub virt_type: VirtType,
    /// Whether instances have a VNC display on the loopback address.
    pub vnc: bool,
    /// How many may run or wait.
    pub limits: Limits,
    /// What admission counts with.
    pub admission: Admission,
    /// How long a guest may take to shut down before it is forced.
    pub shutdown_timeout: Duration,
    /// How long a guest may take to answer one command.
    pub answer_timeout: Duration,
    /// The largest image, as received and as a disk.
    pub image_max: Bytes,
    /// Where images may be read from on this node: whoever may import an image can read any such
    /// file through a guest.
    pub image_directories: Vec<PathBuf>,
    /// Where images may be exported to on this node.
    pub image_export_directories: Vec<PathBuf>,
    /// Bytes a second that all downloads of images together may take.
    pub image_bandwidth: Option<Bytes>,
    /// What servers are asked for images through.
    pub image_proxy: Option<Proxy>,
    /// How long a soft-deleted instance can be restored; none: for ever.
    pub reclaim_after: Option<Duration>,
    /// What becomes of domains of ours that the journal does not know.
    pub orphans: Orphans,
    /// Whether instances that ran before the node's restart are started again after it.
    pub autostart: bool,
    /// Whether an instance that QEMU paused for want of space goes on by itself.
    pub resume_when_room: bool,
    /// How often what is known is compared with what is, without a reason.
    pub reconcile_interval: Duration,
    /// Where volumes are kept; the first unless told.
    pub pools: Vec<Pool>,
    /// The layout of config drives whose boot names none.
    pub config_drive: DriveLayout,
    /// The sizes instances come in.
    pub flavors: BTreeMap<Name, Flavor>,
    /// How long finished operations and deleted instances are remembered.
    pub keep: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What is logged, in tracing's filter syntax.
    pub log_filter: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.host)
            .field("state_dir", &self.state_dir)
            .field("run_dir", &self.run_dir)
            .field("broker_endpoints", &self.broker.len())
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Read the file at `path`, or the one at the default place if there is one.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let (path, named) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if !named && e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        File::parse(path, &text)?.validate()
    }
}

fn wrong<T>(field: &'static str, why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Value { field, why: why.into() })
}

fn positive(field: &'static str, given: Option<usize>, default: usize) -> Result<usize, Error> {
    match given {
        Some(0) => wrong(field, "0 would stop all work; use 1 or more"),
        Some(n) if n > 100_000 => wrong(field, "use 100000 or less"),
        Some(n) => Ok(n),
        None => Ok(default),
    }
}

fn ratio(field: &'static str, given: Option<f64>, default: f64) -> Result<f64, Error> {
    match given {
        Some(r) if !r.is_finite() || r <= 0.0 || r > 1000.0 => {
            wrong(field, "use a number above 0 and at most 1000")
        }
        Some(r) => Ok(r),
        None => Ok(default),
    }
}

fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_absolute() { Ok(path) } else { wrong(field, "use an absolute path") }
}

impl File {
    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let mut file: Self = toml::from_str(text).map_err(|error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            // TOML's errors quote what they found, and a broker's URI holds a password.
            let message = match error.message() {
                quoted if quoted.contains("://") => "a URI is not expected here".to_owned(),
                message => message.to_owned(),
            };
            Error::Parse { path: path.to_owned(), line, message }
        })?;
        file.broker.endpoints = file.broker.endpoints(path, text)?;
        Ok(file)
    }

    fn validate(self) -> Result<Settings, Error> {
        let host = match self.host {
            Some(host) => host,
            None => host_name()?,
        };
        let run_dir = absolute("run_dir", self.run_dir.unwrap_or_else(|| "/run/ostler".into()))?;
        let state_dir = absolute("state_dir", self.state_dir.unwrap_or_else(|| STATE_DIR.into()))?;
        let socket = absolute(
            "socket.path",
            self.socket.path.unwrap_or_else(|| run_dir.join("host-agent.sock")),
        )?;
        let guests = run_dir.join("guest").join("0f8fad5b-d9cb-469f-a165-70867728950e.sock");
        if guests.as_os_str().len() > 107 {
            return wrong("run_dir", "too long: socket paths in it would exceed 107 bytes");
        }
        let limits = Limits {
            boots: positive("limits.boots", self.limits.boots, 4)?,
            downloads: positive("limits.downloads", self.limits.downloads, 2)?,
            copies: positive("limits.copies", self.limits.copies, 2)?,
            queue: positive("limits.queue", self.limits.queue, 8)?,
            operations: positive("limits.operations", self.limits.operations, 1000)?,
        };
        let image_directories = self
            .images
            .directories
            .unwrap_or_else(|| vec![state_dir.join(INCOMING), PathBuf::from("/srv/images")]);
        if image_directories.iter().any(|directory| !directory.is_absolute()) {
            return wrong("images.directories", "relative paths: use absolute ones");
        }
        let image_export_directories = self.images.export_directories;
        if image_export_directories.iter().any(|directory| !directory.is_absolute()) {
            return wrong("images.export_directories", "relative paths: use absolute ones");
        }
        let image_bandwidth = match self.images.bandwidth {
            Some(Size(Bytes(0))) => {
                return wrong("images.bandwidth", "0: leave it out to have no limit");
            }
            given => given.map(|rate| rate.0),
        };
        let image_proxy = match self.images.proxy.map(|url| url.parse::<Proxy>()) {
            Some(Err(NotAProxy)) => return wrong("images.proxy", NotAProxy.to_string()),
            Some(Ok(proxy)) => Some(proxy),
            None => None,
        };
        let admission = Admission {
            cpu_ratio: ratio("admission.cpu_ratio", self.admission.cpu_ratio, 4.0)?,
            memory_ratio: ratio("admission.memory_ratio", self.admission.memory_ratio, 1.0)?,
            memory_reserve: self.admission.memory_reserve.map_or(Bytes::mib(512), |s| s.0),
            disk_ratio: ratio("admission.disk_ratio", self.admission.disk_ratio, 1.5)?,
            disk_reserve: self.admission.disk_reserve.map_or(Bytes::gib(1), |s| s.0),
        };
        let flavors = match self.flavors {
            None => default_flavors(),
            Some(flavors) => flavors
                .into_iter()
                .map(|(name, f)| {
                    let disk = f.disk.map(|s| s.0);
                    (name, Flavor { vcpus: f.vcpus, memory: f.memory.0, disk })
                })
                .collect(),
        };
        let pools = pools::checked(self.pools, &state_dir)?;
        Ok(Settings {
            host,
            pools,
            state_dir,
            run_dir,
            socket,
            socket_group: self.socket.group,
            broker: self.broker.endpoints,
            hypervisor_uri: self.hypervisor.uri.unwrap_or_else(|| "qemu:///system".into()),
            virt_type: self.hypervisor.virt_type,
            vnc: self.hypervisor.vnc.unwrap_or(true),
            limits,
            admission,
            shutdown_timeout: Duration::from_secs(self.guest.shutdown_timeout.unwrap_or(60)),
            answer_timeout: Duration::from_secs(self.guest.answer_timeout.unwrap_or(10).max(1)),
            image_max: self.images.max_size.map_or(Bytes::gib(256), |s| s.0),
            image_directories,
            image_export_directories,
            image_bandwidth,
            image_proxy,
            reclaim_after: match self.instances.reclaim_after {
                None => Some(Duration::from_secs(7 * 86_400)),
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(seconds)),
            },
            orphans: self.instances.orphans,
            autostart: self.instances.autostart.unwrap_or(true),
            resume_when_room: self.instances.resume_when_room.unwrap_or(true),
            reconcile_interval: Duration::from_secs(
                self.instances.reconcile_interval.unwrap_or(600).max(1),
            ),
            config_drive: self.instances.config_drive.unwrap_or(DriveLayout::Openstack),
            flavors,
            keep: Duration::from_secs(u64::from(self.journal.keep_days.unwrap_or(7)) * 86_400),
            log_format: self.log.format,
            log_filter: self.log.filter()?,
        })
    }
}

impl BrokerFile {
    /// The brokers of the file and of the one beside it, each read where its line is known.
    fn endpoints(&self, path: &Path, text: &str) -> Result<Vec<Endpoint>, Error> {
        let wrong =
            |path: &Path, line, message| Error::Parse { path: path.to_owned(), line, message };
        let mut endpoints = Vec::new();
        for uri in &self.uris {
            let line = line_of(text, uri.span().start);
            endpoints.push(endpoint(uri.get_ref()).map_err(|why| wrong(path, line, why))?);
        }
        if let Some(path) = &self.uris_file {
            let text = std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(|source| Error::Read { path: path.clone(), source })?;
            for (n, line) in text.lines().map(str::trim).enumerate() {
                if !line.is_empty() {
                    endpoints.push(endpoint(line).map_err(|why| wrong(path, n + 1, why))?);
                }
            }
        }
        Ok(endpoints)
    }
}

fn endpoint(uri: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = uri.parse().map_err(|error: UriError| error.to_string())?;
    if endpoint.user.is_some() && endpoint.password.is_none() {
        return Err("the broker's URI has a user and no password".to_owned());
    }
    Ok(endpoint)
}

/// The line a place in a text is on, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1
}

impl LogFile {
    fn filter(self) -> Result<String, Error> {
        let filter = self.filter.unwrap_or_else(|| "info".into());
        match EnvFilter::try_new(&filter) {
            Ok(_) => Ok(filter),
            Err(error) => wrong("log.filter", error.to_string()),
        }
    }
}

fn host_name() -> Result<Name, Error> {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    name.parse()
        .or_else(|_| wrong("host", format!("the host name {name:?} cannot be a name; set host")))
}

/// The sizes offered where the configuration names none.
fn default_flavors() -> BTreeMap<Name, Flavor> {
    [("tiny", 1, 256), ("small", 1, 2048), ("medium", 2, 4096), ("large", 4, 8192)]
        .into_iter()
        .filter_map(|(name, vcpus, mib)| {
            Some((name.parse().ok()?, Flavor { vcpus, memory: Bytes::mib(mib), disk: None }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, Error> {
        File::parse(Path::new("test.toml"), text)?.validate()
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let settings = parse("host = \"n1\"").unwrap();
        assert_eq!(settings.socket, Path::new("/run/ostler/host-agent.sock"));
        assert!(settings.broker.is_empty());
        assert_eq!(settings.flavors.len(), 4);
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let error = parse("host = \"n1\"\n[limits]\nbots = 3").unwrap_err();
        assert!(error.to_string().contains("line 3: unknown field `bots`"), "{error}");
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        let text = "host = \"n1\"\n[flavors.a]\nvcpus = 1\nmemory = \"64MiB\"\n[admission]\nmemory_reserve = 5";
        let settings = parse(text).unwrap();
        assert_eq!(settings.flavors.values().next().unwrap().memory, Bytes::mib(64));
        assert_eq!(settings.admission.memory_reserve, Bytes(5));
        assert!(parse("[admission]\nmemory_reserve = \"5 bananas\"").is_err());
    }

    #[test]
    fn a_broker_uri_that_cannot_be_read_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("uris");
        for (uri, why) in [
            ("amqp://u:hunter2#ss@h/", "%23"),
            ("http://u:hunter2@h", "begins with amqp"),
            ("amqp://hunter2@h", "a user and no password"),
        ] {
            let text = format!("[broker]\nuris = [\n  \"amqps://u:p@h/\",\n  \"{uri}\",\n]");
            let inline = parse(&text).unwrap_err().to_string();
            assert!(inline.contains("test.toml, line 4: "), "{inline}");
            std::fs::write(&file, format!("\namqps://u:p@h/\n{uri}\n")).unwrap();
            let text = format!("host = \"n1\"\n[broker]\nuris_file = {file:?}");
            let beside = parse(&text).unwrap_err().to_string();
            assert!(beside.contains("uris, line 3: "), "{beside}");
            for said in [inline, beside] {
                assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
            }
        }
    }

    #[test]
    fn a_proxy_that_is_none_is_refused_without_its_password_and_so_is_a_bandwidth_of_nothing() {
        let parse = |line: &str| parse(&format!("host = \"n1\"\n[images]\n{line}"));
        let settings = parse("proxy = \"http://me:hunter2@h:1\"\nbandwidth = \"1MiB\"").unwrap();
        assert_eq!(settings.image_bandwidth, Some(Bytes::mib(1)));
        assert!(!format!("{:?}", settings.image_proxy).contains("hunter2"));
        let said = parse("proxy = \"socks5://me:hunter2@h:1\"").unwrap_err().to_string();
        assert!(said.contains("images.proxy") && !said.contains("hunter2"), "{said}");
        let said = parse("bandwidth = 0").unwrap_err().to_string();
        assert!(said.contains("images.bandwidth"), "{said}");
    }

    #[test]
    fn a_broker_uri_is_never_quoted() {
        let error = parse("[broker]\nuris = \"amqp://u:hunter2@h\"").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let settings = parse("host = \"n1\"\n[broker]\nuris = [\"amqp://u:hunter2@h\"]").unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
