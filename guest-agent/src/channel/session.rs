//! A conversation: from the other side's opening of a channel to its closing.
//!
//! ```text
//!  read --> parser --> Call ----> waiting --> running (one, or several on Ostler's channel) --> output
//!             |          |                       |                                                ^
//!             |          |                       +-- given up or left behind --> unfinished       |
//!             |          +-- overtaking: syncs, pings, info, status, thaw ------------------------+
//!             +-- parse error -------------------------------------------------------- events ----+
//! ```
//!
//! The standard channel answers in the order of the requests, one at a time, as its clients expect; but
//! no command may make the agent deaf. So requests are read while one is carried out, and the few
//! commands that are sure to end soon (those that may run while file systems are frozen) do not wait
//! for one that has been running for [`SLOW`] when they come. What came earlier keeps its place: it was sent
//! together with the slow one, by a client that relies on the order. Only what tells and changes
//! nothing goes ahead then, and only if its answer can be known by its id.
//!
//! A sync that comes so late says more: its client has given up what it asked before, as hosts do when
//! their time is up. All that is then carried out to its end, and its answers are dropped, for they
//! would be taken for those of other commands; and what follows the sync does not wait.
//!
//! Nothing is read while the requests that wait hold too much, and none is begun while answers pile
//! up: whoever does not read is not served, and costs nothing. A command that was begun is carried out
//! even if its client leaves; its answer is dropped.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ostler_protocol::qga::encode::Parts;
use ostler_protocol::qga::framing::{Frame, Limits, Parser};
use ostler_protocol::qga::{Fault, bounds, encode};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::Kind;
use super::output::Output;
use crate::commands::Agent;
use crate::dispatcher::{Answers, Call};
use crate::edges::Edge;
use crate::events;
use crate::unfinished::Held;

/// With so much unsent no request is begun.
const BACKLOG: usize = 256 << 10;
/// What is read at a time; a port gives a page, a socket what it has.
const CHUNK: usize = 64 << 10;
/// So many reads without a pause, then others have their turn.
const READS: usize = 8;
/// How long a command that answers only failure holds up the next: most failures show at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// Who has been running for so long is not waited for by what need not.
const SLOW: Duration = Duration::from_millis(50);
/// How many requests may wait for their turn.
const WAITING: usize = 1024;
/// How many may overtake at a time.
const OVERTAKING: usize = 8;
/// What is answered when too many commands are stuck.
const STUCK: &str = "too many commands that were given up have not ended";

/// What a session talks through. None of it blocks.
pub trait Link {
    /// Whether a read that gives less than was asked for has given all there is.
    const SHORT_READ_IS_ALL: bool = false;

    /// Waits for a change; giving up the wait loses none.
    fn edge(&self) -> impl Future<Output = io::Result<Edge>>;
    /// Waits until there is room for a write again; for ever, if a change tells of that too.
    fn room(&self) -> impl Future<Output = io::Result<()>> {
        std::future::pending()
    }
    /// Waits until the other side, which has sent its last, does not listen any more either; for ever,
    /// if the one is the other.
    fn gone(&self) -> impl Future<Output = io::Result<()>> {
        std::future::pending()
    }
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
pub enum SessionEnd {
    /// The other side closed the channel.
    Closed,
    /// The agent is to stop.
    Stopped,
    /// The channel failed.
    Failed(io::Error),
}

type Answer = Option<Parts>;

enum Progress {
    Answered(Answer),
    /// Still at it, but the next request need not wait.
    Released(Pin<Box<dyn Future<Output = Answer>>>),
}

/// A request whose turn has not come.
struct Waiting {
    call: Call,
    held: Held,
}

/// A conversation.
pub struct Session<'a, L> {
    agent: Rc<Agent>,
    kind: Kind,
    at_end: AtEnd,
    link: &'a L,
    parser: Parser,
    /// What was read: the part from `parsed` to `filled` is still to be parsed.
    input: Box<[u8]>,
    parsed: usize,
    filled: usize,
    /// How much of the value being parsed has been taken.
    taken: usize,
    /// A read might give something.
    readable: bool,
    /// The other side has sent its last.
    ended: bool,
    output: Output,
    waiting: VecDeque<Waiting>,
    running: JoinSet<Progress>,
    overtaking: JoinSet<Progress>,
    /// When the last of the running and of the overtaking ones was begun.
    begun: Instant,
    overtook: Instant,
    /// When bytes came last while there were any.
    arrived: Instant,
    released: JoinSet<Answer>,
}

impl<'a, L: Link> Session<'a, L> {
    /// A conversation that begins now.
    pub fn new(agent: Rc<Agent>, kind: Kind, at_end: AtEnd, link: &'a L) -> Self {
        let now = Instant::now();
        Self {
            agent,
            kind,
            at_end,
            link,
            parser: Parser::new(Limits::agent()),
            input: vec![0; CHUNK].into(),
            parsed: 0,
            filled: 0,
            taken: 0,
            readable: true,
            ended: false,
            output: Output::default(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            overtaking: JoinSet::new(),
            begun: now,
            overtook: now,
            arrived: now,
            released: JoinSet::new(),
        }
    }

    /// Talks until it ends. `hung_up` says that the other side has left already, though it may have
    /// left requests behind.
    pub async fn run(mut self, hung_up: bool, stopped: &mut watch::Receiver<bool>) -> SessionEnd {
        self.ended = hung_up;
        let unfinished = self.agent.unfinished.clone();
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
                Ok(Step::End) => break SessionEnd::Closed,
                Err(error) => break SessionEnd::Failed(error),
            }
            let eager = self.output.len() < BACKLOG;
            let slow_at = self.slow_at();
            tokio::select! {
                edge = self.link.edge(), if !self.ended => match edge {
                    Ok(Edge { hung_up }) => {
                        self.readable = true;
                        self.ended |= hung_up;
                    }
                    Err(error) => break SessionEnd::Failed(error),
                },
                room = self.link.room(), if !self.output.is_empty() => {
                    if let Err(error) = room {
                        break SessionEnd::Failed(error);
                    }
                }
                gone = self.link.gone(), if self.ended => match gone {
                    Ok(()) => break SessionEnd::Closed,
                    Err(error) => break SessionEnd::Failed(error),
                },
                Some(done) = self.running.join_next() => self.progress(done),
                Some(done) = self.overtaking.join_next() => self.progress(done),
                Some(Ok(answer)) = self.released.join_next() => self.answer(answer),
                () = unfinished.lighter(), if unfinished.is_heavy() => {}
                () = at(slow_at) => self.overtake(),
                Some(line) = next_event(&mut events), if eager => self.output.push(line),
                _ = stopped.wait_for(|stopped| *stopped) => break SessionEnd::Stopped,
            }
        };
        self.leave();
        end
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(line) = answer {
            self.output.push_parts(match self.kind {
                Kind::Standard => line,
                Kind::Ostler => bounds::answer(line),
            });
        }
    }

    fn progress(&mut self, done: Result<Progress, JoinError>) {
        match done {
            Ok(Progress::Answered(answer)) => self.answer(answer),
            Ok(Progress::Released(rest)) => {
                self.released.spawn_local(rest);
            }
            Err(error) => self.agent.log.error(format_args!("a command was lost: {error}")),
        }
    }

    /// Does what can be done without waiting.
    fn step(&mut self) -> io::Result<Step> {
        let link = self.link;
        if self.nobody_listens() {
            return self.clear();
        }
        self.output.flush(|bytes| link.write(bytes))?;
        self.begin_waiting();
        let step = self.take_requests()?;
        if self.nobody_listens() {
            return self.clear();
        }
        self.output.flush(|bytes| link.write(bytes))?;
        let idle = self.running.is_empty()
            && self.overtaking.is_empty()
            && self.waiting.is_empty()
            && self.parsed == self.filled
            && !self.readable;
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
        let mut left = self.input[self.parsed..self.filled].to_vec();
        let end = loop {
            match self.link.read(&mut self.input) {
                Ok(0) => break Ok(Step::End),
                Ok(count) if left.len() < BACKLOG => left.extend_from_slice(&self.input[..count]),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(Step::End),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.parsed = 0;
        self.filled = left.len();
        self.input = left.into();
        end
    }

    fn take_requests(&mut self) -> io::Result<Step> {
        let mut reads = 0;
        loop {
            if self.waiting.len() >= WAITING || self.agent.unfinished.is_heavy() {
                return Ok(Step::Wait);
            }
            if self.output.len() >= BACKLOG {
                let link = self.link;
                self.output.flush(|bytes| link.write(bytes))?;
                if !self.output.is_empty() {
                    return Ok(Step::Wait);
                }
            }
            let mut rest = &self.input[self.parsed..self.filled];
            let before = rest.len();
            let frame = self.parser.next_frame(&mut rest);
            self.taken += before - rest.len();
            self.parsed = self.filled - rest.len();
            match frame {
                Some(Ok(Frame::Value(request))) => {
                    let size = std::mem::take(&mut self.taken);
                    self.request(request, size);
                }
                Some(Ok(Frame::Delimiter)) => self.taken = 0,
                Some(Err(error)) => {
                    self.taken = 0;
                    let line = encode::fault(&Fault::generic(&error), None);
                    self.output.push(line);
                }
                None if !self.readable => return Ok(Step::Wait),
                None if reads == READS => return Ok(Step::Yield),
                None => {
                    reads += 1;
                    self.read()?;
                }
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        self.parsed = 0;
        self.filled = 0;
        match self.link.read(&mut self.input) {
            Ok(0) => {
                self.readable = false;
                self.ended = true;
                Ok(())
            }
            Ok(count) => {
                self.filled = count;
                self.readable = !L::SHORT_READ_IS_ALL || count == self.input.len();
                if !self.running.is_empty() || !self.overtaking.is_empty() {
                    self.arrived = Instant::now();
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins what was asked for, or lets it wait for its turn.
    fn request(&mut self, request: serde_json::Value, size: usize) {
        let call = match Call::prepare(&self.agent, request) {
            Ok(call) => call,
            Err(line) => return self.output.push(line),
        };
        let held = self.agent.unfinished.hold(size);
        let waiting = Waiting { call, held };
        if self.has_room() && self.waiting.is_empty() {
            self.begin(waiting);
        } else if waiting.call.overtakes() && self.is_late() && self.overtaking.len() < OVERTAKING {
            self.begin_overtaking(waiting);
        } else {
            self.waiting.push_back(waiting);
        }
    }

    fn has_room(&self) -> bool {
        match self.kind {
            Kind::Standard => self.running.is_empty() && self.overtaking.is_empty(),
            Kind::Ostler => self.running.len() < self.kind.overlap(),
        }
    }

    /// Whether what came last came so late that what is under way is slow.
    fn is_late(&self) -> bool {
        let since = if self.running.is_empty() { self.overtook } else { self.begun };
        match self.kind {
            Kind::Standard => self.arrived.saturating_duration_since(since) >= SLOW,
            Kind::Ostler => true,
        }
    }

    /// Begins those whose turn has come.
    fn begin_waiting(&mut self) {
        while self.has_room()
            && self.output.len() < BACKLOG
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.begin(waiting);
        }
    }

    fn begin(&mut self, waiting: Waiting) {
        if self.kind == Kind::Standard && waiting.call.resynchronizes() && !self.released.is_empty()
        {
            let mut released = std::mem::take(&mut self.released);
            self.agent
                .unfinished
                .leave_alone(async move { while released.join_next().await.is_some() {} });
        }
        if let Some(rest) = self.first_poll(waiting) {
            self.running.spawn_local(rest);
            self.begun = Instant::now();
            self.arrived = self.begun;
        }
    }

    fn begin_overtaking(&mut self, waiting: Waiting) {
        if waiting.call.resynchronizes() {
            self.give_up();
        }
        if let Some(rest) = self.first_poll(waiting) {
            self.overtaking.spawn_local(rest);
            self.overtook = Instant::now();
        }
    }

    /// When something may overtake that does not yet, if there is such a thing.
    fn slow_at(&self) -> Option<Instant> {
        let independent = |waiting: &Waiting| waiting.call.is_independent();
        let any = !self.running.is_empty()
            && self.overtaking.len() < OVERTAKING
            && self.waiting.iter().any(independent);
        any.then(|| self.begun + SLOW)
    }

    fn overtake(&mut self) {
        while self.overtaking.len() < OVERTAKING
            && let Some(place) =
                self.waiting.iter().position(|waiting| waiting.call.is_independent())
            && let Some(waiting) = self.waiting.remove(place)
        {
            self.begin_overtaking(waiting);
        }
    }

    /// Begins a command. Most are done at once, and answered; of another, this gives the rest.
    fn first_poll(&mut self, waiting: Waiting) -> Option<impl Future<Output = Progress> + 'static> {
        let Waiting { call, held } = waiting;
        if self.agent.unfinished.is_full() && !call.overtakes() {
            self.output.push(call.refuse(STUCK));
            return None;
        }
        call.audit(&self.agent, self.kind.name());
        let answers = call.answers();
        let mut run = Box::pin(call.run(self.agent.clone()));
        match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                self.answer(answer);
                None
            }
            Poll::Pending => Some(async move {
                let _held = held;
                match answers {
                    Answers::Always => Progress::Answered(run.await),
                    Answers::OnFailure => match tokio::time::timeout(PATIENCE, &mut run).await {
                        Ok(answer) => Progress::Answered(answer),
                        Err(_) => Progress::Released(run),
                    },
                }
            }),
        }
    }

    /// Lets what was asked for so far be carried out without an answer, if the channel is one where
    /// answers are told by their order.
    fn give_up(&mut self) {
        match self.kind {
            Kind::Standard => self.leave_alone(Box::new([])),
            Kind::Ostler => {}
        }
    }

    /// Lets what was begun go on alone, and what was asked and not begun be done after it.
    fn leave(mut self) {
        let left = self.input[self.parsed..self.filled].into();
        self.leave_alone(left);
    }

    /// Lets what is under way go on without an answer, what waits be done after it, and then what
    /// `input` asks for.
    fn leave_alone(&mut self, input: Box<[u8]>) {
        let mut begun = [&mut self.running, &mut self.overtaking].map(std::mem::take);
        let mut released = std::mem::take(&mut self.released);
        let waiting = std::mem::take(&mut self.waiting);
        if begun.iter().all(JoinSet::is_empty)
            && released.is_empty()
            && waiting.is_empty()
            && input.is_empty()
        {
            return;
        }
        let (agent, kind) = (self.agent.clone(), self.kind);
        let mut parser = match input.is_empty() {
            true => Parser::new(Limits::agent()),
            false => std::mem::replace(&mut self.parser, Parser::new(Limits::agent())),
        };
        self.agent.unfinished.leave_alone(async move {
            for set in &mut begun {
                while let Some(done) = set.join_next().await {
                    if let Ok(Progress::Released(rest)) = done {
                        rest.await;
                    }
                }
            }
            while released.join_next().await.is_some() {}
            for Waiting { call, held } in waiting {
                call.audit(&agent, kind.name());
                call.run(agent.clone()).await;
                drop(held);
            }
            let mut rest = &input[..];
            while let Some(frame) = parser.next_frame(&mut rest) {
                if let Ok(Frame::Value(request)) = frame
                    && let Ok(call) = Call::prepare(&agent, request)
                {
                    call.audit(&agent, kind.name());
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

async fn at(due: Option<Instant>) {
    match due {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
