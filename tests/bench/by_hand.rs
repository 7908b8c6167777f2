//! The floor of a boot: the same guest without Ostler and without libvirt.
//!
//! A template is booted once by Ostler. Its XML and its QEMU's own command line are then used again
//! and again, each time with a fresh disk: the XML by libvirt alone, the command line by nobody at
//! all. So all three start the very same machine.

use std::fs;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_tests::place::Place;
use ostler_tests::process::{Daemon, Run, command};
use ostler_tests::services::SYSTEM;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::stand::{Booted, PATIENCE, Stand, virsh};

/// The event by which the agent in the guest says that it answers.
const READY: &str = "OSTLER_READY";
/// Which of the template's chardevs carries Ostler's port.
const PORT: &str = "org.ostler.guest.0";

/// A machine to be started again and again.
#[derive(Debug)]
pub(crate) struct Template {
    id: Uuid,
    /// Its folders, as they are in the XML and the command line.
    disks: PathBuf,
    sockets: PathBuf,
    base: PathBuf,
    xml: String,
    line: Vec<String>,
    place: Place,
}

/// One use of a template: its files are gone when dropped.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    template: &'a Template,
    id: Uuid,
}

/// A domain that libvirt has, ended and forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Domain(Uuid);

impl Template {
    /// Of a running instance.
    ///
    /// # Errors
    /// If libvirt does not tell, or QEMU is not found.
    pub(crate) async fn of(stand: &Stand, booted: &Booted) -> Result<Self> {
        let xml = virsh(&["dumpxml", "--inactive", &booted.domain()]).await?;
        let disks = stand.agent.state_dir().join("instances");
        let disk = disks.join(booted.id.to_string()).join("disk.qcow2");
        let info = Run::new("qemu-img")
            .args(["info", "-U", "--output=json"])
            .args([disk.as_os_str()])
            .stdout()
            .await?;
        let known: Value = serde_json::from_str(&info).unwrap_or_default();
        let base = known["full-backing-filename"].as_str();
        let base =
            base.ok_or_else(|| Error::Garbled { what: "qemu-img info", text: info.clone() })?;
        let sockets = stand.agent.run_dir().join("guest");
        let template = Self {
            id: booted.id,
            base: base.into(),
            xml,
            line: Qemu::of(booted.id)?.line,
            place: Place::new("by-hand")?,
            disks,
            sockets,
        };
        Ok(template)
    }

    /// A machine like it, with a disk of its own, not yet started.
    ///
    /// # Errors
    /// If the disk cannot be made.
    pub(crate) async fn machine(&self) -> Result<Machine<'_>> {
        let id = Uuid::new_v4();
        let folder = self.place.folder(&id.to_string())?;
        let machine = Machine { template: self, id };
        Run::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([self.base.as_os_str(), folder.join("disk.qcow2").as_os_str()])
            .stdout()
            .await?;
        Ok(machine)
    }
}

impl Machine<'_> {
    /// The template's text with this machine's id and files.
    fn own(&self, text: &str) -> String {
        let template = self.template;
        let here = template.place.path().to_string_lossy().into_owned();
        text.replace(&*template.disks.to_string_lossy(), &here)
            .replace(&*template.sockets.to_string_lossy(), &here)
            .replace(&template.id.to_string(), &self.id.to_string())
    }

    /// Its id.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Its XML.
    pub(crate) fn xml(&self) -> String {
        self.own(&self.template.xml)
    }

    /// Where libvirt's QEMU binds Ostler's port.
    fn port(&self) -> PathBuf {
        self.template.place.join(format!("{}.sock", self.id))
    }

    /// Its own folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.template.place.join(self.id.to_string())
    }

    /// Its domain, ended and forgotten when dropped.
    pub(crate) fn domain(&self) -> Domain {
        Domain(self.id)
    }

    /// Start it with `virsh create`.
    ///
    /// # Errors
    /// If libvirt refuses.
    pub(crate) async fn virsh_create(&self, file: &Path) -> Result<Domain> {
        let domain = self.domain();
        virsh(&["create", &file.to_string_lossy()]).await?;
        Ok(domain)
    }

    /// Its XML in a file, for `virsh create`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn file(&self) -> Result<PathBuf> {
        let path = self.folder().join("domain.xml");
        fs::write(&path, self.xml()).map_err(Error::io("writing a domain's XML"))?;
        Ok(path)
    }

    /// Start it through an open connection.
    ///
    /// # Errors
    /// If libvirt refuses.
    pub(crate) fn api_create(&self, libvirt: &virt::connect::Connect, xml: &str) -> Result<Domain> {
        let domain = self.domain();
        tokio::task::block_in_place(|| libvirt.create_domain_xml(xml, 0))
            .map_err(Error::libvirt("starting a domain"))?;
        Ok(domain)
    }

    /// Wait until the guest that libvirt started says that it is ready.
    ///
    /// # Errors
    /// If it does not in time.
    pub(crate) async fn ready(&self) -> Result<()> {
        let stream = UnixStream::connect(self.port()).await;
        heard(stream.map_err(Error::io("opening Ostler's port"))?).await
    }

    /// Start QEMU and wait until the guest says that it is ready; QEMU, to be ended. It connects to
    /// a socket that is listened on before, so nothing has to be looked for.
    ///
    /// # Errors
    /// If it ends, or the guest does not get that far in time.
    pub(crate) async fn run_by_hand(&self) -> Result<Daemon> {
        let path = self.port();
        let step = || Error::io(format!("listening on {}", path.display()));
        let listener = StdListener::bind(&path).map_err(step())?;
        listener.set_nonblocking(true).map_err(step())?;
        let listener = UnixListener::from_std(listener).map_err(step())?;
        let line = by_hand(&self.template.line, &self.folder(), &path);
        let mut words = line.iter().map(|word| self.own(word));
        let mut qemu = command(words.next().unwrap_or_default());
        qemu.args(words);
        let mut daemon = Daemon::start("qemu", qemu, &self.folder().join("qemu.log"))?;
        let stream = loop {
            match timeout(Duration::from_secs(5), listener.accept()).await {
                Ok(accepted) => break accepted.map_err(step())?.0,
                Err(_) => daemon.check()?,
            }
        };
        heard(stream).await?;
        Ok(daemon)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _not_there = fs::remove_dir_all(self.folder());
        let _not_there = fs::remove_file(self.port());
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let id = self.0.to_string();
        for verb in [&["destroy"][..], &["undefine", "--managed-save"]] {
            let mut virsh = command("virsh");
            virsh.args(["-q", "-c", SYSTEM]).args(verb).arg(&id);
            let _already_gone = virsh.output();
        }
    }
}

async fn heard(stream: UnixStream) -> Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.map_err(Error::io("reading the port"))? {
            if line.contains(READY) {
                return Ok(());
            }
        }
        Err(Error::Nothing { what: READY.to_owned() })
    };
    let late = |_| Error::Nothing { what: format!("{READY}, in time,") };
    timeout(PATIENCE, ready).await.map_err(late)?
}

/// The QEMU of an instance.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// Its process.
    pub(crate) pid: i32,
    /// Its command line.
    line: Vec<String>,
}

impl Qemu {
    /// Look for it.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of(id: Uuid) -> Result<Self> {
        let id = id.to_string();
        let processes = fs::read_dir("/proc").map_err(Error::io("reading /proc"))?;
        let found = processes.flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let line: Vec<String> =
                text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
            let is_it = line.first()?.contains("qemu-system")
                && line.windows(2).any(|pair| pair[0] == "-uuid" && pair[1] == id);
            is_it.then_some(Self { pid, line })
        });
        found.ok_or_else(|| Error::Nothing { what: format!("the QEMU of {id}") })
    }
}

/// libvirt's command line without what only libvirt can give: its monitor, its secret, and
/// descriptors it opened before. Everything the guest sees stays.
fn by_hand(line: &[String], folder: &Path, port: &Path) -> Vec<String> {
    let carrier = port_chardev(line);
    let mut words = line.iter();
    let mut kept: Vec<String> = words.next().cloned().into_iter().collect();
    while let Some(option) = words.next() {
        if matches!(option.as_str(), "-S" | "-no-user-config" | "-nodefaults" | "-no-shutdown") {
            if option != "-S" {
                kept.push(option.clone());
            }
            continue;
        }
        let Some(value) = words.next() else { break };
        let value = match option.as_str() {
            "-mon" | "-add-fd" => continue,
            "-object" if value.contains("\"secret\"") => continue,
            "-chardev" if value.contains("id=charmonitor") => continue,
            "-chardev" if value.starts_with("socket,") => {
                let id = field(value, "id").unwrap_or_default();
                if Some(id) == carrier.as_deref() {
                    format!("socket,id={id},path={}", port.display())
                } else {
                    let path = folder.join(format!("{id}.sock"));
                    format!("socket,id={id},path={},server=on,wait=off", path.display())
                }
            }
            "-chardev" => match field(value, "logfile") {
                Some(log) => value.replace(log, &folder.join("console.log").to_string_lossy()),
                None => value.clone(),
            },
            "-netdev" => {
                let id = network_id(value);
                format!("tap,id={id},script=no,downscript=no")
            }
            "-vnc" => {
                let rest = value.split_once(',').map(|(_, rest)| format!(",{rest}"));
                let path = folder.join("vnc.sock");
                format!("unix:{}{}", path.display(), rest.unwrap_or_default())
            }
            _ => value.clone(),
        };
        kept.extend([option.clone(), value]);
    }
    kept
}

/// A value of `key=value,key=value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
}

/// The id of a netdev, in either of the two forms QEMU takes.
fn network_id(value: &str) -> String {
    match serde_json::from_str::<Value>(value) {
        Ok(object) => object["id"].as_str().unwrap_or("hostnet0").to_owned(),
        Err(_) => field(value, "id").unwrap_or("hostnet0").to_owned(),
    }
}

/// The chardev of Ostler's port.
fn port_chardev(line: &[String]) -> Option<String> {
    let device = line.iter().find(|word| word.contains("virtserialport") && word.contains(PORT))?;
    match serde_json::from_str::<Value>(device) {
        Ok(object) => object["chardev"].as_str().map(str::to_owned),
        Err(_) => field(device, "chardev").map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_libvirt_can_give_is_left_out_and_the_devices_stay() {
        let line: Vec<String> = [
            "qemu-system-x86_64",
            "-S",
            "-nodefaults",
            "-object",
            r#"{"qom-type":"secret","id":"masterKey0"}"#,
            "-chardev",
            "socket,id=charmonitor,fd=22,server=on,wait=off",
            "-mon",
            "chardev=charmonitor,id=monitor,mode=control",
            "-add-fd",
            "set=0,fd=20",
            "-chardev",
            "pty,id=charserial0,logfile=/dev/fdset/0,logappend=on",
            "-netdev",
            "tap,fd=23,vhost=on,vhostfd=25,id=hostnet0",
            "-chardev",
            "socket,id=charchannel1,fd=19,server=on,wait=off",
            "-device",
            r#"{"driver":"virtserialport","chardev":"charchannel1","name":"org.ostler.guest.0"}"#,
            "-vnc",
            "127.0.0.1:0,audiodev=audio1",
        ]
        .map(str::to_owned)
        .to_vec();
        let words = by_hand(&line, Path::new("/f"), Path::new("/p.sock"));
        let text = words.join(" ");
        assert!(
            !text.contains("-S ") && !text.contains("secret") && !text.contains("fd="),
            "{text}"
        );
        assert!(text.contains("socket,id=charchannel1,path=/p.sock -device"), "{text}");
        assert!(text.contains("logfile=/f/console.log,logappend=on"), "{text}");
        assert!(text.contains("tap,id=hostnet0,script=no"), "{text}");
        assert!(text.contains("unix:/f/vnc.sock,audiodev=audio1"), "{text}");
        assert!(text.contains("-nodefaults"), "{text}");
    }
}
