//! Our mark on a domain: the metadata that says whose it is.
//!
//! A mark that says nothing we can use makes the domain nobody's: it is left alone, for a guess
//! could remove a guest of somebody else's. It is told of once, not at each look.
//!
//! [`prove`] comes before every call about a domain (`driver.rs`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ostler_protocol::rpc::values::InstanceId;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use super::error::from_libvirt;
use super::xml;
use crate::hypervisor::{Error, Metadata};

/// What a domain carries in our name.
pub(super) enum Mark {
    /// Nothing: somebody else made it.
    Absent,
    /// Metadata of this domain's.
    Read(Metadata),
    /// Something that is of no use, and why.
    Illegible(String),
}

impl Mark {
    /// The domain's mark, of the domain with this id.
    pub(super) fn of(domain: &Domain, id: InstanceId) -> Result<Self, VirtError> {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
        match domain.metadata(kind, Some(xml::metadata::NAMESPACE), 0) {
            Ok(element) => Ok(Self::read(&element, id)),
            Err(error) if error.code().to_raw() == sys::VIR_ERR_NO_DOMAIN_METADATA => {
                Ok(Self::Absent)
            }
            Err(error) => Err(error),
        }
    }

    fn read(element: &str, id: InstanceId) -> Self {
        match xml::metadata::read(element) {
            Ok(metadata) if metadata.id == id => Self::Read(metadata),
            Ok(other) => Self::Illegible(format!("it is of another instance, {}", other.id)),
            Err(error) => Self::Illegible(error.to_string()),
        }
    }
}

/// Whether the domain with this id, if there is one, is this node's.
///
/// # Errors
/// [`Error::NotOurs`] if it is not.
pub(super) fn prove(
    connect: &Connect,
    step: &'static str,
    id: InstanceId,
    node: &str,
) -> Result<(), Error> {
    // what the call itself makes of a domain that is absent, or goes, is its own affair
    let gone = |error: &VirtError| error.code().to_raw() == sys::VIR_ERR_NO_DOMAIN;
    let domain = match connect.lookup_domain_by_uuid(id.0) {
        Err(error) if gone(&error) => return Ok(()),
        found => found.map_err(|error| from_libvirt(step, Some(id), &error))?,
    };
    let why = match Mark::of(&domain, id) {
        Ok(Mark::Read(metadata)) if metadata.node == node => return Ok(()),
        Ok(Mark::Read(metadata)) => {
            format!("its mark is of the node {:?}, and this is {node:?}", metadata.node)
        }
        Ok(Mark::Absent) => "it does not carry an agent's mark".to_owned(),
        Ok(Mark::Illegible(why)) => format!("its mark cannot be read: {why}"),
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(from_libvirt(step, Some(id), &error)),
    };
    Err(Error::NotOurs { domain: id, why })
}

/// The domains whose mark is of no use, as they were at the last look.
#[derive(Debug, Default)]
pub(super) struct Illegible(Mutex<HashMap<InstanceId, String>>);

impl Illegible {
    /// Takes what a look at all domains found, and tells of those that were not so before.
    pub(super) fn found(&self, now: HashMap<InstanceId, String>) {
        for (id, why) in self.news(now) {
            tracing::warn!(
                domain = %id, why,
                next = "if no agent made it, see what it is and remove it: virsh dumpxml, virsh \
                        undefine",
                "its metadata in our name cannot be read: it is left alone"
            );
        }
    }

    fn news(&self, now: HashMap<InstanceId, String>) -> Vec<(InstanceId, String)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |(id, why): &(&InstanceId, &String)| known.get(id) != Some(why);
        let news = now.iter().filter(new).map(|(id, why)| (*id, why.clone())).collect();
        *known = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_told_of_once_while_it_stays_so() {
        let illegible = Illegible::default();
        let (one, two) = (InstanceId::random(), InstanceId::random());
        let found = |these: &[(InstanceId, &str)]| {
            illegible.news(these.iter().map(|(id, why)| (*id, (*why).to_owned())).collect())
        };
        assert_eq!(found(&[(one, "torn")]), [(one, "torn".to_owned())]);
        assert_eq!(found(&[(one, "torn")]), []);
        assert_eq!(found(&[(one, "torn"), (two, "torn")]), [(two, "torn".to_owned())]);
        assert_eq!(found(&[(one, "empty"), (two, "torn")]), [(one, "empty".to_owned())]);
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[(one, "empty")]), [(one, "empty".to_owned())]);
    }

    #[test]
    fn a_mark_is_read_only_where_it_is_whole_and_the_domains_own() {
        let id: InstanceId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        let whole = format!(
            "<instance><id>{id}</id><name>n</name><owner/><generation>1</generation>\
             <node>n</node><record/></instance>"
        );
        assert!(matches!(Mark::read(&whole, id), Mark::Read(_)));
        assert!(matches!(Mark::read(&whole, InstanceId::random()), Mark::Illegible(_)));
        let Mark::Illegible(why) = Mark::read("<instance><id/></instance>", id) else { panic!() };
        assert!(why.contains("id"), "{why}");
    }
}
