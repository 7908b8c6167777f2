//! The built host agent, with a node of its own: name, folders and socket, so
//! that any number of them run beside each other and beside an installed one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::place::Place;
use crate::process::{Daemon, command};
use crate::rpc::{CallError, Client};
use crate::{Error, Result, poll, programs};

/// How long it may take until it answers.
const START: Duration = Duration::from_secs(30);
/// How long it may take to drain at SIGTERM.
const DRAIN: Duration = Duration::from_secs(60);

/// What differs from test to test.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The broker's URIs; none: the socket only.
    pub broker: Vec<String>,
    /// The node's name; made up if not said.
    pub host: Option<String>,
    /// More of the configuration file, in TOML: whole tables (`[limits]`...),
    /// other than those [`configuration`] writes.
    pub more: String,
    /// Whether images are read from where the agent has them by default, not from where tests
    /// make them.
    pub image_defaults: bool,
    /// More of the environment.
    pub env: Vec<(String, String)>,
    /// Whether it is made to panic; otherwise a panic in its log fails the test.
    pub may_panic: bool,
}

impl Setup {
    /// A node on this broker besides its socket.
    pub fn with_broker(uri: &str) -> Self {
        Self { broker: vec![uri.to_owned()], ..Self::default() }
    }
}

/// A host agent, running or between two runs. Dropping it stops the program
/// and takes its folders away; its guests are the test's to delete.
#[derive(Debug)]
pub struct HostAgent {
    // before `place`: stopped first, then its folders go
    daemon: Option<Daemon>,
    host: String,
    setup: Setup,
    ground: Ground,
}

/// Where a node's folders are, gone when dropped.
#[derive(Debug)]
pub struct Ground {
    // unmounted before its folder goes
    _mount: Option<Mount>,
    place: Place,
}

impl Ground {
    /// Folders; with a size in bytes, its state has a file system of that size, which a test can fill.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new(state_size: Option<u64>) -> Result<Self> {
        let place = Place::new("node")?;
        let state = place.folder("state")?;
        let mount = state_size.map(|size| Mount::of_size(&state, size)).transpose()?;
        place.folder("run")?;
        Ok(Self { _mount: mount, place })
    }
}

/// A file system in memory, unmounted when dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mount one of this size, bytes, on a folder that is there.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn of_size(folder: &Path, size: u64) -> Result<Self> {
        let told = format!("size={size},mode=0711");
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "-o", &told, "ostler"]).arg(folder);
        let status = mount.status().map_err(Error::io("starting mount"))?;
        if status.success() {
            return Ok(Self(folder.to_owned()));
        }
        Err(Error::Failed {
            command: "mount -t tmpfs".to_owned(),
            status: status.to_string(),
            stderr: String::new(),
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a guest that a test has forgotten must not keep the folder.
        let _gone = command("umount").arg("-l").arg(&self.0).status();
    }
}

impl HostAgent {
    /// Start one and wait until it answers on its socket.
    ///
    /// # Errors
    /// If it is not built, ends, or does not answer in time; with the end of
    /// its log.
    pub async fn start(setup: Setup) -> Result<Self> {
        Self::start_on(Ground::new(None)?, setup).await
    }

    /// The same in these folders.
    ///
    /// # Errors
    /// As that.
    pub async fn start_on(ground: Ground, setup: Setup) -> Result<Self> {
        let host = setup.host.clone().unwrap_or_else(fresh_name);
        let mut agent = Self { daemon: None, host, setup, ground };
        agent.launch()?;
        agent.ready().await?;
        Ok(agent)
    }

    /// Start it (again), without waiting for anything.
    ///
    /// # Errors
    /// If it is not built.
    pub fn launch(&mut self) -> Result<()> {
        let file = self.configure()?;
        let mut program = command(programs::host_agent()?);
        program.arg("--config").arg(file);
        // the test's own environment is not the agent's
        program.env_remove("OSTLER_BROKER").env_remove("NOTIFY_SOCKET");
        program.envs(self.setup.env.iter().map(|(name, value)| (name, value)));
        self.daemon = Some(Daemon::start("ostler-host-agent", program, &self.log())?);
        Ok(())
    }

    /// Have it read its configuration again, as the setup is now, without waiting for anything.
    ///
    /// # Errors
    /// If it does not run.
    pub fn reload(&mut self) -> Result<()> {
        self.configure()?;
        self.signal(Signal::SIGHUP)
    }

    fn configure(&self) -> Result<PathBuf> {
        let text = configuration(&self.ground.place, &self.host, &self.setup);
        self.ground.place.write("host-agent.toml", text)
    }

    /// Wait until it answers on its socket.
    ///
    /// # Errors
    /// If it ends, or does not answer in time.
    pub async fn ready(&mut self) -> Result<()> {
        let socket = self.socket();
        let daemon = self.running()?;
        let answers = poll::until("the host agent answers", START, async || {
            if daemon.check().is_err() {
                // not worth waiting for any longer; `check` below says so
                return Ok(());
            }
            let mut client = Client::socket(&socket).await.map_err(|error| error.to_string())?;
            let pong = client.call("host.ping", serde_json::Value::Null).await;
            pong.map(drop).map_err(|error| error.to_string())
        })
        .await;
        daemon.check()?;
        answers.map_err(|error| error.with(&format!("the end of its log:\n{}", daemon.tail(30))))
    }

    /// SIGTERM, and wait for the end of its drain; its exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(&mut self) -> Result<i32> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(0) };
        daemon.signal(Signal::SIGTERM)?;
        daemon.ended(DRAIN).await
    }

    /// SIGKILL: the crash at any instant.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.kill().await,
            None => Ok(()),
        }
    }

    /// Stop, start, and wait until it answers.
    ///
    /// # Errors
    /// As those.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.launch()?;
        self.ready().await
    }

    /// Send it any signal.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// Wait for it to end by itself: it was told to crash somewhere.
    ///
    /// # Errors
    /// If it goes on running.
    pub async fn ended(&mut self, patience: Duration) -> Result<i32> {
        let code = self.running()?.ended(patience).await?;
        self.daemon = None;
        Ok(code)
    }

    /// A client on its socket.
    ///
    /// # Errors
    /// If it does not listen.
    pub async fn client(&self) -> Result<Client, CallError> {
        Client::socket(&self.socket()).await
    }

    /// A client through the broker it was given.
    ///
    /// # Errors
    /// If it was given none, or that one refuses.
    pub async fn amqp_client(&self) -> Result<Client, CallError> {
        let uri = self.setup.broker.first();
        let uri = uri.ok_or_else(|| CallError::Lost("this node has no broker".to_owned()))?;
        Client::amqp(uri, &self.host).await
    }

    /// The node's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.ground.place.join("run/host-agent.sock")
    }

    /// Its state, which outlives its runs.
    pub fn state_dir(&self) -> PathBuf {
        self.ground.place.join("state")
    }

    /// Its sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.ground.place.join("run")
    }

    /// The folder of all that, for [`crate::world::World::look`].
    pub fn folder(&self) -> &Path {
        self.ground.place.path()
    }

    /// The file of its log, over all its runs.
    pub fn log(&self) -> PathBuf {
        self.ground.place.join("host-agent.log")
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// What may change between two runs.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    fn running(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().ok_or_else(|| Error::Missing {
            what: "a running host agent".to_owned(),
            remedy: "launch() it first".to_owned(),
        })
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        if let (Some(line), false, false) =
            (panicked, self.setup.may_panic, std::thread::panicking())
        {
            #[expect(clippy::panic, reason = "no test is passed by an agent that panicked")]
            {
                panic!("the agent panicked: {line}");
            }
        }
        if std::thread::panicking() {
            let tail = crate::process::tail(&self.log(), 60);
            #[expect(clippy::print_stderr, reason = "a failing test shows what the agent said")]
            {
                eprintln!("--- the end of {}'s log ---\n{tail}\n---", self.host);
            }
        }
    }
}

/// A name no other node has.
fn fresh_name() -> String {
    let mut name = Uuid::new_v4().simple().to_string();
    name.truncate(8);
    format!("node-{name}")
}

/// The configuration file of a node that lives in `place`: the one function
/// that knows its keys.
fn configuration(place: &Place, host: &str, setup: &Setup) -> String {
    let mut text = String::new();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |name: &str| quoted(&place.join(name).to_string_lossy());
    let uris: Vec<String> = setup.broker.iter().map(|uri| quoted(uri)).collect();
    // what a test makes is in folders beside the node's
    let images = match setup.image_defaults {
        true => String::new(),
        false => {
            let directory = std::env::temp_dir();
            let directory = quoted(&directory.to_string_lossy());
            format!("[images]\ndirectories = [{directory}]\nexport_directories = [{directory}]\n\n")
        }
    };
    // writing to a String cannot fail
    let _written = write!(
        text,
        "host = {}\n\
         state_dir = {}\n\
         run_dir = {}\n\
         \n\
         [broker]\n\
         uris = [{}]\n\
         \n\
         {}\
         [log]\n\
         format = \"text\"\n\
         filter = {}\n\
         \n{}",
        quoted(host),
        path("state"),
        path("run"),
        uris.join(", "),
        images,
        quoted(
            &std::env::var("OSTLER_LOG").unwrap_or_else(|_| "info,ostler_host_agent=debug".into())
        ),
        setup.more,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_in_its_own_place() {
        let place = Place::new("node").unwrap();
        let setup = Setup {
            more: "[limits]\nboots = 2\n".to_owned(),
            ..Setup::with_broker("amqp://a:b\"c@localhost")
        };
        let text = configuration(&place, "node-1", &setup);
        assert!(text.contains(r#"uris = ["amqp://a:b\"c@localhost"]"#), "{text}");
        assert!(text.contains(&format!("{}/state", place.path().display())), "{text}");
        assert!(text.ends_with("[limits]\nboots = 2\n"), "{text}");
    }
}
