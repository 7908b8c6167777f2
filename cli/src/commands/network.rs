//! `ostler network ...`

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ostler_protocol::rpc::host::Nothing;
use ostler_protocol::rpc::method::{NetworkEnsure, NetworkList, NetworkRemove, NetworkShow};
use ostler_protocol::rpc::network::{Ensure, Network, Select, Vxlan};
use ostler_protocol::rpc::values::Name;

use super::{Followed, Session};
use crate::args::Changing;
use crate::failure::Failure;
use crate::reply::Shown;

/// What can be done with networks.
#[derive(Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network's bridge as described, or leave it as it is
    ///
    /// For a network that is there, the options say all that it shall be: what differs is changed
    /// while its instances run.
    Ensure(EnsureArgs),
    /// Show one network: in what it is not as it should be, and its ports
    Show {
        /// The network
        name: Name,
    },
    /// Forget a network that no instance uses; removes its bridge if the agent made it
    Remove {
        /// The network
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
    /// List the networks of the node
    List,
}

/// A network as it shall be.
#[derive(Args)]
pub(crate) struct EnsureArgs {
    /// Its name
    name: Name,
    /// The bridge; one that exists is used as it is; default: br-NAME
    #[arg(long, value_name = "LINK")]
    bridge: Option<String>,
    /// A NIC or bond of the node that joins the bridge, or that of a VLAN or of a VXLAN's group
    #[arg(long, value_name = "LINK")]
    uplink: Option<String>,
    /// The VLAN of the uplink that joins the bridge, 1 to 4094
    #[arg(long, value_name = "TAG", requires = "uplink", conflicts_with = "vxlan")]
    vlan: Option<u16>,
    /// A tunnel to other nodes that joins the bridge, by its number: 1 to 16777215
    #[arg(long, value_name = "VNI", requires = "local")]
    vxlan: Option<u32>,
    /// The node's own address for the VXLAN
    #[arg(long, value_name = "ADDRESS", requires = "vxlan")]
    local: Option<IpAddr>,
    /// Another node of the VXLAN; repeat for more
    #[arg(long, value_name = "ADDRESS", requires = "vxlan", conflicts_with = "uplink")]
    remote: Vec<IpAddr>,
    /// The multicast group of the VXLAN, in place of --remote
    #[arg(
        long,
        value_name = "ADDRESS",
        requires_all = ["vxlan", "uplink"],
        conflicts_with = "remote"
    )]
    group: Option<IpAddr>,
    /// The UDP port of the VXLAN; default: 4789
    #[arg(long, requires = "vxlan", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The largest packet in bytes; default: 1500, or what a VXLAN has room for
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65_535))]
    mtu: Option<u32>,
    #[command(flatten)]
    changing: Changing,
}

impl EnsureArgs {
    fn params(self) -> (Ensure, Changing) {
        let Self { name, bridge, uplink, vlan, vxlan, local, remote, group, port, mtu, changing } =
            self;
        let tunnel = vxlan.zip(local);
        let vxlan = tunnel.map(|(vni, local)| Vxlan { vni, local, remotes: remote, group, port });
        (Ensure { name, bridge, uplink, vlan, vxlan, mtu }, changing)
    }
}

impl NetworkCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Ensure(args) => {
                let (params, changing) = args.params();
                match session.follow::<NetworkEnsure>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let networks: Vec<Shown<Network>> =
                            session.client.ask::<NetworkList, _>(&Nothing {}).await?;
                        match networks.iter().find(|network| network.is_named(&params.name)) {
                            Some(network) => session.output.result(network),
                            None => session.output.result(&operation),
                        }
                    }
                }
            }
            Self::Show { name } => {
                let network: Shown<Network> =
                    session.client.ask::<NetworkShow, _>(&Select { name }).await?;
                session.output.result(&network)
            }
            Self::Remove { name, changing } => {
                let params = Select { name };
                match session.follow::<NetworkRemove>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = format!("network {} is removed", params.name);
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
            Self::List => {
                let list: Vec<Shown<Network>> =
                    session.client.ask::<NetworkList, _>(&Nothing {}).await?;
                session.output.result(&list)
            }
        }
    }
}
