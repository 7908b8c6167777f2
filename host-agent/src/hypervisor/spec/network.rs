//! Disks that QEMU reaches over the network, by its own clients.

use std::path::PathBuf;

/// A disk on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDisk {
    /// How it is reached.
    pub protocol: DiskProtocol,
    /// What it is called there; may be empty.
    pub name: String,
    /// The servers.
    pub hosts: Vec<DiskHost>,
    /// Who QEMU is to them, if they ask.
    pub auth: Option<DiskAuth>,
}

/// How a disk is reached over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskProtocol {
    /// NBD: the name is the export's.
    Nbd,
    /// iSCSI: the name is the target's, and the LUN.
    Iscsi,
    /// Ceph: the name is the pool's, and the image's.
    Rbd,
    /// NFS: the name is the file's path.
    Nfs,
}

impl DiskProtocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nbd, Self::Iscsi, Self::Rbd, Self::Nfs];

    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Iscsi => "iscsi",
            Self::Rbd => "rbd",
            Self::Nfs => "nfs",
        }
    }
}

/// A server of disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskHost {
    /// At a port; the protocol's own if none.
    Tcp {
        /// The host.
        name: String,
        /// The port.
        port: Option<u16>,
    },
    /// At a socket.
    Unix(PathBuf),
}

/// Who QEMU is to a server: the secret itself is the hypervisor's to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskAuth {
    /// The user.
    pub user: String,
    /// What the secret is for.
    pub kind: SecretKind,
    /// Which it is.
    pub secret: SecretName,
}

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    /// CHAP.
    Iscsi,
    /// A Ceph key.
    Ceph,
    /// A passphrase that opens an encrypted disk.
    Volume,
}

impl SecretKind {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Iscsi => "iscsi",
            Self::Ceph => "ceph",
            Self::Volume => "volume",
        }
    }
}

/// Which secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretName {
    /// By what it is used for, as we call ours.
    Usage(String),
    /// By its UUID.
    Uuid(String),
}
