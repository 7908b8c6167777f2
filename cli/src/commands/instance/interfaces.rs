//! `ostler instance attach-interface`, `detach-interface`, `list-interfaces`.

use std::time::Duration;

use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{Nic, Select};
use ostler_protocol::rpc::method::{
    InstanceAttachInterface, InstanceDetachInterface, InstanceListInterfaces,
};
use ostler_protocol::rpc::port::{Attach, Detach, Port};
use ostler_protocol::rpc::values::{MacAddress, Name};

use super::InstanceRef;
use crate::args::Changing;
use crate::commands::port_ref::PortRef;
use crate::commands::{Followed, Session};
use crate::failure::Failure;
use crate::reply::Shown;

/// What can be done with an instance's ports.
#[derive(Subcommand)]
pub(crate) enum InterfacesCommand {
    /// Give a port to an instance, running or not, or a new one on a network
    AttachInterface(AttachArgs),
    /// Take a port from an instance
    ///
    /// A running guest has to let go of it. A port that was made with the instance, or by
    /// attach-interface --network, is deleted.
    DetachInterface {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The port: its id, or its name if that is unique
        port: PortRef,
        /// Seconds that the guest may take to let go of it; default: 60
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
        grace: Option<u32>,
        #[command(flatten)]
        changing: Changing,
    },
    /// List the ports of an instance
    ListInterfaces {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
    },
}

/// A port to be attached.
#[derive(Args)]
pub(crate) struct AttachArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// The port: its id, or its name if that is unique
    #[arg(required_unless_present = "network")]
    port: Option<PortRef>,
    /// Make a port on this network; it is deleted when it is detached, and with the instance
    #[arg(long, conflicts_with = "port")]
    network: Option<Name>,
    /// The MAC of that port; default: made from its id
    #[arg(long, requires = "network")]
    mac: Option<MacAddress>,
    #[command(flatten)]
    changing: Changing,
}

impl InterfacesCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::AttachInterface(AttachArgs { instance, port, network, mac, changing }) => {
                let id = instance.resolve(&mut session.client).await?;
                let port = match port {
                    None => None,
                    Some(port) => Some(port.resolve(&mut session.client).await?),
                };
                let params = Attach { id, interface: Nic { network, mac, port } };
                match session.follow::<InstanceAttachInterface>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(_) => list(session, &Select { id }).await,
                }
            }
            Self::DetachInterface { instance, port, grace, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                let port = port.resolve(&mut session.client).await?;
                let timeout =
                    grace.map(|grace| Duration::from_secs(grace.into()).as_millis() as u32);
                let params = Detach { id, port, timeout };
                match session.follow::<InstanceDetachInterface>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = format!("port {port} is detached from {id}");
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
            Self::ListInterfaces { instance } => {
                let id = instance.resolve(&mut session.client).await?;
                list(session, &Select { id }).await
            }
        }
    }
}

async fn list(session: &mut Session, of: &Select) -> Result<(), Failure> {
    let list: Vec<Shown<Port>> = session.client.ask::<InstanceListInterfaces, _>(of).await?;
    session.output.result(&list)
}
