//! The floors of a read: servers that do nothing but answer, over the same transports, with lines and
//! messages of the same sizes. Each is this program run again, so that there is a process between as
//! there is with the agent.

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use ostler_tests::process::{Daemon, command};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, Result};

/// The word that makes this program a server on a socket.
const SOCKET: &str = "echo-on-socket";
/// The word that makes it one behind a queue.
const QUEUE: &str = "echo-on-queue";
/// The broker's URI, which may have a password: not for a command line.
const BROKER: &str = "OSTLER_BENCH_BROKER";
/// As the agent's.
const PREFETCH: u16 = 64;

/// How the server treats what it takes from its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    /// The broker forgets a message when it has sent it.
    Never,
    /// Before the answer, as the agent does for a read.
    First,
}

/// Start one on a socket, answering with so many bytes.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn on_socket(path: &Path, size: usize, log: &Path) -> Result<Daemon> {
    let mut program = command(myself()?);
    program.arg(SOCKET).arg(path).arg(size.to_string());
    Ok(Daemon::start("the echo on a socket", program, log)?)
}

/// Start one behind a queue that is there.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn on_queue(
    broker: &str,
    queue: &str,
    acknowledge: Acknowledge,
    size: usize,
    log: &Path,
) -> Result<Daemon> {
    let mut program = command(myself()?);
    let acknowledge = match acknowledge {
        Acknowledge::Never => "never",
        Acknowledge::First => "first",
    };
    program.args([QUEUE, queue, acknowledge]).arg(size.to_string()).env(BROKER, broker);
    Ok(Daemon::start("the echo on a queue", program, log)?)
}

fn myself() -> Result<PathBuf> {
    std::env::current_exe().map_err(Error::io("finding the running program"))
}

/// Whether this process is such a server; then it serves, and returns when it cannot any more.
pub(crate) fn serves() -> bool {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let served = match words.as_slice() {
        [SOCKET, path, size] => one_thread(socket(path, size.parse().unwrap_or(0))),
        [QUEUE, queue, acknowledge, size] => {
            let acknowledge =
                if *acknowledge == "first" { Acknowledge::First } else { Acknowledge::Never };
            one_thread(serve_queue(queue, acknowledge, size.parse().unwrap_or(0)))
        }
        _ => return false,
    };
    if let Err(error) = served {
        crate::complain(&error.told());
    }
    true
}

fn one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::io("starting a runtime"))?.block_on(work)
}

async fn socket(path: &str, size: usize) -> Result<()> {
    let step = || Error::io(format!("listening on {path}"));
    let listener = StdListener::bind(path).map_err(step())?;
    listener.set_nonblocking(true).map_err(step())?;
    let listener = UnixListener::from_std(listener).map_err(step())?;
    loop {
        let (stream, _) = listener.accept().await.map_err(step())?;
        tokio::spawn(lines(stream, size));
    }
}

async fn lines(stream: UnixStream, size: usize) {
    let mut answer = vec![b'x'; size.saturating_sub(1)];
    answer.push(b'\n');
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stream.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn serve_queue(queue: &str, acknowledge: Acknowledge, size: usize) -> Result<()> {
    let uri = std::env::var(BROKER).unwrap_or_default();
    let answer = vec![b'x'; size];
    #[expect(clippy::disallowed_methods, reason = "a bare client is what it is")]
    let connection = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .map_err(Error::broker("connecting"))?;
    let inward = connection.create_channel().await.map_err(Error::broker("opening a channel"))?;
    let out = connection.create_channel().await.map_err(Error::broker("opening a channel"))?;
    inward
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .map_err(Error::broker("limiting deliveries"))?;
    let options = BasicConsumeOptions {
        no_ack: acknowledge == Acknowledge::Never,
        ..BasicConsumeOptions::default()
    };
    let mut consumer = inward
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .map_err(Error::broker("consuming"))?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.map_err(Error::broker("consuming"))?;
        if acknowledge == Acknowledge::First {
            delivery
                .ack(BasicAckOptions::default())
                .await
                .map_err(Error::broker("acknowledging"))?;
        }
        let properties = &delivery.properties;
        let (Some(to), Some(correlation)) = (properties.reply_to(), properties.correlation_id())
        else {
            continue;
        };
        let reply = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id(correlation.clone());
        out.basic_publish("".into(), to.clone(), BasicPublishOptions::default(), &answer, reply)
            .await
            .map_err(Error::broker("answering"))?;
    }
    Ok(())
}
