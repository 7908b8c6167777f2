//! Programs in guests: started once, followed to their end, their output kept for whoever asks.
//!
//! ```text
//!   guest.exec ──> record (table.rs), under its key ──> task: guest-exec, then
//!                     ^                                  guest-exec-status every 5..500 ms
//!   guest.exec_wait ──┘ waits on the record's status <───┘
//! ```
//!
//! Starting a program cannot be taken back, so it is asked for once: a request that comes again finds
//! the record, and where it is not known whether the guest has run it, it is told so, and the guest is
//! not asked again. The task belongs to nobody's connection.
//!
//! A stock agent tells the end once, with all that was written, and forgets it: an answer that is lost
//! is lost. Our own tells what was written from a place on, so nothing is lost, and output is here
//! while the program runs.

mod table;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_protocol::qga::Command as _;
use ostler_protocol::qga::commands::exec::{
    EXEC_PIECE, ExecArguments, ExecCapture, ExecStatus, ExecStatusArguments, GuestExec,
    GuestExecStatus,
};
use ostler_protocol::qga::events::capability;
use ostler_protocol::rpc::guest::Transport;
use ostler_protocol::rpc::guest::work::{
    Capture, Data, Exec, ExecState, Execution, PIECE_MAX, Started,
};
use ostler_protocol::rpc::values::{ExecId, IdempotencyKey, InstanceId};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument as _;
use zeroize::Zeroize as _;

pub(super) use self::table::Execs;
use self::table::{Begun, Phase, Record, STREAM};
use super::Guests;
use super::entry::Entry;
use super::error::Error;
use super::report::clean;
use crate::hypervisor::Hypervisor;

/// First pause between two looks at a program; it doubles.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest such pause.
const PAUSE_MOST: Duration = Duration::from_millis(500);
/// How long a program is kept after its end.
const KEPT: Duration = Duration::from_secs(600);
/// A guest that says nothing for so long has lost its programs.
const SILENCE: Duration = Duration::from_secs(600);
/// So many times what a program has between being asked to end and being ended, after its limit, its
/// agent is to have told its end.
const LATE: u32 = 3;
/// Bytes of each stream in one answer.
const PIECE: usize = 256 << 10;
/// An argument that is shorter may stand in any error by chance; hiding it would hide every error.
const SECRET_LEAST: usize = 4;

impl<H: Hypervisor> Guests<H> {
    /// Runs a program in the guest; with a key, once, however often it is asked for. Returns when the
    /// guest has started it.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Busy`] and [`Error::KeyReused`] before the guest is asked;
    /// [`Error::Refused`] if it cannot be started. After others it may run, or not: see
    /// [`Error::may_have_happened`]. No error repeats arguments, environment or input.
    pub async fn exec(&self, request: Exec, key: Option<IdempotencyKey>) -> Result<Started, Error> {
        check(&request)?;
        let entry = self.known(request.id)?;
        let record = match self.0.execs.begin(&request, key.as_ref())? {
            Begun::Known(record) => record,
            Begun::New(record) => {
                if let Err(error) = entry.transport() {
                    // whoever has found the record meanwhile is told as well
                    self.0.execs.forget(&record);
                    finish(&record, Phase::NotStarted(error));
                } else {
                    let (guests, of) = (self.clone(), Arc::clone(&record));
                    let task = async move { guests.follow(&entry, &of, request).await };
                    let span =
                        tracing::info_span!("exec", instance = %record.instance, exec = %record.id);
                    self.0.tasks.spawn(task.instrument(span));
                }
                record
            }
        };
        let mut status = record.status.subscribe();
        let settled = status.wait_for(|now| !matches!(now.phase, Phase::Starting));
        let settled = tokio::select! {
            // the record holds the sender
            settled = settled => settled.ok().map(|now| now.clone()),
            () = self.0.shutdown.cancelled() => None,
        };
        let Some(now) = settled else {
            let why = "the host agent stops".to_owned();
            return Err(Error::Unavailable { instance: record.instance, why, asked: true });
        };
        match now.phase {
            Phase::NotStarted(error) => Err(error),
            Phase::Starting | Phase::Running | Phase::Exited { .. } | Phase::Lost(_) => {
                Ok(Started { exec: record.id, pid: now.pid })
            }
        }
    }

    /// How a program is doing, once it is over, has written more than `from` of standard output or
    /// standard error, or `wait` is over.
    ///
    /// # Errors
    /// [`Error::UnknownExec`], or what kept it from being started.
    pub async fn exec_wait(
        &self,
        instance: InstanceId,
        exec: ExecId,
        wait: Duration,
        from: [u64; 2],
    ) -> Result<Execution, Error> {
        let record = self.0.execs.find(instance, exec)?;
        let mut status = record.status.subscribe();
        let news = status.wait_for(|now| {
            now.ended.is_some() || now.sizes[0] > from[0] || now.sizes[1] > from[1]
        });
        tokio::select! {
            _ = news => {}
            () = sleep(wait) => {}
            () = self.0.shutdown.cancelled() => {}
        }
        let now = record.now();
        let (mut exit_code, mut by_signal, mut late, mut why) = (None, None, false, None);
        let state = match now.phase {
            Phase::Starting | Phase::Running => ExecState::Running,
            Phase::NotStarted(error) => return Err(error),
            Phase::Exited { code, signal, timed_out } => {
                (exit_code, by_signal, late) = (code, signal, timed_out);
                ExecState::Exited
            }
            Phase::Lost(reason) => {
                why = Some(reason);
                ExecState::Lost
            }
        };
        Ok(Execution {
            exec,
            state,
            exit_code,
            signal: by_signal,
            timed_out: late,
            why,
            stdout: Data(record.piece(0, from[0], PIECE)),
            stderr: Data(record.piece(1, from[1], PIECE)),
            stdout_size: now.sizes[0],
            stderr_size: now.sizes[1],
            stdout_truncated: now.truncated[0],
            stderr_truncated: now.truncated[1],
            elapsed: now.ended.unwrap_or_else(Instant::now).duration_since(record.asked).as_millis()
                as u64,
        })
    }

    /// A program's life: started, followed to its end, kept for a while, forgotten.
    async fn follow(&self, entry: &Entry, record: &Record, request: Exec) {
        let shutdown = &self.0.shutdown;
        let life = async {
            let limit = request.timeout_ms.map(|ms| Duration::from_millis(ms.into()));
            let session = entry.session();
            let whose = match self.start(entry, request).await {
                Ok((pid, limit)) => {
                    tracing::info!(pid, "a program was started");
                    record.status.send_modify(|status| {
                        status.pid = pid;
                        status.phase = Phase::Running;
                    });
                    limit
                }
                Err(error) => {
                    tracing::info!("a program was not started, or its start is uncertain");
                    let known = !error.may_have_happened();
                    if known {
                        // nothing has happened: the same request may be tried again
                        self.0.execs.forget(record);
                    }
                    finish(record, Phase::NotStarted(error));
                    return;
                }
            };
            let limit = limit.map(|limit| (record.asked + limit, whose));
            let end = self.watch(entry, record, session, limit).await;
            finish(record, end);
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = life => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sleep(KEPT) => self.0.execs.forget(record),
        }
    }

    /// Has the guest start it: its process id, and who is to end it in time.
    async fn start(&self, entry: &Entry, request: Exec) -> Result<(i64, Limit), Error> {
        let Exec { path, args, env, input, capture, timeout_ms, user, cwd, .. } = request;
        let seconds = timeout_ms.map(|ms| i64::from(ms.div_ceil(1000).max(1)));
        let mut arguments = ExecArguments {
            path,
            arg: (!args.is_empty()).then_some(args),
            env,
            input_data: input.map(|data| STANDARD.encode(data.0)),
            capture_output: Some(match capture {
                Capture::Both => ExecCapture::Separated,
                Capture::None => ExecCapture::None,
            }),
            user,
            cwd,
            timeout: seconds,
        };
        let mut outcome =
            self.ask_to_start(entry, &arguments).await.map(|pid| (pid, Limit::Agents));
        if let Err(Error::Refused { desc, .. }) = &outcome
            && seconds.is_some()
            && desc.contains("'timeout'")
            && desc.contains("unexpected")
        {
            arguments.timeout = None;
            outcome = self.ask_to_start(entry, &arguments).await.map(|pid| (pid, Limit::Ours));
        }
        arguments.input_data.zeroize();
        arguments.arg.zeroize();
        arguments.env.zeroize();
        outcome
    }

    async fn ask_to_start(&self, entry: &Entry, arguments: &ExecArguments) -> Result<i64, Error> {
        let words = arguments.arg.iter().flatten().map(String::as_str);
        let settings = arguments.env.iter().flatten();
        let values = settings.filter_map(|set| set.split_once('=').map(|(_, value)| value));
        let secrets: Vec<&str> =
            words.chain(values).filter(|word| word.len() >= SECRET_LEAST).collect();
        let inquiry = self.inquiry(entry)?;
        let pid = inquiry.ask::<GuestExec>(arguments, &secrets).await?.pid;
        // others are no program's, and `kill` takes them for many
        if pid > 0 { Ok(pid) } else { Err(Error::Garbled { command: GuestExec::NAME }) }
    }

    /// Looks at a program until it is over or lost.
    async fn watch(
        &self,
        entry: &Entry,
        record: &Record,
        session: u64,
        limit: Option<(Instant, Limit)>,
    ) -> Phase {
        let mut follower =
            Follower { record, heard: Instant::now(), ended: Ended::No, full: [false; 2] };
        let (mut pause, grace) = (PAUSE, self.0.settings.grace);
        loop {
            if entry.run().is_none() {
                return Phase::Lost("the instance was stopped".to_owned());
            }
            if entry.session() != session {
                return Phase::Lost("the guest was restarted".to_owned());
            }
            match self.look(entry, &mut follower).await {
                Look::Over(end) => return end,
                // there may be more already
                Look::More => {
                    pause = PAUSE;
                    continue;
                }
                // whoever holds its output may hold it for ever
                Look::Runs if limit.is_some_and(|(at, _)| Instant::now() >= at + grace * LATE) => {
                    return Phase::Lost("it did not end in time, as its agent tells".to_owned());
                }
                Look::Runs | Look::Nothing => {}
            }
            if let Some((at, Limit::Ours)) = limit {
                self.enforce(entry, &mut follower, at).await;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    async fn look(&self, entry: &Entry, follower: &mut Follower<'_>) -> Look {
        let pid = follower.record.now().pid;
        let piecewise = entry.transport() == Ok(Transport::Ostler)
            && entry.knowledge().capable(capability::EXEC_OUTPUT);
        let arguments = if piecewise {
            let [out, err] = follower.places();
            ExecStatusArguments { pid, out_from: Some(out), err_from: Some(err), forget: None }
        } else {
            ExecStatusArguments { pid, ..ExecStatusArguments::default() }
        };
        let asked = match self.inquiry(entry) {
            Ok(inquiry) => inquiry.ask::<GuestExecStatus>(&arguments, &[]).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(status) => {
                follower.heard = Instant::now();
                let (exited, more) = follower.take(&self.0.execs, &status, piecewise);
                if exited && piecewise {
                    // whether that is answered is of no matter: it goes with time as well
                    let done = ExecStatusArguments { forget: Some(true), ..arguments };
                    if let Ok(inquiry) = self.inquiry(entry) {
                        let _ = inquiry.ask::<GuestExecStatus>(&done, &[]).await;
                    }
                }
                if exited {
                    let ours = follower.ended != Ended::No && status.signal.is_some();
                    Look::Over(Phase::Exited {
                        code: status.exitcode,
                        signal: status.signal,
                        timed_out: status.timed_out == Some(true) || ours,
                    })
                } else if more {
                    Look::More
                } else {
                    Look::Runs
                }
            }
            // older stock agents give no reason, and it may be a freeze
            Err(Error::Refused { desc, .. }) if !desc.contains("has been disabled") => {
                let told = clean(&desc);
                Look::Over(Phase::Lost(format!("the guest's agent does not know it: {told}")))
            }
            // it is frozen: it has its programs, and tells of them later
            Err(Error::Busy { .. }) => {
                follower.heard = Instant::now();
                Look::Nothing
            }
            Err(error @ Error::Garbled { .. }) => Look::Over(Phase::Lost(error.to_string())),
            Err(_) if follower.heard.elapsed() > SILENCE => {
                Look::Over(Phase::Lost("the guest does not answer".to_owned()))
            }
            Err(_) => Look::Nothing,
        }
    }

    /// Ends a program whose time is over, where its agent does not.
    async fn enforce(&self, entry: &Entry, follower: &mut Follower<'_>, limit: Instant) {
        let (signal, next) = match follower.ended {
            Ended::No if Instant::now() >= limit => ("-TERM", Ended::Asked),
            Ended::Asked if Instant::now() >= limit + self.0.settings.grace => {
                ("-KILL", Ended::Killed)
            }
            Ended::No | Ended::Asked | Ended::Killed => return,
        };
        let arguments = ExecArguments {
            path: "kill".to_owned(),
            arg: Some(vec![signal.to_owned(), follower.record.now().pid.to_string()]),
            ..ExecArguments::default()
        };
        match self.ask_to_start(entry, &arguments).await {
            Ok(pid) => {
                // so that the agent forgets it
                let status = ExecStatusArguments { pid, ..ExecStatusArguments::default() };
                let deadline = Instant::now() + self.0.settings.answer_timeout;
                let over = async {
                    loop {
                        let Ok(inquiry) = self.inquiry(entry) else { return };
                        match inquiry.ask::<GuestExecStatus>(&status, &[]).await {
                            Ok(ExecStatus { exited: false, .. }) => sleep(PAUSE * 4).await,
                            Ok(_) | Err(_) => return,
                        }
                    }
                };
                // a `kill` that hangs is not waited for
                let _ = timeout_at(deadline, over).await;
                follower.ended = next;
            }
            Err(error) => tracing::warn!(%error, "cannot end a program; trying again"),
        }
    }
}

/// Who ends a program whose time is over.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The guest's agent.
    Agents,
    /// The host: a stock agent has no limits.
    Ours,
}

/// What a look at a program brought.
enum Look {
    Over(Phase),
    /// It runs, and there is more of what it wrote.
    More,
    /// It runs.
    Runs,
    /// Nobody answered.
    Nothing,
}

/// Whether the host has tried to end a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Asked,
    Killed,
}

/// What is known of a program while it is followed.
struct Follower<'a> {
    record: &'a Record,
    heard: Instant,
    ended: Ended,
    /// Streams of which no more is kept here. That the guest's agent has cut one says nothing of how
    /// much of it is here already.
    full: [bool; 2],
}

impl Follower<'_> {
    /// From where on what was written is asked for: nothing of a stream that is full.
    fn places(&self) -> [i64; 2] {
        let now = self.record.now();
        [0, 1].map(|stream| {
            let full = self.full[stream] || now.sizes[stream] >= STREAM as u64;
            if full { i64::MAX } else { i64::try_from(now.sizes[stream]).unwrap_or(i64::MAX) }
        })
    }

    /// Keeps what an answer has: whether the program is over, and whether there may be more at once.
    fn take(&mut self, execs: &Execs, status: &ExecStatus, piecewise: bool) -> (bool, bool) {
        let streams =
            [(&status.out_data, status.out_truncated), (&status.err_data, status.err_truncated)];
        let mut more = false;
        for (stream, (data, truncated)) in streams.into_iter().enumerate() {
            let now = self.record.now();
            let data = data.as_ref().map_or(&[][..], |data| &data.0);
            let new = if piecewise {
                more |= data.len() == EXEC_PIECE;
                // more than was asked for is not ours to keep
                &data[..data.len().min(EXEC_PIECE)]
            } else {
                // all there is: what came in pieces before is known
                let known = usize::try_from(now.sizes[stream]).unwrap_or(usize::MAX);
                data.get(known..).unwrap_or_default()
            };
            if !self.full[stream] && !new.is_empty() {
                self.full[stream] = !execs.keep(self.record, stream, new);
            }
            if truncated == Some(true) {
                self.record.status.send_modify(|status| status.truncated[stream] = true);
            }
        }
        (status.exited, more)
    }
}

fn finish(record: &Record, phase: Phase) {
    record.status.send_modify(|status| {
        status.phase = phase;
        status.ended = Some(Instant::now());
    });
}

/// A program of the guest's that the host needs for something else.
pub(super) fn helper(id: InstanceId, path: &str, args: Vec<String>) -> Exec {
    Exec {
        id,
        path: path.to_owned(),
        args,
        env: None,
        input: None,
        capture: Capture::None,
        timeout_ms: None,
        user: None,
        cwd: None,
        agent: None,
    }
}

/// What no system can run. No error repeats what may be secret.
fn check(request: &Exec) -> Result<(), Error> {
    let invalid = |what: &str| Err(Error::Invalid { what: what.to_owned() });
    let Exec { path, args, env, input, user, cwd, timeout_ms, .. } = request;
    let nul = |text: &String| text.contains('\0');
    if path.is_empty() || nul(path) {
        return invalid("path must name a program");
    }
    if args.iter().chain(user).chain(cwd).chain(env.iter().flatten()).any(nul) {
        return invalid("args, env, user and cwd cannot hold the character NUL");
    }
    if env.iter().flatten().any(|set| set.find('=').is_none_or(|at| at == 0)) {
        return invalid("env must be a list of NAME=VALUE");
    }
    if *timeout_ms == Some(0) {
        return invalid("timeout_ms must be more than 0");
    }
    if input.as_ref().is_some_and(|input| input.0.len() > PIECE_MAX) {
        return invalid("input must be at most 512 KiB: write it to a file with guest.file_write");
    }
    Ok(())
}
