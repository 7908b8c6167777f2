//! `ostler instance update`, `rename`, `lock`: what is noted about an instance, and who may change
//! it.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand};
use ostler_protocol::rpc::instance::{Lock, Update};
use ostler_protocol::rpc::method::{InstanceLock, InstanceUnlock, InstanceUpdate};
use ostler_protocol::rpc::values::Name;

use super::{InstanceRef, OneArgs, change};
use crate::args::Changing;
use crate::commands::Session;
use crate::failure::{Cause, Failure};

/// What can be done with the notes about an instance.
#[derive(Subcommand)]
pub(crate) enum NotesCommand {
    /// Change an instance's name, owner or metadata; what you do not name stays as it is
    Update(UpdateArgs),
    /// Give an instance another name
    Rename {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Its new name
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
    /// Refuse changes to an instance until it is unlocked
    Lock {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// The reason; everybody who is refused gets to see it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Allow changes to an instance again
    Unlock(OneArgs),
}

/// What is to be noted instead.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").multiple(true).required(true)
    .args(["name", "owner", "set", "unset"]))]
pub(crate) struct UpdateArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// Its new name
    #[arg(long)]
    name: Option<Name>,
    /// Its owner, such as a tenant's id; --owner= for no owner
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// An item of the metadata to set; repeat for more
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Item>,
    /// The key of an item of the metadata to remove; repeat for more
    #[arg(long, value_name = "KEY")]
    unset: Vec<Key>,
    #[command(flatten)]
    changing: Changing,
}

/// An item of the metadata, as written on the command line: `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    key: String,
    value: String,
}

/// The key of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl FromStr for Item {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            Some(_) | None => Err("write KEY=VALUE"),
        }
    }
}

impl FromStr for Key {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.contains('=') {
            return Err("write KEY alone; to leave it with an empty value, use --set KEY=");
        }
        Ok(Self(text.to_owned()))
    }
}

/// The items by their keys.
///
/// # Errors
/// A key is there twice: one of the two was not meant.
pub(super) fn items<V>(
    items: Vec<Item>,
    value: impl Fn(String) -> V,
) -> Result<BTreeMap<String, V>, Cause> {
    let mut all = BTreeMap::new();
    for item in items {
        if all.contains_key(&item.key) {
            return Err(twice(&item.key));
        }
        all.insert(item.key, value(item.value));
    }
    Ok(all)
}

fn twice(key: &str) -> Cause {
    let next = "name each key of the metadata once".to_owned();
    Cause::usage(format!("the metadata's {key:?} is given twice"), next)
}

/// What is to become of the metadata: items to set, and, with nothing, to remove.
fn changes(set: Vec<Item>, unset: Vec<Key>) -> Result<BTreeMap<String, Option<String>>, Cause> {
    let mut changes = items(set, Some)?;
    for Key(key) in unset {
        if changes.get(&key).is_some_and(Option::is_some) {
            return Err(twice(&key));
        }
        changes.insert(key, None);
    }
    Ok(changes)
}

impl NotesCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Update(UpdateArgs { instance, name, owner, set, unset, changing }) => {
                let metadata = changes(set, unset)?;
                let id = instance.resolve(&mut session.client).await?;
                let params = Update { id, name, owner, metadata };
                change::<InstanceUpdate>(session, &params, &changing).await
            }
            Self::Rename { instance, name, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                let params =
                    Update { id, name: Some(name), owner: None, metadata: BTreeMap::new() };
                change::<InstanceUpdate>(session, &params, &changing).await
            }
            Self::Lock { instance, reason, changing } => {
                let id = instance.resolve(&mut session.client).await?;
                change::<InstanceLock>(session, &Lock { id, reason }, &changing).await
            }
            Self::Unlock(one) => one.run::<InstanceUnlock>(session).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_up_to_the_first_equals_sign() {
        let item = |key: &str, value: &str| Ok(Item { key: key.into(), value: value.into() });
        assert_eq!("a=b".parse(), item("a", "b"));
        assert_eq!("a=b=c".parse(), item("a", "b=c"));
        assert_eq!("a=".parse(), item("a", ""));
        assert!("a".parse::<Item>().is_err() && "=b".parse::<Item>().is_err());
    }

    #[test]
    fn a_key_is_set_or_removed_once() {
        let set = |all: &[&str]| all.iter().map(|item| item.parse().unwrap()).collect::<Vec<_>>();
        let unset = |all: &[&str]| all.iter().map(|key| key.parse().unwrap()).collect::<Vec<_>>();
        let found = changes(set(&["a=1", "b="]), unset(&["c", "c"])).unwrap();
        let told = [("a", Some("1")), ("b", Some("")), ("c", None)];
        let told = told.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(found, BTreeMap::from(told));
        assert!(changes(set(&["a=1", "a=1"]), Vec::new()).is_err());
        assert!(changes(set(&["a=1"]), unset(&["a"])).is_err());
    }
}
