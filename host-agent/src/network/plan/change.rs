//! The changes of a plan, and how people are told of them.

use std::fmt;
use std::net::IpAddr;

use super::super::name::{LinkName, Mtu};
use super::super::uplink::{Vlan, Vxlan};

/// One change to the node's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make the bridge, with our group, down.
    Create,
    /// Make the link of a VLAN, with our group, down.
    CreateVlan {
        /// Its name.
        link: LinkName,
        /// What it is of.
        vlan: Vlan,
    },
    /// Make the link of a VXLAN, with our group, down.
    CreateVxlan {
        /// Its name.
        link: LinkName,
        /// What it is of.
        vxlan: Vxlan,
    },
    /// Remove a VLAN or VXLAN of ours that the network does not have any more.
    Remove {
        /// Its name.
        link: String,
        /// Its index.
        index: u32,
    },
    /// Write our mark on a link.
    Mark {
        /// The link.
        link: LinkName,
        /// The whole alias.
        alias: String,
    },
    /// Keep the node itself from speaking IPv6 on a link.
    DisableIpv6 {
        /// The link.
        link: LinkName,
    },
    /// Fix a link's MTU.
    SetMtu {
        /// The link.
        link: LinkName,
        /// The MTU.
        mtu: Mtu,
    },
    /// Plug a link into the bridge.
    Plug {
        /// The link.
        link: LinkName,
    },
    /// Set a link up.
    Raise {
        /// The link.
        link: LinkName,
    },
    /// Have a VXLAN send to another node.
    AddRemote {
        /// The VXLAN's link.
        link: LinkName,
        /// The other node.
        remote: IpAddr,
    },
    /// Have a VXLAN not send to another node any more.
    DropRemote {
        /// The VXLAN's link.
        link: LinkName,
        /// The other node.
        remote: IpAddr,
    },
}

impl Change {
    /// Whether it makes a link, which somebody else may just have made.
    pub(in super::super) const fn makes(&self) -> bool {
        match self {
            Self::Create | Self::CreateVlan { .. } | Self::CreateVxlan { .. } => true,
            Self::Remove { .. }
            | Self::Mark { .. }
            | Self::DisableIpv6 { .. }
            | Self::SetMtu { .. }
            | Self::Plug { .. }
            | Self::Raise { .. }
            | Self::AddRemote { .. }
            | Self::DropRemote { .. } => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create the bridge"),
            Self::CreateVlan { link, vlan } => write!(f, "create {link}, {vlan}"),
            Self::CreateVxlan { link, vxlan } => write!(f, "create {link}, {vxlan}"),
            Self::Remove { link, .. } => write!(f, "remove {link}"),
            Self::Mark { link, alias } => write!(f, "mark {link} as {alias}"),
            Self::DisableIpv6 { link } => write!(f, "disable IPv6 on {link}"),
            Self::SetMtu { link, mtu } => write!(f, "set the MTU of {link} to {mtu}"),
            Self::Plug { link } => write!(f, "plug {link} into the bridge"),
            Self::Raise { link } => write!(f, "set {link} up"),
            Self::AddRemote { link, remote } => write!(f, "have {link} send to {remote}"),
            Self::DropRemote { link, remote } => write!(f, "have {link} not send to {remote}"),
        }
    }
}
