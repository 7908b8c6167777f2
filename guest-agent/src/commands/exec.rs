//! Programs that clients run.
//!
//! ```text
//!  guest-exec --> spawn (a thread) --> mind (a task): input, output, end --+
//!                                                                          v
//!  guest-exec-status <------------------------------------------------- Programs
//! ```
//!
//! What a program wrote is kept until it is collected, and nobody may ever ask. So results are bounded
//! in number, in bytes and in age, and the oldest one goes first; a program that runs is never
//! forgotten. A process id belongs to the program that got it last: the kernel gives it again only when
//! the one before is gone.

mod capture;
mod end;
mod spawn;

pub use spawn::keep_descriptors;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::base64::Base64Data;
use ostler_protocol::qga::base64::{Base64Error, decoded_len};
use ostler_protocol::qga::commands::exec::{
    EXEC_PIECE, ExecArguments, ExecStarted, ExecStatus, ExecStatusArguments, GuestExec,
    GuestExecStatus,
};
use tokio::task::AbortHandle;

use super::account::{self, Account, AccountError};
use super::{Agent, CommandError, Handle};
use crate::worker::WorkerError;
use capture::{Charge, Kept, Shared, Store};
use spawn::{Identity, Plan, Started};

/// Programs that may run at a time; each has a few descriptors.
const MOST_RUNNING: usize = 100;
/// Results that may wait to be collected.
const MOST_WAITING: usize = 64;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(3600);
/// Starting one reads it from a disk, which may be dead.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a program was not run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error(
        "Guest agent command failed, error was 'Failed to execute child process \
         \u{201c}{path}\u{201d} ({why})'"
    )]
    Spawn {
        /// What was asked for.
        path: String,
        /// Why.
        why: String,
    },
    /// Its owner lets only some programs run.
    #[error("the command line is not one that exec-allow permits: {0}")]
    NotAllowed(PathBuf),
    /// An environment can make any program do anything.
    #[error("env is refused, for exec-allow limits which programs may run")]
    Environment,
    /// A number of seconds there is none of.
    #[error("value '{0}' is invalid for argument timeout")]
    Timeout(i64),
    /// Too many run.
    #[error("{MOST_RUNNING} programs are running, which is the most")]
    TooMany,
    /// Its input and the output of others fill what there may be.
    #[error("there is no memory for its input before others have ended")]
    NoRoom,
    /// Its input is not base64.
    #[error(transparent)]
    Base64(#[from] Base64Error),
    /// The account it should run as.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// No such program.
    #[error("Invalid parameter 'pid': PID {0} does not exist")]
    Pid(i64),
    /// The thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// The programs that run, and the results nobody has asked for yet.
#[derive(Debug)]
pub struct Programs {
    known: RefCell<BTreeMap<i64, Program>>,
    store: Store,
    /// Those that are being started.
    starting: Cell<usize>,
    /// How many were started, ever.
    count: Cell<u64>,
    allowed: Option<Rc<[String]>>,
}

#[derive(Debug)]
struct Program {
    /// Tells it from others that have had its process id.
    serial: u64,
    minder: AbortHandle,
    out: Shared,
    err: Shared,
    result: Option<Finished>,
}

#[derive(Debug)]
struct Finished {
    /// Since the agent began.
    order: u64,
    /// Without its output.
    status: ExecStatus,
}

impl Programs {
    /// None yet; if there is a list, only command lines that begin with one of it may be run.
    pub fn new(allowed: Option<Vec<String>>) -> Self {
        Self {
            known: RefCell::default(),
            store: Store::default(),
            starting: Cell::new(0),
            count: Cell::new(0),
            allowed: allowed.map(Rc::from),
        }
    }

    fn next(&self) -> u64 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    fn running(&self) -> usize {
        let known = self.known.borrow();
        self.starting.get() + known.values().filter(|program| program.result.is_none()).count()
    }

    /// Forgets the result that has waited longest. Says whether there was one.
    fn forget_oldest(&self) -> bool {
        let mut known = self.known.borrow_mut();
        let finished = known.iter().filter_map(|(pid, program)| {
            program.result.as_ref().map(|finished| (finished.order, *pid))
        });
        let Some((_, pid)) = finished.min() else { return false };
        if let Some(program) = known.remove(&pid) {
            program.minder.abort();
        }
        true
    }

    /// Makes room for so much, if need be by forgetting results.
    fn charge(&self, charge: &mut Charge, bytes: usize) -> bool {
        while !charge.grow(bytes) {
            if !self.forget_oldest() {
                return false;
            }
        }
        true
    }

    fn finish(&self, pid: i64, serial: u64, status: ExecStatus) {
        let order = self.next();
        let mut known = self.known.borrow_mut();
        let Some(program) = known.get_mut(&pid).filter(|program| program.serial == serial) else {
            return;
        };
        program.result = Some(Finished { order, status });
        let waiting = known.values().filter(|program| program.result.is_some()).count();
        drop(known);
        if waiting > MOST_WAITING {
            self.forget_oldest();
        }
    }

    fn forget(&self, pid: i64, serial: u64) {
        let mut known = self.known.borrow_mut();
        if known.get(&pid).is_some_and(|program| program.serial == serial) {
            known.remove(&pid);
        }
    }
}

impl Handle for GuestExec {
    async fn handle(
        agent: Rc<Agent>,
        arguments: ExecArguments,
    ) -> Result<ExecStarted, CommandError> {
        Ok(ExecStarted { pid: start(&agent, arguments).await? })
    }
}

/// Counts a program that is being started.
struct Starting<'a>(&'a Cell<usize>);

impl<'a> Starting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn start(agent: &Rc<Agent>, arguments: ExecArguments) -> Result<i64, ExecError> {
    let programs = &agent.programs;
    let ExecArguments { path, arg, env, input_data, capture_output, user, cwd, timeout } =
        arguments;
    let limit = match timeout {
        None => None,
        Some(seconds) => Some(
            u64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)
                .ok_or(ExecError::Timeout(seconds))?,
        ),
    };
    if programs.allowed.is_some() && env.is_some() {
        return Err(ExecError::Environment);
    }
    if programs.running() >= MOST_RUNNING {
        return Err(ExecError::TooMany);
    }
    let starting = Starting::new(&programs.starting);
    let mut input_charge = programs.store.charge();
    if let Some(text) = &input_data {
        decoded_len(text)?;
        if !programs.charge(&mut input_charge, text.len()) {
            return Err(ExecError::NoRoom);
        }
    }
    let identity = match &user {
        None => None,
        Some(name) => {
            let folder = std::path::Path::new(account::FOLDER);
            let account = Account::find(&agent.workers, folder, name).await?;
            let groups = account.groups(&agent.workers, folder).await?;
            Some(Identity { account, groups })
        }
    };
    let plan = Plan {
        path,
        arguments: arg.unwrap_or_default(),
        environment: env,
        folder: cwd.map(PathBuf::from),
        identity,
        capture: capture_output.unwrap_or_default(),
        input: input_data.is_some(),
        allowed: programs.allowed.as_deref().map(<[String]>::to_vec),
    };
    let runtime = tokio::runtime::Handle::current();
    let started =
        agent.workers.run("starting a program", DEADLINE, move || plan.start(&runtime)).await??;
    drop(starting);
    agent.log.info(format_args!(
        "guest-exec called: {}, user {}, pid {}",
        started.program.display(),
        user.as_deref().unwrap_or("the agent's"),
        started.pid
    ));
    let (pid, serial) = (started.pid, programs.next());
    let input = input_data.map(|text| (text, input_charge));
    let [out, err] = [(); 2].map(|()| Rc::new(RefCell::new(Kept::new(programs.store.charge()))));
    let streams = [out.clone(), err.clone()];
    let minding = mind(agent.clone(), serial, started, input, streams, limit);
    let minder = tokio::task::spawn_local(minding).abort_handle();
    let program = Program { serial, minder, out, err, result: None };
    if let Some(before) = programs.known.borrow_mut().insert(pid, program) {
        // it is gone, or its process id would not be another's
        before.minder.abort();
    }
    Ok(pid)
}

/// Looks after a program from its start until its result is forgotten.
async fn mind(
    agent: Rc<Agent>,
    serial: u64,
    started: Started,
    input: Option<(String, Charge)>,
    [out, err]: [Shared; 2],
    limit: Option<Duration>,
) {
    let pid = started.pid;
    let Some((mut child, pipes)) = started.keep() else { return };
    let programs = &agent.programs;
    let room = |charge: &mut Charge, bytes| programs.charge(charge, bytes);
    let output = async {
        let feed = capture::feed(pipes.input, input);
        let out = capture::listen(pipes.out, &out, &room);
        let err = capture::listen(pipes.err, &err, &room);
        tokio::join!(feed, out, err)
    };
    let status = end::end(&mut child, pid, limit, output).await;
    programs.finish(pid, serial, status);
    drop((child, out, err));
    tokio::time::sleep(WAIT).await;
    programs.forget(pid, serial);
}

impl Program {
    /// The end, with all that was written; nothing but that it runs, before.
    fn whole(&self) -> ExecStatus {
        let Some(finished) = &self.result else { return ExecStatus::default() };
        let (out_data, out_truncated) = told(&mut self.out.borrow_mut());
        let (err_data, err_truncated) = told(&mut self.err.borrow_mut());
        ExecStatus { out_data, out_truncated, err_data, err_truncated, ..finished.status.clone() }
    }

    /// What was written from these places on, and the end if nothing follows.
    fn piece(&self, out_from: i64, err_from: i64) -> ExecStatus {
        let (out, err) = (self.out.borrow(), self.err.borrow());
        let (out_data, out_ends) = out.piece(out_from, EXEC_PIECE);
        let (err_data, err_ends) = err.piece(err_from, EXEC_PIECE);
        let status = match &self.result {
            Some(finished) if out_ends && err_ends => finished.status.clone(),
            Some(_) | None => ExecStatus::default(),
        };
        let data = |data: &[u8]| (!data.is_empty()).then(|| Base64Data(data.to_vec()));
        ExecStatus {
            out_data: data(out_data),
            out_truncated: Some(out.truncated),
            err_data: data(err_data),
            err_truncated: Some(err.truncated),
            ..status
        }
    }
}

/// All of a stream, taken out of it.
fn told(kept: &mut Kept) -> (Option<Base64Data>, Option<bool>) {
    if kept.data.is_empty() {
        return (None, None);
    }
    (Some(Base64Data(std::mem::take(&mut kept.data))), Some(kept.truncated))
}

impl Handle for GuestExecStatus {
    async fn handle(
        agent: Rc<Agent>,
        arguments: ExecStatusArguments,
    ) -> Result<ExecStatus, CommandError> {
        let ExecStatusArguments { pid, out_from, err_from, forget } = arguments;
        let mut known = agent.programs.known.borrow_mut();
        let program = known.get_mut(&pid).ok_or(ExecError::Pid(pid))?;
        let from_a_place = out_from.is_some() || err_from.is_some();
        let status = if from_a_place {
            program.piece(out_from.unwrap_or(0), err_from.unwrap_or(0))
        } else {
            program.whole()
        };
        if status.exited && forget.unwrap_or(!from_a_place) {
            program.minder.abort();
            known.remove(&pid);
        }
        Ok(status)
    }
}
