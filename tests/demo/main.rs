//! `demo [--socket]`: the life of one guest, from its image to its end, asked for by the
//! `ostler` command and by nothing else.
//!
//! ```text
//!   play: services ─> image ─> host agent ─> import, network, boot ─> report, password,
//!         stop, start ─> delete ─> nothing is left
//!           │ done, failed or interrupted
//!           v
//!   clear: agent, domain, links, folders, broker, libvirtd, in this order; then look again
//! ```
//!
//! What the agent says of itself is not taken for proof: a password is tried by a login on the
//! serial console, and what is left is asked of libvirt, the kernel and the file system. All that
//! must be cleared is in [`Scene`], so that it is cleared whichever way the play ends.

mod scene;
mod stage;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::cli::Cli;
use ostler_tests::console::{Console, Login, pty_of};
use ostler_tests::guest_image::{GuestImage, Mode, ROOT};
use ostler_tests::interrupt::or_interrupted;
use ostler_tests::process::Output;
use ostler_tests::services::{Broker, Libvirt, SYSTEM};
use ostler_tests::world::leftovers;
use ostler_tests::{Error, Result, poll};
use serde_json::Value;
use uuid::Uuid;

use scene::{Scene, expect, nothing};
use stage::{Stage, chain, quoted};

const HELP: &str = "\
Boots, uses and deletes a guest on this machine, by the ostler command.

Usage: demo [--socket]

  --socket   ask the node over its UNIX socket; without a broker

Environment:
  OSTLER_BROKER   the AMQP URI of a broker to use; a private one is started if not set
  OSTLER_KEEP     if set, the folders of the demo are left behind
  NO_COLOR        if set, no colours on a terminal
";

/// What the node calls the guest, its image and its network.
const NAME: &str = "demo";
/// How long the node may take to reach its services, and to find out what guests run on.
const READY: Duration = Duration::from_secs(90);

#[tokio::main]
async fn main() -> ExitCode {
    let mut way = Way::Broker;
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--socket" => way = Way::Socket,
            "-h" | "--help" => return told(HELP, 0),
            other => return told(&format!("demo: what is {other}?\n\n{HELP}"), 2),
        }
    }
    let mut stage = Stage::new();
    let mut scene = Scene::new();
    let played = or_interrupted(play(&mut scene, &mut stage, way)).await;
    if let Err(error) = &played {
        stage.fell(error, scene.log().as_deref());
    }
    match (scene.clear().await, played) {
        (Ok(()), Ok(())) => match stage.curtain() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        (Ok(()), Err(Error::Interrupted)) => told("demo: all is cleared away\n", 130),
        (Ok(()), Err(_)) => told("demo: all is cleared away\n", 1),
        (Err(error), _) => told(&format!("demo: not all is cleared away: {}\n", chain(&error)), 1),
    }
}

/// Says this, and ends the program with this code.
fn told(text: &str, code: u8) -> ExitCode {
    // whoever does not listen has the code
    let _unheard = match code {
        0 => std::io::stdout().write_all(text.as_bytes()),
        _ => std::io::stderr().write_all(text.as_bytes()),
    };
    ExitCode::from(code)
}

/// The way from the command to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through RabbitMQ.
    Broker,
    /// Over the node's socket.
    Socket,
}

/// The steps, in their order.
async fn play(scene: &mut Scene, stage: &mut Stage, way: Way) -> Result<()> {
    let cli = prepare(scene, stage, way).await?;
    let ostler = async |stage: &mut Stage, title: &str, args: &[&str], stdin: &str| {
        ask(&cli, stage, title, args, stdin).await
    };
    ostler(stage, "Does the node answer?", &["host", "ping"], "").await?;
    ostler(stage, "What is the node?", &["host", "show"], "").await?;
    import(&cli, scene, stage).await?;
    let ensure = ["network", "ensure", NAME, "--bridge", scene.bridge.as_str()];
    ostler(stage, "Make a network", &ensure, "").await?;

    let size = ["--flavor", "tiny", "--image", NAME, "--network", NAME];
    let mut boot = vec!["instance", "boot", "--name", NAME, "--id", &scene.id];
    boot.extend(size);
    ostler(stage, "Boot an instance", &boot, "").await?;
    let shown = cli.json(&["instance", "show", NAME]).await?;
    let port = &shown["ports"][0];
    scene.tap = port["tap"].as_str().map(str::to_owned);
    let mac = port["mac"].as_str().unwrap_or("no MAC").to_owned();

    let report = ["guest", "report", NAME, "--wait", "120"];
    ostler(stage, "What the guest says of itself, once its agent is up", &report, "").await?;
    understands(&cli.json(&["guest", "report", NAME, "--cached"]).await?, &mac)?;
    let password = passwords(&cli, scene, stage).await?;

    ostler(stage, "Stop it", &["instance", "stop", NAME], "").await?;
    status(&cli, "SHUTOFF").await?;
    ostler(stage, "Start it", &["instance", "start", NAME], "").await?;
    ostler(stage, "It is ready again", &report, "").await?;
    status(&cli, "ACTIVE").await?;
    stage.step("Its disk is the same: the new password holds")?;
    accepted(stage, console(scene).await?, &password).await?;
    stage.done()?;

    stage.step("What this machine holds for it")?;
    let agent = scene.agent.as_ref();
    let folders: Vec<_> = agent.map(HostAgent::folder).into_iter().collect();
    let ids: Vec<String> = scene.tap.iter().cloned().chain([scene.id.clone()]).collect();
    let held = leftovers(&ids, &folders).await?;
    stage.say(&held.to_string())?;
    let kinds = [held.domains.len(), held.machines.len(), held.links.len(), held.files.len()];
    expect(!kinds.contains(&0), "a running guest's domain, process, tap and files", &held)?;
    stage.done()?;
    ostler(stage, "Delete it", &["instance", "delete", NAME, "--hard"], "").await?;
    stage.step("What this machine still holds for it")?;
    let left = leftovers(&ids, &folders).await?;
    stage.say(&left.to_string())?;
    nothing(left)?;
    stage.done()?;
    let list = ["operation", "list"];
    ostler(stage, "What the node was asked, the last first", &list, "").await?;
    Ok(())
}

/// Services, image and node.
async fn prepare(scene: &mut Scene, stage: &mut Stage, way: Way) -> Result<Cli> {
    stage.step("Have a libvirtd")?;
    scene.libvirt.make(Libvirt::ensure()).await?;
    let libvirt = scene.libvirt.get()?;
    let whose = if libvirt.is_ours() { "started for the demo" } else { "it runs already" };
    stage.say(&format!("{}: {whose}", libvirt.uri()))?;
    stage.done()?;

    let mut setup = Setup::default();
    if way == Way::Broker {
        stage.step("Have a broker")?;
        let broker = scene.broker.insert(Broker::ensure().await?);
        stage.say(match broker.is_private() {
            true => "a RabbitMQ of the demo's own, on a free port",
            false => "the one that was named",
        })?;
        setup = Setup::with_broker(broker.uri());
        stage.done()?;
    }

    stage.step("Bake a guest: a Debian kernel, busybox, our agent, on ext4")?;
    stage.command("tests/guests/guest --agent ostler-guest-agent ...")?;
    scene.image.make(GuestImage::bake()).await?;
    stage.done()?;

    stage.step("Start the host agent")?;
    let agent = scene.agent.insert(HostAgent::start(setup).await?);
    let file = agent.folder().join("host-agent.toml");
    stage.command(&format!("ostler-host-agent --config {}", file.display()))?;
    let mut client = agent.client().await.map_err(|error| Error::Garbled {
        what: "a connection to the node's socket".to_owned(),
        text: error.to_string(),
    })?;
    let ready = poll::until("the node reaches its services", READY, async || {
        let host = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        let (broker, on) = (host["broker"].as_str(), host["virt_type"].as_str());
        let reached = (way == Way::Socket || broker == Some("up")) && on != Some("unknown");
        let seen = format!("broker {broker:?}, guests run on {on:?}");
        if reached { Ok(on.unwrap_or_default().to_owned()) } else { Err(seen) }
    });
    stage.say(&format!("the node is {}; guests run on {}", agent.host(), ready.await?))?;
    let (cli, env) = match &scene.broker {
        Some(broker) => {
            // the password of a broker that is somebody else's is not shown
            let uri = if broker.is_private() { quoted(broker.uri()) } else { "...".to_owned() };
            let env = format!("export OSTLER_BROKER={uri} OSTLER_HOST={}", agent.host());
            (Cli::over_broker(broker.uri(), agent.host())?, env)
        }
        None => {
            let env = format!("export OSTLER_SOCKET={}", agent.socket().display());
            (Cli::on(agent)?, env)
        }
    };
    stage.command(&env)?;
    stage.done()?;
    Ok(cli)
}

/// One step that is one run of the command.
async fn ask(
    cli: &Cli,
    stage: &mut Stage,
    title: &str,
    args: &[&str],
    stdin: &str,
) -> Result<Output> {
    stage.step(title)?;
    let words: Vec<String> = args.iter().map(|word| quoted(word)).collect();
    let line = format!("ostler {}", words.join(" "));
    match stdin.trim_end() {
        "" => stage.command(&line)?,
        text => stage.command(&format!("echo {} | {line}", quoted(text)))?,
    }
    let output = cli.output(args, stdin).await?;
    if output.code != 0 {
        let status = format!("exit {}", output.code);
        return Err(Error::Failed { command: line, status, stderr: output.stderr });
    }
    stage.aside(&output.stderr)?;
    stage.say(output.stdout.trim_end())?;
    stage.done()?;
    Ok(output)
}

/// Kernel, ramdisk, and the disk that is booted with them.
async fn import(cli: &Cli, scene: &Scene, stage: &mut Stage) -> Result<()> {
    let image = scene.image.get()?;
    let paths = [&image.kernel, &image.initramfs, &image.root].map(|p| p.to_string_lossy());
    let [kernel, ramdisk, disk] = &paths;
    let parts = [("kernel", kernel), ("ramdisk", ramdisk)];
    for (format, path) in parts {
        let name = format!("{NAME}-{format}");
        let args = ["image", "import", &name, "--source", path, "--format", format];
        ask(cli, stage, &format!("Import the guest's {format}"), &args, "").await?;
    }
    let line = image.cmdline(Mode::Ostler);
    let (kernel, ramdisk) = (format!("{NAME}-kernel"), format!("{NAME}-ramdisk"));
    let mut args = vec!["image", "import", NAME, "--source", disk, "--format", "qcow2"];
    args.extend(["--kernel", &kernel, "--ramdisk", &ramdisk, "--command-line", &line]);
    ask(cli, stage, "Import its disk, to be booted with those", &args, "").await?;
    Ok(())
}

/// The old password holds; a new one is set; the new one holds and the old one does not.
/// The new one is returned.
async fn passwords(cli: &Cli, scene: &Scene, stage: &mut Stage) -> Result<String> {
    let new = format!("hay-{}", &Uuid::new_v4().simple().to_string()[..8]);
    stage.step("Log in on the serial console with the password of the image")?;
    let console = accepted(stage, console(scene).await?, ROOT.password).await?;
    stage.done()?;

    let args = ["instance", "password", NAME, "--user", ROOT.user, "--password-stdin"];
    ask(cli, stage, "Give it a new one", &args, &format!("{new}\n")).await?;

    stage.step("Log in again: with the old one, and with the new one")?;
    let Login::Refused(console) = console.login(ROOT.user, ROOT.password).await? else {
        let (what, text) = ("the old password".to_owned(), "it still holds".to_owned());
        return Err(Error::Garbled { what, text });
    };
    stage.say(&format!("login: {}, password: {}: Login incorrect", ROOT.user, ROOT.password))?;
    accepted(stage, console, &new).await?;
    stage.done()?;
    Ok(new)
}

async fn console(scene: &Scene) -> Result<Console> {
    Console::open(&pty_of(SYSTEM, &scene.id, READY).await?)
}

/// A login that must be accepted, shown by what the guest's shell then says.
async fn accepted(stage: &Stage, console: Console, password: &str) -> Result<Console> {
    let mut session = console.login(ROOT.user, password).await?.session()?;
    let said = session.ask("id -un; uname -sr").await?.replace('\n', ", ");
    stage.say(&format!("login: {}, password: {password}: {said}", ROOT.user))?;
    session.logout().await
}

/// The report is the guest's own, and of the right guest.
fn understands(report: &Value, mac: &str) -> Result<()> {
    let any = |list: &str, field: &str, wanted: &str| {
        let items = report[list].as_array().into_iter().flatten();
        items.into_iter().any(|item| item[field].as_str() == Some(wanted))
    };
    expect(report["state"] == "ready", "the guest's state", &report["state"])?;
    expect(any("filesystems", "mountpoint", "/"), "a report without a root filesystem", report)?;
    expect(any("interfaces", "mac", mac), &format!("a report without {mac}"), report)
}

async fn status(cli: &Cli, wanted: &str) -> Result<()> {
    let shown = cli.json(&["instance", "show", NAME]).await?;
    expect(shown["status"] == wanted, &format!("a status that is not {wanted}"), &shown["status"])
}
