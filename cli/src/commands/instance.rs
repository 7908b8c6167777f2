//! `ostler instance ...`

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{
    Boot, Halt, Instance, List, Manner, Nic, Password, Select, Status,
};
use ostler_protocol::rpc::method::{
    InstanceBoot, InstanceDelete, InstanceList, InstancePassword, InstanceReboot, InstanceShow,
    InstanceStart, InstanceStop, Method,
};
use ostler_protocol::rpc::operation::{Operation, Subject};
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name};

use super::{Followed, Session};
use crate::args::{Changing, seconds};
use crate::client::done;
use crate::failure::{Cause, Failure};
use crate::password::{self, Form, Source};
use crate::size;

mod inspect;
mod reference;
pub(crate) use inspect::InspectCommand;
pub(crate) use reference::InstanceRef;

/// What can be done with instances.
#[derive(Subcommand)]
pub(crate) enum InstanceCommand {
    /// Make an instance from an image and start it
    Boot(BootArgs),
    /// List the instances of the node
    List {
        /// Only those of this name
        #[arg(long)]
        name: Option<Name>,
        /// Only those of this status; deleted ones are listed only when asked for
        #[arg(long, ignore_case = true, value_parser = status_parser())]
        status: Option<Status>,
    },
    /// Show one instance
    Show {
        /// The instance: its id, or its name if no other has it
        instance: InstanceRef,
    },
    /// Switch an instance on
    Start {
        /// The instance: its id, or its name if no other has it
        instance: InstanceRef,
        #[command(flatten)]
        changing: Changing,
    },
    /// Switch an instance off: ask the guest, then by force
    Stop(HaltArgs),
    /// Restart an instance: through the guest, or by reset
    Reboot(HaltArgs),
    /// Remove instances with their disks, ports and sockets
    Delete {
        /// The instances: ids, or names no other has
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<InstanceRef>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Set the password of an account in the guest
    ///
    /// Asks for it on the terminal, twice, and sends a SHA-512 crypt hash of it.
    Password {
        /// The instance: its id, or its name if no other has it
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

/// What an instance is made from.
#[derive(Args)]
pub(crate) struct BootArgs {
    /// What to call it
    #[arg(long)]
    name: Name,
    /// The image of its root disk
    #[arg(long)]
    image: Name,
    /// Its size, by a flavor of the node; --vcpus, --memory and --disk override the flavor's
    #[arg(long, required_unless_present_all = ["vcpus", "memory"])]
    flavor: Option<Name>,
    /// vCPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,
    /// Memory, as in 512M or 2G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<Bytes>,
    /// Root disk, as in 20G; the image's own size unless told
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    disk: Option<Bytes>,
    /// A NIC on this network; give one for each NIC
    #[arg(long, value_name = "NETWORK[,mac=MAC]", value_parser = nic)]
    network: Vec<Nic>,
    /// Its id, a UUID; made by the node unless told
    #[arg(long, value_name = "UUID")]
    id: Option<InstanceId>,
    #[command(flatten)]
    changing: Changing,
}

/// How an instance is stopped or restarted.
#[derive(Args)]
pub(crate) struct HaltArgs {
    /// The instance: its id, or its name if no other has it
    instance: InstanceRef,
    /// At once, without asking the guest
    #[arg(long)]
    hard: bool,
    /// How long the guest may take before it is forced; the node's setting unless told
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "hard")]
    grace: Option<std::time::Duration>,
    #[command(flatten)]
    changing: Changing,
}

impl InstanceCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Boot(args) => {
                let (params, changing) = args.params();
                change::<InstanceBoot>(session, &params, &changing).await
            }
            Self::List { name, status } => {
                let list = session.client.call::<InstanceList>(&List { name, status }).await?;
                session.output.result(&list)
            }
            Self::Show { instance } => {
                let id = instance.resolve(&mut session.client).await?;
                let instance = session.client.call::<InstanceShow>(&Select { id }).await?;
                session.output.result(&instance)
            }
            Self::Start { instance, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceStart>(session, &Select { id }, &changing).await
            }
            Self::Stop(args) => {
                let (params, changing) = args.params(session).await?;
                change::<InstanceStop>(session, &params, &changing).await
            }
            Self::Reboot(args) => {
                let (params, changing) = args.params(session).await?;
                change::<InstanceReboot>(session, &params, &changing).await
            }
            Self::Delete { instances, changing } => delete(session, instances, changing).await,
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

impl BootArgs {
    fn params(self) -> (Boot, Changing) {
        let Self { name, image, flavor, vcpus, memory, disk, network, id, changing } = self;
        (Boot { id, name, image, flavor, vcpus, memory, disk, networks: network }, changing)
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

/// Change an instance and show it.
async fn change<M: Method<Reply = Operation>>(
    session: &mut Session,
    params: &M::Params,
    changing: &Changing,
) -> Result<(), Failure> {
    match session.follow::<M>(params, changing).await? {
        Followed::Accepted(operation) => session.output.result(&operation),
        Followed::Done(operation) => match operation.subject {
            Subject::Instance(id) => {
                let instance: Instance =
                    session.client.call::<InstanceShow>(&Select { id }).await?;
                session.output.result(&instance)
            }
            // Not what was asked for, but what the node says was done.
            Subject::Image(_) | Subject::Network(_) => session.output.result(&operation),
        },
    }
}

/// Delete several: all are named before the first is touched, all are asked for before the first is
/// waited for, and one that fails does not keep the others.
async fn delete(
    session: &mut Session,
    instances: Vec<InstanceRef>,
    changing: Changing,
) -> Result<(), Failure> {
    if changing.key.is_some() && instances.len() > 1 {
        let message = "--key names one change, and these are several";
        return Err(Cause::usage(message, "delete one instance for each key".to_owned()).into());
    }
    let mut ids = Vec::new();
    for instance in instances {
        let id = instance.resolve(&mut session.client).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let mut failures = Vec::new();
    let mut accepted = Vec::new();
    for id in ids {
        let key = changing.key.clone().unwrap_or_else(super::IdempotencyKey::random);
        match session.client.change::<InstanceDelete>(&Select { id }, key).await {
            Ok(operation) => accepted.push(operation),
            Err(failure) => {
                let refused = matches!(failure.cause, Cause::Refused(_));
                failures.push(failure);
                if !refused {
                    break;
                }
            }
        }
    }
    let mut deleted = Vec::new();
    if changing.no_wait {
        deleted = accepted;
    } else {
        let lost_contact = |failures: &[Failure]| {
            failures.iter().any(|f| !matches!(f.cause, Cause::Refused(_) | Cause::NotDone(_)))
        };
        for operation in accepted {
            if lost_contact(&failures) {
                if let Some(last) = failures.last_mut() {
                    last.pending.operations.push(operation.id);
                }
                continue;
            }
            match session.wait(operation).await.and_then(done) {
                Ok(operation) => deleted.push(operation),
                Err(failure) => failures.push(failure),
            }
        }
    }
    show_deleted(session, deleted, &changing, failures.is_empty())?;
    let last = failures.pop();
    for failure in &failures {
        session.output.failure(failure);
    }
    last.map_or(Ok(()), Err)
}

fn show_deleted(
    session: &Session,
    deleted: Vec<Operation>,
    changing: &Changing,
    all: bool,
) -> Result<(), Failure> {
    match (deleted.is_empty(), changing.no_wait) {
        // There is nothing to show, and an error to come.
        (true, _) if !all => Ok(()),
        (_, true) => session.output.result(&deleted),
        (_, false) => {
            let subject = |operation: &Operation| format!("{} is deleted", operation.subject);
            let lines: Vec<String> = deleted.iter().map(subject).collect();
            session.output.sentences(&deleted, &lines)
        }
    }
}

/// A NIC as written on the command line: `NETWORK[,mac=MAC]`.
fn nic(text: &str) -> Result<Nic, String> {
    let mut parts = text.split(',');
    let network = parts.next().unwrap_or_default().parse::<Name>().map_err(|e| e.to_string())?;
    let mut nic = Nic { network, mac: None };
    for part in parts {
        match part.split_once('=') {
            Some(("mac", mac)) if nic.mac.is_none() => {
                nic.mac = Some(mac.parse().map_err(|e| format!("{e}"))?);
            }
            Some(("mac", _)) => return Err("mac is given twice".to_owned()),
            Some(_) | None => {
                return Err(format!("{part:?} is not known: write NETWORK or NETWORK,mac=MAC"));
            }
        }
    }
    Ok(nic)
}

/// Every status, as a word of the command line.
fn status_parser() -> impl TypedValueParser<Value = Status> {
    const ALL: [Status; 8] = [
        Status::Build,
        Status::Active,
        Status::Shutoff,
        Status::Reboot,
        Status::HardReboot,
        Status::Password,
        Status::Error,
        Status::Deleted,
    ];
    PossibleValuesParser::new(ALL.map(Status::as_str)).try_map(|word| {
        let known = ALL.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(&word));
        known.ok_or("not a status")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_are_read_with_and_without_a_mac() {
        let plain = nic("lan").unwrap();
        assert_eq!((plain.network.as_str(), plain.mac), ("lan", None));
        let exact = nic("lan,mac=52:54:00:12:34:56").unwrap();
        assert_eq!(exact.mac.unwrap().to_string(), "52:54:00:12:34:56");
    }

    #[test]
    fn a_misspelt_nic_is_refused() {
        for bad in [
            "",
            ",mac=52:54:00:12:34:56",
            "lan,",
            "lan,ip=10.0.0.1",
            "lan,mac",
            "lan,mac=",
            "lan,mac=01:00:5e:00:00:01",
            "lan,mac=52:54:00:12:34:56,mac=52:54:00:12:34:57",
            "../lan",
        ] {
            assert!(nic(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_boot_needs_a_size() {
        use clap::Parser;
        let parses = |rest: &str| {
            let line = format!("ostler instance boot --name a --image i {rest}");
            crate::args::Cli::try_parse_from(line.split_whitespace()).is_ok()
        };
        assert!(parses("--flavor small"));
        assert!(parses("--flavor small --memory 1G"));
        assert!(parses("--vcpus 1 --memory 512M"));
        assert!(!parses(""));
        assert!(!parses("--vcpus 1"));
        assert!(!parses("--vcpus 0 --memory 512M"));
    }

    #[test]
    fn every_status_is_a_word_in_either_case() {
        use clap::Parser;
        for word in ["ACTIVE", "active", "hard_reboot", "Deleted"] {
            let line = ["ostler", "instance", "list", "--status", word];
            assert!(crate::args::Cli::try_parse_from(line).is_ok(), "{word}");
        }
    }
}
