//! `ostler instance delete` and `restore`.

use clap::Args;
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::instance::{Delete, DeleteMode, Select, Status};
use ostler_protocol::rpc::method::{InstanceDelete, InstanceRestore, InstanceShow};
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{IdempotencyKey, InstanceId};
use serde::Deserialize;

use super::reference::Among;
use super::{InstanceRef, OneArgs, change};
use crate::args::Changing;
use crate::client::done;
use crate::commands::Session;
use crate::failure::{Cause, Failure};
use crate::reply::{MaybeNewer, Operation};

/// Instances that are to go.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// The instances: ids, or names that are unique
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<InstanceRef>,
    /// Delete them at once and for good, with their disks, ports and sockets
    #[arg(long)]
    hard: bool,
    /// Delete them even if they are in ERROR; otherwise that is refused: somebody may want to look
    #[arg(long)]
    ignore: bool,
    #[command(flatten)]
    changing: Changing,
}

/// As much of an instance as tells how deleted it is.
#[derive(Deserialize)]
struct DeletedInstance {
    status: MaybeNewer<Status>,
}

/// Take back a delete.
pub(super) async fn restore(session: &mut Session, args: OneArgs) -> Result<(), Failure> {
    let id = args.instance.find(Among::DeletedFirst, &mut session.client).await?;
    change::<InstanceRestore>(session, &Select { id }, &args.changing).await
}

impl DeleteArgs {
    /// Delete several: all are named before the first is touched, all are asked for before the
    /// first is waited for, and one that fails does not keep the others.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let Self { instances, hard, ignore, changing } = self;
        if changing.key.is_some() && instances.len() > 1 {
            let message = "--key stands for one change, and these are several";
            let next = "delete one instance with each key".to_owned();
            return Err(Cause::usage(message, next).into());
        }
        let mut ids = Vec::new();
        for instance in instances {
            let id = instance.resolve_any(&mut session.client).await?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mode = if hard { DeleteMode::Hard } else { DeleteMode::Soft };
        let mut failures = Vec::new();
        let mut accepted = Vec::new();
        for id in ids {
            let key = changing.key.clone().unwrap_or_else(IdempotencyKey::random);
            let params = Delete { id, mode, ignore_error: ignore };
            match session.client.change::<InstanceDelete>(&params, key).await {
                Ok(operation) => accepted.push(operation),
                Err(failure) => {
                    let refused = matches!(failure.cause, Cause::Refused(_));
                    failures.push(failure);
                    if !refused {
                        break;
                    }
                }
            }
        }
        let deleted = if changing.no_wait {
            accepted
        } else {
            wait_for_all(session, accepted, &mut failures).await
        };
        show_deleted(session, deleted, &changing, failures.is_empty()).await?;
        let last = failures.pop();
        for failure in &failures {
            session.output.failure(failure);
        }
        last.map_or(Ok(()), Err)
    }
}

/// Wait for deletes; those that were done. What goes wrong is added to the failures.
async fn wait_for_all(
    session: &mut Session,
    accepted: Vec<Operation>,
    failures: &mut Vec<Failure>,
) -> Vec<Operation> {
    let lost_contact = |failures: &[Failure]| {
        failures.iter().any(|f| !matches!(f.cause, Cause::Refused(_) | Cause::NotDone(_)))
    };
    let mut deleted = Vec::new();
    for operation in accepted {
        if lost_contact(failures) {
            if let Some(last) = failures.last_mut() {
                last.pending.operations.push(operation.id);
            }
            continue;
        }
        match session.wait(operation).await.and_then(done) {
            Ok(operation) => deleted.push(operation),
            Err(failure) => failures.push(failure),
        }
    }
    deleted
}

async fn show_deleted(
    session: &mut Session,
    deleted: Vec<Operation>,
    changing: &Changing,
    all: bool,
) -> Result<(), Failure> {
    match (deleted.is_empty(), changing.no_wait) {
        // There is nothing to show, and an error to come.
        (true, _) if !all => Ok(()),
        (_, true) => session.output.result(&deleted),
        (_, false) => {
            let mut lines = Vec::new();
            for operation in &deleted {
                let about = operation.about();
                let more = match operation.subject {
                    MaybeNewer::Known(Subject::Instance(id)) => restorable(session, id).await,
                    MaybeNewer::Known(
                        Subject::Image(_)
                        | Subject::Network(_)
                        | Subject::Volume(_)
                        | Subject::Port(_),
                    )
                    | MaybeNewer::Newer(_) => None,
                };
                lines.push(format!("{about} is deleted{}", more.unwrap_or_default()));
            }
            session.output.sentences(&deleted, &lines)
        }
    }
}

/// How a deleted instance can be had again, if it can: a node deletes for good, however it was
/// asked, what was never up. The delete is done, so that this cannot be told is no failure.
async fn restorable(session: &mut Session, id: InstanceId) -> Option<String> {
    if session.output.format() == crate::args::Format::Json {
        return None;
    }
    match session.client.ask::<InstanceShow, DeletedInstance>(&Select { id }).await {
        Ok(left) if left.status == MaybeNewer::Known(Status::SoftDeleted) => Some(format!(
            "; until the node reclaims it (instances.reclaim_after in its configuration) you can \
             restore it: ostler instance restore {id}"
        )),
        Ok(_) => Some(" for good".to_owned()),
        Err(Failure { cause: Cause::Refused(fault), .. })
            if fault.data.reason == Reason::NotFound =>
        {
            Some(" for good".to_owned())
        }
        Err(_) => None,
    }
}
