//! How a volume is reached that is kept elsewhere. There is no place for a secret in it: that is
//! libvirt's to keep.

use std::fmt;
use std::path::PathBuf;

use ostler_protocol::rpc::values::Bytes;
use serde::{Deserialize, Serialize};

/// How a volume is reached that is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionRecord {
    /// By NBD.
    Nbd {
        /// The server.
        server: NbdServer,
        /// The export; empty for the server's default.
        export: String,
    },
    /// By iSCSI.
    Iscsi {
        /// The portal.
        portal: Host,
        /// The target.
        target: String,
        /// The LUN.
        lun: u32,
        /// Who logs in, by CHAP, if anybody has to.
        user: Option<String>,
    },
    /// By Ceph.
    Rbd {
        /// `POOL/IMAGE`.
        image: String,
        /// The monitors.
        monitors: Vec<Host>,
        /// Who one is, if the cluster asks.
        user: Option<String>,
        /// The libvirt secret with the user's key that an operator made; ours if none.
        secret: Option<String>,
    },
    /// By NFS.
    Nfs {
        /// The server.
        host: String,
        /// The file's path there.
        path: String,
    },
    /// A block device of the node.
    Local {
        /// Its path.
        device: PathBuf,
        /// What was there when it was attached; none before.
        identity: Option<DeviceIdentity>,
    },
}

/// Where an NBD server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NbdServer {
    /// At a port.
    Tcp(Host),
    /// At a socket.
    Unix(PathBuf),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name or address.
    pub name: String,
    /// The port.
    pub port: u16,
}

/// By what a block device is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIdentity {
    /// What its maker, or the device mapper, calls it; none if it says nothing.
    pub wwid: Option<String>,
    /// Its size.
    pub size: Bytes,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

impl fmt::Display for ConnectionRecord {
    /// Where it is, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd { server: NbdServer::Tcp(host), export } => write!(f, "nbd {host} {export}"),
            Self::Nbd { server: NbdServer::Unix(socket), export } => {
                write!(f, "nbd {} {export}", socket.display())
            }
            Self::Iscsi { portal, target, lun, .. } => write!(f, "iscsi {portal} {target}/{lun}"),
            Self::Rbd { image, .. } => write!(f, "rbd {image}"),
            Self::Nfs { host, path } => write!(f, "nfs {host}:{path}"),
            Self::Local { device, .. } => write!(f, "{}", device.display()),
        }
    }
}
