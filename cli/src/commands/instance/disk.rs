//! `ostler instance rebuild`, `reset`, `rescue`, `snapshot`: what is done with the root disk.

use clap::{Args, Subcommand, ValueEnum};
use ostler_protocol::rpc::instance::{Quiesce, Rebuild, Rescue, Reset, Snapshot};
use ostler_protocol::rpc::method::{
    InstanceRebuild, InstanceRescue, InstanceReset, InstanceSnapshot, InstanceUnrescue,
};
use ostler_protocol::rpc::values::Name;

use super::{InstanceRef, OneArgs, change};
use crate::args::Changing;
use crate::commands::{Followed, Session};
use crate::failure::Failure;
use crate::output::outcome_text;

/// What can be done with an instance's root disk.
#[derive(Subcommand)]
pub(crate) enum DiskCommand {
    /// Give an instance a new root disk from an image; the data on the old one are lost
    ///
    /// Its identity stays: id, name, ports, MACs.
    Rebuild {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The image of the new root disk
        #[arg(long)]
        image: Name,
        #[command(flatten)]
        changing: Changing,
    },
    /// Put an instance's root disk back to its image; all that was written to it is lost
    Reset {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The root device, by its target (vda) or its serial, so that nobody resets by mistake
        #[arg(long, alias = "root-device-id", value_name = "DEVICE")]
        root_device: String,
        #[command(flatten)]
        changing: Changing,
    },
    /// Boot an instance from a rescue image, with its own disk as the second
    Rescue {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The image to boot; default: the instance's own
        #[arg(long)]
        image: Option<Name>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Boot a rescued instance from its own disk again
    Unrescue(OneArgs),
    /// Make an image of an instance's root disk
    Snapshot(SnapshotArgs),
}

/// An image to be made of a disk.
#[derive(Args)]
pub(crate) struct SnapshotArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// The name of the image
    #[arg(long, value_name = "IMAGE")]
    name: Name,
    /// Whether to freeze the guest's file systems while the snapshot is taken
    #[arg(long, value_enum, default_value_t = Freeze::Auto)]
    quiesce: Freeze,
    #[command(flatten)]
    changing: Changing,
}

/// Whether a guest is quiesced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Freeze {
    /// Freeze them if the guest can; the result says whether it did
    Auto,
    /// Freeze them, or make no image
    Require,
    /// Do not freeze them
    Never,
}

impl DiskCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Rebuild { instance, image, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceRebuild>(session, &Rebuild { id, image }, &changing).await
            }
            Self::Reset { instance, root_device, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceReset>(session, &Reset { id, root_device }, &changing).await
            }
            Self::Rescue { instance, image, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceRescue>(session, &Rescue { id, image }, &changing).await
            }
            Self::Unrescue(one) => one.run::<InstanceUnrescue>(session).await,
            Self::Snapshot(args) => args.run(session).await,
        }
    }
}

impl SnapshotArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = self.instance.resolve(&mut session.client).await?;
        let quiesce = match self.quiesce {
            Freeze::Auto => Quiesce::Auto,
            Freeze::Require => Quiesce::Require,
            Freeze::Never => Quiesce::Never,
        };
        let params = Snapshot { id, name: self.name, quiesce };
        match session.follow::<InstanceSnapshot>(&params, &self.changing).await? {
            Followed::Accepted(operation) => session.output.result(&operation),
            Followed::Done(operation) => {
                let sentence = match &operation.result {
                    Some(outcome) => outcome_text(outcome),
                    None => format!("image {} is made", params.name),
                };
                session.output.sentence(&operation, &sentence)
            }
        }
    }
}
