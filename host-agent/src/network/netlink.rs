//! Carries out plans by rtnetlink: the only user of that crate.
//!
//! Each call reads the node's links in one dump, plans, and applies the changes in order. When a
//! link appears between the look and the making (EEXIST), it looks and plans again: what is
//! there now may be ours from an earlier try, or somebody else's.

mod read;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::link::{BridgeStpState, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVlan, LinkVxlan};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tracing::info;

use super::changes::Changes;
use super::plan::{self, Change, GROUP, Link, LinkKind, Removal};
use super::{
    BridgeSpec, BridgeState, Ensured, Flood, LinkName, Mtu, Network, NetworkError, Removed, Vlan,
    Vxlan,
};

/// The kernel answers in microseconds; what takes longer is stuck behind somebody's lock.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where a VXLAN sends what it knows no receiver of.
const ANYBODY: [u8; 6] = [0; 6];

/// How often a plan is made anew because the links changed under it.
const TRIES: usize = 3;

/// The links of the network namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    /// The kernel does one dump at a time on one socket, and refuses a second with EBUSY.
    dumps: Mutex<()>,
    changes: Changes,
    connection: JoinHandle<()>,
}

impl Netlink {
    /// Open a netlink socket; its connection is a task of the current runtime, ended with this.
    pub fn open() -> Result<Self, NetworkError> {
        #[expect(clippy::disallowed_methods, reason = "this is the one home of netlink")]
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Open)?;
        let changes = Changes::of_links().map_err(NetworkError::Open)?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, dumps: Mutex::default(), changes, connection })
    }

    async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let failed = |what| move |source| NetworkError::List { what, source };
        let _one_at_a_time = self.dumps.lock().await;
        let messages =
            collect(self.handle.link().get().execute()).await.map_err(failed("links"))?;
        let addresses =
            collect(self.handle.address().get().execute()).await.map_err(failed("addresses"))?;
        let mut links: Vec<Link> = messages.into_iter().filter_map(read::link).collect();
        for (index, address) in addresses.into_iter().filter_map(read::address) {
            if let Some(link) = links.iter_mut().find(|link| link.index == index) {
                link.addresses.push(address);
            }
        }
        // This dump has an entry for each MAC that any bridge has learnt: it is not made in vain.
        if links.iter().any(|link| matches!(link.kind, LinkKind::Vxlan(_))) {
            let get = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
            let entries = collect(get.execute()).await.map_err(failed("VXLANs' remotes"))?;
            for (index, remote) in entries.into_iter().filter_map(read::remote) {
                if let Some(link) = links.iter_mut().find(|link| link.index == index)
                    && let LinkKind::Vxlan(tunnel) = link.kind
                    && tunnel.group != Some(remote)
                {
                    link.remotes.push(remote);
                }
            }
        }
        Ok(links)
    }

    async fn apply(&self, spec: &BridgeSpec, change: &Change) -> Result<(), io::Error> {
        let named = |link: &LinkName| LinkUnspec::new_with_name(link.as_str());
        match change {
            Change::Create => self.add(new_bridge(spec)).await,
            Change::CreateVlan { link, vlan } => {
                let nic = self.index_of(&vlan.nic).await?;
                self.add(new_vlan(spec, link, vlan, nic)).await
            }
            Change::CreateVxlan { link, vxlan } => {
                let by = match &vxlan.flood {
                    Flood::Remotes(_) => None,
                    Flood::Group { group, nic } => Some((*group, self.index_of(nic).await?)),
                };
                self.add(new_vxlan(spec, link, vxlan, by)).await
            }
            Change::Remove { index, .. } => {
                match deadline(self.handle.link().del(*index).execute()).await {
                    Err(error) if is_gone(&error) => Ok(()),
                    removed => removed,
                }
            }
            Change::Mark { link, alias } => self.set(named(link).alias(alias)).await,
            Change::DisableIpv6 { link } => disable_ipv6(link).await,
            Change::Plug { link } => {
                let index = self.index_of(&spec.bridge).await?;
                self.set(named(link).controller(index)).await
            }
            Change::SetMtu { link, mtu } => self.set(named(link).mtu(mtu.bytes())).await,
            Change::Raise { link } => self.set(named(link).up()).await,
            Change::AddRemote { link, remote } => self.add_remote(link, *remote).await,
            Change::DropRemote { link, remote } => {
                let entry = remote_entry(self.index_of(link).await?, *remote);
                deadline(self.handle.neighbours().del(entry).execute()).await
            }
        }
    }

    async fn add(&self, link: LinkMessage) -> io::Result<()> {
        deadline(self.handle.link().add(link).execute()).await
    }

    /// By a message of our own: rtnetlink's adds an entry only where there is none for the MAC, or
    /// in place of the others.
    async fn add_remote(&self, link: &LinkName, remote: IpAddr) -> io::Result<()> {
        let entry = remote_entry(self.index_of(link).await?, remote);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(entry));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut handle = self.handle.clone();
        let answers = handle.request(message).map_err(into_io)?;
        let refused = |answer: NetlinkMessage<_>| {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
            Ok(())
        };
        collect(answers.map(refused)).await.map(drop)
    }

    async fn set(&self, link: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        deadline(self.handle.link().set(link.build()).execute()).await
    }

    async fn index_of(&self, name: &LinkName) -> io::Result<u32> {
        let found = collect(self.handle.link().get().match_name(name.as_str()).execute()).await?;
        let link = found.first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(link.header.index)
    }

    async fn carry_out(&self, removal: Removal, link: &LinkName) -> Result<Removed, NetworkError> {
        let indexes = match removal {
            Removal::NothingThere => return Ok(Removed::AlreadyGone),
            Removal::NotOurs => return Ok(Removed::NotOurs),
            Removal::Delete(indexes) => indexes,
        };
        let mut removed = Removed::AlreadyGone;
        for index in indexes {
            match deadline(self.handle.link().del(index).execute()).await {
                Ok(()) => {
                    info!(%link, index, "link removed");
                    removed = Removed::Removed;
                }
                Err(error) if is_gone(&error) => {}
                Err(source) => {
                    return Err(NetworkError::Remove { link: link.to_string(), source });
                }
            }
        }
        Ok(removed)
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Network for Netlink {
    async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<Ensured, NetworkError> {
        let mut ensured = Ensured::AlreadyThere;
        'look: for _ in 0..TRIES {
            for change in plan::ensure(spec, &self.links().await?)? {
                match self.apply(spec, &change).await {
                    Ok(()) => info!(bridge = %spec.bridge, %change, "link changed"),
                    Err(error) if was_overtaken(&change, &error) => continue 'look,
                    Err(source) => {
                        let bridge = spec.bridge.to_string();
                        return Err(NetworkError::Apply { bridge, change, source });
                    }
                }
                if change == Change::Create {
                    ensured = Ensured::Created;
                }
            }
            return Ok(ensured);
        }
        Err(NetworkError::Unsettled { bridge: spec.bridge.to_string() })
    }

    async fn remove_bridge(&self, spec: &BridgeSpec) -> Result<Removed, NetworkError> {
        let removal = plan::remove(spec, &self.links().await?)?;
        self.carry_out(removal, &spec.bridge).await
    }

    async fn room(&self, vxlan: &Vxlan) -> Result<Mtu, NetworkError> {
        Ok(plan::room(vxlan, &self.links().await?)?)
    }

    async fn observe(&self, specs: &[BridgeSpec]) -> Result<Vec<BridgeState>, NetworkError> {
        let links = self.links().await?;
        Ok(specs.iter().map(|spec| plan::observe(spec, &links)).collect())
    }

    async fn plug_taps(
        &self,
        taps: &[(LinkName, LinkName)],
    ) -> Result<Vec<LinkName>, NetworkError> {
        let links = self.links().await?;
        let mut plugged = Vec::new();
        for (tap, bridge) in taps {
            let Some(index) = plan::plug_tap(tap, bridge, &links) else { continue };
            match self.set(LinkUnspec::new_with_name(tap.as_str()).controller(index)).await {
                Ok(()) => plugged.push(tap.clone()),
                // Its guest has just gone.
                Err(error) if is_gone(&error) => {}
                Err(source) => return Err(NetworkError::Plug { tap: tap.to_string(), source }),
            }
        }
        Ok(plugged)
    }

    async fn changed(&self) {
        self.changes.wait().await;
        self.changes.note();
    }

    async fn remove_tap(&self, tap: &LinkName) -> Result<Removed, NetworkError> {
        let removal = plan::remove_tap(tap, &self.links().await?)?;
        self.carry_out(removal, tap).await
    }
}

/// A bridge as ours are born: down, with our group, and set as below.
fn new_bridge(spec: &BridgeSpec) -> LinkMessage {
    // The kernel fixes a bridge's MTU only when it is changed; one that was born right still
    // follows its smallest port. So it is born wrong by one, and SetMtu comes after.
    let born_with = spec.mtu.bytes() - 1;
    LinkMessageBuilder::<LinkBridge>::new(spec.bridge.as_str())
        .link_group(GROUP)
        .mtu(born_with)
        // No spanning tree and no delay: a tap forwards from its first frame, so a guest's first
        // DHCP request is not lost, and a guest's BPDUs cannot block the uplink. A node has one
        // path to each network; loops are the switch's to prevent.
        .stp_state(BridgeStpState::Disabled)
        .forward_delay(0)
        // Snooping needs a querier, which a bridge without an address cannot be: without one it
        // comes to drop multicast that guests joined, IPv6 neighbour discovery included.
        .mcast_snooping(false)
        .build()
}

/// A VLAN as ours are born: down, with our group.
fn new_vlan(spec: &BridgeSpec, link: &LinkName, vlan: &Vlan, nic: u32) -> LinkMessage {
    LinkMessageBuilder::<LinkVlan>::new(link.as_str())
        .id(vlan.id.number())
        .link(nic)
        .link_group(GROUP)
        .mtu(spec.mtu.bytes())
        .build()
}

/// A VXLAN as ours are born: down, with our group, sending to nobody or to a group by a NIC.
fn new_vxlan(
    spec: &BridgeSpec,
    link: &LinkName,
    vxlan: &Vxlan,
    by: Option<(IpAddr, u32)>,
) -> LinkMessage {
    let mut message = LinkVxlan::new(link.as_str(), vxlan.vni)
        .port(vxlan.port)
        // Where a guest is, is learnt from the packets that it sends.
        .learning(true);
    message = match vxlan.local {
        IpAddr::V4(v4) => message.local(v4),
        IpAddr::V6(v6) => message.local6(v6),
    };
    message = match by {
        Some((IpAddr::V4(v4), nic)) => message.group(v4).dev(nic),
        Some((IpAddr::V6(v6), nic)) => message.group6(v6).dev(nic),
        None => message,
    };
    message.link_group(GROUP).mtu(spec.mtu.bytes()).build()
}

/// What has a VXLAN send to another node what is for everybody.
fn remote_entry(index: u32, remote: IpAddr) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = index;
    entry.header.state = NeighbourState::Permanent;
    // The VXLAN's own table, not that of the bridge it is plugged into.
    entry.header.flags = NeighbourFlags::Own;
    let address = match remote {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    entry.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(ANYBODY.to_vec()),
        NeighbourAttribute::Destination(address),
    ];
    entry
}

/// Through /proc because netlink can read this setting but not write it.
async fn disable_ipv6(link: &LinkName) -> io::Result<()> {
    let setting: PathBuf =
        ["/proc/sys/net/ipv6/conf", link.as_str(), "disable_ipv6"].iter().collect();
    match tokio::fs::write(&setting, "1").await {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn was_overtaken(change: &Change, error: &io::Error) -> bool {
    let created_by_another = change.makes() && error.kind() == io::ErrorKind::AlreadyExists;
    created_by_another || is_gone(error)
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::Error::ENODEV as i32)
}

async fn collect<T>(stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Vec<T>> {
    deadline(stream.try_collect()).await
}

async fn deadline<T>(call: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(into_io),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the kernel did not answer in {DEADLINE:?}"),
        )),
    }
}

/// The kernel's errno where there is one; nothing of rtnetlink leaves this file.
fn into_io(error: rtnetlink::Error) -> io::Error {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all others are faults of the exchange itself"
    )]
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
