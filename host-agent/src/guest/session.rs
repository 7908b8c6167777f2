//! The session of one running instance on Ostler's own port.
//!
//! One task keeps the socket open, hears the agent's events and carries questions to it: several at a
//! time, each with its id and its deadline, whose answers come in any order. Nothing here waits for
//! the guest alone: reading, writing, deadlines, new questions and the end of the session are all
//! listened to at once, so a guest that does not read or does not answer holds up itself only.

use std::collections::HashMap;
use std::path::Path;

use ostler_protocol::qga::envelope::{Message, Response};
use ostler_protocol::qga::events::{EventError, GuestEvent};
use ostler_protocol::rpc::guest::Transport;
use ostler_protocol::rpc::values::Timestamp;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::budget::Conduct;
use super::entry::Seat;
use super::error::Error;
use super::link::{Inbound, Incoming, Outbound};
use super::pulse::{Beat, End, Pause, Pulse, Retry};
use super::report::{Part, clean};
use super::request::{self, Ask, Success};
use super::state::Observation;

/// What a word of readiness costs of what a guest may send: each may change what listeners are told.
const READY_COST: usize = 64 << 10;

/// Keeps the session until it is stopped.
pub(super) async fn keep(seat: Seat, socket: &Path, mut asks: mpsc::Receiver<Ask>) {
    let mut retry = Retry::new(seat.settings.pace);
    loop {
        let opened = Instant::now();
        let end = match UnixStream::connect(socket).await {
            Ok(stream) => Talk::new(&seat, stream).run(&mut asks).await,
            Err(_) => End::Absent,
        };
        let over = Transport::Ostler;
        match end {
            End::Stopped => return,
            End::Absent => {}
            End::Closed => seat.observe(Observation::Closed(over)),
            End::Unanswered => seat.observe(Observation::Missed(over)),
            End::Garbled => {
                tracing::warn!("what the guest sends is not the protocol; its port is closed");
                seat.observe(Observation::Garbage(over));
            }
        }
        match idle(&seat, &mut asks, retry.after(end, opened.elapsed())).await {
            Idle::Stopped => return,
            Idle::Passed => {}
            Idle::Woken => retry.woken(),
        }
    }
}

enum Idle {
    Stopped,
    Passed,
    Woken,
}

/// Waits before the port is opened again; questions are refused meanwhile.
async fn idle(seat: &Seat, asks: &mut mpsc::Receiver<Ask>, pause: Pause) -> Idle {
    let mut over = std::pin::pin!(sleep(pause.length));
    loop {
        tokio::select! {
            () = seat.stop.cancelled() => return Idle::Stopped,
            () = &mut over => return Idle::Passed,
            () = seat.nudge.notified(), if pause.wakeable => return Idle::Woken,
            ask = asks.recv() => match ask {
                Some(ask) => refuse(seat, ask),
                None => return Idle::Stopped,
            },
        }
    }
}

fn refuse(seat: &Seat, ask: Ask) {
    let state = seat.entry.summary().state;
    // whoever asked may be gone
    let _ = ask.answer.send(Err(seat.entry.silence(state)));
}

/// A question on its way.
#[derive(Debug)]
struct Pending {
    command: &'static str,
    asked: Instant,
    deadline: Instant,
    success: Success,
    sent: bool,
    answer: oneshot::Sender<Result<Part<Value>, Error>>,
}

/// What is said on one link.
struct Talk<'a> {
    seat: &'a Seat,
    inbound: Inbound<OwnedReadHalf>,
    outbound: Outbound<OwnedWriteHalf>,
    pending: HashMap<u64, Pending>,
    conduct: Conduct,
    pulse: Pulse,
    /// The number of the sync that is not answered yet.
    sync: Option<i64>,
    /// Whether the agent said anything sound on this link.
    heard: bool,
}

impl<'a> Talk<'a> {
    fn new(seat: &'a Seat, stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        let caps = seat.settings.caps;
        Self {
            seat,
            inbound: Inbound::new(read, caps),
            outbound: Outbound::new(write),
            pending: HashMap::new(),
            conduct: Conduct::new(caps.bad),
            pulse: Pulse::new(&seat.settings.pace),
            sync: None,
            heard: false,
        }
    }

    async fn run(mut self, asks: &mut mpsc::Receiver<Ask>) -> End {
        let end = self.talk(asks).await;
        self.conclude(end);
        end
    }

    async fn talk(&mut self, asks: &mut mpsc::Receiver<Ask>) -> End {
        self.send_sync();
        loop {
            let room = self.pending.len() < self.seat.settings.caps.in_flight;
            let wake = self.pending.values().map(|p| p.deadline).chain(self.pulse.due()).min();
            let alarm = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let end = tokio::select! {
                () = self.seat.stop.cancelled() => Some(End::Stopped),
                () = self.seat.nudge.notified() => {
                    self.pulse.suspect(Instant::now());
                    None
                }
                ask = asks.recv(), if room => match ask {
                    Some(ask) => {
                        self.take(ask);
                        None
                    }
                    None => Some(End::Stopped),
                },
                incoming = self.inbound.next(!self.pending.is_empty()) => self.came(incoming),
                written = self.outbound.write() => match written {
                    Ok(id) => {
                        self.went(id);
                        None
                    }
                    Err(_) => Some(End::Closed),
                },
                () = alarm => None,
            };
            if let Some(end) = end.or_else(|| self.look(Instant::now())) {
                return end;
            }
        }
    }

    fn take(&mut self, ask: Ask) {
        if ask.answer.is_closed() {
            return;
        }
        if !self.heard {
            return refuse(self.seat, ask);
        }
        let Ask { id, command, line, deadline, success, answer } = ask;
        let asked = Instant::now();
        self.pending.insert(id, Pending { command, asked, deadline, success, sent: false, answer });
        self.outbound.push(Some(id), line);
    }

    fn went(&mut self, id: Option<u64>) {
        let Some(pending) = id.and_then(|id| self.pending.get_mut(&id)) else { return };
        pending.sent = true;
        match pending.success {
            Success::Reply => {}
            Success::Quiet(quiet) => pending.deadline = Instant::now() + quiet,
        }
    }

    fn came(&mut self, incoming: Incoming) -> Option<End> {
        match incoming {
            Incoming::Closed => Some(End::Closed),
            Incoming::Delimiter if self.sync.is_some() => None,
            Incoming::Delimiter | Incoming::Bad => self.bad(),
            Incoming::Message(Message::Response(response)) => {
                self.answered(response);
                None
            }
            Incoming::Message(Message::Event(event)) => match GuestEvent::from_event(event) {
                Ok(event) => {
                    self.told(&event);
                    None
                }
                Err(EventError::Unknown(_)) => None,
                Err(EventError::Data { .. }) => self.bad(),
            },
        }
    }

    fn bad(&mut self) -> Option<End> {
        self.conduct.bad().then_some(End::Garbled)
    }

    fn told(&mut self, event: &GuestEvent) {
        let now = Instant::now();
        match event {
            GuestEvent::Ready(ready) => {
                self.sound(Some(clean(&ready.version)), now);
                self.inbound.charge(READY_COST);
                if self.sync.is_none() {
                    self.send_sync();
                }
            }
            GuestEvent::NetworkChanged(_) | GuestEvent::FilesystemsChanged(_) => {
                self.sound(None, now);
            }
            GuestEvent::Thawed(_) => {
                self.sound(None, now);
                self.seat.entry.thawed(Timestamp::now());
            }
            GuestEvent::Heartbeat(beat) => {
                self.sound(None, now);
                self.pulse.heartbeat(beat.interval, now);
            }
        }
        self.seat.entry.knowledge().told(event, Timestamp::now());
    }

    /// An answer to a question of ours, or to none: late, made up, or an agent's complaint about what
    /// another client left in its pipe.
    fn answered(&mut self, response: Response) {
        let Response { outcome, id, truncated } = response;
        let now = Instant::now();
        if let Some(pending) =
            id.as_ref().and_then(Value::as_u64).and_then(|id| self.pending.remove(&id))
        {
            self.sound(None, now);
            self.inbound.refund();
            let Pending { command, answer, .. } = pending;
            let outcome = outcome.map(|value| Part { value, truncated });
            let outcome = outcome.map_err(|fault| Error::Refused {
                command,
                class: fault.class,
                desc: fault.desc,
            });
            // whoever asked may be gone
            let _ = answer.send(outcome);
        } else if id.is_none()
            && self.sync.is_some()
            && outcome.ok().and_then(|number| number.as_i64()) == self.sync
        {
            self.sync = None;
            self.sound(None, now);
        }
    }

    /// The agent said something sound.
    fn sound(&mut self, version: Option<String>, now: Instant) {
        self.heard = true;
        self.conduct.good();
        self.pulse.heard(now);
        self.seat.observe(Observation::Answered(Transport::Ostler, version));
    }

    /// What time alone brings about.
    fn look(&mut self, now: Instant) -> Option<End> {
        let expired: Vec<u64> =
            self.pending.iter().filter(|(_, p)| p.deadline <= now).map(|(id, _)| *id).collect();
        for id in expired {
            let Some(pending) = self.pending.remove(&id) else { continue };
            let quiet = pending.sent && matches!(pending.success, Success::Quiet(_));
            let outcome = if quiet {
                Ok(Part::default())
            } else {
                self.outbound.withdraw(id);
                if self.pulse.silent_since(pending.asked) {
                    self.seat.observe(Observation::Missed(Transport::Ostler));
                    self.pulse.suspect(now);
                }
                Err(Error::Timeout { command: pending.command })
            };
            // whoever asked may be gone
            let _ = pending.answer.send(outcome);
        }
        match self.pulse.tick(now) {
            Beat::Wait => None,
            Beat::Ask => {
                self.send_sync();
                None
            }
            Beat::Silent => {
                self.seat.observe(Observation::Missed(Transport::Ostler));
                self.send_sync();
                None
            }
            Beat::GiveUp => Some(End::Unanswered),
        }
    }

    fn send_sync(&mut self) {
        if self.outbound.has_sync() {
            return;
        }
        // 62 random bits: positive, and never what a guest could have guessed
        let number = (Uuid::new_v4().as_u128() >> 66) as i64;
        match request::sync(number) {
            Ok(line) => {
                self.sync = Some(number);
                self.outbound.push(None, line);
            }
            Err(error) => tracing::error!(%error, "no sign of life can be asked for"),
        }
    }

    /// Tells whoever still waits how it ended.
    fn conclude(&mut self, end: End) {
        let instance = self.seat.entry.id;
        for (_, pending) in self.pending.drain() {
            let Pending { command, success, sent, answer, .. } = pending;
            let quiet = sent && matches!(success, Success::Quiet(_));
            let outcome = match end {
                End::Stopped | End::Closed if quiet => Ok(Part::default()),
                End::Stopped => Err(Error::NotRunning { instance }),
                End::Closed | End::Absent => {
                    let why = "its port was closed".to_owned();
                    Err(Error::Unavailable { instance, why, asked: true })
                }
                End::Unanswered => Err(Error::Timeout { command }),
                End::Garbled => Err(Error::Garbled { command }),
            };
            // whoever asked may be gone
            let _ = answer.send(outcome);
        }
    }
}
