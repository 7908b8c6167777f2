//! `ostler instance attach-volume`, `detach-volume`, `swap-volume`, `list-volumes`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ostler_protocol::rpc::instance::Select;
use ostler_protocol::rpc::method::{
    InstanceAttachVolume, InstanceDetachVolume, InstanceListVolumes, InstanceSwapVolume,
};
use ostler_protocol::rpc::volume::{
    Attach, AttachedVolume, Bus, Cache, Connection, Detach, Discard, How, Io, Swap,
};
use zeroize::Zeroizing;

use super::InstanceRef;
use crate::args::Changing;
use crate::commands::volume::VolumeRef;
use crate::commands::{Followed, Session, passphrase};
use crate::failure::{Cause, Failure};
use crate::output::outcome_text;
use crate::reply::Shown;

/// What can be done with an instance's volumes.
#[derive(Subcommand)]
pub(crate) enum VolumesCommand {
    /// Give a volume to an instance, running or not
    ///
    /// The guest finds it by its serial number, the volume's id: in Linux,
    /// /dev/disk/by-id/virtio- and the first 20 characters of that.
    ///
    /// With --connection, the volume is one that is kept elsewhere, by the id it has there.
    AttachVolume(AttachArgs),
    /// Take a volume from an instance
    ///
    /// A running guest has to let go of it: unmount it there first. The volume and what it holds
    /// stay.
    DetachVolume {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The volume: its id, or its name if that is unique
        volume: VolumeRef,
        /// Seconds that the guest may take to let go of it; default: 60
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
        grace: Option<u32>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Put another volume in the place of one that an instance has
    ///
    /// What OLD holds is copied to NEW, whose own content is lost, and the instance goes on with
    /// that. A running guest does not notice: the disk keeps its device and its serial number. OLD
    /// is free afterwards, as it was at that moment. While the guest runs both have to be of the same
    /// size; if the instance is off, NEW may be larger.
    SwapVolume {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The volume it has: its id, or its name if that is unique
        old: VolumeRef,
        /// The volume that takes its place, as large: its id, or its name if that is unique
        new: VolumeRef,
        #[command(flatten)]
        changing: Changing,
    },
    /// List the volumes of an instance
    ListVolumes {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
    },
}

/// A volume to be attached.
#[derive(Args)]
pub(crate) struct AttachArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// The volume: its id, or its name if that is unique
    volume: VolumeRef,
    /// How to reach a volume that is kept elsewhere: a file with cinder's connection_info, as
    /// JSON; - is standard input
    #[arg(long, value_name = "FILE")]
    connection: Option<PathBuf>,
    /// A file with the passphrase that opens it, if what is there is encrypted (LUKS); - is
    /// standard input
    #[arg(long, value_name = "FILE", requires = "connection")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    changing: Changing,
}

/// How a guest has a volume.
#[derive(Args)]
pub(crate) struct HowArgs {
    /// The bus; default: virtio
    #[arg(long, value_enum)]
    bus: Option<BusWord>,
    /// Its device by libvirt's name, as in vdb; default: the first that is free
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// The guest can only read it
    #[arg(long)]
    read_only: bool,
    /// Delete the volume with the instance
    #[arg(long)]
    delete_on_termination: bool,
    /// How the node caches it; default: none, where the pool can do that
    #[arg(long, value_enum)]
    cache: Option<CacheWord>,
    /// What the guest's discards do; default: unmap
    #[arg(long, value_enum)]
    discard: Option<DiscardWord>,
    /// How QEMU reads and writes it; default: native for a block device that is not cached, else
    /// threads
    #[arg(long, value_enum)]
    io: Option<IoWord>,
    /// Its turn when the firmware looks for a system; the root disk has 0, the first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    boot_index: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BusWord {
    /// A PCI device for each disk
    Virtio,
    /// Many disks on one PCI device
    Scsi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CacheWord {
    /// Not at all
    None,
    /// In the node's page cache
    Writeback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DiscardWord {
    /// They free room in the pool
    Unmap,
    /// Nothing
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IoWord {
    /// In threads of its own
    Threads,
    /// By Linux's asynchronous calls; only what is not cached
    Native,
    /// By io_uring
    #[value(name = "io_uring")]
    IoUring,
}

impl HowArgs {
    fn how(self) -> How {
        How {
            bus: self.bus.map(|bus| match bus {
                BusWord::Virtio => Bus::Virtio,
                BusWord::Scsi => Bus::Scsi,
            }),
            device: self.device,
            read_only: self.read_only,
            delete_on_termination: self.delete_on_termination,
            cache: self.cache.map(|cache| match cache {
                CacheWord::None => Cache::None,
                CacheWord::Writeback => Cache::Writeback,
            }),
            discard: self.discard.map(|discard| match discard {
                DiscardWord::Unmap => Discard::Unmap,
                DiscardWord::Ignore => Discard::Ignore,
            }),
            io: self.io.map(|io| match io {
                IoWord::Threads => Io::Threads,
                IoWord::Native => Io::Native,
                IoWord::IoUring => Io::IoUring,
            }),
            boot_index: self.boot_index,
        }
    }
}

impl VolumesCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::AttachVolume(args) => {
                let AttachArgs { instance, volume, connection, passphrase_file, how, changing } =
                    args;
                let id = instance.resolve(&mut session.client).await?;
                let volume = volume.resolve(&mut session.client).await?;
                let connection = connection.as_deref().map(read_connection).transpose()?;
                let passphrase = passphrase_file.as_deref().map(passphrase::read).transpose()?;
                let params = Attach { id, volume, how: how.how(), connection, passphrase };
                match session.follow::<InstanceAttachVolume>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = match &operation.result {
                            Some(outcome) => outcome_text(outcome),
                            None => format!("{id} has volume {volume} from its next start on"),
                        };
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
            Self::DetachVolume { instance, volume, grace, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                let volume = volume.resolve(&mut session.client).await?;
                let timeout =
                    grace.map(|grace| Duration::from_secs(grace.into()).as_millis() as u32);
                let params = Detach { id, volume, timeout };
                match session.follow::<InstanceDetachVolume>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = format!("volume {volume} is detached from {id}");
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
            Self::SwapVolume { instance, old, new, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                let volume = old.resolve(&mut session.client).await?;
                let new = new.resolve(&mut session.client).await?;
                let params = Swap { id, volume, new };
                match session.follow::<InstanceSwapVolume>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = format!(
                            "{id} has volume {new} in the place of {volume}, which is free"
                        );
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
            Self::ListVolumes { instance } => {
                let id = instance.resolve(&mut session.client).await?;
                let list: Vec<Shown<AttachedVolume>> =
                    session.client.ask::<InstanceListVolumes, _>(&Select { id }).await?;
                session.output.result(&list)
            }
        }
    }
}

/// The most that is read: cinder's have some kilobytes.
const CONNECTION_MAX: u64 = 64 << 10;

/// A connection from a file. What is wrong with it is told without what is in it.
fn read_connection(file: &Path) -> Result<Connection, Failure> {
    let mut text = Zeroizing::new(Vec::new());
    let read = if file.as_os_str() == "-" {
        io::stdin().take(CONNECTION_MAX).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(CONNECTION_MAX).read_to_end(&mut text))
    };
    read.map_err(|source| Cause::Local { what: format!("read {}", file.display()), source })?;
    let wrong = |at: String| -> Failure {
        let message = format!("{} is no connection{at}", file.display());
        let next = "it is JSON with driver_volume_type (nbd, iscsi, nfs, rbd, local) and data";
        Cause::Usage { message, next: Some(next.to_owned()) }.into()
    };
    let read = Connection::sent(&mut serde_json::Deserializer::from_slice(&text));
    let read = read.map_err(|error| {
        wrong(format!(": see line {}, column {}", error.line(), error.column()))
    })?;
    read.ok_or_else(|| wrong(": it is null".to_owned()))
}
