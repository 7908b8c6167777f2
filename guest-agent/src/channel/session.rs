//! A conversation: from the other side's opening of a channel to its closing.
//!
//! ```text
//!  read --> parser --> Call --> running (one, or several on Ostler's channel) --> output --> write
//!             |                     |                                               ^
//!             +-- parse error ------+-- released: a shutdown that may never answer -+
//!                                                                       events -----+
//! ```
//!
//! Nothing is read while no request can be begun, and none is begun while answers pile up: whoever does
//! not read is not served, and costs nothing. A command that was begun is carried out even if its
//! client leaves; its answer is dropped.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::framing::{Frame, Limits, Parser};
use ostler_protocol::qga::{Fault, encode};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Kind;
use super::output::Output;
use super::watch::Edge;
use crate::dispatcher::{Answers, Call};
use crate::events;
use crate::state::Agent;

/// With so much unsent no request is begun.
const BACKLOG: usize = 256 << 10;
/// What is read at a time; a port gives a page.
const CHUNK: usize = 16 << 10;
/// So many reads without a pause, then others have their turn.
const READS: usize = 32;
/// How long a command that answers only failure holds up the next: most failures show at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a session talks through. None of it blocks.
pub trait Link {
    /// Waits for a change; giving up the wait loses none.
    fn edge(&self) -> impl Future<Output = io::Result<Edge>>;
    /// Reads; 0 when the other side is away.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// What becomes of answers when the other side has sent its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It may still read: a socket's other half.
    Finish,
    /// It is gone, and whoever comes next must not get them.
    Drop,
}

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// The other side closed the channel.
    Closed,
    /// The agent is to stop.
    Stopped,
    /// The channel failed.
    Failed(io::Error),
}

type Answer = Option<Vec<u8>>;

enum Progress {
    Answered(Answer),
    /// Still at it, but the next request need not wait.
    Released(Pin<Box<dyn Future<Output = Answer>>>),
}

/// A conversation.
pub struct Session<'a, L> {
    agent: Rc<Agent>,
    kind: Kind,
    at_end: AtEnd,
    link: &'a L,
    parser: Parser,
    input: Vec<u8>,
    /// How much of the input has been parsed.
    parsed: usize,
    /// A read might give something.
    readable: bool,
    /// The other side has sent its last.
    ended: bool,
    output: Output,
    running: JoinSet<Progress>,
    released: JoinSet<Answer>,
}

impl<'a, L: Link> Session<'a, L> {
    /// A conversation that begins now.
    pub fn new(agent: Rc<Agent>, kind: Kind, at_end: AtEnd, link: &'a L) -> Self {
        Self {
            agent,
            kind,
            at_end,
            link,
            parser: Parser::new(Limits::agent()),
            input: Vec::new(),
            parsed: 0,
            readable: true,
            ended: false,
            output: Output::default(),
            running: JoinSet::new(),
            released: JoinSet::new(),
        }
    }

    /// Talks until it ends. `hung_up` says that the other side has left already, though it may have
    /// left requests behind.
    pub async fn run(mut self, hung_up: bool, stopped: &mut watch::Receiver<bool>) -> End {
        self.ended = hung_up;
        let mut events = match self.kind {
            Kind::Ostler if !hung_up => Some(events::start(self.agent.clone())),
            Kind::Ostler | Kind::Standard => None,
        };
        let end = loop {
            match self.step() {
                Ok(Step::Wait) => {}
                Ok(Step::Yield) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(Step::End) => break End::Closed,
                Err(error) => break End::Failed(error),
            }
            let eager = self.output.len() < BACKLOG;
            tokio::select! {
                edge = self.link.edge() => match edge {
                    Ok(Edge { hung_up }) => {
                        self.readable = true;
                        self.ended |= hung_up;
                    }
                    Err(error) => break End::Failed(error),
                },
                Some(done) = self.running.join_next() => match done {
                    Ok(Progress::Answered(answer)) => self.answer(answer),
                    Ok(Progress::Released(rest)) => {
                        self.released.spawn_local(rest);
                    }
                    Err(error) => self.agent.log.error(format_args!("a command was lost: {error}")),
                },
                Some(Ok(answer)) = self.released.join_next() => self.answer(answer),
                Some(line) = next_event(&mut events), if eager => self.output.push(line),
                _ = stopped.wait_for(|stopped| *stopped) => break End::Stopped,
            }
        };
        self.leave();
        end
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(line) = answer {
            self.output.push(line);
        }
    }

    /// Does what can be done without waiting.
    fn step(&mut self) -> io::Result<Step> {
        let link = self.link;
        if self.nobody_listens() {
            return self.clear();
        }
        self.output.flush(|bytes| link.write(bytes))?;
        let step = self.take_requests()?;
        if self.nobody_listens() {
            return self.clear();
        }
        self.output.flush(|bytes| link.write(bytes))?;
        let idle = self.running.is_empty() && self.parsed == self.input.len() && !self.readable;
        Ok(if self.ended && idle && self.output.is_empty() { Step::End } else { step })
    }

    fn nobody_listens(&self) -> bool {
        match self.at_end {
            AtEnd::Finish => false,
            AtEnd::Drop => self.ended,
        }
    }

    /// Takes what was left behind out of the link, so that whoever opens it next begins afresh.
    fn clear(&mut self) -> io::Result<Step> {
        self.input.drain(..self.parsed);
        self.parsed = 0;
        let mut chunk = [0; CHUNK];
        loop {
            match self.link.read(&mut chunk) {
                Ok(0) => return Ok(Step::End),
                Ok(count) if self.input.len() < BACKLOG => {
                    self.input.extend_from_slice(&chunk[..count]);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::End),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_requests(&mut self) -> io::Result<Step> {
        let mut reads = 0;
        while self.running.len() < self.kind.overlap() && self.output.len() < BACKLOG {
            let mut rest = &self.input[self.parsed..];
            let frame = self.parser.next_frame(&mut rest);
            self.parsed = self.input.len() - rest.len();
            match frame {
                Some(Ok(Frame::Value(request))) => self.begin(request),
                Some(Ok(Frame::Delimiter)) => {}
                Some(Err(error)) => {
                    let line = encode::fault(&Fault::generic(&error), None);
                    self.output.push(line);
                }
                None if !self.readable => {
                    // an idle channel holds no buffer
                    self.input = Vec::new();
                    self.parsed = 0;
                    break;
                }
                None if reads == READS => return Ok(Step::Yield),
                None => {
                    reads += 1;
                    self.read()?;
                }
            }
        }
        Ok(Step::Wait)
    }

    fn read(&mut self) -> io::Result<()> {
        self.parsed = 0;
        self.input.resize(CHUNK, 0);
        let outcome = self.link.read(&mut self.input);
        self.input.truncate(*outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => {
                self.readable = false;
                self.ended = true;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self, request: serde_json::Value) {
        let call = match Call::prepare(&self.agent, request) {
            Ok(call) => call,
            Err(line) => return self.output.push(line),
        };
        call.audit(&self.agent, self.kind);
        let answers = call.answers();
        let agent = self.agent.clone();
        self.running.spawn_local(async move {
            let mut run = Box::pin(call.run(agent));
            match answers {
                Answers::Always => Progress::Answered(run.await),
                Answers::OnFailure => match tokio::time::timeout(PATIENCE, &mut run).await {
                    Ok(answer) => Progress::Answered(answer),
                    Err(_) => Progress::Released(run),
                },
            }
        });
    }

    /// Lets what was begun go on alone, and what was asked and not begun be done after it.
    fn leave(mut self) {
        self.released.detach_all();
        if self.parsed == self.input.len() {
            self.running.detach_all();
            return;
        }
        let Self { agent, kind, mut parser, input, parsed, mut running, .. } = self;
        tokio::task::spawn_local(async move {
            while running.join_next().await.is_some() {}
            let mut rest = &input[parsed..];
            while let Some(frame) = parser.next_frame(&mut rest) {
                if let Ok(Frame::Value(request)) = frame
                    && let Ok(call) = Call::prepare(&agent, request)
                {
                    call.audit(&agent, kind);
                    call.run(agent.clone()).await;
                }
            }
        });
    }
}

enum Step {
    /// Nothing more can be done before something happens.
    Wait,
    /// There is more to do, after the others.
    Yield,
    End,
}

async fn next_event(events: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match events {
        Some(receiver) => receiver.recv().await,
        None => None,
    }
}
