//! `ostler port ...`

use std::net::IpAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use ostler_protocol::rpc::method::{
    Method, PortCreate, PortDelete, PortList, PortShow, PortStats, PortUpdate,
};
use ostler_protocol::rpc::operation;
use ostler_protocol::rpc::port::{
    AddressPair, Create, Dropped, List, Port, Select, Status, Update,
};
use ostler_protocol::rpc::values::{MacAddress, Name, PortId};

use super::instance::InstanceRef;
use super::port_ref::PortRef;
use super::{Followed, Session};
use crate::args::Changing;
use crate::failure::Failure;
use crate::reply::Shown;

/// What can be done with ports.
#[derive(Subcommand)]
pub(crate) enum PortCommand {
    /// Make a port on a network, for an instance to come
    Create(CreateArgs),
    /// List the ports of the node
    List(ListArgs),
    /// Show one port
    Show {
        /// The port: its id, or its name if that is unique
        port: PortRef,
    },
    /// Show what was counted of a port: what its guest sent and may not
    Stats {
        /// The port: its id, or its name if that is unique
        port: PortRef,
    },
    /// Change a port's name, owner or addresses; what you do not name stays as it is
    Update(UpdateArgs),
    /// Delete ports that no instance has
    Delete {
        /// The ports, by their ids, or their names if those are unique
        #[arg(required = true)]
        ports: Vec<PortRef>,
        #[command(flatten)]
        changing: Changing,
    },
}

/// A port to be made.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: Name,
    /// The network it is on
    #[arg(long)]
    network: Name,
    /// Its MAC; default: made from its id
    #[arg(long)]
    mac: Option<MacAddress>,
    /// An address that its guest has; repeat for more
    #[arg(long, value_name = "ADDRESS")]
    fixed_ip: Vec<IpAddr>,
    /// Addresses that its guest may send from besides, as in 192.0.2.7 or 192.0.2.0/24, and the MAC
    /// they come from if that is another; repeat for more
    #[arg(long, value_name = "PREFIX[,MAC]", value_parser = pair)]
    allowed_address: Vec<AddressPair>,
    /// Let its guest send from any MAC and address, as a router of others' networks does
    #[arg(long)]
    disable_port_security: bool,
    /// Its owner, such as a tenant's id
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// Its id, a UUID; default: the node makes one
    #[arg(long, value_name = "UUID")]
    id: Option<PortId>,
    #[command(flatten)]
    changing: Changing,
}

/// Which ports are listed.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only those with this name; * stands for any characters, as in 'db-*'
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// Only those on this network
    #[arg(long)]
    network: Option<Name>,
    /// Only those of this instance
    #[arg(long)]
    instance: Option<InstanceRef>,
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
    marker: Option<PortId>,
}

/// What is to be so instead.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").multiple(true).required(true)
    .args(["name", "owner", "fixed_ip", "no_fixed_ip", "allowed_address", "no_allowed_address",
           "enable_port_security", "disable_port_security"]))]
pub(crate) struct UpdateArgs {
    /// The port: its id, or its name if that is unique
    port: PortRef,
    /// Its new name
    #[arg(long)]
    name: Option<Name>,
    /// Its owner, such as a tenant's id; --owner= for no owner
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// An address that its guest has, in place of those it had; repeat for more
    #[arg(long, value_name = "ADDRESS")]
    fixed_ip: Vec<IpAddr>,
    /// No address of its guest is known
    #[arg(long, conflicts_with = "fixed_ip")]
    no_fixed_ip: bool,
    /// Addresses that its guest may send from besides, in place of those there were; repeat for more
    #[arg(long, value_name = "PREFIX[,MAC]", value_parser = pair)]
    allowed_address: Vec<AddressPair>,
    /// Its guest may send from no addresses besides
    #[arg(long, conflicts_with = "allowed_address")]
    no_allowed_address: bool,
    /// Hold its guest to its MAC and addresses
    #[arg(long)]
    enable_port_security: bool,
    /// Let its guest send from any MAC and address
    #[arg(long, conflicts_with = "enable_port_security")]
    disable_port_security: bool,
    #[command(flatten)]
    changing: Changing,
}

impl PortCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(session).await,
            Self::List(ListArgs { name, network, instance, status, owner, limit, marker }) => {
                let instance = match instance {
                    None => None,
                    Some(instance) => Some(instance.resolve(&mut session.client).await?),
                };
                let params = List { name, network, instance, status, owner, limit, marker };
                let list: Vec<Shown<Port>> = session.client.ask::<PortList, _>(&params).await?;
                session.output.result(&list)
            }
            Self::Show { port } => {
                let id = port.resolve(&mut session.client).await?;
                show(session, id).await
            }
            Self::Stats { port } => {
                let id = port.resolve(&mut session.client).await?;
                let stats: Stats = session.client.ask::<PortStats, _>(&Select { id }).await?;
                session.output.result(&stats.dropped)
            }
            Self::Update(args) => args.run(session).await,
            Self::Delete { ports, changing } => delete(session, ports, &changing).await,
        }
    }
}

impl CreateArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        // With an id of our own it can be shown afterwards, whatever it is called.
        let id = self.id.unwrap_or_else(PortId::random);
        let params = Create {
            id: Some(id),
            name: self.name,
            network: self.network,
            mac: self.mac,
            fixed_ips: self.fixed_ip,
            allowed_address_pairs: self.allowed_address,
            port_security: self.disable_port_security.then_some(false),
            owner: self.owner,
        };
        change::<PortCreate>(session, id, &params, &self.changing).await
    }
}

impl UpdateArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = self.port.resolve(&mut session.client).await?;
        let params = Update {
            id,
            name: self.name,
            owner: self.owner,
            fixed_ips: instead(self.fixed_ip, self.no_fixed_ip),
            allowed_address_pairs: instead(self.allowed_address, self.no_allowed_address),
            port_security: match (self.enable_port_security, self.disable_port_security) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
        };
        change::<PortUpdate>(session, id, &params, &self.changing).await
    }
}

/// What was counted, as it is shown.
#[derive(serde::Deserialize)]
struct Stats {
    dropped: Vec<Shown<Dropped>>,
}

/// A list that takes the place of another, if one was given, or if there shall be none.
fn instead<T>(given: Vec<T>, none: bool) -> Option<Vec<T>> {
    (none || !given.is_empty()).then_some(given)
}

/// Change a port and show it.
async fn change<M: Method<Reply = operation::Operation>>(
    session: &mut Session,
    id: PortId,
    params: &M::Params,
    changing: &Changing,
) -> Result<(), Failure> {
    match session.follow::<M>(params, changing).await? {
        Followed::Accepted(operation) => session.output.result(&operation),
        Followed::Done(_) => show(session, id).await,
    }
}

async fn show(session: &mut Session, id: PortId) -> Result<(), Failure> {
    let shown: Shown<Port> = session.client.ask::<PortShow, _>(&Select { id }).await?;
    session.output.result(&shown)
}

/// Delete ports, one after the other; the first that is not ends it.
async fn delete(
    session: &mut Session,
    ports: Vec<PortRef>,
    changing: &Changing,
) -> Result<(), Failure> {
    let mut ids = Vec::with_capacity(ports.len());
    for port in ports {
        ids.push(port.resolve(&mut session.client).await?);
    }
    let (mut operations, mut sentences) = (Vec::new(), Vec::new());
    for id in ids {
        let (operation, word) = match session.follow::<PortDelete>(&Select { id }, changing).await?
        {
            Followed::Accepted(operation) => (operation, "is being deleted"),
            Followed::Done(operation) => (operation, "is deleted"),
        };
        sentences.push(format!("port {id} {word}"));
        operations.push(operation);
    }
    session.output.sentences(&operations, &sentences)
}

/// Addresses as written on the command line: `PREFIX[,MAC]`.
fn pair(text: &str) -> Result<AddressPair, String> {
    let (prefix, mac) = match text.split_once(',') {
        Some((prefix, mac)) => (prefix, Some(mac)),
        None => (text, None),
    };
    let ip_address = prefix.parse().map_err(|error| format!("{error}"))?;
    let mac_address = mac.map(str::parse).transpose().map_err(|error| format!("{error}"))?;
    Ok(AddressPair { ip_address, mac_address })
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
    use super::*;

    #[test]
    fn a_pair_is_a_prefix_and_maybe_a_mac() {
        let mac = "52:54:00:01:02:03";
        let both = pair(&format!("192.0.2.0/24,{mac}")).unwrap();
        assert_eq!(both.ip_address.to_string(), "192.0.2.0/24");
        assert_eq!(both.mac_address.map(|mac| mac.to_string()).as_deref(), Some(mac));
        assert_eq!(pair("2001:db8::7").unwrap().mac_address, None);
        assert!(pair("192.0.2.1/24").unwrap_err().contains("write 192.0.2.0/24"));
        assert!(pair("192.0.2.1,nonsense").is_err());
    }
}
