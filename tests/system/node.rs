//! A node under test: services, a host agent of its own with images and a network, and the
//! instances a test boots on it; all of it gone when the test is over.

use std::time::Duration;

use base64::Engine as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use ostler_tests::agent::{Ground, HostAgent, Setup};
use ostler_tests::console::{Console, Session};
use ostler_tests::guest_image::{Account, GuestImage, Mode};
use ostler_tests::poll;
use ostler_tests::process::{Run, command};
use ostler_tests::rpc::{Call, CallError, Client};
use ostler_tests::services::{Broker, Libvirt, OwnLibvirt, SYSTEM};
use ostler_tests::strangers;
use ostler_tests::world::World;
use serde_json::{Value, json};

/// How long a guest may take to boot, on a busy machine without KVM.
pub(crate) const BOOT: Duration = Duration::from_secs(180);

/// Memory of the guests here.
pub(crate) const MEMORY: u64 = 192 << 20;

/// Whether a test has its right to libvirt; if not, that is said.
pub(crate) fn skipped() -> bool {
    let skip = !Uid::effective().is_root();
    if skip {
        eprintln!("skipped: only root can use qemu:///system");
    }
    skip
}

/// Leave a test that cannot run here.
macro_rules! need_root {
    () => {
        if crate::node::skipped() {
            return;
        }
    };
}
pub(crate) use need_root;

/// A node under test.
pub(crate) struct Node {
    _libvirt: Libvirt,
    /// Where its libvirtd is.
    uri: String,
    pub(crate) agent: HostAgent,
    pub(crate) image: GuestImage,
    pub(crate) client: Client,
    /// The network every node has.
    pub(crate) network: String,
    bridges: Vec<String>,
    instances: Vec<String>,
    modes: Vec<Mode>,
    own: Option<OwnLibvirt>,
}

/// The configuration all nodes here have: what a test machine can do.
const MORE: &str = "[hypervisor]\nvirt_type = \"qemu\"\nvnc = false\n\
                    [admission]\ncpu_ratio = 32.0\n";

impl Node {
    /// A node with its socket only.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// A node on this broker.
    pub(crate) async fn on(broker: &Broker) -> Self {
        Self::with(Setup::with_broker(broker.uri())).await
    }

    /// A node with this setup; its `more` is added to the common configuration.
    pub(crate) async fn with(setup: Setup) -> Self {
        Self::made(setup, MORE, Ground::new(None).unwrap(), None).await
    }

    /// A node with this setup on a libvirtd of its own, which others do not see stop.
    /// With a size in bytes, its state has a small file system.
    pub(crate) async fn on_own_libvirt(setup: Setup, state_size: Option<u64>) -> Self {
        let ground = Ground::new(state_size).unwrap();
        let own = OwnLibvirt::start().await.unwrap();
        let uri = format!("[hypervisor]\nuri = \"{}\"", own.uri());
        Self::made(setup, &MORE.replacen("[hypervisor]", &uri, 1), ground, Some(own)).await
    }

    /// A node whose instances have a screen.
    pub(crate) async fn with_screens() -> Self {
        let common = MORE.replace("vnc = false", "vnc = true");
        Self::made(Setup::default(), &common, Ground::new(None).unwrap(), None).await
    }

    async fn made(setup: Setup, common: &str, ground: Ground, own: Option<OwnLibvirt>) -> Self {
        let libvirt = Libvirt::ensure().await.unwrap();
        let uri = own.as_ref().map_or(libvirt.uri(), OwnLibvirt::uri).to_owned();
        let image = GuestImage::bake().await.unwrap();
        let more = format!("{common}{}", setup.more);
        let agent = HostAgent::start_on(ground, Setup { more, ..setup }).await.unwrap();
        let client = agent.client().await.unwrap();
        let network = "lan".to_owned();
        let mut node = Self {
            _libvirt: libvirt,
            uri,
            agent,
            image,
            client,
            network: network.clone(),
            bridges: Vec::new(),
            instances: Vec::new(),
            modes: Vec::new(),
            own,
        };
        let (kernel, ramdisk) = (node.image.kernel.clone(), node.image.initramfs.clone());
        node.done("image.import", json!({"name": "kernel", "source": kernel, "format": "kernel"}))
            .await;
        node.done(
            "image.import",
            json!({"name": "ramdisk", "source": ramdisk, "format": "ramdisk"}),
        )
        .await;
        node.network(&network).await;
        node
    }

    /// Make a network; its bridge, named so that no other test has it.
    pub(crate) async fn network(&mut self, name: &str) -> String {
        let suffix: String = self.agent.host().chars().rev().take(6).collect();
        let bridge = format!("ot{}{suffix}", self.bridges.len());
        self.bridges.push(bridge.clone());
        self.done("network.ensure", json!({"name": name, "bridge": bridge})).await;
        bridge
    }

    /// The image whose guests behave like this, imported when first asked for.
    pub(crate) async fn image(&mut self, mode: Mode) -> String {
        let name = format!("mini-{}", mode.word());
        if !self.modes.contains(&mode) {
            self.modes.push(mode);
            let import = json!({
                "name": name, "source": self.image.root, "format": "qcow2",
                "properties": {"kernel": "kernel", "ramdisk": "ramdisk",
                               "command_line": self.image.cmdline(mode)},
            });
            self.done("image.import", import).await;
        }
        name
    }

    /// Parameters of a boot.
    pub(crate) async fn boot_params(&mut self, name: &str, mode: Mode, networks: &[&str]) -> Value {
        let image = self.image(mode).await;
        let networks: Vec<Value> = networks.iter().map(|n| json!({"network": n})).collect();
        let id = uuid::Uuid::new_v4().to_string();
        self.instances.push(id.clone());
        json!({"id": id, "name": name, "image": image, "vcpus": 1, "memory": MEMORY,
               "networks": networks})
    }

    /// An instance made elsewhere, to be removed with the node.
    pub(crate) fn adopt(&mut self, id: &str) {
        self.instances.push(id.to_owned());
    }

    /// A bridge made elsewhere, to be removed with the node.
    pub(crate) fn adopt_bridge(&mut self, bridge: &str) {
        self.bridges.push(bridge.to_owned());
    }

    /// Boot an instance on the common network; its id.
    pub(crate) async fn boot(&mut self, name: &str, mode: Mode) -> String {
        let network = self.network.clone();
        self.boot_on(name, mode, &[network.as_str()]).await
    }

    /// Boot an instance on these networks; its id.
    pub(crate) async fn boot_on(&mut self, name: &str, mode: Mode, networks: &[&str]) -> String {
        let params = self.boot_params(name, mode, networks).await;
        let id = params["id"].as_str().unwrap().to_owned();
        self.done("instance.boot", params).await;
        id
    }

    /// Ask for something; the answer, or the test fails.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let answer = self.client.call(method, params).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Ask for something that is refused: the stable word, and the sentence with what to do next.
    pub(crate) async fn refused(&mut self, method: &str, params: Value) -> (String, String) {
        match self.client.call(method, params.clone()).await {
            Err(CallError::Fault { message, data, .. }) => {
                let next = data["next"].as_str().unwrap_or_default();
                (data["reason"].as_str().unwrap().to_owned(), format!("{message}; {next}"))
            }
            other => panic!("{method} {params} was not refused: {other:?}"),
        }
    }

    /// Wait for the end of an operation.
    pub(crate) async fn end_of(&mut self, operation: &Value) -> Value {
        end_of(&mut self.client, operation).await
    }

    /// Have a change made to its end; the test fails unless it succeeds.
    pub(crate) async fn done(&mut self, method: &str, params: Value) -> Value {
        let over = self.tried(method, params).await;
        assert_eq!(over["state"], "succeeded", "{method}: {over:#}");
        over
    }

    /// Have a change made to its end, whatever that is.
    pub(crate) async fn tried(&mut self, method: &str, params: Value) -> Value {
        let operation = self.ask(method, params).await;
        self.end_of(&operation).await
    }

    /// The instance as the agent shows it.
    pub(crate) async fn show(&mut self, id: &str) -> Value {
        self.ask("instance.show", json!({"id": id})).await
    }

    /// Wait until the instance is as wanted.
    pub(crate) async fn until(
        &mut self,
        id: &str,
        what: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let client = &mut self.client;
        poll::until(what, BOOT, async || {
            let shown = client.call("instance.show", json!({"id": id})).await;
            let shown = shown.map_err(|error| error.to_string())?;
            if is(&shown) { Ok(shown) } else { Err(shown.to_string()) }
        })
        .await
        .unwrap()
    }

    /// The guest's report, once its agent answers.
    pub(crate) async fn report(&mut self, id: &str) -> Value {
        let client = &mut self.client;
        poll::until("the guest's report", BOOT, async || {
            let call = Call::new("guest.report", json!({"id": id, "wait": 5000}));
            client.send(&call).await.map_err(|error| error.to_string())
        })
        .await
        .unwrap()
    }

    /// Log in on the serial console.
    pub(crate) async fn login(&self, id: &str, account: Account) -> Session {
        let console = Console::of_domain(&self.uri, &format!("ostler-{id}")).await.unwrap();
        console.login(account.user, account.password).await.unwrap().session().unwrap()
    }

    /// Run a line of shell in the guest, by its agent; what it printed.
    pub(crate) async fn shell(&mut self, id: &str, line: &str) -> String {
        self.until(id, "the guest's agent answers", |i| i["guest"]["state"] == "ready").await;
        let run = json!({"id": id, "path": "/bin/sh", "args": ["-c", line], "timeout_ms": 60_000});
        let started = self.ask("guest.exec", run).await;
        loop {
            let wait = json!({"id": id, "exec": started["exec"], "timeout": 20_000});
            let ran = self.ask("guest.exec_wait", wait).await;
            if ran["state"] == "running" {
                continue;
            }
            assert_eq!(ran["exit_code"], 0, "{line}: {ran:#}");
            let output = ran["stdout"].as_str().unwrap_or_default();
            let output = base64::engine::general_purpose::STANDARD.decode(output).unwrap();
            return String::from_utf8(output).unwrap().trim().to_owned();
        }
    }

    /// Until a line of the shell says this in the guest: what appears there takes its moment.
    pub(crate) async fn until_shell(&mut self, id: &str, line: &str, word: &str) {
        let wait = format!("until [ \"$({line})\" = '{word}' ]; do sleep 0.1; done");
        self.shell(id, &wait).await;
    }

    /// Have a change made to its end, and see what the instance is then.
    pub(crate) async fn becomes(&mut self, method: &str, params: Value, status: &str) -> Value {
        let id = params["id"].as_str().unwrap().to_owned();
        self.done(method, params).await;
        let shown = self.show(&id).await;
        assert_eq!(shown["status"], status, "after {method}: {shown:#}");
        assert_eq!(shown["task_state"], Value::Null, "after {method}: {shown:#}");
        assert_eq!(shown["drift"], Value::Null, "after {method}: {shown:#}");
        shown
    }

    /// The files of an instance, sorted, logs left out.
    pub(crate) fn files(&self, id: &str) -> Vec<String> {
        let folder = self.agent.state_dir().join("instances").join(id);
        let mut names: Vec<String> = match std::fs::read_dir(folder) {
            Ok(entries) => {
                entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
            }
            Err(_) => Vec::new(),
        };
        names.retain(|name| !name.starts_with("console.log"));
        names.sort();
        names
    }

    /// Delete an instance, and prove that nothing of it is left.
    pub(crate) async fn delete(&mut self, id: &str) {
        self.done("instance.delete", gone(id)).await;
        self.nothing_left(id).await;
    }

    /// Nothing of the instance is on the machine: domain, QEMU, tap, disk, socket.
    pub(crate) async fn nothing_left(&mut self, id: &str) {
        let shown = self.show(id).await;
        let taps = shown["ports"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            taps.map(|port| port["tap"].as_str().unwrap().to_owned()).collect();
        names.push(id.to_owned());
        let world = World::look_by(&self.uri, &[self.agent.folder()]).await.unwrap();
        let left = world.of(&names);
        assert!(left.is_empty(), "left of instance {id}:\n{left}");
    }

    /// A new client, after the agent was restarted, once it reaches libvirt.
    pub(crate) async fn reconnect(&mut self) {
        self.client = self.agent.client().await.unwrap();
        let client = &mut self.client;
        let linked = poll::until("libvirt is reached", BOOT, async || {
            let host = client.call("host.show", Value::Null).await;
            let host = host.map_err(|error| error.to_string())?;
            if host["hypervisor"] == "up" { Ok(()) } else { Err(host.to_string()) }
        });
        linked.await.unwrap();
    }

    /// Where its libvirtd is.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// The libvirtd nobody else has.
    pub(crate) fn own(&mut self) -> &mut OwnLibvirt {
        self.own.as_mut().unwrap()
    }

    /// The pid of an instance's QEMU.
    pub(crate) fn qemu(&self, id: &str) -> Option<u32> {
        strangers::machine(id)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever the test came to: by libvirt and the kernel themselves, not by the agent.
        let quietly = |program: &str, args: &[&str]| {
            let mut run = command(program);
            let _ = run.args(args).output();
        };
        if let Some(own) = &self.own {
            let _ = own.signal(Signal::SIGCONT);
        }
        for id in &self.instances {
            let domain = format!("ostler-{id}");
            quietly("virsh", &["-q", "-c", &self.uri, "destroy", &domain]);
            quietly("virsh", &["-q", "-c", &self.uri, "undefine", "--nvram", &domain]);
            if let Some(pid) = self.qemu(id) {
                // libvirtd is away or hangs
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
        for bridge in &self.bridges {
            quietly("ip", &["link", "delete", bridge]);
        }
    }
}

/// Parameters of a delete that leaves nothing, whatever state the instance is in.
pub(crate) fn gone(id: impl serde::Serialize) -> Value {
    json!({"id": id, "mode": "hard", "ignore_error": true})
}

/// Wait for the end of an operation.
pub(crate) async fn end_of(client: &mut Client, operation: &Value) -> Value {
    let mut now = operation.clone();
    while matches!(now["state"].as_str(), Some("queued" | "running")) {
        let call = Call::new("operation.wait", json!({"id": operation["id"], "timeout": 20_000}));
        now = client.send(&call).await.unwrap();
    }
    now
}

/// Run virsh.
pub(crate) async fn virsh(args: &[&str]) -> String {
    Run::new("virsh").args(["-q", "-c", SYSTEM]).args(args).stdout().await.unwrap()
}
