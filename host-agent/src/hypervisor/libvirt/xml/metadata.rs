//! Our element in a domain's metadata. It is how a domain is known to be ours, and whose, should
//! every other record be lost.

use ostler_protocol::rpc::values::InstanceId;

use super::XmlError;
use super::read::{Element, parse};
use super::write::Document;
use crate::hypervisor::Metadata;

/// The element's namespace. Part of what is stored: it never changes.
pub const NAMESPACE: &str = "urn:ostler:instance:1";

/// The prefix of its names in a domain.
pub(in super::super) const PREFIX: &str = "ostler";

/// Writes the element into a domain.
pub(super) fn write(document: &mut Document, metadata: &Metadata) {
    document.within("ostler:instance", &[("xmlns:ostler", NAMESPACE)], |instance| {
        for (name, text) in fields(metadata) {
            instance.text(&format!("{PREFIX}:{name}"), &[], &text);
        }
    });
}

/// The element by itself. libvirt puts it into its namespace, and refuses one that is there.
pub(in super::super) fn element(metadata: &Metadata) -> Result<String, XmlError> {
    let mut document = Document::new();
    document.within("instance", &[], |instance| {
        for (name, text) in fields(metadata) {
            instance.text(name, &[], &text);
        }
    });
    document.finish()
}

fn fields(metadata: &Metadata) -> [(&'static str, String); 6] {
    let Metadata { id, name, owner, generation, node, record } = metadata;
    [
        ("id", id.to_string()),
        ("name", name.clone()),
        ("owner", owner.clone()),
        ("generation", generation.to_string()),
        ("node", node.clone()),
        ("record", record.clone()),
    ]
}

/// Reads the element, as the hypervisor returns it for [`NAMESPACE`].
pub fn read(xml: &str) -> Result<Metadata, XmlError> {
    let instance = parse(xml)?;
    if instance.name != "instance" {
        return Err(XmlError::Missing { element: "instance" });
    }
    Ok(Metadata {
        id: value::<InstanceId>(&instance, "id")?,
        name: instance.required("name")?.to_owned(),
        owner: instance.required("owner")?.to_owned(),
        generation: value(&instance, "generation")?,
        node: instance.required("node")?.to_owned(),
        record: instance.required("record")?.to_owned(),
    })
}

fn value<T: std::str::FromStr>(parent: &Element, name: &'static str) -> Result<T, XmlError> {
    parent.required(name)?.parse().map_err(|_| XmlError::Missing { element: name })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(metadata: &Metadata) -> Result<String, XmlError> {
        let mut document = Document::new();
        write(&mut document, metadata);
        document.finish()
    }

    fn metadata(name: &str, owner: &str) -> Metadata {
        Metadata {
            id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: name.to_owned(),
            owner: owner.to_owned(),
            generation: u64::MAX,
            node: "node-1".to_owned(),
            record: "{}".to_owned(),
        }
    }

    #[test]
    fn markup_in_a_name_stays_a_name() {
        let hostile = metadata("</ostler:name><ostler:id>&#0;]]><![CDATA[\r\n\t\"'", "&amp;");
        assert_eq!(read(&written(&hostile).unwrap()), Ok(hostile.clone()));
        assert_eq!(read(&element(&hostile).unwrap()), Ok(hostile));
    }

    #[test]
    fn what_xml_cannot_carry_is_refused() {
        for name in ["\0", "\u{1b}[2J", "\u{ffff}"] {
            let error = written(&metadata(name, "")).unwrap_err();
            assert!(matches!(error, XmlError::Character { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_name_round_trips_or_is_refused(name in any::<String>(), owner in "\\PC{0,80}") {
            let metadata = metadata(&name, &owner);
            match written(&metadata) {
                Ok(xml) => prop_assert_eq!(read(&xml), Ok(metadata)),
                Err(XmlError::Character { character, .. }) => {
                    prop_assert!(name.contains(character) || owner.contains(character));
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        #[test]
        fn reading_never_panics(xml in any::<String>(), inner in "[<>&;/a-z:='\" #x0-9]{0,200}") {
            drop(read(&xml));
            drop(read(&format!("<instance>{inner}</instance>")));
        }
    }
}
