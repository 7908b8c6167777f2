//! How a volume is reached that some control plane keeps elsewhere: cinder's `connection_info`, in
//! its own words.
//!
//! Members that are not listed here are passed over, here alone among requests: cinder sends many
//! that are for other clients than QEMU, and more with each release. Those that change what a guest
//! may do with the volume are listed, and heeded.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::rpc::values::Secret;

/// How a volume that is kept elsewhere is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "driver_volume_type", content = "data", rename_all = "snake_case")]
#[schemars(rename = "VolumeConnection")]
pub enum Connection {
    /// A network block device.
    Nbd(Nbd),
    /// A LUN of an iSCSI target.
    Iscsi(Iscsi),
    /// An image in Ceph.
    Rbd(Rbd),
    /// A file of an NFS server.
    Nfs(Nfs),
    /// A block device of the node.
    Local(Local),
}

impl Connection {
    /// What cinder says of a volume whatever its kind.
    pub const fn terms(&self) -> &Terms {
        match self {
            Self::Nbd(Nbd { terms, .. })
            | Self::Iscsi(Iscsi { terms, .. })
            | Self::Rbd(Rbd { terms, .. })
            | Self::Nfs(Nfs { terms, .. })
            | Self::Local(Local { terms, .. }) => terms,
        }
    }

    const fn terms_mut(&mut self) -> &mut Terms {
        match self {
            Self::Nbd(Nbd { terms, .. })
            | Self::Iscsi(Iscsi { terms, .. })
            | Self::Rbd(Rbd { terms, .. })
            | Self::Nfs(Nfs { terms, .. })
            | Self::Local(Local { terms, .. }) => terms,
        }
    }

    /// Read one as nova sends it.
    ///
    /// # Errors
    /// It is none.
    pub fn sent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        #[derive(Deserialize)]
        struct Sent {
            #[serde(flatten)]
            connection: Connection,
            multiattach: Option<bool>,
        }
        let sent = Option::<Sent>::deserialize(from)?;
        Ok(sent.map(|Sent { mut connection, multiattach }| {
            let terms = connection.terms_mut();
            terms.multiattach = terms.multiattach.or(multiattach);
            connection
        }))
    }

    /// The secret in it, taken out.
    pub fn take_secret(&mut self) -> Option<Secret> {
        match self {
            Self::Iscsi(iscsi) => iscsi.auth_password.take(),
            Self::Rbd(rbd) => rbd.keyring.take(),
            Self::Nbd(_) | Self::Nfs(_) | Self::Local(_) => None,
        }
    }
}

/// What cinder says of a volume whatever its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeTerms")]
pub struct Terms {
    /// `ro`: the guest can only read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Whether what is on it is encrypted: then the request needs a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Whether several instances may have it at once. nova says so beside `data`, where it is read
    /// too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiattach: Option<bool>,
}

/// What a guest may do with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "VolumeAccessMode")]
pub enum AccessMode {
    /// Read and write.
    Rw,
    /// Only read.
    Ro,
}

/// A network block device: at a host and port, or at a UNIX socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeNbd")]
pub struct Nbd {
    /// The server's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port; 10809 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its UNIX socket, in the folder `nbd` of the agent's `run_dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The export; the server's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub terms: Terms,
}

/// A LUN of an iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeIscsi")]
pub struct Iscsi {
    /// `HOST:PORT`.
    pub target_portal: String,
    /// The target.
    pub target_iqn: String,
    /// The LUN.
    pub target_lun: u32,
    /// `CHAP`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_method: Option<String>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_password: Option<Secret>,
    /// The rest.
    #[serde(flatten)]
    pub terms: Terms,
}

/// A file of an NFS server, which QEMU reaches by its own client: version 3, by the port mapper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeNfs")]
pub struct Nfs {
    /// `HOST:/PATH`.
    pub export: String,
    /// The file's name there.
    pub name: String,
    /// How it is laid out: `raw`, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub terms: Terms,
}

/// An image in Ceph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeRbd")]
pub struct Rbd {
    /// `POOL/IMAGE`.
    pub name: String,
    /// The monitors.
    pub hosts: Vec<String>,
    /// Their ports, one for each.
    pub ports: Vec<String>,
    /// Whether the cluster asks who one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_enabled: Option<bool>,
    /// The user, without `client.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_username: Option<String>,
    /// The node's libvirt secret that holds the user's key, if an operator has put it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_uuid: Option<String>,
    /// The user's key, or a keyring with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<Secret>,
    /// The rest.
    #[serde(flatten)]
    pub terms: Terms,
}

/// A block device of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeLocal")]
pub struct Local {
    /// Its path, below `/dev`.
    pub device_path: String,
    /// The rest.
    #[serde(flatten)]
    pub terms: Terms,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cinder_sends_is_read_with_all_that_is_not_for_us() {
        let sent = r#"{"driver_volume_type": "iscsi", "data": {"target_discovered": false,
            "target_portal": "10.0.0.7:3260", "target_iqn": "iqn.2010-10.org.openstack:volume-1",
            "target_lun": 1, "volume_id": "1", "auth_method": "CHAP", "auth_username": "u",
            "auth_password": "hunter2hunter2", "encrypted": false, "qos_specs": null,
            "access_mode": "rw", "cacheable": false}, "status": "reserved", "serial": "1"}"#;
        let mut read: Connection = serde_json::from_str(sent).unwrap();
        assert_eq!(read.terms().access_mode, Some(AccessMode::Rw));
        assert!(!format!("{read:?}").contains("hunter2"));
        assert_eq!(read.take_secret().unwrap().expose(), "hunter2hunter2");
        assert!(!serde_json::to_string(&read).unwrap().contains("hunter2"));
        let sent = r#"{"driver_volume_type": "rbd", "data": {"name": "volumes/volume-1",
            "hosts": ["10.0.0.1"], "ports": ["6789"], "cluster_name": "ceph", "auth_enabled": true,
            "auth_username": "cinder", "secret_type": "ceph",
            "secret_uuid": "457eb676-33da-42ec-9a8c-9293d545c337", "volume_id": "1",
            "discard": true, "keyring": null}}"#;
        assert!(matches!(serde_json::from_str(sent), Ok(Connection::Rbd(_))));
        let beside = sent.replacen('{', r#"{"multiattach": true, "#, 1);
        let read = Connection::sent(&mut serde_json::Deserializer::from_str(&beside)).unwrap();
        assert_eq!(read.unwrap().terms().multiattach, Some(true));
        let other = r#"{"driver_volume_type": "nfs", "data": {}}"#;
        assert!(serde_json::from_str::<Connection>(other).is_err());
    }
}
