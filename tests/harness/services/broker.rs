//! RabbitMQ: a private one, or one that is named.
//!
//! The private one has a node name, ports, data, log, cookie and epmd of its
//! own, listens on loopback only, and knows nothing of a RabbitMQ the machine
//! may already run. Its data stays across [`Broker::restart`], as a real
//! broker's would. It can be ended, paused and put under an alarm, and several
//! of them can be one cluster.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use nix::sys::signal::Signal;

use crate::place::Place;
use crate::process::{Daemon, Run, command};
use crate::{Error, Result, poll};

/// An Erlang machine on a busy two-core host takes a while.
const START: Duration = Duration::from_secs(90);

/// A broker that takes connections.
#[derive(Debug)]
pub struct Broker {
    uri: String,
    private: Option<Private>,
}

#[derive(Debug)]
struct Private {
    place: Place,
    ports: Ports,
    node: String,
    /// None while stopped.
    server: Option<Daemon>,
    home: Arc<Home>,
}

/// What the nodes of a cluster share: a cookie, and the process that knows
/// their ports.
#[derive(Debug)]
struct Home {
    place: Place,
    port: u16,
    epmd: Daemon,
}

/// Ports nobody uses just now.
#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    dist: u16,
}

impl Broker {
    /// By this variable a test run that holds one broker for all its tests says
    /// where it is.
    pub const OF_THE_LAB: &str = "OSTLER_LAB_BROKER";

    /// The broker `OSTLER_BROKER` names, or that of the test run, or else a
    /// private one. Others may be using it: tests that stop theirs take
    /// [`Self::private`].
    ///
    /// # Errors
    /// If it does not take connections.
    pub async fn ensure() -> Result<Self> {
        let named = ["OSTLER_BROKER", Self::OF_THE_LAB]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|uri| !uri.is_empty());
        let Some(uri) = named else { return Self::private().await };
        let mut broker = Self { uri, private: None };
        broker.ready().await?;
        Ok(broker)
    }

    /// A private broker, whatever the environment says: for tests that stop it.
    ///
    /// # Errors
    /// If RabbitMQ is not installed or does not start.
    pub async fn private() -> Result<Self> {
        let home = Arc::new(Home::new()?);
        let ports = Ports::free()?;
        Self::of(home, ports, &[ports]).await
    }

    /// A private cluster of this many.
    ///
    /// # Errors
    /// As [`Self::private`].
    pub async fn cluster(size: usize) -> Result<Vec<Self>> {
        let home = Arc::new(Home::new()?);
        let all = (0..size).map(|_| Ports::free()).collect::<Result<Vec<_>>>()?;
        let mut brokers = Vec::new();
        // one after the other, each told of those that are there: the first waits for nobody
        for (n, ports) in all.iter().enumerate() {
            brokers.push(Self::of(Arc::clone(&home), *ports, &all[..=n]).await?);
        }
        Ok(brokers)
    }

    async fn of(home: Arc<Home>, ports: Ports, all: &[Ports]) -> Result<Self> {
        let place = Place::new("broker")?;
        place.folder("data")?;
        place.folder("log")?;
        place.write("plugins", "[].\n")?;
        place.write("rabbitmq.conf", config(ports, all))?;
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", ports.amqp);
        let private = Private { place, ports, node: ports.node(), server: None, home };
        let mut broker = Self { uri, private: Some(private) };
        broker.start().await?;
        Ok(broker)
    }

    /// Its AMQP URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Whether it is ours to stop.
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Start it again after [`Self::stop`] or [`Self::kill`], with its data.
    ///
    /// # Errors
    /// If it does not take connections in time, or is not ours.
    pub async fn start(&mut self) -> Result<()> {
        let private = self.ours()?;
        let server = Daemon::start("rabbitmq", private.server()?, &private.place.join("out.log"))?;
        private.server = Some(server);
        self.ready().await
    }

    /// Stop it in good order, keeping its data.
    ///
    /// # Errors
    /// If it does not end, or is not ours.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut server) = self.ours()?.server.take() {
            server.terminate().await?;
        }
        Ok(())
    }

    /// End it as a power cut would, keeping what it had on disk.
    ///
    /// # Errors
    /// If it is not ours.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(server) = self.ours()?.server.take() {
            // the server is a shell script's child: its group is what to kill
            server.kill_group().await?;
        }
        Ok(())
    }

    /// Stop it where it is, connections and all, as a machine that swaps would.
    ///
    /// # Errors
    /// If it is not ours.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Let it go on after [`Self::pause`].
    ///
    /// # Errors
    /// If it is not ours.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        match &self.ours()?.server {
            Some(server) => server.signal_group(signal),
            None => Ok(()),
        }
    }

    /// Let it believe that its memory is at an end: it takes no messages then.
    ///
    /// # Errors
    /// If it does not answer, or is not ours.
    pub async fn alarm(&mut self) -> Result<()> {
        self.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await.map(drop)
    }

    /// The end of [`Self::alarm`].
    ///
    /// # Errors
    /// As there.
    pub async fn calm(&mut self) -> Result<()> {
        self.control(&["set_vm_memory_high_watermark", "absolute", WATERMARK]).await.map(drop)
    }

    /// What `rabbitmqctl` with these arguments prints.
    ///
    /// # Errors
    /// If it fails, or the broker is not ours.
    pub async fn control(&mut self, args: &[&str]) -> Result<String> {
        let private = self.ours()?;
        let program = found(
            "rabbitmqctl",
            &[
                "/usr/lib/rabbitmq/bin/rabbitmqctl",
                "/opt/rabbitmq/sbin/rabbitmqctl",
                "/usr/local/sbin/rabbitmqctl",
            ],
        )?;
        let mut run = Run::new(program).args(["-q", "-n", &private.node]).args(args);
        for (name, value) in private.environment() {
            run = run.env(name, value);
        }
        run.stdout().await
    }

    /// Stop and start.
    ///
    /// # Errors
    /// As those.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Take away what a host agent leaves on a broker it does not own: its
    /// queue. The exchanges, which all hosts share, stay.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn forget_host(&self, host: &str) -> Result<()> {
        let connection = self.connect().await.map_err(Error::broker("connecting"))?;
        let channel =
            connection.create_channel().await.map_err(Error::broker("opening a channel"))?;
        let queue = format!("ostler.host.{host}");
        channel
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await
            .map_err(Error::broker(format!("deleting {queue}")))?;
        connection.close(200, "done".into()).await.map_err(Error::broker("closing the connection"))
    }

    /// The end of its log.
    pub fn tail(&self, lines: usize) -> String {
        self.private
            .as_ref()
            .and_then(|private| private.server.as_ref())
            .map(|server| server.tail(lines))
            .unwrap_or_default()
    }

    fn ours(&mut self) -> Result<&mut Private> {
        self.private.as_mut().ok_or_else(|| Error::Missing {
            what: "a private broker".to_owned(),
            remedy: "unset OSTLER_BROKER: its broker is not ours to stop".to_owned(),
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the harness is an AMQP client of its own")]
    async fn connect(&self) -> lapin::Result<Connection> {
        Connection::connect(&self.uri, ConnectionProperties::default()).await
    }

    /// Ready is a connection opened, not a port that listens: RabbitMQ listens
    /// before its virtual host is up.
    async fn ready(&mut self) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            if let Some(server) = self.private.as_mut().and_then(|p| p.server.as_mut()) {
                server.check()?;
            }
            let look =
                poll::until("the broker takes connections", Duration::from_secs(10), async || {
                    let connection = self.connect().await.map_err(|error| error.to_string())?;
                    let channel =
                        connection.create_channel().await.map_err(|error| error.to_string())?;
                    // It has shown what was asked; how the connection ends does not matter. The
                    // channel is kept until then: its own closing would race with it.
                    let _closed = connection.close(200, "ready".into()).await;
                    drop(channel);
                    Ok(())
                });
            match look.await {
                Ok(()) => return Ok(()),
                Err(_) if start.elapsed() < START => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Private {
    /// What the server and its tools both go by.
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("HOME", self.home.place.path().to_string_lossy().into_owned()),
            ("RABBITMQ_NODENAME", self.node.clone()),
            ("ERL_EPMD_PORT", self.home.port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_CONF_ENV_FILE", self.place.join("env").to_string_lossy().into_owned()),
        ]
    }

    fn server(&self) -> Result<Command> {
        let path = |name: &str| self.place.join(name);
        let mut server = command(rabbitmq_server()?);
        server
            .envs(self.environment())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.dist.to_string())
            // a helper of a server that is killed while it starts would leave one where we are
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced"))
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path("generated"))
            // no busy waiting on a machine that emulates processors besides;
            // distribution, too, on loopback only
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none \
                 -kernel inet_dist_use_interface {127,0,0,1}",
            );
        Ok(server)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // nothing is to be kept: no need to wait for an orderly stop
        if let Some(server) = self.server.take() {
            server.kill_group_blocking();
        }
    }
}

impl Home {
    fn new() -> Result<Self> {
        let place = Place::new("brokers")?;
        let [port] = free_ports()?;
        let cookie = place.write(".erlang.cookie", uuid::Uuid::new_v4().simple().to_string())?;
        // Erlang insists
        let mode = std::fs::Permissions::from_mode(0o400);
        std::fs::set_permissions(&cookie, mode).map_err(Error::path("closing", &cookie))?;
        let epmd = Daemon::start("epmd", epmd(port)?, &place.join("epmd.log"))?;
        Ok(Self { place, port, epmd })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _already_gone = self.epmd.signal(Signal::SIGKILL);
    }
}

impl Ports {
    fn free() -> Result<Self> {
        let [amqp, dist] = free_ports()?;
        Ok(Self { amqp, dist })
    }

    /// The name of the node that has these ports.
    fn node(self) -> String {
        format!("ostler-{}@localhost", self.amqp)
    }
}

/// Held all at once while being chosen, so that they differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::io("looking for a port"))?;
        *port = listener.local_addr().map_err(Error::io("looking for a port"))?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// The memory a broker may use before it takes no more messages.
const WATERMARK: &str = "512MB";

/// Small: it shares a machine with guests, and carries some thousand messages.
fn config(own: Ports, all: &[Ports]) -> String {
    let mut config = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         vm_memory_high_watermark.absolute = {WATERMARK}\n\
         disk_free_limit.absolute = 50MB\n\
         raft.wal_max_size_bytes = 16000000\n\
         log.console = true\n\
         log.console.level = warning\n",
        own.amqp
    );
    if all.len() > 1 {
        config += "cluster_formation.peer_discovery_backend = classic_config\n";
        for (n, ports) in all.iter().enumerate() {
            let line =
                format!("cluster_formation.classic_config.nodes.{} = {}\n", n + 1, ports.node());
            config += &line;
        }
    }
    config
}

/// An epmd of our own, in the foreground, which the server would otherwise
/// start as a daemon that outlives everything.
fn epmd(port: u16) -> Result<Command> {
    let mut epmd = command(found("epmd", &["/usr/bin/epmd", "/usr/local/bin/epmd"])?);
    epmd.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
    Ok(epmd)
}

/// The server's own script: the one in `/usr/sbin` changes to a user that may
/// not write here.
fn rabbitmq_server() -> Result<PathBuf> {
    found(
        "rabbitmq-server",
        &[
            "/usr/lib/rabbitmq/bin/rabbitmq-server",
            "/opt/rabbitmq/sbin/rabbitmq-server",
            "/usr/local/sbin/rabbitmq-server",
        ],
    )
}

fn found(name: &str, places: &[&str]) -> Result<PathBuf> {
    places.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned).ok_or_else(|| {
        Error::Missing { what: name.to_owned(), remedy: "run tests/lab/install".to_owned() }
    })
}
