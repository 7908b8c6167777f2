//! `ostler instance start`, `stop` and the like: what switches an instance on and off.

use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{Halt, Manner};
use ostler_protocol::rpc::method::{
    InstancePause, InstanceReboot, InstanceResume, InstanceStart, InstanceStop, InstanceSuspend,
    InstanceUnpause,
};

use super::{InstanceRef, OneArgs, change};
use crate::args::{Changing, seconds};
use crate::commands::Session;
use crate::failure::Failure;

/// What can be done with an instance's power.
#[derive(Subcommand)]
pub(crate) enum PowerCommand {
    /// Switch an instance on
    Start(OneArgs),
    /// Switch an instance off: ask the guest, then use force
    Stop(HaltArgs),
    /// Restart an instance: through the guest, or by reset
    Reboot(HaltArgs),
    /// Stop an instance's vCPUs; its memory stays on the node
    Pause(OneArgs),
    /// Let the vCPUs of a paused instance run again
    Unpause(OneArgs),
    /// Save an instance's memory to disk and switch it off
    Suspend(OneArgs),
    /// Switch a suspended instance on with the memory that was saved
    Resume(OneArgs),
}

/// How an instance is stopped or restarted.
#[derive(Args)]
pub(crate) struct HaltArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// Do it at once, without asking the guest
    #[arg(long)]
    hard: bool,
    /// How long the guest may take before it is forced; default: the node's setting
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "hard")]
    grace: Option<std::time::Duration>,
    #[command(flatten)]
    changing: Changing,
}

impl PowerCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Start(one) => one.run::<InstanceStart>(session).await,
            Self::Stop(args) => {
                let (params, changing) = args.params(session).await?;
                change::<InstanceStop>(session, &params, &changing).await
            }
            Self::Reboot(args) => {
                let (params, changing) = args.params(session).await?;
                change::<InstanceReboot>(session, &params, &changing).await
            }
            Self::Pause(one) => one.run::<InstancePause>(session).await,
            Self::Unpause(one) => one.run::<InstanceUnpause>(session).await,
            Self::Suspend(one) => one.run::<InstanceSuspend>(session).await,
            Self::Resume(one) => one.run::<InstanceResume>(session).await,
        }
    }
}

impl HaltArgs {
    async fn params(self, session: &mut Session) -> Result<(Halt, Changing), Failure> {
        let id = self.instance.resolve(&mut session.client).await?;
        let manner = if self.hard { Manner::Hard } else { Manner::Soft };
        let timeout = self.grace.map(|grace| grace.as_millis() as u32);
        Ok((Halt { id, manner, timeout }, self.changing))
    }
}
