//! Plans carried out by the real kernel, in network namespaces of their own.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkVeth;

use super::super::plan::{Ipv6, LinkPower};
use super::super::{Condition, Flood, Mtu, Refusal, Uplink, Vlan, VlanId, Vxlan};
use super::*;

/// Runs a test on the real kernel, in a network namespace that ends with it.
fn in_own_namespace<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: a network namespace needs root ({errno})");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
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

fn vlan(nic: &str, id: u16) -> Uplink {
    Uplink::Vlan(Vlan { nic: nic.parse().unwrap(), id: VlanId::new(id).unwrap() })
}

fn tunnel(vni: u32, local: &str, remotes: &[&str]) -> Vxlan {
    let remotes = remotes.iter().map(|remote| remote.parse().unwrap()).collect();
    Vxlan::new(vni, 4789, local.parse().unwrap(), Flood::Remotes(remotes)).unwrap()
}

fn network(name: &str, uplink: Uplink, mtu: u32) -> BridgeSpec {
    let (bridge, network) = (format!("br-{name}").parse().unwrap(), name.parse().unwrap());
    BridgeSpec { bridge, network, uplink, mtu: Mtu::new(mtu).unwrap() }
}

/// Whether the kernel has this kind of link; says so if not.
fn kernel_has(kind: &str, more: &[&str]) -> bool {
    #[expect(clippy::disallowed_methods, reason = "the kernel's answer is all that is asked for")]
    let mut ip = std::process::Command::new("ip");
    let has = ip.args(["link", "add", "probe"]).args(more).args(["type", kind]);
    let has = if kind == "vlan" { has.args(["id", "4000"]) } else { has };
    if !has.status().unwrap().success() {
        println!("skipped: this kernel has no links of the kind {kind}");
        return false;
    }
    ip_del("probe");
    true
}

fn ip_del(link: &str) {
    ip(&["link", "delete", link]);
}

#[test]
fn a_vlan_is_made_marked_sealed_and_goes_with_its_network() {
    in_own_namespace(|net| async move {
        let index = add_nic(&net, "eth9", 1500).await;
        if !kernel_has("vlan", &["link", "eth9"]) {
            return;
        }
        let address = Ipv4Addr::new(192, 0, 2, 1);
        net.handle.address().add(index, address.into(), 24).execute().await.unwrap();
        let before = find(&net, "eth9").await;
        let spec = spec(vlan("eth9", 100));
        assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::Created);
        assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
        let (bridge, made) = (find(&net, "br-lan").await, find(&net, "eth9.100").await);
        assert_eq!(made.kind, LinkKind::Vlan { on: index, id: 100 });
        assert_eq!((made.alias.as_deref(), made.group), (Some("ostler:lan"), GROUP));
        assert_eq!((made.controller, made.ipv6), (Some(bridge.index), Ipv6::Disabled));
        let state = &net.observe(std::slice::from_ref(&spec)).await.unwrap()[0];
        assert_eq!(state.condition, Condition::Good);
        assert_eq!(net.remove_bridge(&spec).await.unwrap(), Removed::Removed);
        assert_eq!(net.remove_bridge(&spec).await.unwrap(), Removed::AlreadyGone);
        assert_eq!(net.links().await.unwrap().iter().filter(|l| l.group == GROUP).count(), 0);
        assert_eq!(find(&net, "eth9").await, before);
    });
}

#[test]
fn a_vlan_of_others_is_found_by_its_number_and_left_alone() {
    in_own_namespace(|net| async move {
        add_nic(&net, "eth9", 1500).await;
        if !kernel_has("vlan", &["link", "eth9"]) {
            return;
        }
        ip(&["link", "add", "link", "eth9", "theirs", "type", "vlan", "id", "100"]);
        let refused = net.ensure_bridge(&spec(vlan("eth9", 100))).await.unwrap_err();
        let is_named = |refusal: &Refusal| matches!(refusal, Refusal::ForeignVlan { link, .. } if link == "theirs");
        assert!(matches!(&refused, NetworkError::Refused(refusal) if is_named(refusal)));
        let spec = spec(nic("theirs"));
        net.ensure_bridge(&spec).await.unwrap();
        net.remove_bridge(&spec).await.unwrap();
        assert_eq!(find(&net, "theirs").await.controller, None);
    });
}

#[test]
fn a_bond_is_an_uplink_and_its_members_are_none() {
    in_own_namespace(|net| async move {
        if !kernel_has("bond", &[]) {
            return;
        }
        add_nic(&net, "eth9", 1500).await;
        ip(&["link", "add", "bond9", "type", "bond", "mode", "active-backup"]);
        net.set(LinkUnspec::new_with_name("eth9").down()).await.unwrap();
        plug(&net, "eth9", "bond9").await;
        let refused = net.ensure_bridge(&spec(nic("eth9"))).await.unwrap_err();
        let is_named = |refusal: &Refusal| matches!(refusal, Refusal::UplinkInBond { bond, .. } if bond == "bond9");
        assert!(matches!(&refused, NetworkError::Refused(refusal) if is_named(refusal)));
        let spec = spec(nic("bond9"));
        net.ensure_bridge(&spec).await.unwrap();
        let bridge = find(&net, "br-lan").await.index;
        assert_eq!(find(&net, "bond9").await.controller, Some(bridge));
        net.remove_bridge(&spec).await.unwrap();
        assert_eq!(find(&net, "bond9").await.controller, None);
        assert_eq!(find(&net, "eth9").await.controller, Some(find(&net, "bond9").await.index));
    });
}

#[test]
fn a_tunnel_is_changed_under_its_ports_and_goes_with_its_network() {
    in_own_namespace(|net| async move {
        let index = add_nic(&net, "eth9", 1500).await;
        let address = Ipv4Addr::new(10, 9, 0, 1);
        net.handle.address().add(index, address.into(), 24).execute().await.unwrap();
        let of = |vni, remotes: &[&str], mtu| {
            network("lan", Uplink::Vxlan(tunnel(vni, "10.9.0.1", remotes)), mtu)
        };
        let spec = of(7, &["10.9.0.2", "10.9.0.3"], 1450);
        assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::Created);
        assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
        let made = find(&net, "vxlan-7").await;
        assert_eq!((made.alias.as_deref(), made.group), (Some("ostler:lan"), GROUP));
        assert_eq!((made.mtu, made.ipv6), (1450, Ipv6::Disabled));
        assert_eq!(made.remotes.len(), 2);
        add_nic(&net, "guest", 1450).await;
        plug(&net, "guest", "br-lan").await;
        let guest = find(&net, "guest").await;

        let fewer = of(7, &["10.9.0.3"], 1400);
        net.ensure_bridge(&fewer).await.unwrap();
        let remade = find(&net, "vxlan-7").await;
        assert_eq!((remade.index, remade.mtu), (made.index, 1400));
        assert_eq!(remade.remotes, ["10.9.0.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(find(&net, "br-lan").await.mtu, 1400);
        let other = of(8, &["10.9.0.3"], 1450);
        net.ensure_bridge(&other).await.unwrap();
        assert!(net.links().await.unwrap().iter().all(|link| link.name != "vxlan-7"));
        assert_eq!(find(&net, "guest").await, guest, "a port of a guest is as it was");

        let too_much = of(8, &["10.9.0.3"], 1451);
        let refused = net.ensure_bridge(&too_much).await.unwrap_err();
        assert!(matches!(refused, NetworkError::Refused(Refusal::VxlanMtu { room: 1450, .. })));
        assert!(net.remove_bridge(&other).await.is_err(), "a guest is on it");
        assert_eq!(find(&net, "vxlan-8").await.controller, guest.controller);
        ip_del("guest");
        assert_eq!(net.remove_bridge(&other).await.unwrap(), Removed::Removed);
        assert_eq!(net.remove_bridge(&other).await.unwrap(), Removed::AlreadyGone);
        assert_eq!(net.links().await.unwrap().iter().filter(|l| l.group == GROUP).count(), 0);
    });
}

#[test]
fn a_tunnel_by_multicast_is_what_was_asked_for() {
    in_own_namespace(|net| async move {
        let index = add_nic(&net, "eth9", 1500).await;
        for (address, group) in [("10.9.0.1/24", "239.1.2.3"), ("2001:db8:9::1/64", "ff05::123")] {
            ip(&["address", "add", address, "dev", "eth9", "noprefixroute"]);
            let flood =
                Flood::Group { group: group.parse().unwrap(), nic: "eth9".parse().unwrap() };
            let local: IpAddr = address.split('/').next().unwrap().parse().unwrap();
            let tunnel = Vxlan::new(7, 4789, local, flood).unwrap();
            let spec = network("lan", Uplink::Vxlan(tunnel), 1400);
            net.ensure_bridge(&spec).await.unwrap();
            let LinkKind::Vxlan(made) = find(&net, "vxlan-7").await.kind else { panic!() };
            assert_eq!((made.group, made.by), (Some(group.parse().unwrap()), Some(index)));
            assert_eq!(net.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
            let state = &net.observe(std::slice::from_ref(&spec)).await.unwrap()[0];
            assert_eq!(state.condition, Condition::Good);
        }
    });
}

#[test]
fn a_tunnel_of_others_is_refused_and_named() {
    in_own_namespace(|net| async move {
        let index = add_nic(&net, "eth9", 1500).await;
        let address = Ipv4Addr::new(10, 9, 0, 1);
        net.handle.address().add(index, address.into(), 24).execute().await.unwrap();
        ip(&["link", "add", "theirs", "type", "vxlan", "id", "7", "dstport", "4789"]);
        let spec = network("lan", Uplink::Vxlan(tunnel(7, "10.9.0.1", &["10.9.0.2"])), 1450);
        let refused = net.ensure_bridge(&spec).await.unwrap_err();
        let is_named = |refusal: &Refusal| matches!(refusal, Refusal::ForeignVxlan { link, .. } if link == "theirs");
        assert!(matches!(&refused, NetworkError::Refused(refusal) if is_named(refusal)));
    });
}

type Job = Box<dyn FnOnce(&tokio::runtime::Runtime, &Netlink) + Send>;

/// A namespace that stands for a node: what is done in it is done by a thread of its own.
struct Node {
    jobs: mpsc::Sender<Job>,
    thread: i32,
}

impl Node {
    /// None without root.
    fn new() -> Option<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (made, is_made) = mpsc::channel();
        std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: a network namespace needs root ({errno})");
                return;
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let net = runtime.block_on(async { Netlink::open().unwrap() });
            made.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in todo {
                job(&runtime, &net);
            }
        });
        Some(Self { jobs, thread: is_made.recv().ok()? })
    }

    fn run<T: Send + 'static>(&self, job: impl AsyncFnOnce(&Netlink) -> T + Send + 'static) -> T {
        let (done, is_done) = mpsc::channel();
        let job: Job = Box::new(move |runtime, net| {
            done.send(runtime.block_on(job(net))).unwrap();
        });
        self.jobs.send(job).unwrap();
        is_done.recv().expect("a job panicked: see above")
    }

    /// Two of them, with a cable between: `eth0` in each, with these addresses.
    fn two(addresses: [&'static str; 2]) -> Option<[Self; 2]> {
        let nodes = [Self::new()?, Self::new()?];
        let other = nodes[1].thread.to_string();
        nodes[0].run(async move |_| {
            ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &other]);
        });
        for (node, address) in nodes.iter().zip(addresses) {
            node.run(async move |_| {
                // Usable at once: IPv6 would first ask whether somebody else has it.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["address", "add", address, "dev", "eth0"], nodad].concat());
                ip(&["link", "set", "eth0", "up"]);
            });
        }
        Some(nodes)
    }

    /// Make the network, and a guest on it with this address: the other end of a port, in a
    /// namespace of its own, so that the node does not take its frames for its own.
    fn guest(&self, spec: &BridgeSpec, address: &'static str) -> Guest {
        let guest = Self::new().unwrap();
        let (spec, its) = (spec.clone(), guest.thread.to_string());
        let mtu = spec.mtu.to_string();
        self.run({
            let mtu = mtu.clone();
            async move |net| {
                net.ensure_bridge(&spec).await.unwrap();
                let port = format!("port{}", find(net, spec.bridge.as_str()).await.index);
                let pair = ["type", "veth", "peer", "name", "eth0", "netns"];
                ip(&[&["link", "add", &port, "mtu", &mtu][..], &pair, &[&its]].concat());
                ip(&["link", "set", &port, "master", spec.bridge.as_str(), "up"]);
            }
        });
        guest.run(async move |_| {
            ip(&["link", "set", "eth0", "mtu", &mtu]);
            ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
            ip(&["link", "set", "eth0", "up"]);
        });
        let socket = guest.run(async move |_| UdpSocket::bind((address, 7000)).unwrap());
        Guest { _node: guest, socket }
    }

    /// How many packets were cut in pieces here.
    fn fragments(&self) -> String {
        self.run(async |_| {
            let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            let v4 = read("snmp").unwrap();
            let ip: Vec<&str> = v4.lines().filter(|line| line.starts_with("Ip:")).collect();
            let created = ip[0].split(' ').position(|name| name == "FragCreates").unwrap();
            let v4 = ip[1].split(' ').nth(created).unwrap().to_owned();
            let v6 = read("snmp6").unwrap();
            let v6 = v6.lines().find(|line| line.starts_with("Ip6FragCreates")).unwrap();
            format!("{v4} {}", v6.split_whitespace().last().unwrap())
        })
    }
}

struct Guest {
    _node: Node,
    socket: UdpSocket,
}

impl Guest {
    /// Whether a packet of this length, headers included, comes from one to the other.
    fn reaches(&self, other: &Self, length: usize, patience: Duration) -> bool {
        let payload = vec![7; length - 20 - 8];
        let deadline = std::time::Instant::now() + patience;
        let brief = Some(Duration::from_millis(200));
        other.socket.set_read_timeout(brief).unwrap();
        let to = other.socket.local_addr().unwrap();
        let mut got = vec![0; 65536];
        while std::time::Instant::now() < deadline {
            // A node that is not reached is told so at a later send.
            let _unreached = self.socket.send_to(&payload, to);
            if other.socket.recv(&mut got).is_ok_and(|n| n == payload.len()) {
                return true;
            }
        }
        false
    }
}

const SOON: Duration = Duration::from_secs(20);

fn frames_cross(addresses: [&'static str; 2], mtu: u32) {
    let Some(nodes) = Node::two(addresses) else { return };
    let ip = addresses.map(|address| address.split('/').next().unwrap());
    let spec = |n: usize| {
        let tunnel = tunnel(7, ip[n], &[ip[1 - n]]);
        let Ok(room) = nodes[n].run({
            let tunnel = tunnel.clone();
            async move |net| net.room(&tunnel).await
        }) else {
            panic!("the underlay was not found");
        };
        assert_eq!(room.bytes(), mtu);
        network("lan", Uplink::Vxlan(tunnel), mtu)
    };
    let a = nodes[0].guest(&spec(0), "192.0.2.1");
    let b = nodes[1].guest(&spec(1), "192.0.2.2");
    assert!(a.reaches(&b, mtu as usize, SOON) && b.reaches(&a, mtu as usize, SOON));
    assert_eq!((nodes[0].fragments(), nodes[1].fragments()), ("0 0".into(), "0 0".into()));
}

#[test]
fn frames_cross_a_tunnel_over_ipv4_whole_at_the_mtu_worked_out() {
    frames_cross(["10.9.0.1/24", "10.9.0.2/24"], 1450);
}

#[test]
fn frames_cross_a_tunnel_over_ipv6_whole_at_the_mtu_worked_out() {
    frames_cross(["2001:db8:9::1/64", "2001:db8:9::2/64"], 1430);
}

#[test]
fn two_vlans_of_one_cable_do_not_reach_each_other() {
    let Some(nodes) = Node::two(["10.9.0.1/24", "10.9.0.2/24"]) else { return };
    if !nodes[0].run(async |_| kernel_has("vlan", &["link", "eth0"])) {
        return;
    }
    let one = nodes[0].guest(&network("one", vlan("eth0", 100), 1500), "192.0.2.1");
    let peer = nodes[1].guest(&network("one", vlan("eth0", 100), 1500), "192.0.2.2");
    let other = nodes[1].guest(&network("two", vlan("eth0", 200), 1500), "192.0.2.3");
    let near = nodes[0].guest(&network("two", vlan("eth0", 200), 1500), "192.0.2.4");
    assert!(one.reaches(&peer, 1500, SOON) && other.reaches(&near, 1500, SOON));
    let brief = Duration::from_secs(2);
    assert!(!one.reaches(&other, 100, brief) && !one.reaches(&near, 100, brief));
    assert!(one.reaches(&peer, 1500, SOON), "while these still do");
}
