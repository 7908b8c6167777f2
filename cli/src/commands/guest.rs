//! `ostler guest ...`

pub(super) mod copy;
mod exec;
mod place;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::guest::work::{KeysAction, Select, SshKeys, Trim};
use ostler_protocol::rpc::guest::{GuestState, Query, Report};
use ostler_protocol::rpc::method::{
    GuestReport, GuestSshKeys, GuestSyncTime, GuestTime, GuestTrim,
};
use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::time::Instant;

use super::Session;
use super::instance::InstanceRef;
use super::keys::read_keys;
use crate::args::seconds;
use crate::failure::{Cause, Failure};
use crate::size;

/// How long the node waits at most for a guest, in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How much longer than an answer what takes guests time may take.
const LONGER: Duration = Duration::from_secs(30);

/// What can be asked of guests.
#[derive(Subcommand)]
pub(crate) enum GuestCommand {
    /// Show what the guest says about itself
    Report {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Wait this long for an agent that has not answered yet
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        wait: Option<Duration>,
        /// Show the last report, whatever its age, without asking the guest
        #[arg(long, conflicts_with = "wait")]
        cached: bool,
    },
    /// Run a program in the guest; shows its output, exits with its code
    Exec(exec::ExecArgs),
    /// Copy a file into the guest; an existing file is overwritten
    Push(copy::PushArgs),
    /// Copy a file out of the guest; an existing file is replaced when all has arrived
    Pull(copy::PullArgs),
    /// Show the guest's clock beside the node's
    Time {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
    },
    /// Set the guest's clock by the node's
    SyncTime {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
    },
    /// List or change the SSH keys of an account in the guest
    #[command(subcommand)]
    SshKeys(KeysCommand),
    /// Trim the guest's file systems: tell its disks what they do not use
    Trim {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Skip free ranges that are shorter than this, as in 1M
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        minimum: Option<Bytes>,
    },
}

/// What can be done with an account's keys.
#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// List them
    List {
        #[command(flatten)]
        account: Account,
    },
    /// Add keys
    Add(KeysArgs),
    /// Replace all keys by these
    Replace(KeysArgs),
    /// Remove keys
    Remove(KeysArgs),
}

/// An account of a guest.
#[derive(Args)]
pub(crate) struct Account {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// The account in the guest
    #[arg(long, default_value = "root")]
    user: String,
}

/// Keys for an account.
#[derive(Args)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    account: Account,
    /// A file of public keys, one a line, such as ~/.ssh/id_ed25519.pub; - reads standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
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
            Self::Exec(args) => args.run(session).await,
            Self::Push(args) => args.run(session).await,
            Self::Pull(args) => args.run(session).await,
            Self::Time { instance } => {
                let id = instance.resolve(&mut session.client).await?;
                let clock = session.client.call::<GuestTime>(&Select { id }).await?;
                session.output.result(&clock)
            }
            Self::SyncTime { instance } => {
                let id = instance.resolve(&mut session.client).await?;
                let select = Select { id };
                let clock = session.client.act::<GuestSyncTime>(&select, None, LONGER).await?;
                session.output.result(&clock)
            }
            Self::SshKeys(command) => command.run(session).await,
            Self::Trim { instance, minimum } => {
                let id = instance.resolve(&mut session.client).await?;
                let trim = Trim { id, minimum: minimum.map(|bytes| bytes.0) };
                let trimmed = session.client.act::<GuestTrim>(&trim, None, LONGER).await?;
                session.output.result(&trimmed)
            }
        }
    }
}

impl KeysCommand {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let (action, account, files) = match self {
            Self::List { account } => (KeysAction::List, account, Vec::new()),
            Self::Add(KeysArgs { account, files }) => (KeysAction::Add, account, files),
            Self::Replace(KeysArgs { account, files }) => (KeysAction::Replace, account, files),
            Self::Remove(KeysArgs { account, files }) => (KeysAction::Remove, account, files),
        };
        let mut keys = Vec::new();
        for file in &files {
            keys.extend(read_keys(file)?);
        }
        let id = account.instance.resolve(&mut session.client).await?;
        let request = SshKeys { id, user: account.user, action, keys };
        let told = session.client.act::<GuestSshKeys>(&request, None, Duration::ZERO).await?;
        match told.keys {
            Some(_) => session.output.result(&told),
            None => {
                let (user, number) = (&request.user, request.keys.len());
                let sentence = match action {
                    KeysAction::Add => format!("{number} keys were added for {user}"),
                    KeysAction::Replace => {
                        format!("the keys of {user} were replaced by {number} keys")
                    }
                    KeysAction::Remove => format!("{number} keys were removed for {user}"),
                    KeysAction::List => String::new(),
                };
                session.output.sentence(&told, &sentence)
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
