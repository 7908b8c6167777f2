//! Carries out plans by rtnetlink: the only user of that crate.
//!
//! Each call reads the node's links in one dump, plans, and applies the changes in order. When a
//! bridge appears between the look and the making (EEXIST), it looks and plans again: what is
//! there now may be ours from an earlier try, or somebody else's.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tracing::info;

use super::changes::Changes;
use super::plan::{self, Change, GROUP, Ipv6, Link, LinkKind, LinkPower, Removal};
use super::{BridgeSpec, BridgeState, Ensured, LinkName, Network, NetworkError, Removed};

/// The kernel answers in microseconds; what takes longer is stuck behind somebody's lock.
const DEADLINE: Duration = Duration::from_secs(10);

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
        let mut links: Vec<Link> = messages.into_iter().filter_map(link).collect();
        for (index, address) in addresses.into_iter().filter_map(address) {
            if let Some(link) = links.iter_mut().find(|link| link.index == index) {
                link.addresses.push(address);
            }
        }
        Ok(links)
    }

    async fn apply(&self, spec: &BridgeSpec, change: &Change) -> Result<(), io::Error> {
        let bridge = || LinkUnspec::new_with_name(spec.bridge.as_str());
        match change {
            Change::Create => deadline(self.handle.link().add(new_bridge(spec)).execute()).await,
            Change::Mark { alias } => self.set(bridge().alias(alias)).await,
            Change::DisableIpv6 => disable_ipv6(&spec.bridge).await,
            Change::PlugUplink { nic } => {
                let index = self.index_of(&spec.bridge).await?;
                self.set(LinkUnspec::new_with_name(nic.as_str()).controller(index)).await
            }
            Change::RaiseUplink { nic } => {
                self.set(LinkUnspec::new_with_name(nic.as_str()).up()).await
            }
            Change::SetMtu { mtu } => self.set(bridge().mtu(mtu.bytes())).await,
            Change::RaiseBridge => self.set(bridge().up()).await,
        }
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
        let index = match removal {
            Removal::NothingThere => return Ok(Removed::AlreadyGone),
            Removal::NotOurs => return Ok(Removed::NotOurs),
            Removal::Delete { index } => index,
        };
        match deadline(self.handle.link().del(index).execute()).await {
            Ok(()) => {
                info!(%link, "link removed");
                Ok(Removed::Removed)
            }
            Err(error) if is_gone(&error) => Ok(Removed::AlreadyGone),
            Err(source) => Err(NetworkError::Remove { link: link.to_string(), source }),
        }
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

    async fn observe(&self, specs: &[BridgeSpec]) -> Result<Vec<BridgeState>, NetworkError> {
        let links = self.links().await?;
        Ok(specs.iter().map(|spec| plan::observe(spec, &links)).collect())
    }

    async fn plug_tap(&self, tap: &LinkName, bridge: &LinkName) -> Result<bool, NetworkError> {
        let links = self.links().await?;
        let Some(index) = plan::plug_tap(tap, bridge, &links) else { return Ok(false) };
        match self.set(LinkUnspec::new_with_name(tap.as_str()).controller(index)).await {
            Ok(()) => Ok(true),
            // Its guest has just gone.
            Err(error) if is_gone(&error) => Ok(false),
            Err(source) => Err(NetworkError::Plug { tap: tap.to_string(), source }),
        }
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
    let created_by_another =
        *change == Change::Create && error.kind() == io::ErrorKind::AlreadyExists;
    created_by_another || is_gone(error)
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::Error::ENODEV as i32)
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        power: LinkPower::Down,
        mtu: 0,
        controller: None,
        alias: None,
        group: 0,
        carrier: false,
        ipv6: Ipv6::Disabled,
        addresses: Vec::new(),
    };
    if message.header.flags.contains(LinkFlags::Up) {
        link.power = LinkPower::Up;
    }
    for attribute in message.attributes {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel's list grows")]
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) if index != 0 => link.controller = Some(index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
            LinkAttribute::LinkInfo(infos) => link.kind = kind(&infos),
            LinkAttribute::AfSpecUnspec(specs) => link.ipv6 = ipv6(&specs),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    let is =
        |wanted| infos.iter().any(|info| matches!(info, LinkInfo::Kind(kind) if *kind == wanted));
    if is(InfoKind::Bridge) {
        LinkKind::Bridge
    } else if is(InfoKind::Tun) {
        LinkKind::Tun
    } else {
        LinkKind::Other
    }
}

fn ipv6(specs: &[AfSpecUnspec]) -> Ipv6 {
    let spoken = specs.iter().any(|spec| match spec {
        AfSpecUnspec::Inet6(items) => items
            .iter()
            .any(|item| matches!(item, AfSpecInet6::DevConf(conf) if conf.disable_ipv6 == 0)),
        AfSpecUnspec::Inet(_) | _ => false,
    });
    if spoken { Ipv6::Spoken } else { Ipv6::Disabled }
}

fn address(message: AddressMessage) -> Option<(u32, IpAddr)> {
    // A point-to-point link has both; `Local` is the node's own.
    let pick = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let local = pick(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let plain = pick(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    let address = local.or(plain)?;
    let link_local = match address {
        // 169.254/16 may be the node's real address (BGP unnumbered, zeroconf): it counts.
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => {
            message.header.family == AddressFamily::Inet6 && v6.is_unicast_link_local()
        }
    };
    (!link_local).then_some((message.header.index, address))
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::LinkVeth;

    use super::super::{Condition, Mtu, Refusal, Uplink};
    use super::*;

    /// Runs a test on the real kernel, in a network namespace that ends with it.
    fn in_own_namespace<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: a network namespace needs root ({errno})");
                return;
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { test(Netlink::open().unwrap()).await });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn spec(uplink: Uplink) -> BridgeSpec {
        BridgeSpec {
            bridge: "br-lan".parse().unwrap(),
            network: "lan".parse().unwrap(),
            uplink,
            mtu: Mtu::ETHERNET,
        }
    }

    fn nic(name: &str) -> Uplink {
        Uplink::Nic(name.parse().unwrap())
    }

    /// One end of a veth pair: with both ends up it has a carrier, as a NIC with a cable.
    async fn add_nic(net: &Netlink, name: &str, mtu: u32) -> u32 {
        let peer = format!("{name}-peer");
        net.handle.link().add(LinkVeth::new(name, &peer).build()).execute().await.unwrap();
        net.set(LinkUnspec::new_with_name(&peer).up()).await.unwrap();
        net.set(LinkUnspec::new_with_name(name).mtu(mtu).up()).await.unwrap();
        find(net, name).await.index
    }

    async fn find(net: &Netlink, name: &str) -> Link {
        net.links().await.unwrap().into_iter().find(|link| link.name == name).unwrap()
    }

    async fn plug(net: &Netlink, name: &str, bridge: &str) {
        let index = find(net, bridge).await.index;
        net.set(LinkUnspec::new_with_name(name).controller(index)).await.unwrap();
    }

    fn ip(arguments: &[&str]) {
        #[expect(clippy::disallowed_methods, reason = "a tap cannot be made by netlink")]
        let status = std::process::Command::new("ip").args(arguments).status().unwrap();
        assert!(status.success(), "ip {arguments:?}");
    }

    #[test]
    fn a_bridge_is_made_marked_and_sealed_once() {
        in_own_namespace(|net| async move {
            let spec = spec(Uplink::None);
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::Created);
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
            let bridge = find(&net, "br-lan").await;
            assert_eq!(bridge.alias.as_deref(), Some("ostler:lan"));
            assert_eq!((bridge.group, bridge.mtu), (GROUP, 1500));
            assert_eq!((bridge.power, bridge.ipv6), (LinkPower::Up, Ipv6::Disabled));
            assert_eq!(bridge.kind, LinkKind::Bridge);
            let state = &net.observe(std::slice::from_ref(&spec)).await.unwrap()[0];
            assert_eq!(state.condition, Condition::Good);
            assert_eq!(net.remove_bridge(&spec).await.unwrap(), Removed::Removed);
            assert_eq!(net.remove_bridge(&spec).await.unwrap(), Removed::AlreadyGone);
        });
    }

    #[test]
    fn a_bridge_of_ours_has_no_address_even_with_a_live_port() {
        in_own_namespace(|net| async move {
            add_nic(&net, "eth9", 1500).await;
            net.ensure_bridge(&spec(nic("eth9"))).await.unwrap();
            let index = find(&net, "br-lan").await.index;
            let addresses = collect(net.handle.address().get().execute()).await.unwrap();
            assert!(addresses.iter().all(|address| address.header.index != index));
        });
    }

    #[test]
    fn an_uplink_is_plugged_raised_and_let_go() {
        in_own_namespace(|net| async move {
            add_nic(&net, "eth9", 9000).await;
            net.set(LinkUnspec::new_with_name("eth9").down()).await.unwrap();
            let spec = spec(nic("eth9"));
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::Created);
            let (bridge, uplink) = (find(&net, "br-lan").await, find(&net, "eth9").await);
            assert_eq!(uplink.controller, Some(bridge.index));
            assert_eq!(uplink.power, LinkPower::Up);
            assert_eq!(bridge.mtu, 1500, "the network's MTU, not the uplink's");
            assert_eq!(net.remove_bridge(&spec).await.unwrap(), Removed::Removed);
            assert_eq!(find(&net, "eth9").await.controller, None);
        });
    }

    #[test]
    fn the_mtu_stays_when_a_smaller_port_joins() {
        in_own_namespace(|net| async move {
            net.ensure_bridge(&spec(Uplink::None)).await.unwrap();
            add_nic(&net, "small", 1280).await;
            plug(&net, "small", "br-lan").await;
            assert_eq!(find(&net, "br-lan").await.mtu, 1500);
        });
    }

    #[test]
    fn an_uplink_with_an_address_is_refused_and_nothing_is_made() {
        in_own_namespace(|net| async move {
            let index = add_nic(&net, "eth9", 1500).await;
            let address = Ipv4Addr::new(192, 0, 2, 1);
            net.handle.address().add(index, address.into(), 24).execute().await.unwrap();
            let refused = net.ensure_bridge(&spec(nic("eth9"))).await.unwrap_err();
            assert!(matches!(refused, NetworkError::Refused(Refusal::UplinkInUse { .. })));
            assert!(net.links().await.unwrap().iter().all(|link| link.name != "br-lan"));
        });
    }

    #[test]
    fn a_foreign_bridge_and_its_ports_are_left_alone() {
        in_own_namespace(|net| async move {
            let bridge = LinkBridge::new("br-lan").build();
            net.handle.link().add(bridge).execute().await.unwrap();
            add_nic(&net, "theirs", 1500).await;
            plug(&net, "theirs", "br-lan").await;
            let before = find(&net, "br-lan").await;
            let spec = spec(Uplink::None);
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
            assert_eq!(net.remove_bridge(&spec).await.unwrap(), Removed::NotOurs);
            assert_eq!(find(&net, "br-lan").await, before);
            assert_eq!(find(&net, "theirs").await.controller, Some(before.index));
        });
    }

    #[test]
    fn a_bridge_without_its_alias_is_still_known_as_ours() {
        in_own_namespace(|net| async move {
            let spec = spec(Uplink::None);
            net.apply(&spec, &Change::Create).await.unwrap();
            assert_eq!(find(&net, "br-lan").await.alias, None);
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
            assert_eq!(find(&net, "br-lan").await.alias.as_deref(), Some("ostler:lan"));
        });
    }

    #[test]
    fn losing_the_race_to_create_is_told_apart_from_failing() {
        in_own_namespace(|net| async move {
            let spec = spec(Uplink::None);
            net.apply(&spec, &Change::Create).await.unwrap();
            let error = net.apply(&spec, &Change::Create).await.unwrap_err();
            assert!(was_overtaken(&Change::Create, &error), "{error:?}");
        });
    }

    #[test]
    fn a_bridge_with_a_foreign_port_stays() {
        in_own_namespace(|net| async move {
            let spec = spec(Uplink::None);
            net.ensure_bridge(&spec).await.unwrap();
            add_nic(&net, "theirs", 1500).await;
            plug(&net, "theirs", "br-lan").await;
            let refused = net.remove_bridge(&spec).await.unwrap_err();
            assert!(matches!(refused, NetworkError::Refused(Refusal::HasPorts { .. })));
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
        });
    }

    #[test]
    fn a_tap_left_behind_is_removed_once() {
        in_own_namespace(|net| async move {
            if !std::path::Path::new("/dev/net/tun").exists() {
                println!("skipped: this kernel has no /dev/net/tun");
                return;
            }
            net.ensure_bridge(&spec(Uplink::None)).await.unwrap();
            let name = "tap0f8fad5bd9c";
            ip(&["tuntap", "add", name, "mode", "tap"]);
            plug(&net, name, "br-lan").await;
            let tap = name.parse().unwrap();
            assert_eq!(net.remove_tap(&tap).await.unwrap(), Removed::Removed);
            assert_eq!(net.remove_tap(&tap).await.unwrap(), Removed::AlreadyGone);
        });
    }
}
