//! A network in memory, for tests of what uses one: the same plans over links that do not exist.
//!
//! It keeps what it is told, and fails when it is told to, before or part of the way through a
//! change.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::plan::{self, Change, GROUP, Ipv6, Link, LinkKind, LinkPower, Removal, Tunnel};
use super::{
    BridgeSpec, BridgeState, Ensured, Flood, LinkName, Mtu, Network, NetworkError, Removed, Vxlan,
};

/// The calls of a [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkCall {
    /// [`Network::ensure_bridge`]
    EnsureBridge,
    /// [`Network::remove_bridge`]
    RemoveBridge,
    /// [`Network::room`]
    Room,
    /// [`Network::observe`]
    Observe,
    /// [`Network::remove_tap`]
    RemoveTap,
}

/// A node's links, in memory. Clones are the same node.
#[derive(Debug, Clone, Default)]
pub struct FakeNetwork {
    world: Arc<Mutex<World>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct World {
    links: Vec<Link>,
    last_index: u32,
    failures: VecDeque<(NetworkCall, Failure)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    AtOnce,
    /// After so many changes were made.
    After(usize),
}

impl FakeNetwork {
    /// A node without links.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next such call fails and changes nothing.
    pub fn fail_next(&self, call: NetworkCall) {
        self.world().failures.push_back((call, Failure::AtOnce));
    }

    /// The next [`Network::ensure_bridge`] fails after it made so many changes.
    pub fn fail_next_ensure_after(&self, changes: usize) {
        self.world().failures.push_back((NetworkCall::EnsureBridge, Failure::After(changes)));
    }

    /// A NIC, up, with an MTU of 9000 and no address.
    pub fn add_nic(&self, name: &LinkName) {
        self.world().add(name, LinkKind::Other, 9000);
    }

    /// Somebody removes a link, and the kernel tells.
    pub fn lose(&self, name: &str) {
        self.world().links.retain(|link| link.name != name);
        self.changed.notify_one();
    }

    /// A NIC as of [`add_nic`](Self::add_nic), with an address of the node.
    pub fn add_nic_at(&self, name: &LinkName, address: std::net::IpAddr) {
        self.world().add(name, LinkKind::Other, 9000).addresses.push(address);
    }

    /// The names of all links, sorted.
    pub fn links(&self) -> Vec<String> {
        let mut names: Vec<String> = self.world().links.iter().map(|l| l.name.clone()).collect();
        names.sort();
        names
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A test that panicked elsewhere must not hide its message behind this lock's.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn add(&mut self, name: &LinkName, kind: LinkKind, mtu: u32) -> &mut Link {
        self.last_index += 1;
        self.links.retain(|link| link.name != name.as_str());
        self.links.push(Link {
            index: self.last_index,
            name: name.to_string(),
            kind,
            power: LinkPower::Up,
            mtu,
            controller: None,
            alias: None,
            group: 0,
            carrier: false,
            ipv6: Ipv6::Spoken,
            addresses: Vec::new(),
            remotes: Vec::new(),
        });
        let last = self.links.len() - 1;
        &mut self.links[last]
    }

    fn find(&mut self, name: &str) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.name == name)
    }

    fn failure(&mut self, call: NetworkCall) -> Option<Failure> {
        let position = self.failures.iter().position(|(failing, _)| *failing == call)?;
        self.failures.remove(position).map(|(_, failure)| failure)
    }

    fn index_of(&mut self, name: &LinkName) -> Option<u32> {
        self.find(name.as_str()).map(|link| link.index)
    }

    fn born(&mut self, name: &LinkName, kind: LinkKind, mtu: u32) {
        let link = self.add(name, kind, mtu);
        link.power = LinkPower::Down;
        link.group = GROUP;
    }

    fn apply(&mut self, spec: &BridgeSpec, change: &Change) {
        let mtu = spec.mtu.bytes();
        let bridge = self.index_of(&spec.bridge);
        match change {
            Change::Create => self.born(&spec.bridge, LinkKind::Bridge, mtu - 1),
            Change::CreateVlan { link, vlan } => {
                let on = self.index_of(&vlan.nic).unwrap_or_default();
                self.born(link, LinkKind::Vlan { on, id: vlan.id.number() }, mtu);
            }
            Change::CreateVxlan { link, vxlan } => {
                let (group, by) = match &vxlan.flood {
                    Flood::Remotes(_) => (None, None),
                    Flood::Group { group, nic } => (Some(*group), self.index_of(nic)),
                };
                let Vxlan { vni, port, local, .. } = *vxlan;
                let tunnel = Tunnel { vni, port, local: Some(local), group, by };
                self.born(link, LinkKind::Vxlan(tunnel), mtu);
            }
            Change::Remove { index, .. } => self.links.retain(|link| link.index != *index),
            Change::Mark { link, alias } => self.set(link, |link| link.alias = Some(alias.clone())),
            Change::DisableIpv6 { link } => self.set(link, |link| link.ipv6 = Ipv6::Disabled),
            Change::Plug { link } => self.set(link, |link| link.controller = bridge),
            Change::SetMtu { link, mtu } => self.set(link, |link| link.mtu = mtu.bytes()),
            Change::Raise { link } => self.set(link, |link| link.power = LinkPower::Up),
            Change::AddRemote { link, remote } => self.set(link, |link| link.remotes.push(*remote)),
            Change::DropRemote { link, remote } => {
                self.set(link, |link| link.remotes.retain(|there| there != remote));
            }
        }
    }

    fn set(&mut self, name: &LinkName, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.find(name.as_str()) {
            change(link);
        }
    }

    fn carry_out(&mut self, removal: Removal) -> Removed {
        match removal {
            Removal::NothingThere => Removed::AlreadyGone,
            Removal::NotOurs => Removed::NotOurs,
            Removal::Delete(indexes) => {
                self.links.retain(|link| !indexes.contains(&link.index));
                for link in &mut self.links {
                    link.controller = link.controller.filter(|index| !indexes.contains(index));
                }
                Removed::Removed
            }
        }
    }
}

fn told_to_fail() -> io::Error {
    io::Error::other("the fake was told to fail")
}

impl Network for FakeNetwork {
    async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<Ensured, NetworkError> {
        let mut world = self.world();
        let failure = world.failure(NetworkCall::EnsureBridge);
        let changes = plan::ensure(spec, &world.links)?;
        let ensured = if changes.contains(&Change::Create) {
            Ensured::Created
        } else {
            Ensured::AlreadyThere
        };
        let stops_at = match failure {
            None => None,
            Some(Failure::AtOnce) => Some(0),
            Some(Failure::After(made)) => Some(made),
        };
        let stopped = |change| NetworkError::Apply {
            bridge: spec.bridge.to_string(),
            change,
            source: told_to_fail(),
        };
        for (made, change) in changes.into_iter().enumerate() {
            if stops_at == Some(made) {
                return Err(stopped(change));
            }
            world.apply(spec, &change);
        }
        match failure {
            None => Ok(ensured),
            // Nothing was left to change, or fewer changes than it should fail after.
            Some(Failure::AtOnce | Failure::After(_)) => {
                Err(stopped(Change::Raise { link: spec.bridge.clone() }))
            }
        }
    }

    async fn remove_bridge(&self, spec: &BridgeSpec) -> Result<Removed, NetworkError> {
        let mut world = self.world();
        if world.failure(NetworkCall::RemoveBridge).is_some() {
            let link = spec.bridge.to_string();
            return Err(NetworkError::Remove { link, source: told_to_fail() });
        }
        let removal = plan::remove(spec, &world.links)?;
        Ok(world.carry_out(removal))
    }

    async fn room(&self, vxlan: &Vxlan) -> Result<Mtu, NetworkError> {
        let mut world = self.world();
        if world.failure(NetworkCall::Room).is_some() {
            return Err(NetworkError::List { what: "links", source: told_to_fail() });
        }
        Ok(plan::room(vxlan, &world.links)?)
    }

    async fn observe(&self, specs: &[BridgeSpec]) -> Result<Vec<BridgeState>, NetworkError> {
        let mut world = self.world();
        if world.failure(NetworkCall::Observe).is_some() {
            return Err(NetworkError::List { what: "links", source: told_to_fail() });
        }
        Ok(specs.iter().map(|spec| plan::observe(spec, &world.links)).collect())
    }

    async fn plug_taps(
        &self,
        taps: &[(LinkName, LinkName)],
    ) -> Result<Vec<LinkName>, NetworkError> {
        let mut world = self.world();
        let mut plugged = Vec::new();
        for (tap, bridge) in taps {
            let Some(index) = plan::plug_tap(tap, bridge, &world.links) else { continue };
            if let Some(link) = world.find(tap.as_str()) {
                link.controller = Some(index);
                plugged.push(tap.clone());
            }
        }
        Ok(plugged)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn remove_tap(&self, tap: &LinkName) -> Result<Removed, NetworkError> {
        let mut world = self.world();
        if world.failure(NetworkCall::RemoveTap).is_some() {
            let link = tap.to_string();
            return Err(NetworkError::Remove { link, source: told_to_fail() });
        }
        let removal = plan::remove_tap(tap, &world.links)?;
        Ok(world.carry_out(removal))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mtu, bridge_name};
    use super::*;

    #[tokio::test]
    async fn an_ensure_that_failed_half_way_is_finished_by_a_repeat() {
        let network = FakeNetwork::new();
        let spec = BridgeSpec {
            bridge: bridge_name(&"lan".parse().unwrap()),
            network: "lan".parse().unwrap(),
            uplink: super::super::Uplink::None,
            mtu: Mtu::ETHERNET,
        };
        network.fail_next_ensure_after(1);
        assert!(network.ensure_bridge(&spec).await.is_err());
        assert_eq!(network.links(), ["br-lan"]);
        assert_eq!(network.ensure_bridge(&spec).await.unwrap(), Ensured::AlreadyThere);
        assert_eq!(
            network.observe(std::slice::from_ref(&spec)).await.unwrap()[0].condition,
            super::super::Condition::Good
        );
        assert_eq!(network.remove_bridge(&spec).await.unwrap(), Removed::Removed);
        assert_eq!(network.remove_bridge(&spec).await.unwrap(), Removed::AlreadyGone);
    }
}
