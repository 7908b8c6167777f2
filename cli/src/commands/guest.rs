//! `ostler guest ...`

use std::time::Duration;

use clap::Subcommand;
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::guest::{GuestState, Query, Report};
use ostler_protocol::rpc::method::GuestReport;
use ostler_protocol::rpc::values::InstanceId;
use tokio::time::Instant;

use super::Session;
use super::instance::InstanceRef;
use crate::args::seconds;
use crate::failure::{Cause, Failure};

/// How long the node waits at most for a guest, in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What can be asked of guests.
#[derive(Subcommand)]
pub(crate) enum GuestCommand {
    /// Show what the guest says of itself
    Report {
        /// The instance: its id, or its name if no other has it
        instance: InstanceRef,
        /// Wait so long for an agent that has not answered yet
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        wait: Option<Duration>,
        /// Show the last report kept, whatever its age, without asking the guest
        #[arg(long, conflicts_with = "wait")]
        cached: bool,
    },
}

impl GuestCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Report { instance, wait, cached } => {
                let id = instance.resolve(&mut session.client).await?;
                let report = match wait {
                    None => {
                        let query = Query { id, wait: None, cached };
                        session.client.call::<GuestReport>(&query).await?
                    }
                    Some(wait) => patient_report(session, id, wait).await?,
                };
                session.output.result(&report)
            }
        }
    }
}

/// Ask for a report until the guest answers or the time is over.
async fn patient_report(
    session: &mut Session,
    id: InstanceId,
    wait: Duration,
) -> Result<Report, Failure> {
    let until = Instant::now() + wait;
    loop {
        let asked = Instant::now();
        let turn = until.saturating_duration_since(asked).min(LONGEST_WAIT);
        let query = Query { id, wait: Some(turn.as_millis() as u32), cached: false };
        let outcome = session.client.call_patiently::<GuestReport>(&query, turn).await;
        // A node that answers before the turn is over says that waiting is of no use.
        let waited = asked.elapsed() >= turn;
        if !is_wanting(&outcome) || !waited || Instant::now() >= until {
            return outcome;
        }
    }
}

/// Whether the guest has not answered yet: there is no report, or an old one that was kept.
fn is_wanting(outcome: &Result<Report, Failure>) -> bool {
    match outcome {
        Ok(report) => match report.state {
            GuestState::Waiting | GuestState::Silent | GuestState::Garbled => true,
            GuestState::Ready | GuestState::Off => false,
        },
        Err(failure) => matches!(&failure.cause, Cause::Refused(fault)
            if fault.data.reason == Reason::GuestUnavailable),
    }
}
