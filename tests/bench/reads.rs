//! A read, `host.ping`, over both transports, against servers that only answer.
//!
//! One client asks them all, one after the other and one at a time, with the same bytes; the answers
//! have the same length. So what differs is what the agent does between.

use std::time::Instant;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use ostler_tests::place::Place;
use ostler_tests::process::Daemon;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::echo::{self, Acknowledge};
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, Stand};
use crate::starts::Arrival;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// One of so many calls is for warming up, before the ones that count.
const WARM_UP: usize = 10;

/// Ask over both transports.
///
/// # Errors
/// If something does not answer.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let stand = Stand::open(lab, &[]).await?;
    let place = Place::new("echo")?;
    let mut section = Section::new("A read: host.ping, one at a time");
    socket(lab, &stand, &place, &mut section).await?;
    broker(lab, &stand, &place, &mut section).await?;
    section.note("the echo servers run on one thread, and neither read nor write JSON");
    section.note("the agent's queue is a durable quorum queue, the bare echo's a transient one");
    stand.close(lab).await?;
    Ok(section)
}

/// A ping.
pub(crate) fn request() -> String {
    json!({"jsonrpc": "2.0", "id": Uuid::new_v4(), "method": "host.ping"}).to_string()
}

async fn socket(lab: &Lab, stand: &Stand, place: &Place, section: &mut Section) -> Result<()> {
    crate::tell("reads over the socket");
    let mut line = request();
    line.push('\n');
    let mut ours = Lines::connect(&stand.agent.socket()).await?;
    let answer = ours.ask(&line).await?;
    pong(answer.trim().as_bytes())?;
    let path = place.join("echo.sock");
    let mut arrival = Arrival::of(place.path())?;
    let mut echo = echo::on_socket(&path, answer.len(), &place.join("socket.log"))?;
    let stream = arrival.connected(&path, || echo.check()).await?;
    let mut peer = Lines::over(stream);

    let (mut our_times, mut peer_times) = (Series::default(), Series::default());
    for turn in 0..lab.settings.calls + lab.settings.calls / WARM_UP {
        let (took, echoed) = (ours.timed(&line).await?, peer.timed(&line).await?);
        if turn >= lab.settings.calls / WARM_UP {
            our_times.took(took);
            peer_times.took(echoed);
        }
    }
    let line = Line::new("over the socket", Unit::Milliseconds, &our_times);
    section.line(line.against("bare echo, tokio UnixStream", &peer_times).goal(1.3));
    Ok(())
}

/// A connection that carries lines.
pub(crate) struct Lines(BufReader<UnixStream>);

impl Lines {
    /// Over this connection.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// To this socket.
    ///
    /// # Errors
    /// If nobody listens.
    pub(crate) async fn connect(path: &std::path::Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await;
        Ok(Self(BufReader::new(stream.map_err(Error::io("connecting"))?)))
    }

    /// Ask one line; the answer's.
    ///
    /// # Errors
    /// If none comes in time.
    pub(crate) async fn ask(&mut self, line: &str) -> Result<String> {
        self.0.write_all(line.as_bytes()).await.map_err(Error::io("asking"))?;
        let mut answer = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut answer)).await;
        match read.map_err(|_| Error::Nothing { what: "an answer".to_owned() })? {
            Ok(0) => Err(Error::Nothing { what: "an answer before the end".to_owned() }),
            Ok(_) => Ok(answer),
            Err(error) => Err(Error::io("reading an answer")(error)),
        }
    }

    /// How long that takes.
    ///
    /// # Errors
    /// As that.
    pub(crate) async fn timed(&mut self, line: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.ask(line).await?;
        Ok(begun.elapsed())
    }
}

/// Where a request through the broker goes.
pub(crate) struct Target {
    exchange: &'static str,
    key: String,
}

impl Target {
    /// The queue of this node.
    pub(crate) fn host(host: &str) -> Self {
        Self { exchange: "ostler.rpc", key: host.to_owned() }
    }
}

async fn broker(lab: &Lab, stand: &Stand, place: &Place, section: &mut Section) -> Result<()> {
    crate::tell("reads through the broker");
    let mut asker = Asker::connect(lab.broker.uri()).await?;
    let host = Target::host(stand.agent.host());
    let request = request();
    let answer = asker.ask(&host, &request).await?;
    pong(&answer)?;
    let bare = asker.floor(lab, place, "bare", Acknowledge::Never, answer.len()).await?;
    let quorum = asker.floor(lab, place, "quorum", Acknowledge::First, answer.len()).await?;

    let mut times: [Series; 3] = Default::default();
    for turn in 0..lab.settings.calls + lab.settings.calls / WARM_UP {
        for (target, series) in [&host, &bare.target, &quorum.target].iter().zip(&mut times) {
            let begun = Instant::now();
            asker.ask(target, &request).await?;
            if turn >= lab.settings.calls / WARM_UP {
                series.took(begun.elapsed());
            }
        }
    }
    let [ours, bare_times, quorum_times] = times;
    let line = Line::new("through the broker", Unit::Milliseconds, &ours);
    section.line(line.clone().against("bare lapin echo", &bare_times).goal(1.3));
    section.line(line.against("the same on a quorum queue", &quorum_times).goal(1.3));
    for floor in [bare, quorum] {
        asker.leave(floor).await?;
    }
    Ok(())
}

/// An echo behind a queue.
pub(crate) struct Floor {
    /// Its queue.
    pub(crate) target: Target,
    _server: Daemon,
}

/// A client through the broker that does no more than it must: no confirmation, no parsing.
pub(crate) struct Asker {
    channel: Channel,
    replies: Consumer,
    _connection: Connection,
}

impl Asker {
    /// To this broker.
    ///
    /// # Errors
    /// If it refuses.
    #[expect(clippy::disallowed_methods, reason = "the same bare client for all that is measured")]
    pub(crate) async fn connect(uri: &str) -> Result<Self> {
        let connection = Connection::connect(uri, ConnectionProperties::default())
            .await
            .map_err(Error::broker("connecting"))?;
        let channel =
            connection.create_channel().await.map_err(Error::broker("opening a channel"))?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel
            .basic_consume(
                "amq.rabbitmq.reply-to".into(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await
            .map_err(Error::broker("consuming replies"))?;
        Ok(Self { channel, replies, _connection: connection })
    }

    /// Ask; the answer as it came.
    ///
    /// # Errors
    /// If none comes in time.
    pub(crate) async fn ask(&mut self, target: &Target, request: &str) -> Result<Vec<u8>> {
        let id = Uuid::new_v4().to_string();
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(id.as_str().into())
            .with_correlation_id(id.as_str().into())
            .with_reply_to("amq.rabbitmq.reply-to".into());
        let asking = async {
            self.channel
                .basic_publish(
                    target.exchange.into(),
                    target.key.as_str().into(),
                    BasicPublishOptions::default(),
                    request.as_bytes(),
                    properties,
                )
                .await
                .map_err(Error::broker("asking"))?;
            let reply = self.replies.next().await;
            let reply = reply.ok_or_else(|| Error::Nothing { what: "an answer".to_owned() })?;
            Ok(reply.map_err(Error::broker("reading an answer"))?.data)
        };
        let late = |_| Error::Nothing { what: "an answer, in time,".to_owned() };
        timeout(PATIENCE, asking).await.map_err(late)?
    }

    /// An echo on a queue of its own, answering.
    ///
    /// # Errors
    /// If the broker refuses, or it does not answer.
    pub(crate) async fn floor(
        &mut self,
        lab: &Lab,
        place: &Place,
        kind: &str,
        acknowledge: Acknowledge,
        size: usize,
    ) -> Result<Floor> {
        let key = format!("ostler.bench.{kind}.{}", Uuid::new_v4().simple());
        let mut arguments = FieldTable::default();
        // should we not live to delete it
        arguments.insert("x-expires".into(), AMQPValue::LongInt(600_000));
        let durable = acknowledge == Acknowledge::First;
        if durable {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        }
        let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
        self.channel
            .queue_declare(key.as_str().into(), options, arguments)
            .await
            .map_err(Error::broker("declaring a queue"))?;
        let log = place.join(format!("{kind}.log"));
        let server = echo::on_queue(lab.broker.uri(), &key, acknowledge, size, &log)?;
        let floor = Floor { target: Target { exchange: "", key }, _server: server };
        // the first waits in the queue until the server is there
        self.ask(&floor.target, "{}").await?;
        Ok(floor)
    }

    /// Take a floor away.
    ///
    /// # Errors
    /// If the broker refuses.
    pub(crate) async fn leave(&self, floor: Floor) -> Result<()> {
        drop(floor._server);
        self.forget(&floor.target.key).await
    }

    async fn forget(&self, queue: &str) -> Result<()> {
        self.channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .map(drop)
            .map_err(Error::broker("deleting a queue"))
    }
}

/// An answer to `host.ping`, or what it is instead.
///
/// # Errors
/// It is something else.
pub(crate) fn pong(answer: &[u8]) -> Result<()> {
    let value: Value = serde_json::from_slice(answer).unwrap_or_default();
    match value["result"]["host"].is_string() {
        true => Ok(()),
        false => Err(Error::Garbled {
            what: "the answer to host.ping",
            text: String::from_utf8_lossy(answer).into_owned(),
        }),
    }
}
