//! Things on the machine that are somebody else's, beside whatever an agent does: domains (one
//! off, one running), a bridge, a tap and files in the agent's own folders. They look as ours do,
//! as far as somebody else's can, and have to be after it as they were before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use uuid::Uuid;

use crate::process::{Run, command};
use crate::{Error, Result};

/// Somebody else's things; gone when dropped.
#[derive(Debug)]
pub struct Strangers {
    uri: String,
    /// A domain that is off.
    pub off: Uuid,
    /// A domain that runs.
    pub running: Uuid,
    links: [String; 2],
    files: Vec<PathBuf>,
}

/// How they were at one moment: a text for each.
pub type Seen = BTreeMap<String, String>;

impl Strangers {
    /// Put them there: the domains on the libvirtd at `uri`, a file into each of `folders`.
    ///
    /// # Errors
    /// If they cannot be made.
    pub async fn settle(uri: &str, folders: &[PathBuf]) -> Result<Self> {
        let (off, running) = (Uuid::new_v4(), Uuid::new_v4());
        // of the form of our taps' names
        let word = running.simple().to_string();
        let links = [format!("sb{}", &word[..9]), format!("tap{}", &word[..11])];
        let files = folders.iter().map(|folder| folder.join("somebody-elses")).collect();
        let all = Self { uri: uri.to_owned(), off, running, links, files };
        let [bridge, tap] = &all.links;
        let ip = async |words: &[&str]| Run::new("ip").args(words).stdout().await.map(drop);
        ip(&["link", "add", bridge, "type", "bridge"]).await?;
        ip(&["tuntap", "add", tap, "mode", "tap"]).await?;
        ip(&["link", "set", tap, "master", bridge, "up"]).await?;
        for file in &all.files {
            fs::write(file, "do not touch").map_err(Error::path("writing", file))?;
        }
        for id in [off, running] {
            let xml = format!(
                "<domain type='qemu'><name>ostler-of-old-{id}</name><uuid>{id}</uuid>\
                 <memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>"
            );
            all.define(&xml).await?;
        }
        all.virsh(&["start", &running.to_string()]).await?;
        Ok(all)
    }

    /// Define a domain of somebody's.
    async fn define(&self, xml: &str) -> Result<()> {
        let words = ["-q", "-c", self.uri.as_str(), "define", "/dev/stdin"];
        Run::new("virsh").args(words).stdin(xml).stdout().await.map(drop)
    }

    /// How they are.
    ///
    /// # Errors
    /// If libvirt does not answer, or one is gone.
    pub async fn look(&self) -> Result<Seen> {
        let mut seen = Seen::new();
        // few programs: a bench looks thousands of times
        let ask = |id| format!("domstate {id} --reason; dumpxml {id}");
        let asked = [ask(self.off), ask(self.running)].join("; ");
        seen.insert("domains".to_owned(), self.virsh(&[&asked]).await?);
        let running = self.running.to_string();
        seen.insert("QEMU".to_owned(), format!("{:?}", machine(&running)));
        let all = Run::new("ip").args(["-o", "link", "show"]).stdout().await?;
        for link in &self.links {
            let shown = all.lines().filter(|line| line.contains(&format!(" {link}: ")));
            seen.insert(format!("link {link}"), shown.collect());
        }
        for file in &self.files {
            let meta = fs::metadata(file).map_err(Error::path("examining", file))?;
            let text = fs::read_to_string(file).map_err(Error::path("reading", file))?;
            let how = format!("{text}, inode {}, mode {:o}", meta.ino(), meta.mode());
            seen.insert(format!("file {}", file.display()), how);
        }
        Ok(seen)
    }

    /// Their files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    async fn virsh(&self, words: &[&str]) -> Result<String> {
        Run::new("virsh").args(["-q", "-c", self.uri.as_str()]).args(words).stdout().await
    }
}

/// What is different now, in words.
pub fn changes(before: &Seen, now: &Seen) -> Vec<String> {
    let differs = |(what, was): (&String, &String)| match now.get(what) {
        Some(is) if is == was => None,
        Some(is) => Some(format!("somebody else's {what} was {was:?}, and is {is:?}")),
        None => Some(format!("somebody else's {what} is gone")),
    };
    before.iter().filter_map(differs).collect()
}

/// The process of a QEMU with this `-uuid`.
pub fn machine(id: &str) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let is = line.split('\0').next()?.contains("qemu-system") && line.contains(id);
        if is { entry.file_name().to_str()?.parse().ok() } else { None }
    })
}

impl Drop for Strangers {
    fn drop(&mut self) {
        let quietly = |program: &str, words: &[&str]| {
            let _ = command(program).args(words).output();
        };
        for id in [self.off, self.running] {
            let id = id.to_string();
            quietly("virsh", &["-q", "-c", &self.uri, "destroy", &id]);
            quietly("virsh", &["-q", "-c", &self.uri, "undefine", &id]);
            if let Some(pid) = machine(&id) {
                // its libvirtd is away
                let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        for link in &self.links {
            quietly("ip", &["link", "delete", link]);
        }
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}
