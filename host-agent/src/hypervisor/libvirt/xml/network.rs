//! Disks on servers: where they are, and the secrets for them.

use std::path::PathBuf;

use super::XmlError;
use super::read::Element;
use super::write::Document;
use crate::hypervisor::spec::{
    DiskAuth, DiskHost, DiskProtocol, NetworkDisk, SecretKind, SecretName,
};

/// A disk's `<source>`.
pub(super) fn write(disk: &mut Document, network: &NetworkDisk) {
    let mut attributes = vec![("protocol", network.protocol.as_str())];
    if !network.name.is_empty() {
        attributes.push(("name", network.name.as_str()));
    }
    disk.within("source", &attributes, |source| {
        for host in &network.hosts {
            match host {
                DiskHost::Tcp { name, port: None } => source.leaf("host", &[("name", name)]),
                DiskHost::Tcp { name, port: Some(port) } => {
                    source.leaf("host", &[("name", name), ("port", &port.to_string())]);
                }
                DiskHost::Unix(socket) => {
                    let socket = source.path(socket);
                    source.leaf("host", &[("transport", "unix"), ("socket", socket)]);
                }
            }
        }
        if let Some(DiskAuth { user, kind, secret }) = &network.auth {
            source.within("auth", &[("username", user)], |auth| {
                auth.leaf("secret", &[("type", kind.as_str()), which(secret)]);
            });
        }
    });
}

/// How a secret is named.
pub(super) fn which(secret: &SecretName) -> (&'static str, &str) {
    match secret {
        SecretName::Usage(usage) => ("usage", usage),
        SecretName::Uuid(uuid) => ("uuid", uuid),
    }
}

/// What is read of a disk's `<source>`; none if it is on no server that we know.
pub(super) fn read(source: &Element) -> Option<NetworkDisk> {
    let word = source.attribute("protocol")?;
    let protocol = DiskProtocol::ALL.into_iter().find(|protocol| protocol.as_str() == word)?;
    let host = |host: &Element| match host.attribute("transport") {
        Some("unix") => Some(DiskHost::Unix(PathBuf::from(host.attribute("socket")?))),
        Some(_) | None => Some(DiskHost::Tcp {
            name: host.attribute("name")?.to_owned(),
            port: host.attribute("port").and_then(|port| port.parse().ok()),
        }),
    };
    let auth = |auth: &Element| {
        let secret = auth.child("secret")?;
        let kind = [SecretKind::Iscsi, SecretKind::Ceph]
            .into_iter()
            .find(|kind| secret.attribute("type") == Some(kind.as_str()))?;
        let usage = secret.attribute("usage").map(|usage| SecretName::Usage(usage.to_owned()));
        let uuid = || secret.attribute("uuid").map(|uuid| SecretName::Uuid(uuid.to_owned()));
        let user = auth.attribute("username")?.to_owned();
        Some(DiskAuth { user, kind, secret: usage.or_else(uuid)? })
    };
    Some(NetworkDisk {
        protocol,
        name: source.attribute("name").unwrap_or_default().to_owned(),
        hosts: source.children.iter().filter(|c| c.name == "host").filter_map(host).collect(),
        auth: source.child("auth").and_then(auth),
    })
}

/// A secret's definition. Its value is given apart.
pub(in super::super) fn secret(kind: SecretKind, name: &str) -> Result<String, XmlError> {
    let mut document = Document::new();
    document.within("secret", &[("ephemeral", "no"), ("private", "yes")], |secret| {
        secret.text("description", &[], "a volume's, kept by ostler");
        secret.within("usage", &[("type", kind.as_str())], |usage| {
            let key = match kind {
                SecretKind::Iscsi => "target",
                SecretKind::Ceph => "name",
                SecretKind::Volume => "volume",
            };
            usage.text(key, &[], name);
        });
    });
    document.finish()
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;

    fn tcp(name: &str, port: u16) -> DiskHost {
        DiskHost::Tcp { name: name.to_owned(), port: Some(port) }
    }

    fn disks() -> Vec<NetworkDisk> {
        let disk = |protocol, name: &str, hosts, auth| NetworkDisk {
            protocol,
            name: name.to_owned(),
            hosts,
            auth,
        };
        let auth = |kind, secret| Some(DiskAuth { user: "u<1>".to_owned(), kind, secret });
        let usage = SecretName::Usage("ostler-1".to_owned());
        let uuid = SecretName::Uuid("457eb676-33da-42ec-9a8c-9293d545c337".to_owned());
        let socket = DiskHost::Unix("/run/ostler/nbd/a".into());
        vec![
            disk(DiskProtocol::Nbd, "a b", vec![tcp("10.0.0.7", 10809)], None),
            disk(DiskProtocol::Nbd, "", vec![socket], None),
            disk(
                DiskProtocol::Iscsi,
                "iqn.2010-10.org.openstack:volume-1/1",
                vec![tcp("fd00::1", 3260)],
                auth(SecretKind::Iscsi, usage.clone()),
            ),
            disk(
                DiskProtocol::Rbd,
                "volumes/volume-1",
                vec![tcp("10.0.0.1", 6789), tcp("10.0.0.2", 6789)],
                auth(SecretKind::Ceph, uuid),
            ),
            disk(DiskProtocol::Rbd, "volumes/2", vec![], auth(SecretKind::Ceph, usage)),
        ]
    }

    #[test]
    fn disks_on_servers_are_written_as_agreed_and_read_back_as_they_were() {
        let mut document = Document::new();
        document.within("sources", &[], |list| disks().iter().for_each(|disk| write(list, disk)));
        let written = document.finish().unwrap();
        assert_eq!(written.trim(), include_str!("golden/network.xml").trim(), "\n{written}");
        let root = parse(&written).unwrap();
        let read: Vec<_> = root.children.iter().filter_map(read).collect();
        assert_eq!(read, disks());
    }

    #[test]
    fn a_secret_is_private_and_outlives_a_reboot() {
        for (kind, key) in [(SecretKind::Iscsi, "target"), (SecretKind::Ceph, "name")] {
            let root = parse(&secret(kind, "ostler-1").unwrap()).unwrap();
            assert_eq!(root.attribute("private"), Some("yes"));
            assert_eq!(root.attribute("ephemeral"), Some("no"));
            assert_eq!(root.child("usage").unwrap().required(key).unwrap(), "ostler-1");
        }
    }
}
