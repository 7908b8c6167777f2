//! The guest agent beside the stock one, each on a socket: the same questions, in turn.
//!
//! Both run side by side on this machine; where many mounts or interfaces are due, both run in the same
//! namespaces, which hold them. The stock agent is given what it was written for: one client that asks
//! and waits. Sizes and cold starts are `starts`' to measure.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_tests::guest_image::GuestImage;
use ostler_tests::place::Place;
use ostler_tests::process::{Daemon, command};
use ostler_tests::{poll, programs};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::settings::Settings;
use crate::starts::{Arrival, stock_agent};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests sent without waiting for an answer.
const PIPELINED: usize = 20_000;
/// From here on a piece of an answer is looked at from its end.
const LONG: usize = 16 << 10;
/// Bytes of a file that is read or written at once: near 32 MiB, and whole groups of base64.
const BULK: usize = 33_554_430;
/// How long a peer that does not read is left alone.
const IGNORED: Duration = Duration::from_secs(2);
const MOUNTS: usize = 1000;
const INTERFACES: usize = 500;

/// Where both agents run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// As everything else here does.
    Ordinary,
    /// In namespaces with many mounts and interfaces.
    Crowded,
}

/// An agent, and a client's connection to it.
struct Agent {
    daemon: Daemon,
    stream: BufReader<UnixStream>,
}

/// Ask both.
///
/// # Errors
/// If one does not start or answer.
pub(crate) async fn measure(settings: &Settings) -> Result<Section> {
    // the stock agent comes with the guest
    GuestImage::bake().await?;
    let place = Place::new("agents")?;
    let mut section = Section::new("The guest agent beside qemu-ga, over a socket");
    crate::tell("the guest agent beside qemu-ga");
    let (mut ours, mut stock) = pair(&place, World::Ordinary).await?;
    let mut add = |line: Line| section.line(line);
    blocking(|| questions(settings, &mut ours, &mut stock, &mut add))?;
    drop((ours, stock));

    let (mut ours, mut stock) = pair(&place, World::Ordinary).await?;
    blocking(|| bulk(settings, &place, &mut ours, &mut stock, &mut add))?;
    drop((ours, stock));

    crate::tell("many mounts and interfaces");
    let (mut ours, mut stock) = pair(&place, World::Crowded).await?;
    blocking(|| crowded(settings, &mut ours, &mut stock, &mut add))?;
    drop((ours, stock));

    let (mut ours, mut stock) = pair(&place, World::Ordinary).await?;
    ignored(&mut ours, &mut stock, &mut add).await?;
    section.note(format!(
        "{MOUNTS} bind mounts of one file system: qemu-ga 7.2 lists each, ours (as newer ones) the file system"
    ));
    section.note(
        "peak: the most that was ever resident, of a fresh agent that was asked for 32 MiB at once",
    );
    Ok(section)
}

fn blocking<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(work)
}

/// Ours and the stock one.
async fn pair(place: &Place, world: World) -> Result<(Agent, Agent)> {
    let ours = Agent::start(&programs::guest_agent()?, place, "ours", world).await?;
    let stock = Agent::start(&stock_agent(), place, "stock", world).await?;
    Ok((ours, stock))
}

impl Agent {
    async fn start(program: &Path, place: &Place, name: &str, world: World) -> Result<Self> {
        let folder: PathBuf = place.folder(name)?;
        let socket = folder.join("socket");
        let _gone = fs::remove_file(&socket);
        let mut run = match world {
            World::Ordinary => command(program),
            World::Crowded => {
                let mut run = command("unshare");
                run.args(["--mount", "--net", "--propagation", "private", "--", "sh", "-ec"]);
                run.arg(crowd(&folder)?).arg(program);
                run
            }
        };
        run.args(["-m", "unix-listen", "-p"]).arg(&socket);
        run.arg("-t").arg(&folder).arg("-f").arg(folder.join("pid"));
        let mut arrival = Arrival::of(&folder)?;
        let mut daemon = Daemon::start(name, run, &folder.join("log"))?;
        let stream = arrival.connected(&socket, || daemon.check()).await?;
        let stream = stream.into_std().map_err(Error::io("connecting"))?;
        stream.set_nonblocking(false).map_err(Error::io("connecting"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(Error::io("connecting"))?;
        let mut agent = Self { daemon, stream: BufReader::with_capacity(1 << 20, stream) };
        blocking(|| agent.ask(&json!({"execute": "guest-ping"})))?;
        Ok(agent)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).map_err(Error::io("asking an agent"))
    }

    /// Reads one answer and passes it over; the length of its line.
    fn answer(&mut self) -> Result<usize> {
        let mut length = 0;
        loop {
            let read = self.stream.fill_buf().map_err(Error::io("reading an answer"))?;
            if read.is_empty() {
                return Err(Error::Nothing { what: "an answer".to_owned() });
            }
            // most of a long answer is not looked at: this program is not what is measured
            let ended = read.len() < LONG || read.last() == Some(&b'\n');
            let at = if ended { read.iter().position(|byte| *byte == b'\n') } else { None };
            let (count, ended) = match at {
                Some(at) => (at + 1, true),
                None => (read.len(), false),
            };
            self.stream.consume(count);
            length += count;
            if ended {
                return Ok(length);
            }
        }
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        self.send(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(Error::io("reading an answer"))?;
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_default();
        if answer.get("return").is_none() {
            return Err(Error::Garbled { what: "an answer", text: line });
        }
        Ok(answer["return"].take())
    }

    /// How long a request takes, whatever is answered; an error is none.
    fn time(&mut self, request: &[u8]) -> Result<Duration> {
        let begun = Instant::now();
        self.send(request)?;
        self.answer()?;
        Ok(begun.elapsed())
    }

    /// From asking for a program to knowing that it has ended.
    fn time_exec(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let started = json!({"execute": "guest-exec", "arguments": {"path": "/bin/true"}});
        let pid = self.ask(&started)?["pid"].clone();
        let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
        while self.ask(&status)?["exited"] != true {}
        Ok(begun.elapsed())
    }

    fn open(&mut self, path: &Path, mode: &str) -> Result<Value> {
        let arguments = json!({"path": path, "mode": mode});
        self.ask(&json!({"execute": "guest-file-open", "arguments": arguments}))
    }

    fn close(&mut self, handle: &Value) -> Result<()> {
        let arguments = json!({"handle": handle});
        self.ask(&json!({"execute": "guest-file-close", "arguments": arguments})).map(drop)
    }

    /// A line of the kernel's account of the process, KiB or a count.
    fn status(&self, field: &str) -> Result<f64> {
        let path = format!("/proc/{}/status", self.daemon.pid());
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
            .ok_or(Error::Garbled { what: "the status of a process", text })
    }

    /// Processor time so far.
    fn busy(&self) -> Result<Duration> {
        let path = format!("/proc/{}/schedstat", self.daemon.pid());
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        let spent = text.split_whitespace().next().and_then(|word| word.parse().ok());
        spent.map(Duration::from_nanos).ok_or(Error::Garbled { what: "schedstat", text })
    }
}

/// The beginning of a script that fills its namespaces, and then becomes its arguments.
fn crowd(folder: &Path) -> Result<String> {
    let mounts = folder.join("mounts");
    let batch: String = (0..INTERFACES / 2)
        .map(|n| {
            let (high, low) = (n / 250, n % 250);
            format!(
                "link add a{n} type veth peer name b{n}\n\
                 addr add 10.{high}.{low}.1/32 dev a{n}\naddr add 10.{high}.{low}.2/32 dev b{n}\n\
                 link set a{n} up\nlink set b{n} up\n"
            )
        })
        .collect();
    let links = folder.join("links");
    fs::write(&links, batch).map_err(Error::io("writing a list of interfaces"))?;
    Ok(format!(
        "mkdir -p {mounts}; cd {mounts}; for n in $(seq {MOUNTS}); do mkdir -p $n; mount --bind {mounts} $n; done; \
         ip -batch {links}; exec \"$0\" \"$@\"",
        mounts = mounts.display(),
        links = links.display()
    ))
}

/// In turn, `count` times each after a tenth of that for warming up.
fn in_turn(
    count: usize,
    ours: &mut Agent,
    stock: &mut Agent,
    mut take: impl FnMut(&mut Agent) -> Result<Duration>,
) -> Result<(Series, Series)> {
    let (mut our_times, mut stock_times) = (Series::default(), Series::default());
    let warm_up = count / 10 + 1;
    for turn in 0..count + warm_up {
        let (one, other) = (take(ours)?, take(stock)?);
        if turn >= warm_up {
            our_times.took(one);
            stock_times.took(other);
        }
    }
    Ok((our_times, stock_times))
}

fn times(what: &str, (ours, stock): &(Series, Series), goal: f64) -> Line {
    Line::new(what, Unit::Milliseconds, ours).against("qemu-ga", stock).goal(goal)
}

fn request(name: &str) -> Vec<u8> {
    format!("{{\"execute\":\"{name}\"}}\n").into_bytes()
}

fn questions(
    settings: &Settings,
    ours: &mut Agent,
    stock: &mut Agent,
    add: &mut impl FnMut(Line),
) -> Result<()> {
    let kib = Unit::Kibibytes;
    for (what, field) in [
        ("resident when started", "VmRSS:"),
        ("  of that, its own: not a page of a file", "RssAnon:"),
    ] {
        let line = Line::new(what, kib, &Series::one(ours.status(field)?));
        add(line.against("qemu-ga", &Series::one(stock.status(field)?)).goal(0.5));
    }

    let ping = request("guest-ping");
    let taken = in_turn(settings.calls, ours, stock, |agent| agent.time(&ping))?;
    add(times("guest-ping, one at a time", &taken, 1.0));

    let many = ping.repeat(PIPELINED);
    let taken = in_turn(settings.starts, ours, stock, |agent| agent.time_pipelined(&many))?;
    add(times(&format!("{PIPELINED} guest-pings, pipelined"), &taken, 0.5));

    let taken = in_turn(settings.questions, ours, stock, Agent::time_exec)?;
    add(times("guest-exec of /bin/true until it has ended", &taken, 1.0));
    for name in [
        "guest-get-fsinfo",
        "guest-network-get-interfaces",
        "guest-get-osinfo",
        "guest-get-vcpus",
        "guest-get-users",
        "guest-get-timezone",
        "guest-get-cpustats",
        "guest-get-diskstats",
    ] {
        let asked = request(name);
        let taken = in_turn(settings.questions, ours, stock, |agent| agent.time(&asked))?;
        add(times(name, &taken, if name == "guest-get-fsinfo" { 0.5 } else { 1.0 }));
    }
    Ok(())
}

impl Agent {
    /// Many requests at once; the answers are read while they are sent.
    fn time_pipelined(&mut self, requests: &[u8]) -> Result<Duration> {
        let mut sender =
            self.stream.get_ref().try_clone().map_err(Error::io("sharing a connection"))?;
        let count = requests.iter().filter(|byte| **byte == b'\n').count();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || sender.write_all(requests));
            for _ in 0..count {
                self.answer()?;
            }
            match sent.join() {
                Ok(sent) => sent.map_err(Error::io("asking an agent")),
                Err(_) => Err(Error::Nothing { what: "the end of a thread".to_owned() }),
            }
        })?;
        Ok(begun.elapsed())
    }
}

/// The beginning of a file, again and again: a place is sought, and a piece is read.
fn pieces(
    settings: &Settings,
    source: &Path,
    ours: &mut Agent,
    stock: &mut Agent,
    add: &mut impl FnMut(Line),
) -> Result<()> {
    let handles = [ours.open(source, "r")?, stock.open(source, "r")?];
    for (what, command, arguments) in [
        ("guest-file-seek", "guest-file-seek", r#""offset":0,"whence":"set""#),
        ("guest-file-read of 4 KiB", "guest-file-read", r#""count":4096"#),
    ] {
        let asked = handles.each_ref().map(|handle| {
            let arguments = format!("{{\"handle\":{handle},{arguments}}}");
            format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n").into_bytes()
        });
        // ours is asked first, then the stock one
        let mut turn = asked.iter().cycle();
        let taken = in_turn(settings.questions, ours, stock, |agent| {
            turn.next().map_or(Ok(Duration::ZERO), |asked| agent.time(asked))
        })?;
        add(times(what, &taken, 1.0));
    }
    ours.close(&handles[0])?;
    stock.close(&handles[1])
}

fn bulk(
    settings: &Settings,
    place: &Place,
    ours: &mut Agent,
    stock: &mut Agent,
    add: &mut impl FnMut(Line),
) -> Result<()> {
    let source = place.write("source", vec![0; BULK])?;
    pieces(settings, &source, ours, stock, add)?;
    let read = |agent: &mut Agent| {
        let handle = agent.open(&source, "r")?;
        let asked =
            json!({"execute": "guest-file-read", "arguments": {"handle": handle, "count": BULK}});
        let took = agent.time(format!("{asked}\n").as_bytes())?;
        agent.close(&handle)?;
        Ok(took)
    };
    read(ours)?;
    read(stock)?;
    for (what, field) in [
        ("resident at its peak, after reading 32 MiB", "VmHWM:"),
        ("resident after that", "VmRSS:"),
    ] {
        let line = Line::new(what, Unit::Kibibytes, &Series::one(ours.status(field)?));
        add(line.against("qemu-ga", &Series::one(stock.status(field)?)).goal(0.5));
    }
    let count = settings.starts;
    add(times("guest-file-read of 32 MiB", &in_turn(count, ours, stock, read)?, 0.5));

    let data = "A".repeat(BULK / 3 * 4);
    let target = place.join("target");
    let write = |agent: &mut Agent| {
        let handle = agent.open(&target, "w")?;
        let asked = format!(
            "{{\"execute\":\"guest-file-write\",\"arguments\":{{\"handle\":{handle},\"buf-b64\":\"{data}\"}}}}\n"
        );
        let took = agent.time(asked.as_bytes())?;
        agent.close(&handle)?;
        let written = fs::metadata(&target).map_err(Error::io("looking at what was written"))?;
        if written.len() != BULK as u64 {
            return Err(Error::Nothing { what: "all that was written".to_owned() });
        }
        Ok(took)
    };
    add(times("guest-file-write of 32 MiB", &in_turn(count, ours, stock, write)?, 0.5));
    Ok(())
}

fn crowded(
    settings: &Settings,
    ours: &mut Agent,
    stock: &mut Agent,
    add: &mut impl FnMut(Line),
) -> Result<()> {
    let known = |agent: &mut Agent| -> Result<usize> {
        let found = agent.ask(&json!({"execute": "guest-network-get-interfaces"}))?;
        Ok(found.as_array().map_or(0, Vec::len))
    };
    for agent in [&mut *ours, &mut *stock] {
        if known(agent)? < INTERFACES {
            return Err(Error::Nothing { what: format!("{INTERFACES} interfaces") });
        }
    }
    for (name, with) in [
        ("guest-get-fsinfo", format!("{MOUNTS} mounts")),
        ("guest-network-get-interfaces", format!("{INTERFACES} interfaces")),
    ] {
        let asked = request(name);
        let taken = in_turn(settings.starts, ours, stock, |agent| agent.time(&asked))?;
        add(times(&format!("{name}, {with}"), &taken, 0.5));
    }
    Ok(())
}

/// What it costs when the other side asks and does not read.
async fn ignored(ours: &mut Agent, stock: &mut Agent, add: &mut impl FnMut(Line)) -> Result<()> {
    let mut shares = Vec::new();
    for agent in [ours, stock] {
        let stream = agent.stream.get_ref();
        stream.set_nonblocking(true).map_err(Error::io("asking an agent"))?;
        let many = request("guest-get-osinfo").repeat(1000);
        // until nothing is taken any more, for a while
        poll::until("an agent stops reading", PATIENCE, async || {
            let mut taken = 0;
            while let Ok(count @ 1..) = agent.stream.get_mut().write(&many) {
                taken += count;
            }
            if taken == 0 { Ok(()) } else { Err(format!("it took {taken} bytes")) }
        })
        .await?;
        let before = agent.busy()?;
        let begun = Instant::now();
        tokio::time::sleep(IGNORED).await;
        shares.push((agent.busy()? - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0);
        // it is given its due before it is stopped
        let mut rest = [0; 65536];
        while let Ok(1..) = agent.stream.get_mut().read(&mut rest) {}
    }
    let what = "processor while the other side does not read, percent";
    let line = Line::new(what, Unit::Percent, &Series::one(shares[0]));
    add(line.against("qemu-ga", &Series::one(shares[1])).goal(0.5));
    Ok(())
}
