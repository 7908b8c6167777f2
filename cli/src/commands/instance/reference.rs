//! How an operator names an instance: by its id, or by a name that only it has.

use std::str::FromStr;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{Instance, List};
use ostler_protocol::rpc::method::InstanceList;
use ostler_protocol::rpc::values::{InstanceId, Name, ValueError};

use crate::client::Client;
use crate::failure::{Cause, Failure};

/// An instance, as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InstanceRef {
    /// By its id.
    Id(InstanceId),
    /// By its name. Names need not be unique on a node.
    Name(Name),
}

impl FromStr for InstanceRef {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A name that looks like an id is taken for one: ids never change hands.
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl InstanceRef {
    /// The id, asked of the node where only a name was given.
    pub(crate) async fn resolve(self, client: &mut Client) -> Result<InstanceId, Failure> {
        match self {
            Self::Id(id) => Ok(id),
            Self::Name(name) => {
                let list = List { name: Some(name.clone()), status: None };
                let found = client.call::<InstanceList>(&list).await?;
                Ok(only(&name, &found)?)
            }
        }
    }
}

/// The one instance of a name.
fn only(name: &Name, found: &[Instance]) -> Result<InstanceId, Cause> {
    match found {
        [one] => Ok(one.id),
        [] => Err(Fault::new(Reason::NotFound, format!("there is no instance named {name}"))
            .about(format!("instance {name}"))
            .next("ostler instance list shows those there are")
            .into()),
        [_, _, ..] => {
            let ids: Vec<String> = found.iter().map(|instance| instance.id.to_string()).collect();
            Err(Cause::usage(
                format!("{} instances are named {name}: {}", found.len(), ids.join(", ")),
                "name the one that is meant by its id".to_owned(),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_id_is_one() {
        let id = InstanceId::random();
        assert_eq!(id.to_string().parse(), Ok(InstanceRef::Id(id)));
        assert!(matches!("web-1".parse(), Ok(InstanceRef::Name(_))));
        assert!("no such name".parse::<InstanceRef>().is_err());
    }
}
