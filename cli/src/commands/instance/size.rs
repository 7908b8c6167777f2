//! `ostler instance resize` and `adjust`: how large an instance is.

use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{Adjust, Resize, Select};
use ostler_protocol::rpc::method::{
    InstanceAdjust, InstanceConfirmResize, InstanceResize, InstanceRevertResize,
};
use ostler_protocol::rpc::values::{Bytes, Name};

use super::{InstanceRef, change};
use crate::args::Changing;
use crate::commands::Session;
use crate::failure::Failure;
use crate::size;

/// What can be done with an instance's size.
#[derive(Subcommand)]
pub(crate) enum SizeCommand {
    /// Give an instance another size; --confirm or --revert follows
    ///
    /// The instance is switched off and comes up in its new size, in VERIFY_RESIZE. Its old disk is
    /// kept until you confirm, so that you can revert; a revert loses what was written since. A
    /// disk never shrinks.
    Resize(ResizeArgs),
    /// Change an instance's vCPUs and memory while it runs
    ///
    /// Up to the maximum that the instance was booted with: --max-vcpus and --max-memory of boot.
    Adjust(AdjustArgs),
}

/// A new size, or what becomes of it.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("size").multiple(true)
    .args(["flavor", "vcpus", "memory", "disk"]))]
#[command(group = clap::ArgGroup::new("end").args(["confirm", "revert"]).conflicts_with("size"))]
#[command(group = clap::ArgGroup::new("what").multiple(true).required(true)
    .args(["flavor", "vcpus", "memory", "disk", "confirm", "revert"]))]
pub(crate) struct ResizeArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// A flavor of the node; --vcpus, --memory and --disk override the flavor's
    #[arg(long)]
    flavor: Option<Name>,
    /// vCPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,
    /// Memory, as in 512M or 2G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<Bytes>,
    /// Root disk, as in 20G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    disk: Option<Bytes>,
    /// Keep the new size, and remove the old disk
    #[arg(long)]
    confirm: bool,
    /// Go back to the old size and the old disk
    #[arg(long)]
    revert: bool,
    #[command(flatten)]
    changing: Changing,
}

/// A size to take on while running.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("size").multiple(true).required(true)
    .args(["vcpus", "memory"]))]
pub(crate) struct AdjustArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// vCPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,
    /// Memory, as in 512M or 2G: what the balloon leaves the guest
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<Bytes>,
    #[command(flatten)]
    changing: Changing,
}

impl SizeCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Resize(args) => args.run(session).await,
            Self::Adjust(AdjustArgs { instance, vcpus, memory, changing }) => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceAdjust>(session, &Adjust { id, vcpus, memory }, &changing).await
            }
        }
    }
}

impl ResizeArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let Self { instance, flavor, vcpus, memory, disk, confirm, revert, changing } = self;
        let id = instance.resolve(&mut session.client).await?;
        if confirm {
            return change::<InstanceConfirmResize>(session, &Select { id }, &changing).await;
        }
        if revert {
            return change::<InstanceRevertResize>(session, &Select { id }, &changing).await;
        }
        let params = Resize { id, flavor, vcpus, memory, disk };
        change::<InstanceResize>(session, &params, &changing).await
    }
}
