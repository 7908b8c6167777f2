//! Reads what libvirt says a domain can be made of.

use ostler_protocol::rpc::hardware::Board;

use super::XmlError;
use super::read::{Element, parse};

/// The part of domain capabilities we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainCapabilities {
    /// The emulator's path.
    pub emulator: String,
    /// The guest architecture.
    pub arch: String,
    /// The most vCPUs of one domain.
    pub max_vcpus: u32,
    /// What firmware is installed for the board.
    pub board: Board,
    /// Whether a software TPM can be had.
    pub tpm: bool,
}

/// Reads them.
pub fn read(xml: &str) -> Result<DomainCapabilities, XmlError> {
    let root = parse(xml)?;
    let max_vcpus = root
        .child("vcpu")
        .and_then(|vcpu| vcpu.attribute("max"))
        .and_then(|max| max.parse().ok())
        .ok_or(XmlError::Missing { element: "vcpu" })?;
    let os = root.child("os");
    let uefi = os.is_some_and(|os| offers(os, "firmware", "efi"));
    let secure = os.and_then(|os| os.child("loader")).is_some_and(|of| offers(of, "secure", "yes"));
    let tpm = root
        .child("devices")
        .and_then(|devices| devices.child("tpm"))
        .filter(|tpm| tpm.attribute("supported") == Some("yes"))
        .is_some_and(|tpm| offers(tpm, "backendModel", "emulator"));
    Ok(DomainCapabilities {
        emulator: root.required("path")?.to_owned(),
        arch: root.required("arch")?.to_owned(),
        max_vcpus,
        board: Board { uefi, secure_boot: uefi && secure },
        tpm,
    })
}

/// Whether the enum of that name lists that value.
fn offers(parent: &Element, name: &str, value: &str) -> bool {
    parent
        .children
        .iter()
        .filter(|child| child.name == "enum" && child.attribute("name") == Some(name))
        .flat_map(|list| &list.children)
        .any(|offered| offered.name == "value" && offered.text == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_read() {
        let xml = "<domainCapabilities><path>/usr/bin/q</path><domain>qemu</domain>\
            <machine>pc</machine><arch>x86_64</arch><vcpu max='255'/>\
            <os supported='yes'><enum name='firmware'><value>bios</value><value>efi</value></enum>\
            <loader supported='yes'><enum name='secure'><value>yes</value><value>no</value></enum>\
            </loader></os>\
            <devices><tpm supported='no'><enum name='backendModel'><value>emulator</value></enum></tpm>\
            </devices></domainCapabilities>";
        let expected = DomainCapabilities {
            emulator: "/usr/bin/q".to_owned(),
            arch: "x86_64".to_owned(),
            max_vcpus: 255,
            board: Board { uefi: true, secure_boot: true },
            tpm: false,
        };
        assert_eq!(read(xml), Ok(expected));
        // The loader's own word is of firmware that may be given by its path, too.
        let plain = read(&xml.replace("<value>efi</value>", "")).unwrap();
        assert_eq!(plain.board, Board::default());
        assert!(read("<domainCapabilities/>").is_err());
    }
}
