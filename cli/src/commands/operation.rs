//! `ostler operation ...`

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ostler_protocol::rpc::method::{OperationCancel, OperationGet, OperationList};
use ostler_protocol::rpc::operation::{List, Select, State};
use ostler_protocol::rpc::values::OperationId;

use super::Session;
use super::instance::InstanceRef;
use crate::client::done;
use crate::failure::{Cause, Failure, word};
use crate::progress::Progress;
use crate::reply::{MaybeNewer, Operation};

/// What can be done with operations.
#[derive(Subcommand)]
pub(crate) enum OperationCommand {
    /// List operations, newest first
    List {
        /// Only those about this instance: its id, or its name if that is unique
        #[arg(long)]
        instance: Option<InstanceRef>,
        /// Only those in this state
        #[arg(long, value_parser = state_parser())]
        state: Option<State>,
        /// At most this many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// Show one operation with its steps
    Show {
        /// The operation
        id: OperationId,
    },
    /// Wait until an operation is over
    Wait {
        /// The operation
        id: OperationId,
    },
    /// Cancel an operation: it stops and undoes what it did; waits until that is done
    Cancel {
        /// The operation
        id: OperationId,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
    },
}

impl OperationCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List { instance, state, limit } => {
                let instance = match instance {
                    Some(instance) => Some(instance.resolve_any(&mut session.client).await?),
                    None => None,
                };
                let params = List { instance, state, limit };
                let list: Vec<Operation> = session.client.ask::<OperationList, _>(&params).await?;
                session.output.result(&list)
            }
            Self::Show { id } => {
                let operation: Operation =
                    session.client.ask::<OperationGet, _>(&Select { id }).await?;
                session.output.result(&operation)
            }
            Self::Wait { id } => {
                let mut progress = Progress::new(session.output.format());
                let over = session.client.wait(id, None, &mut progress).await;
                drop(progress);
                session.output.result(&done(over?)?)
            }
            Self::Cancel { id, no_wait } => {
                let asked: Operation =
                    session.client.ask::<OperationCancel, _>(&Select { id }).await?;
                if no_wait {
                    return session.output.result(&asked);
                }
                let over = session.wait(asked).await?;
                session.output.result(&cancelled(over)?)
            }
        }
    }
}

/// Whether nothing is left of an operation that was to be cancelled.
fn cancelled(operation: Operation) -> Result<Operation, Failure> {
    match operation.state {
        MaybeNewer::Known(State::Cancelled | State::Undone) => Ok(operation),
        MaybeNewer::Known(State::Queued | State::Running | State::Succeeded | State::Failed)
        | MaybeNewer::Newer(_) => Err(Cause::NotCancelled(Box::new(operation)).into()),
    }
}

/// Every state, as a word of the command line.
fn state_parser() -> impl TypedValueParser<Value = State> {
    const ALL: [State; 6] = [
        State::Queued,
        State::Running,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
        State::Undone,
    ];
    PossibleValuesParser::new(ALL.map(word))
        .try_map(|text| ALL.into_iter().find(|state| word(*state) == text).ok_or("not a state"))
}
