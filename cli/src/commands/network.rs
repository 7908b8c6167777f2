//! `ostler network ...`

use clap::Subcommand;
use ostler_protocol::rpc::host::Nothing;
use ostler_protocol::rpc::method::{NetworkEnsure, NetworkList, NetworkRemove};
use ostler_protocol::rpc::network::{Ensure, Network, Select};
use ostler_protocol::rpc::values::Name;

use super::{Followed, Session};
use crate::args::Changing;
use crate::failure::Failure;
use crate::reply::Shown;

/// What can be done with networks.
#[derive(Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network's bridge as described, or leave it as it is
    Ensure {
        /// Its name
        name: Name,
        /// The bridge; one that exists is used as it is; default: br-NAME
        #[arg(long, value_name = "LINK")]
        bridge: Option<String>,
        /// A NIC of the node that joins the bridge
        #[arg(long, value_name = "LINK")]
        uplink: Option<String>,
        /// The largest packet in bytes; default: 1500
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65_535))]
        mtu: Option<u32>,
        #[command(flatten)]
        changing: Changing,
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

impl NetworkCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Ensure { name, bridge, uplink, mtu, changing } => {
                let params = Ensure { name, bridge, uplink, mtu };
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
