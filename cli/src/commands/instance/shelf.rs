//! `ostler instance shelve` and the like: instances put away as images.

use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::Shelve;
use ostler_protocol::rpc::method::{InstanceOffload, InstanceShelve, InstanceUnshelve};

use super::{InstanceRef, OneArgs, change};
use crate::args::{Changing, seconds};
use crate::commands::Session;
use crate::failure::Failure;

/// What can be done to put instances away.
#[derive(Subcommand)]
pub(crate) enum ShelfCommand {
    /// Switch an instance off and keep it as an image
    Shelve(ShelveArgs),
    /// Leave only the image of a shelved instance: its disk and place on the node are given up
    Offload(OneArgs),
    /// Bring a shelved instance back
    Unshelve(OneArgs),
}

/// How an instance is shelved.
#[derive(Args)]
pub(crate) struct ShelveArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// Leave only the image, and give up its disk and place on the node
    #[arg(long)]
    offload: bool,
    /// How long the guest may take before it is forced; default: the node's setting
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    grace: Option<std::time::Duration>,
    #[command(flatten)]
    changing: Changing,
}

impl ShelfCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Shelve(ShelveArgs { instance, offload, grace, changing }) => {
                let id = instance.resolve(&mut session.client).await?;
                let timeout = grace.map(|grace| grace.as_millis() as u32);
                let params = Shelve { id, offload, timeout };
                change::<InstanceShelve>(session, &params, &changing).await
            }
            Self::Offload(one) => one.run::<InstanceOffload>(session).await,
            Self::Unshelve(one) => one.run::<InstanceUnshelve>(session).await,
        }
    }
}
