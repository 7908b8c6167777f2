//! From exec to the first answer, and what a program weighs on disk.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::place::Place;
use ostler_tests::process::{Daemon, Run, command};
use ostler_tests::programs;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::echo;
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::Lab;

/// The first question to a host agent.
pub(crate) const PING: &str = "{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"method\":\"host.ping\"}\n";
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Starts before the ones that count.
const WARM_UP: usize = 2;

/// Tells when something comes into a folder, so that a socket is tried when it may be there and not
/// at intervals.
pub(crate) struct Arrival(AsyncFd<OwnedFd>);

impl Arrival {
    /// Watch a folder.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let step = format!("watching {}", folder.display());
        let refused = |errno: nix::Error| Error::io(step.clone())(errno.into());
        let watch =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(refused)?;
        // a socket becomes connectable after it is made; a change of its mode is often the sign
        let kinds =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
        watch.add_watch(folder, kinds).map_err(refused)?;
        #[expect(
            deprecated,
            reason = "what succeeds it is unsafe; an OwnedFd keeps its descriptor"
        )]
        AsyncFd::new(OwnedFd::from(watch)).map(Self).map_err(Error::io(step))
    }

    /// A connection, as soon as `path` takes one.
    ///
    /// # Errors
    /// If `check` finds that the program has ended, or it does not listen in time.
    pub(crate) async fn connected(
        &mut self,
        path: &Path,
        mut check: impl FnMut() -> ostler_tests::Result<()>,
    ) -> Result<UnixStream> {
        let connecting = async {
            loop {
                if let Ok(stream) = UnixStream::connect(path).await {
                    return Ok(stream);
                }
                check()?;
                if path.exists() {
                    // between bind and listen: any moment now
                    tokio::task::yield_now().await;
                    continue;
                }
                let mut ready = self.0.readable().await.map_err(Error::io("watching a folder"))?;
                let mut events = [0; 4096];
                if let Ok(Err(error)) =
                    ready.try_io(|fd| Ok(nix::unistd::read(fd.as_fd(), &mut events)?))
                {
                    return Err(Error::io("watching a folder")(error));
                }
            }
        };
        let late = |_| Error::Nothing { what: format!("a connection to {}", path.display()) };
        timeout(PATIENCE, connecting).await.map_err(late)?
    }
}

/// Ask one line; what comes back.
///
/// # Errors
/// If none comes in time, or it is an error.
pub(crate) async fn first_answer(stream: UnixStream, line: &str) -> Result<String> {
    let mut stream = BufReader::new(stream);
    stream.write_all(line.as_bytes()).await.map_err(Error::io("asking"))?;
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_line(&mut answer)).await;
    let late = |_| Error::Nothing { what: "a first answer".to_owned() };
    read.map_err(late)?.map_err(Error::io("reading the first answer"))?;
    if answer.contains("\"error\"") || answer.is_empty() {
        return Err(Error::Garbled { what: "a first answer", text: answer });
    }
    Ok(answer)
}

/// Start each program again and again.
///
/// # Errors
/// If one does not start.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut section = Section::new("Cold start: exec -> first answer");
    hosts(lab, &mut section).await?;
    guests(lab, &mut section).await?;
    weights(&mut section).await?;
    section.note("the host agent opens its journal with every write synced, and does not wait for libvirt or the broker");
    section.note("the bare echo loads libvirt's library too");
    section.note("shared libraries by ldd; their sizes are of the files, which others share");
    Ok(section)
}

async fn hosts(lab: &Lab, section: &mut Section) -> Result<()> {
    crate::tell("starts of the host agent");
    let place = Place::new("start")?;
    let mut agent = HostAgent::start(Setup::with_broker(lab.broker.uri())).await?;
    agent.stop().await?;
    let mut arrival = Arrival::of(&agent.run_dir())?;
    let mut floor_arrival = Arrival::of(place.path())?;
    let (mut ours, mut floor) = (Series::default(), Series::default());
    for turn in 0..lab.settings.starts + WARM_UP {
        let socket = agent.socket();
        // left by a stop, it would be connected to in vain
        let _gone = fs::remove_file(&socket);
        let begun = Instant::now();
        agent.launch()?;
        let stream = arrival.connected(&socket, || Ok(())).await?;
        first_answer(stream, PING).await?;
        let took = begun.elapsed();
        agent.stop().await?;

        let socket = place.join("echo.sock");
        let _gone = fs::remove_file(&socket);
        let begun = Instant::now();
        let mut echo = echo::on_socket(&socket, 100, &place.join("echo.log"))?;
        let stream = floor_arrival.connected(&socket, || echo.check()).await?;
        first_answer(stream, PING).await?;
        let echoed = begun.elapsed();
        echo.terminate().await?;
        if turn >= WARM_UP {
            ours.took(took);
            floor.took(echoed);
        }
    }
    lab.broker.forget_host(agent.host()).await?;
    let line = Line::new("host agent -> host.ping", Unit::Milliseconds, &ours);
    section.line(line.against("bare echo, tokio UnixStream", &floor));
    Ok(())
}

/// Our guest agent and the stock one, each on a socket.
async fn guests(lab: &Lab, section: &mut Section) -> Result<()> {
    crate::tell("starts of the guest agents");
    let ping = "{\"execute\":\"guest-ping\"}\n";
    let ours_at = programs::guest_agent()?;
    let stock_at = stock_agent();
    let place = Place::new("start")?;
    let mut arrival = Arrival::of(place.path())?;
    let (mut ours, mut stock) = (Series::default(), Series::default());
    let socket = place.join("agent.sock");
    let pid = place.join("pid");
    for turn in 0..lab.settings.starts + WARM_UP {
        for (program, series) in [(&ours_at, &mut ours), (&stock_at, &mut stock)] {
            let _gone = fs::remove_file(&socket);
            let mut run = command(program);
            run.args(["-m", "unix-listen", "-p"]).arg(&socket).arg("-t").arg(place.path());
            if *program == stock_at {
                run.arg("-f").arg(&pid);
            }
            let begun = Instant::now();
            let mut agent = Daemon::start("a guest agent", run, &place.join("agent.log"))?;
            let stream = arrival.connected(&socket, || agent.check()).await?;
            first_answer(stream, ping).await?;
            let took = begun.elapsed();
            agent.kill().await?;
            if turn >= WARM_UP {
                series.took(took);
            }
        }
    }
    let line = Line::new("guest agent -> guest-ping", Unit::Milliseconds, &ours);
    section.line(line.against("qemu-ga", &stock));
    Ok(())
}

/// The stock agent, which the baker fetched.
pub(crate) fn stock_agent() -> PathBuf {
    programs::build_folder().join("bake-cache/qemu-ga/usr/sbin/qemu-ga")
}

/// Sizes of programs and of what they load.
async fn weights(section: &mut Section) -> Result<()> {
    let stock = Weight::of(&stock_agent()).await?;
    let guest = Weight::of(&programs::guest_agent()?).await?;
    let host = Weight::of(&programs::host_agent()?).await?;
    let cli = Weight::of(&programs::cli()?).await?;
    let size = Unit::Kibibytes;
    let one = |value: f64| Series::one(value);
    section.line(
        Line::new("guest agent, its file and its libraries", size, &one(guest.all()))
            .against("qemu-ga, file and libraries", &one(stock.all())),
    );
    section.line(
        Line::new("guest agent, its file", size, &one(guest.file))
            .against("qemu-ga, file", &one(stock.file)),
    );
    section.line(
        Line::new("guest agent, shared libraries", Unit::Count, &one(guest.count))
            .against("qemu-ga", &one(stock.count)),
    );
    for (name, weight) in [("host agent", host), ("ostler", cli)] {
        section.line(Line::new(format!("{name}, its file"), size, &one(weight.file)));
        let libraries = format!("{name}, shared libraries");
        section.line(Line::new(libraries, Unit::Count, &one(weight.count)));
    }
    Ok(())
}

/// What a program weighs, KiB.
struct Weight {
    file: f64,
    libraries: f64,
    count: f64,
}

impl Weight {
    async fn of(program: &Path) -> Result<Self> {
        let ldd = Run::new("ldd").args([program]).output().await?;
        // a static program is one that `ldd` says no path about
        let libraries: Vec<&str> = ldd
            .stdout
            .lines()
            .filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')))
            .collect();
        let mut weight = Self { file: kibibytes(program)?, libraries: 0.0, count: 0.0 };
        for library in libraries {
            weight.libraries += kibibytes(Path::new(library))?;
            weight.count += 1.0;
        }
        Ok(weight)
    }

    fn all(&self) -> f64 {
        self.file + self.libraries
    }
}

fn kibibytes(path: &Path) -> Result<f64> {
    let size = fs::metadata(path).map_err(Error::io(format!("looking at {}", path.display())))?;
    Ok(size.len() as f64 / 1024.0)
}
