//! `ostler volume ...`

mod prune;
mod reference;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use ostler_protocol::rpc::host::Nothing;
use ostler_protocol::rpc::method::{
    Method, VolumeCreate, VolumeDelete, VolumeDeleteSnapshot, VolumeExtend, VolumeList,
    VolumePools, VolumeRevert, VolumeShow, VolumeSnapshot, VolumeUpdate,
};
use ostler_protocol::rpc::operation;
use ostler_protocol::rpc::values::{Bytes, Name, VolumeId};
use ostler_protocol::rpc::volume::{
    Create, Delete, Extend, Format, Limit, List, Pool, Select, SelectSnapshot, Source, Status,
    TakeSnapshot, Update, Volume,
};

pub(crate) use self::reference::VolumeRef;
use super::metadata::{Item, Key, changes, items};
use super::{Followed, Session, passphrase};
use crate::args::Changing;
use crate::failure::Failure;
use crate::reply::Shown;
use crate::size;

/// What can be done with volumes.
#[derive(Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume: empty, or from an image, another volume or a snapshot
    Create(CreateArgs),
    /// List the volumes of the node
    List(ListArgs),
    /// Show one volume, with its snapshots
    Show {
        /// The volume: its id, or its name if that is unique
        volume: VolumeRef,
    },
    /// Change a volume's name, owner or metadata; what you do not name stays as it is
    Update(UpdateArgs),
    /// Make a volume larger; a guest that has it sees that at once
    Extend {
        /// The volume: its id, or its name if that is unique
        volume: VolumeRef,
        /// Its new size, as in 20G
        #[arg(value_parser = size::parse)]
        size: Bytes,
        #[command(flatten)]
        changing: Changing,
    },
    /// Keep what a volume holds now, under a name; its guest runs on
    Snapshot(SnapshotArgs),
    /// List the snapshots of a volume
    Snapshots {
        /// The volume: its id, or its name if that is unique
        volume: VolumeRef,
    },
    /// Forget a snapshot; what the volume holds stays
    DeleteSnapshot(SnapshotArgs),
    /// Go back to a snapshot; what was written since is lost
    Revert(SnapshotArgs),
    /// Make a volume that holds what another one does, or did at a snapshot
    Clone(CloneArgs),
    /// Delete volumes that no instance has, with their snapshots
    Delete {
        /// The volumes, by their ids, or their names if those are unique
        #[arg(required = true)]
        volumes: Vec<VolumeRef>,
        /// Delete one that is in error, too
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete the volumes that no instance has had for long, with their snapshots
    Prune(prune::PruneArgs),
    /// List where volumes are kept, and how much room there is
    Pools,
}

/// A volume to be made.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: Name,
    /// Its size, as in 20G; default: that of what it is made from
    #[arg(value_parser = size::parse, required_unless_present_any = ["image", "volume"])]
    size: Option<Bytes>,
    /// Make it from this image
    #[arg(long, conflicts_with = "volume")]
    image: Option<Name>,
    /// Make it from this volume, which no instance may have, or from a snapshot of it
    #[arg(long)]
    volume: Option<VolumeRef>,
    /// The snapshot of that volume
    #[arg(long, requires = "volume", value_name = "NAME")]
    snapshot: Option<Name>,
    /// The pool to keep it in; default: the node's first
    #[arg(long)]
    pool: Option<Name>,
    /// How its file is laid out; default: as the pool does it
    #[arg(long, value_enum)]
    format: Option<Layout>,
    /// Encrypt it (LUKS): a file with the passphrase that opens it, which the node's libvirt keeps;
    /// - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "volume", "format", "multiattach"])]
    passphrase_file: Option<PathBuf>,
    /// Several instances may have it at once; they have to agree on who writes what
    #[arg(long)]
    multiattach: bool,
    /// A limit of what its guests may do with it, as in total_iops_sec=500; repeat for more
    #[arg(long, value_name = "LIMIT=N", value_parser = limit)]
    qos: Vec<(Limit, u64)>,
    /// Its owner, such as a tenant's id
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// An item of its metadata; repeat for more
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<Item>,
    /// Its id, a UUID; default: the node makes one
    #[arg(long, value_name = "UUID")]
    id: Option<VolumeId>,
    #[command(flatten)]
    changing: Changing,
}

/// A volume to be made from another.
#[derive(Args)]
pub(crate) struct CloneArgs {
    /// The volume to copy: its id, or its name if that is unique
    volume: VolumeRef,
    /// The name of the copy
    name: Name,
    /// Copy what it held at this snapshot
    #[arg(long, value_name = "NAME")]
    snapshot: Option<Name>,
    /// The size of the copy, as in 20G; default: that of the volume
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<Bytes>,
    /// The pool to keep it in; default: the node's first
    #[arg(long)]
    pool: Option<Name>,
    #[command(flatten)]
    changing: Changing,
}

/// How a volume's file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// QEMU's own format
    Qcow2,
    /// Byte for byte
    Raw,
}

/// Which volumes are listed.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only those with this name; * stands for any characters, as in 'db-*'
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// Only those with this status
    #[arg(long, ignore_case = true, value_parser = status_parser())]
    status: Option<Status>,
    /// Only those of this owner
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those after this one: the last of the previous page
    #[arg(long, value_name = "ID")]
    marker: Option<VolumeId>,
}

/// What is to be noted instead.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").multiple(true).required(true)
    .args(["name", "owner", "set", "unset", "qos", "bootable", "not_bootable"]))]
pub(crate) struct UpdateArgs {
    /// The volume: its id, or its name if that is unique
    volume: VolumeRef,
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
    /// A limit of what its guests may do with it, as in total_iops_sec=500, 0 for none; a guest
    /// that has it is held to that at once; repeat for more
    #[arg(long, value_name = "LIMIT=N", value_parser = limit)]
    qos: Vec<(Limit, u64)>,
    /// A system was installed on it: an instance can boot from it
    #[arg(long, conflicts_with = "not_bootable")]
    bootable: bool,
    /// No instance can boot from it
    #[arg(long)]
    not_bootable: bool,
    #[command(flatten)]
    changing: Changing,
}

/// A snapshot of a volume.
#[derive(Args)]
pub(crate) struct SnapshotArgs {
    /// The volume: its id, or its name if that is unique
    volume: VolumeRef,
    /// The snapshot's name
    name: Name,
    #[command(flatten)]
    changing: Changing,
}

impl VolumeCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(session).await,
            Self::List(ListArgs { name, status, owner, limit, marker }) => {
                let params = List { name, status, owner, limit, marker };
                let list: Vec<Shown<Volume>> = session.client.ask::<VolumeList, _>(&params).await?;
                session.output.result(&list)
            }
            Self::Show { volume } => {
                let id = volume.resolve(&mut session.client).await?;
                show(session, id).await
            }
            Self::Update(args) => args.run(session).await,
            Self::Extend { volume, size, changing } => {
                let id = volume.resolve(&mut session.client).await?;
                change::<VolumeExtend>(session, id, &Extend { id, size }, &changing).await
            }
            Self::Snapshot(SnapshotArgs { volume, name, changing }) => {
                let id = volume.resolve(&mut session.client).await?;
                let params = TakeSnapshot { id, name };
                change::<VolumeSnapshot>(session, id, &params, &changing).await
            }
            Self::Snapshots { volume } => {
                let id = volume.resolve(&mut session.client).await?;
                let volume: Snapshots = session.client.ask::<VolumeShow, _>(&Select { id }).await?;
                session.output.result(&volume.snapshots)
            }
            Self::DeleteSnapshot(args) => args.run::<VolumeDeleteSnapshot>(session).await,
            Self::Revert(args) => args.run::<VolumeRevert>(session).await,
            Self::Clone(CloneArgs { volume, name, snapshot, size, pool, changing }) => {
                let volume = volume.resolve(&mut session.client).await?;
                let params = Create {
                    id: None,
                    name,
                    size,
                    source: Some(source(volume, snapshot)),
                    pool,
                    format: None,
                    multiattach: false,
                    qos: Default::default(),
                    owner: None,
                    metadata: Default::default(),
                    passphrase: None,
                };
                create(session, &params, &changing).await
            }
            Self::Delete { volumes, force, changing } => {
                delete(session, volumes, force, &changing).await
            }
            Self::Prune(args) => args.run(session).await,
            Self::Pools => {
                let list: Vec<Shown<Pool>> =
                    session.client.ask::<VolumePools, _>(&Nothing {}).await?;
                session.output.result(&list)
            }
        }
    }
}

/// The snapshots of a volume as it is shown.
#[derive(serde::Deserialize)]
struct Snapshots {
    snapshots: Vec<Shown<ostler_protocol::rpc::volume::Snapshot>>,
}

impl CreateArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let from = match (self.image, self.volume) {
            (Some(image), _) => Some(Source::Image(image)),
            (None, Some(volume)) => {
                let id = volume.resolve(&mut session.client).await?;
                Some(source(id, self.snapshot))
            }
            (None, None) => None,
        };
        let params = Create {
            id: self.id,
            name: self.name,
            size: self.size,
            source: from,
            pool: self.pool,
            format: self.format.map(|layout| match layout {
                Layout::Qcow2 => Format::Qcow2,
                Layout::Raw => Format::Raw,
            }),
            multiattach: self.multiattach,
            qos: self.qos.into_iter().collect(),
            owner: self.owner,
            metadata: items(self.metadata, |value| value)?,
            passphrase: self.passphrase_file.as_deref().map(passphrase::read).transpose()?,
        };
        create(session, &params, &self.changing).await
    }
}

impl UpdateArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = self.volume.resolve(&mut session.client).await?;
        let params = Update {
            id,
            name: self.name,
            owner: self.owner,
            metadata: changes(self.set, self.unset)?,
            qos: self.qos.into_iter().collect(),
            bootable: (self.bootable || self.not_bootable).then_some(self.bootable),
        };
        change::<VolumeUpdate>(session, id, &params, &self.changing).await
    }
}

impl SnapshotArgs {
    async fn run<M>(self, session: &mut Session) -> Result<(), Failure>
    where
        M: Method<Params = SelectSnapshot, Reply = operation::Operation>,
    {
        let id = self.volume.resolve(&mut session.client).await?;
        let params = SelectSnapshot { id, name: self.name };
        change::<M>(session, id, &params, &self.changing).await
    }
}

fn source(volume: VolumeId, snapshot: Option<Name>) -> Source {
    match snapshot {
        None => Source::Volume(volume),
        Some(name) => Source::Snapshot { volume, name },
    }
}

async fn create(
    session: &mut Session,
    params: &Create,
    changing: &Changing,
) -> Result<(), Failure> {
    // With an id of our own it can be shown afterwards, whatever it is called.
    let id = params.id.unwrap_or_else(VolumeId::random);
    let params = Create { id: Some(id), ..params.clone() };
    change::<VolumeCreate>(session, id, &params, changing).await
}

/// Change a volume and show it.
async fn change<M: Method<Reply = operation::Operation>>(
    session: &mut Session,
    id: VolumeId,
    params: &M::Params,
    changing: &Changing,
) -> Result<(), Failure> {
    match session.follow::<M>(params, changing).await? {
        Followed::Accepted(operation) => session.output.result(&operation),
        Followed::Done(_) => show(session, id).await,
    }
}

async fn show(session: &mut Session, id: VolumeId) -> Result<(), Failure> {
    let shown: Shown<Volume> = session.client.ask::<VolumeShow, _>(&Select { id }).await?;
    session.output.result(&shown)
}

/// Delete volumes, one after the other; the first that is not ends it.
async fn delete(
    session: &mut Session,
    volumes: Vec<VolumeRef>,
    force: bool,
    changing: &Changing,
) -> Result<(), Failure> {
    let mut ids = Vec::with_capacity(volumes.len());
    for volume in volumes {
        ids.push(volume.resolve(&mut session.client).await?);
    }
    let (mut operations, mut sentences) = (Vec::new(), Vec::new());
    for id in ids {
        let (operation, word) =
            match session.follow::<VolumeDelete>(&Delete { id, force }, changing).await? {
                Followed::Accepted(operation) => (operation, "is being deleted"),
                Followed::Done(operation) => (operation, "is deleted"),
            };
        sentences.push(format!("volume {id} {word}"));
        operations.push(operation);
    }
    session.output.sentences(&operations, &sentences)
}

/// A limit as written on the command line: `LIMIT=N`.
fn limit(text: &str) -> Result<(Limit, u64), String> {
    let (name, most) = text.split_once('=').ok_or("write LIMIT=N")?;
    let known = Limit::ALL.into_iter().find(|limit| limit.as_str() == name);
    let names = || Limit::ALL.map(Limit::as_str).join(", ");
    let limit = known.ok_or_else(|| format!("{name:?} is not a limit: those are {}", names()))?;
    let most = most.parse().map_err(|_| format!("{most:?} is not a whole number"))?;
    Ok((limit, most))
}

/// Every status, as a word of the command line.
fn status_parser() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str)).try_map(|word| {
        let known = Status::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(&word));
        known.ok_or("not a status")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    /// Whether the command line is one.
    fn parses(rest: &str) -> bool {
        let line = format!("ostler volume {rest}");
        crate::commands::line::Cli::try_parse_from(line.split_whitespace()).is_ok()
    }

    #[test]
    fn volumes_are_made_by_size_or_by_what_they_are_made_from() {
        for rest in [
            "create data 20G",
            "create data 20G --pool fast --format raw --multiattach --owner t1",
            "create root --image debian",
            "create root 20G --image debian",
            "create copy --volume data",
            "create copy --volume data --snapshot before",
            "clone data copy",
            "clone data copy --snapshot before --size 30G",
        ] {
            assert!(parses(rest), "{rest} was refused");
        }
        for rest in [
            "create data",
            "create data 20",
            "create data --snapshot before",
            "create data --image debian --volume other",
            "clone data",
        ] {
            assert!(!parses(rest), "{rest} was taken");
        }
    }

    #[test]
    fn every_operation_on_a_volume_is_a_command() {
        for rest in [
            "list --name db-* --status in-use --owner t1 --limit 5",
            "list --status ERROR_DELETING",
            "show data",
            "update data --name other --set a=b --unset c",
            "update data --qos total_iops_sec=500 --qos total_bytes_sec=0",
            "update data --bootable",
            "update data --not-bootable",
            "extend data 30G --no-wait",
            "snapshot data before",
            "snapshots data",
            "delete-snapshot data before",
            "revert data before --key k1",
            "delete a b --force",
            "pools",
        ] {
            assert!(parses(rest), "{rest} was refused");
        }
        for rest in [
            "update data",
            "update data --bootable --not-bootable",
            "delete",
            "snapshot data",
            "list --status lost",
        ] {
            assert!(!parses(rest), "{rest} was taken");
        }
    }
}
