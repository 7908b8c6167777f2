//! Items of metadata as they are written on the command line.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::failure::Cause;

/// An item of the metadata, as written on the command line: `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    key: String,
    value: String,
}

/// The key of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

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
pub(crate) fn items<V>(
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
///
/// # Errors
/// A key is there twice: one of the two was not meant.
pub(crate) fn changes(
    set: Vec<Item>,
    unset: Vec<Key>,
) -> Result<BTreeMap<String, Option<String>>, Cause> {
    let mut changes = items(set, Some)?;
    for Key(key) in unset {
        if changes.get(&key).is_some_and(Option::is_some) {
            return Err(twice(&key));
        }
        changes.insert(key, None);
    }
    Ok(changes)
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
