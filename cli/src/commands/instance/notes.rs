//! `ostler instance update`, `rename`, `lock`: what is noted about an instance, and who may change
//! it.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{Lock, Update};
use ostler_protocol::rpc::method::{InstanceLock, InstanceUnlock, InstanceUpdate};
use ostler_protocol::rpc::values::Name;

use super::{InstanceRef, OneArgs, change};
use crate::args::Changing;
use crate::commands::Session;
use crate::commands::metadata::{Item, Key, changes};
use crate::failure::Failure;

/// What can be done with the notes about an instance.
#[derive(Subcommand)]
pub(crate) enum NotesCommand {
    /// Change an instance's name, owner or metadata; what you do not name stays as it is
    Update(UpdateArgs),
    /// Give an instance another name
    Rename {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Its new name
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
    /// Refuse changes to an instance until it is unlocked
    Lock {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The reason; everybody who is refused gets to see it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Allow changes to an instance again
    Unlock(OneArgs),
}

/// What is to be noted instead.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").multiple(true).required(true)
    .args(["name", "owner", "set", "unset"]))]
pub(crate) struct UpdateArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// Its new name
    #[arg(long)]
    name: Option<Name>,
    /// Its owner, such as a tenant's id; --owner= for no owner
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// An item of the metadata to set; repeat for more
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Item>,
    /// The key of an item of the metadata to remove; repeat for more
    #[arg(long, value_name = "KEY")]
    unset: Vec<Key>,
    #[command(flatten)]
    changing: Changing,
}

impl NotesCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Update(UpdateArgs { instance, name, owner, set, unset, changing }) => {
                let metadata = changes(set, unset)?;
                let id = instance.resolve(&mut session.client).await?;
                let params = Update { id, name, owner, metadata };
                change::<InstanceUpdate>(session, &params, &changing).await
            }
            Self::Rename { instance, name, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                let params =
                    Update { id, name: Some(name), owner: None, metadata: BTreeMap::new() };
                change::<InstanceUpdate>(session, &params, &changing).await
            }
            Self::Lock { instance, reason, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceLock>(session, &Lock { id, reason }, &changing).await
            }
            Self::Unlock(one) => one.run::<InstanceUnlock>(session).await,
        }
    }
}
