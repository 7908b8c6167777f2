//! `ostler instance ...`

mod boot;
mod config_drive;
mod delete;
mod disk;
mod inspect;
mod interfaces;
mod notes;
mod power;
mod reference;
mod shelf;
mod size;
mod volumes;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{Instance, List, Password, Select, Status};
use ostler_protocol::rpc::method::{InstanceList, InstancePassword, InstanceShow, Method};
use ostler_protocol::rpc::operation::{self, Subject};
use ostler_protocol::rpc::values::InstanceId;

use self::boot::BootArgs;
use self::delete::DeleteArgs;
use self::disk::DiskCommand;
use self::inspect::InspectCommand;
use self::interfaces::InterfacesCommand;
use self::notes::NotesCommand;
use self::power::PowerCommand;
pub(crate) use self::reference::InstanceRef;
use self::shelf::ShelfCommand;
use self::size::SizeCommand;
use self::volumes::VolumesCommand;
use super::{Followed, Session};
use crate::args::Changing;
use crate::failure::Failure;
use crate::password::{self, Form, Source};
use crate::reply::{MaybeNewer, Shown};

/// What can be done with instances.
#[derive(Subcommand)]
pub(crate) enum InstanceCommand {
    /// Make an instance from an image and start it
    Boot(Box<BootArgs>),
    /// List the instances of the node
    List(ListArgs),
    /// Show one instance
    Show {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
    },
    #[command(flatten)]
    Power(PowerCommand),
    #[command(flatten)]
    Disk(DiskCommand),
    #[command(flatten)]
    Size(SizeCommand),
    #[command(flatten)]
    Shelf(ShelfCommand),
    #[command(flatten)]
    Volumes(VolumesCommand),
    #[command(flatten)]
    Interfaces(InterfacesCommand),
    #[command(flatten)]
    Notes(NotesCommand),
    /// Delete instances: they can be restored for some time, unless --hard
    ///
    /// A deleted instance is switched off, and kept with its disks until the node reclaims it
    /// (instances.reclaim_after in the node's configuration). Until then, ostler instance restore
    /// brings it back; ostler instance list --status SOFT_DELETED lists what can be restored.
    Delete(DeleteArgs),
    /// Restore a deleted instance
    Restore(OneArgs),
    /// Set the password of an account in the guest
    ///
    /// Asks for it on the terminal, twice, and sends a SHA-512 crypt hash of it.
    Password {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The account in the guest
        #[arg(long, default_value = "root")]
        user: String,
        /// Read the password from standard input instead
        #[arg(long)]
        password_stdin: bool,
        /// Send the password itself, for guests that cannot take a hash
        #[arg(long)]
        plain: bool,
        #[command(flatten)]
        changing: Changing,
    },
    #[command(flatten)]
    Inspect(InspectCommand),
}

/// A change that needs no more than to be told which instance.
#[derive(Args)]
pub(crate) struct OneArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    #[command(flatten)]
    changing: Changing,
}

/// Which instances are listed.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only those with this name; * stands for any characters, as in 'web-*'
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// Only those with this status; deleted and soft-deleted ones are listed only with it
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
    marker: Option<InstanceId>,
}

impl InstanceCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Boot(args) => args.run(session).await,
            Self::List(ListArgs { name, status, owner, limit, marker }) => {
                let params = List { name, status, owner, limit, marker };
                let list: Vec<Shown<Instance>> =
                    session.client.ask::<InstanceList, _>(&params).await?;
                session.output.result(&list)
            }
            Self::Show { instance } => {
                let id = instance.resolve_any(&mut session.client).await?;
                show(session, id).await
            }
            Self::Power(command) => command.run(session).await,
            Self::Disk(command) => command.run(session).await,
            Self::Size(command) => command.run(session).await,
            Self::Shelf(command) => command.run(session).await,
            Self::Volumes(command) => command.run(session).await,
            Self::Interfaces(command) => command.run(session).await,
            Self::Notes(command) => command.run(session).await,
            Self::Delete(args) => args.run(session).await,
            Self::Restore(args) => delete::restore(session, args).await,
            Self::Inspect(command) => command.run(session).await,
            Self::Password { instance, user, password_stdin, plain, changing } => {
                let source = if password_stdin { Source::Stdin } else { Source::Terminal };
                if source == Source::Terminal {
                    // The prompt must get to restore the terminal's echo.
                    session.client.heed_interrupts()?;
                }
                let form = if plain { Form::Plain } else { Form::Crypted };
                let password = password::obtain(source, &user, form)?;
                let id = instance.resolve(&mut session.client).await?;
                let params = Password { id, user, password };
                match session.follow::<InstancePassword>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = format!("the password of {} in {id} is set", params.user);
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
        }
    }
}

impl OneArgs {
    /// Carry out a change that needs no more than this.
    async fn run<M>(self, session: &mut Session) -> Result<(), Failure>
    where
        M: Method<Params = Select, Reply = operation::Operation>,
    {
        let id = self.instance.resolve(&mut session.client).await?;
        change::<M>(session, &Select { id }, &self.changing).await
    }
}

/// Show an instance.
async fn show(session: &mut Session, id: InstanceId) -> Result<(), Failure> {
    let shown: Shown<Instance> = session.client.ask::<InstanceShow, _>(&Select { id }).await?;
    session.output.result(&shown)
}

/// Change an instance and show it.
async fn change<M: Method<Reply = operation::Operation>>(
    session: &mut Session,
    params: &M::Params,
    changing: &Changing,
) -> Result<(), Failure> {
    match session.follow::<M>(params, changing).await? {
        Followed::Accepted(operation) => session.output.result(&operation),
        Followed::Done(operation) => match operation.subject {
            MaybeNewer::Known(Subject::Instance(id)) => show(session, id).await,
            // Not what was asked for, but what the node says was done.
            MaybeNewer::Known(
                Subject::Image(_) | Subject::Network(_) | Subject::Volume(_) | Subject::Port(_),
            )
            | MaybeNewer::Newer(_) => session.output.result(&operation),
        },
    }
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

    /// Whether the command line is one, for each of these.
    fn parses(line: &str) -> bool {
        crate::commands::line::Cli::try_parse_from(line.split_whitespace()).is_ok()
    }

    #[test]
    fn every_status_is_a_word_in_either_case() {
        for word in ["ACTIVE", "active", "hard_reboot", "Soft_Deleted", "SHELVED_OFFLOADED"] {
            assert!(parses(&format!("ostler instance list --status {word}")), "{word}");
        }
    }

    #[test]
    fn every_operation_of_an_instance_is_a_command() {
        for rest in [
            "pause web",
            "unpause web",
            "suspend web",
            "resume web --no-wait",
            "unrescue web",
            "unshelve web",
            "restore web --key k1",
            "unlock web",
            "offload web",
            "rebuild web --image debian",
            "reset web --root-device vda",
            "rescue web",
            "rescue web --image rescue",
            "resize web --flavor large",
            "resize web --vcpus 2 --disk 20G",
            "resize web --flavor large --disk 20G",
            "resize web --confirm",
            "resize web --revert",
            "adjust web --vcpus 2",
            "adjust web --memory 1G",
            "snapshot web --name web-1",
            "snapshot web --name web-1 --quiesce require",
            "shelve web --offload --grace 20",
            "update web --name www --owner t1 --set a=b --set c= --unset d",
            "update web --owner=",
            "rename web www",
            "attach-volume web data",
            "attach-volume web data --bus scsi --device sdb --read-only --delete-on-termination",
            "attach-volume web data --cache writeback --discard ignore --no-wait",
            "detach-volume web data --grace 20",
            "list-volumes web",
            "lock web",
            "lock web --reason audit",
            "delete web --hard --ignore",
            "list --name web-* --tenant t1 --limit 5",
            "list --marker 0f8fad5b-d9cb-469f-a165-70867728950e",
        ] {
            assert!(parses(&format!("ostler instance {rest}")), "{rest} was refused");
        }
    }

    #[test]
    fn what_contradicts_itself_or_says_nothing_is_refused() {
        for rest in [
            "rebuild web",
            "reset web",
            "resize web",
            "resize web --confirm --revert",
            "resize web --confirm --flavor large",
            "resize web --vcpus 0",
            "adjust web",
            "adjust web --memory 512",
            "snapshot web",
            "snapshot web --name a --quiesce sometimes",
            "update web",
            "update web --set novalue",
            "update web --set =value",
            "update web --unset a=b",
            "rename web",
            "rename web not/a/name",
            "list --limit 0",
            "list --marker web",
            "delete",
        ] {
            assert!(!parses(&format!("ostler instance {rest}")), "{rest} was taken");
        }
    }
}
