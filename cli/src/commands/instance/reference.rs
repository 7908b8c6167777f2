//! How an operator names an instance: by its id, or by a name that only it has.

use std::str::FromStr;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{List, Status};
use ostler_protocol::rpc::method::InstanceList;
use ostler_protocol::rpc::values::{InstanceId, Name, ValueError};
use serde::Deserialize;

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
        self.find(Among::Living, client).await
    }

    /// The same, where one that can be restored may be meant as well.
    pub(crate) async fn resolve_any(self, client: &mut Client) -> Result<InstanceId, Failure> {
        self.find(Among::DeletedLast, client).await
    }

    /// The same, among those that are told.
    pub(super) async fn find(
        self,
        among: Among,
        client: &mut Client,
    ) -> Result<InstanceId, Failure> {
        let name = match self {
            Self::Id(id) => return Ok(id),
            Self::Name(name) => name,
        };
        let mut found = Vec::new();
        for status in among.order() {
            // A name has no `*`, the filter's one special character, so it stands for itself.
            let name = Some(name.to_string());
            let list = List { name, status: *status, ..List::default() };
            found = client.ask::<InstanceList, Vec<Named>>(&list).await?;
            if !found.is_empty() {
                break;
            }
        }
        Ok(only(&name, &found)?)
    }
}

/// Among which instances a name is looked for. A name is free again once its instance is deleted,
/// so one that lives and one that can be restored may have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Those that are not deleted.
    Living,
    /// Those first; where none has the name, those that can be restored.
    DeletedLast,
    /// Those that can be restored; where none has the name, the others.
    DeletedFirst,
}

impl Among {
    /// The statuses to list, one after the other.
    const fn order(self) -> &'static [Option<Status>] {
        match self {
            Self::Living => &[None],
            Self::DeletedLast => &[None, Some(Status::SoftDeleted)],
            Self::DeletedFirst => &[Some(Status::SoftDeleted), None],
        }
    }
}

/// As much of an instance as is needed to tell which it is.
#[derive(Deserialize)]
struct Named {
    id: InstanceId,
}

/// The one instance of a name.
fn only(name: &Name, found: &[Named]) -> Result<InstanceId, Cause> {
    match found {
        [one] => Ok(one.id),
        [] => Err(Fault::new(Reason::NotFound, format!("there is no instance named {name}"))
            .about(format!("instance {name}"))
            .next(
                "ostler instance list shows those there are, and with --status SOFT_DELETED those \
                 that can be restored",
            )
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
