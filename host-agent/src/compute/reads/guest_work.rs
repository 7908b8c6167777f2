//! Work in guests, for whoever asks by RPC: whether the instance is one that can be asked, and the
//! guest's errors in the caller's terms. The work itself is done by [`guest`].

use std::time::Duration;

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::qga::ErrorClass;
use ostler_protocol::rpc::guest::work::{
    Clock, Exec, ExecWait, Execution, FilePiece, FileRead, FileWrite, FileWritten, Keys, SshKeys,
    Started, Trim, Trimmed,
};
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::{IdempotencyKey, InstanceId};

use super::Reads;
use crate::compute::causes::guest_fault;
use crate::compute::outside::Outside;
use crate::guest::{self, Guests};

/// The longest a request is kept waiting; whoever wants to wait longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long `guest.exec_wait` waits unless told.
const WAIT: Duration = Duration::from_secs(30);

impl<O: Outside> Reads<O> {
    /// `guest.exec`
    ///
    /// # Errors
    /// The request is for another run of this agent; the guest cannot be asked, or refuses.
    pub async fn guest_exec(
        &self,
        request: Exec,
        key: Option<IdempotencyKey>,
    ) -> Result<Started, Refusal> {
        let id = request.id;
        if request.agent.is_some_and(|agent| agent != self.registry.started) {
            let text = "conflict: the request is for another run of the host agent, which was \
                        restarted: it is not known here whether the program was run";
            return Err(Refusal::new(Reason::Conflict, text)
                .about(format!("instance {id}"))
                .next("look in the guest; to run it all the same, ask again with a new key"));
        }
        self.guest_of(id)?.exec(request, key).await.map_err(|error| {
            let fault = work_fault(id, &error);
            if error.may_have_happened() {
                fault.next(
                    "the program may have been run: look in the guest; under the same key it is \
                     not run again",
                )
            } else {
                fault
            }
        })
    }

    /// `guest.exec_wait`
    ///
    /// # Errors
    /// There is no such instance or program.
    pub async fn guest_exec_wait(&self, wait: &ExecWait) -> Result<Execution, Refusal> {
        let id = wait.id;
        // also of an instance that is off: that is how its programs ended
        self.exists(id)?;
        self.is_here_to_stay()?;
        let limit = wait.timeout.map_or(WAIT, |ms| Duration::from_millis(ms.into())).min(WAIT_MAX);
        let from = [wait.stdout_from, wait.stderr_from];
        let now = self.node.guests.exec_wait(id, wait.exec, limit, from).await;
        now.map_err(|error| work_fault(id, &error))
    }

    /// `guest.file_read`
    ///
    /// # Errors
    /// The guest cannot be asked, or the file not read.
    pub async fn guest_file_read(&self, read: &FileRead) -> Result<FilePiece, Refusal> {
        let outcome = self.guest_of(read.id)?.file_read(read).await;
        outcome.map_err(|error| work_fault(read.id, &error))
    }

    /// `guest.file_write`
    ///
    /// # Errors
    /// The guest cannot be asked, or the file not written.
    pub async fn guest_file_write(&self, write: FileWrite) -> Result<FileWritten, Refusal> {
        let id = write.id;
        let outcome = self.guest_of(id)?.file_write(write).await;
        outcome.map_err(|error| work_fault(id, &error))
    }

    /// `guest.time`
    ///
    /// # Errors
    /// The guest cannot be asked.
    pub async fn guest_time(&self, id: InstanceId) -> Result<Clock, Refusal> {
        self.guest_of(id)?.clock(id).await.map_err(|error| work_fault(id, &error))
    }

    /// `guest.sync_time`
    ///
    /// # Errors
    /// The guest cannot be asked, or refuses.
    pub async fn guest_sync_time(&self, id: InstanceId) -> Result<Clock, Refusal> {
        let guests = self.guest_of(id)?;
        let outcome = async {
            guests.sync_time(id).await?;
            guests.clock(id).await
        };
        outcome.await.map_err(|error| work_fault(id, &error))
    }

    /// `guest.ssh_keys`
    ///
    /// # Errors
    /// A key is none; the guest cannot be asked, or refuses.
    pub async fn guest_ssh_keys(&self, request: &SshKeys) -> Result<Keys, Refusal> {
        let outcome = self.guest_of(request.id)?.ssh_keys(request).await;
        outcome.map_err(|error| work_fault(request.id, &error))
    }

    /// `guest.trim`
    ///
    /// # Errors
    /// The guest cannot be asked, or refuses.
    pub async fn guest_trim(&self, trim: Trim) -> Result<Trimmed, Refusal> {
        let outcome = self.guest_of(trim.id)?.trim(trim.id, trim.minimum).await;
        outcome.map_err(|error| work_fault(trim.id, &error))
    }

    /// The guests, if this one exists and runs.
    fn guest_of(&self, id: InstanceId) -> Result<&Guests<O::Hypervisor>, Refusal> {
        self.exists(id)?;
        self.is_here_to_stay()?;
        let (state, next) = match self.registry.lock().observed(id).power {
            // what is not known may run: asking will tell
            PowerState::Running | PowerState::Unknown => return Ok(&self.node.guests),
            PowerState::None | PowerState::Shutdown | PowerState::Crashed => ("is off", "start it"),
            PowerState::Paused => ("is paused", "let it run on first"),
            PowerState::Suspended => ("is suspended", "wake it up first"),
        };
        Err(Refusal::new(Reason::Conflict, format!("conflict: instance {id} {state}"))
            .about(format!("instance {id}"))
            .next(next))
    }

    /// What lives in the agent's memory is not begun or asked for while that is about to go.
    ///
    /// # Errors
    /// The agent is stopping.
    pub(super) fn is_here_to_stay(&self) -> Result<(), Refusal> {
        if self.shutdown.is_cancelled() {
            return Err(Refusal::new(Reason::Draining, "the agent is stopping")
                .next("ask again when it is back"));
        }
        Ok(())
    }
}

/// What a caller is told.
fn work_fault(id: InstanceId, error: &guest::Error) -> Refusal {
    use guest::Error;
    let fault = match error {
        Error::Invalid { .. } => Refusal::of(Reason::InvalidParams, error),
        Error::Busy { .. } => Refusal::of(Reason::Busy, error).next("try again later"),
        Error::KeyReused => Refusal::of(Reason::KeyReused, error).next("use a new key"),
        Error::UnknownExec { .. } => Refusal::of(Reason::NotFound, error).next(
            "a program is known for 10 minutes after its end, and not after the host agent was \
             restarted",
        ),
        Error::Refused { class: ErrorClass::CommandNotFound, .. } => guest_fault(error)
            .next(
                "the guest's agent does not have this command, or its owner has forbidden it; its \
             report shows what it permits",
            )
            .by(Action::GuestReport),
        Error::NotRunning { .. }
        | Error::Unavailable { .. }
        | Error::Refused { .. }
        | Error::Garbled { .. }
        | Error::Timeout { .. }
        | Error::Unwritable { .. } => guest_fault(error),
    };
    fault.about(format!("instance {id}"))
}
