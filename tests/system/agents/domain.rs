//! A guest with both agent ports under libvirt alone: no host agent of ours has a part in it.

use std::time::Duration;

use ostler_tests::console::{Console, Session, pty_of};
use ostler_tests::guest_image::{Account, GuestImage, Mode, ROOT};
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::process::{Run, command};
use serde_json::{Value, json};
use uuid::Uuid;

use super::System;
use crate::node::BOOT;

/// What a check saw, or why there was nothing to see.
pub(super) type Seen<T = String> = Result<T, String>;

/// How long something that is on its way may take.
pub(super) const SOON: Duration = Duration::from_secs(90);

/// What a guest knows of an agent that does not answer.
const GUEST: &str = "ls -l /dev/virtio-ports; ps -ef | grep -e ostler -e qemu-ga; \
    journalctl -b --no-pager -u qemu-guest-agent -u ostler-guest-agent 2>/dev/null";

/// A running guest, gone when dropped.
pub(super) struct Domain {
    uri: String,
    pub(super) id: String,
    pub(super) system: System,
    pub(super) mode: Mode,
    pub(super) place: Place,
    /// A root shell on the serial console.
    session: Option<Session>,
}

impl Domain {
    /// Boot one; it has a root disk, an empty ext4 disk mounted on /mnt, two processors and a NIC.
    pub(super) async fn boot(uri: &str, image: &GuestImage, system: System, mode: Mode) -> Self {
        let place = Place::new("qga").unwrap();
        let root = place.join("root.qcow2");
        Run::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([image.root.as_path(), root.as_path()])
            .stdout()
            .await
            .unwrap();
        let data = place.join("data.raw");
        Run::new("mke2fs")
            .args(["-q", "-t", "ext4", "-L", "data", "-J", "size=4"])
            .args([data.as_os_str(), "48M".as_ref()])
            .stdout()
            .await
            .unwrap();
        let id = Uuid::new_v4().to_string();
        let swap = place.join("swap.raw");
        let empty = std::fs::File::create(&swap).unwrap();
        empty.set_len(system.memory_mib() << 20).unwrap();
        Run::new("mkswap").args([&swap]).stdout().await.unwrap();
        let xml = xml(&id, image, system, mode, &place);
        let mut domain = Self::of(uri, id, system, mode, place, &xml);
        domain.start().await.unwrap();
        domain.log_in(ROOT).await.unwrap();
        domain.ask("mount /dev/vdb /mnt").await.unwrap();
        // the emulated network's router has been heard: the addresses are all there
        domain.shows("grep -c ^fec0 /proc/net/if_inet6", "1").await.unwrap();
        if let Err(why) = domain.answers().await {
            let known = domain.ask(GUEST).await;
            panic!("{system:?} {}: {why}\n{known:?}", mode.word());
        }
        domain
    }

    /// One that is described by this and does not run yet.
    pub(super) fn of(
        uri: &str,
        id: String,
        system: System,
        mode: Mode,
        place: Place,
        xml: &str,
    ) -> Self {
        place.write("domain.xml", xml).unwrap();
        Self { uri: uri.to_owned(), id, system, mode, place, session: None }
    }

    /// Have libvirt start it: at first, and after it has ended.
    pub(super) async fn start(&mut self) -> Seen {
        self.session = None;
        let file = self.place.join("domain.xml").to_string_lossy().into_owned();
        self.virsh_bare(&["create", &file]).await
    }

    /// Run virsh on this guest: its first argument is the verb, the guest is put behind it. What it
    /// printed, or the last line of its complaint.
    pub(super) async fn virsh(&self, args: &[&str]) -> Seen {
        let (verb, rest) = args.split_first().unwrap();
        let mut all = vec![*verb, self.id.as_str()];
        all.extend(rest);
        self.virsh_bare(&all).await
    }

    /// The same without the guest in the arguments.
    pub(super) async fn virsh_bare(&self, args: &[&str]) -> Seen {
        // not --quiet: that leaves out the ends of some lines
        let run = Run::new("virsh").args(["-c", &self.uri]).args(args);
        let output = run.patience(SOON).output().await.map_err(told)?;
        if output.code == 0 {
            return Ok(output.stdout.trim().to_owned());
        }
        Err(complaint(&output.stderr))
    }

    /// Send the agent a command through libvirt; what it returned.
    pub(super) async fn agent(&self, command: &str, arguments: Value) -> Seen<Value> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        let reply = self.virsh(&["qemu-agent-command", "--timeout", "60", &request]).await?;
        let reply: Value = serde_json::from_str(&reply).map_err(|error| error.to_string())?;
        Ok(reply["return"].clone())
    }

    /// Wait until the agent answers.
    pub(super) async fn answers(&self) -> Seen {
        self.until("the agent answers", async || {
            self.agent("guest-ping", json!({})).await.map(|_| "answers".to_owned())
        })
        .await
    }

    /// Wait until it is so.
    pub(super) async fn until<T>(&self, what: &str, look: impl AsyncFnMut() -> Seen<T>) -> Seen<T> {
        poll::until(what, SOON, look).await.map_err(|error| error.to_string())
    }

    /// Wait until libvirt says this of it.
    pub(super) async fn reaches(&self, state: &str) -> Seen {
        self.until(state, async || match self.virsh(&["domstate"]).await? {
            now if now == state => Ok(now),
            now => Err(now),
        })
        .await
    }

    /// Log in on the serial console, whoever was logged in there before.
    pub(super) async fn log_in(&mut self, account: Account) -> Seen {
        let console = self.console().await?;
        let login = console.login(account.user, account.password).await.map_err(told)?;
        self.session = Some(login.session().map_err(told)?);
        Ok(format!("{} logged in", account.user))
    }

    /// The serial console with nobody logged in.
    pub(super) async fn console(&mut self) -> Seen<Console> {
        match self.session.take() {
            Some(session) => session.logout().await.map_err(told),
            None => {
                let pty = pty_of(&self.uri, &self.id, BOOT).await.map_err(told)?;
                Console::open(&pty).map_err(told)
            }
        }
    }

    /// Run a line in the guest; what it printed, if it returned 0.
    pub(super) async fn ask(&mut self, line: &str) -> Seen {
        let session = self.session.as_mut().ok_or("nobody is logged in")?;
        session.ask(line).await.map_err(told)
    }

    /// The same for a line that takes its time.
    pub(super) async fn ask_for(&mut self, line: &str, patience: Duration) -> Seen {
        let session = self.session.as_mut().ok_or("nobody is logged in")?;
        session.run_for(line, patience).await.map(|ran| ran.text).map_err(told)
    }

    /// The same until it prints this.
    pub(super) async fn shows(&mut self, line: &str, wanted: &str) -> Seen {
        let session = self.session.as_mut().ok_or("nobody is logged in")?;
        poll::until(&format!("`{line}` prints {wanted:?}"), SOON, async || {
            let ran = session.run(line).await.map_err(told)?;
            if ran.text.trim() == wanted { Ok(ran.text) } else { Err(ran.text) }
        })
        .await
        .map_err(told)
    }

    /// A file for virsh to read.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        self.place.write(name, text).unwrap().to_string_lossy().into_owned()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let mut destroy = command("virsh");
        destroy.args(["-q", "-c", &self.uri, "destroy", &self.id]);
        destroy.stderr(std::process::Stdio::null());
        let _gone = destroy.status();
    }
}

/// An error as text, sources included by its own `Display`.
pub(super) fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// virsh repeats itself; what went wrong is in its last line.
fn complaint(stderr: &str) -> String {
    let line = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// The channel that is unplugged and plugged again.
pub(super) const STANDARD: &str =
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// A port nobody on the host ever opens.
pub(super) const CLOSED: &str = "org.example.closed.0";

fn xml(id: &str, image: &GuestImage, system: System, mode: Mode, place: &Place) -> String {
    let disk = |file: &str, format: &str, name: &str| {
        format!(
            "<disk type='file' device='disk'>
             <driver name='qemu' type='{format}' discard='unmap'/><source file='{}'/>
             <target dev='{name}' bus='virtio'/><serial>disk-{name}</serial></disk>",
            place.join(file).display()
        )
    };
    // not q35: there a guest that has slept cannot switch the machine off
    format!(
        "<domain type='qemu'><name>ostler-qga-{id}</name><uuid>{id}</uuid>
         <memory unit='MiB'>{}</memory><vcpu>2</vcpu>
         <os><type machine='pc'>hvm</type>
         <kernel>{}</kernel><initrd>{}</initrd><cmdline>{} resume=/dev/vdc</cmdline></os>
         <features><acpi/></features><clock offset='utc'/>
         <pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='yes'/></pm>
         <on_poweroff>destroy</on_poweroff>
         <devices>{}{}{}
         <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
         <serial type='pty'/>
         {STANDARD}
         <channel type='unix'><source mode='bind'/><target type='virtio' name='org.ostler.guest.0'/></channel>
         <channel type='unix'><source mode='bind'/><target type='virtio' name='{CLOSED}'/></channel>
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         </devices></domain>",
        system.memory_mib(),
        image.kernel.display(),
        image.initramfs(mode).display(),
        image.cmdline(mode),
        disk("root.qcow2", "qcow2", "vda"),
        disk("data.raw", "raw", "vdb"),
        disk("swap.raw", "raw", "vdc"),
    )
}
