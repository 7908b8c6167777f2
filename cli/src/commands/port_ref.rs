//! How an operator names a port: by its id, or by a name that only it has.

use std::str::FromStr;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::method::PortList;
use ostler_protocol::rpc::port::List;
use ostler_protocol::rpc::values::{Name, PortId, ValueError};
use serde::Deserialize;

use crate::client::Client;
use crate::failure::{Cause, Failure};

/// A port, as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortRef {
    /// By its id.
    Id(PortId),
    /// By its name. Names need not be unique on a node.
    Name(Name),
}

impl FromStr for PortRef {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A name that looks like an id is taken for one: ids never change hands.
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

/// As much of a port as is needed to tell which it is.
#[derive(Deserialize)]
struct Named {
    id: PortId,
}

impl PortRef {
    /// The id, asked of the node where only a name was given.
    pub(crate) async fn resolve(self, client: &mut Client) -> Result<PortId, Failure> {
        let name = match self {
            Self::Id(id) => return Ok(id),
            Self::Name(name) => name,
        };
        // A name has no `*`, the filter's one special character, so it stands for itself.
        let list = List { name: Some(name.to_string()), ..List::default() };
        let found = client.ask::<PortList, Vec<Named>>(&list).await?;
        match found.as_slice() {
            [one] => Ok(one.id),
            [] => Err(Cause::from(
                Fault::new(Reason::NotFound, format!("there is no port named {name}"))
                    .about(format!("port {name}"))
                    .next("ostler port list shows those there are"),
            )
            .into()),
            [_, _, ..] => {
                let ids: Vec<String> = found.iter().map(|port| port.id.to_string()).collect();
                Err(Cause::usage(
                    format!("{} ports are named {name}: {}", found.len(), ids.join(", ")),
                    "name the one that is meant by its id".to_owned(),
                )
                .into())
            }
        }
    }
}
