//! Answers about ports.

use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::port::{Binding, Dropped, List, Port, Stats, Status};
use ostler_protocol::rpc::values::{InstanceId, PortId};

use super::Reads;
use super::select::{fits, no_instance};
use crate::compute::outside::Outside;
use crate::compute::registry::Known;
use crate::compute::wires::Wires;
use crate::journal::records::PortRecord;
use crate::network::{filter, tap_name};
use crate::refusal::{Action, Reason, Refusal};

impl<O: Outside> Reads<O> {
    /// `port.show`
    ///
    /// # Errors
    /// There is no such port.
    pub fn port(&self, id: PortId) -> Result<Port, Refusal> {
        let known = self.registry.lock();
        let record = known.ports.get(&id).ok_or_else(|| no_port(id))?;
        Ok(view(&known, record))
    }

    /// `port.list`
    ///
    /// # Errors
    /// There is no port that is the marker.
    pub fn ports(&self, filter: &List) -> Result<Vec<Port>, Refusal> {
        let known = self.registry.lock();
        let wanted = |record: &&PortRecord| {
            filter.name.as_ref().is_none_or(|name| fits(name, record.name.as_str()))
                && filter.network.as_ref().is_none_or(|network| record.network == *network)
                && filter.owner.as_ref().is_none_or(|owner| record.owner.as_ref() == Some(owner))
        };
        let mut found: Vec<&PortRecord> = known.ports.values().filter(wanted).collect();
        found.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        if let Some(marker) = filter.marker {
            let last = known.ports.get(&marker).ok_or_else(|| no_port(marker))?;
            found.retain(|record| (&record.name, record.id) > (&last.name, last.id));
        }
        let most = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let is_of = |port: &Port| {
            let has = port.binding.as_ref().map(|binding| binding.instance);
            filter.instance.is_none_or(|wanted| has == Some(wanted))
                && filter.status.is_none_or(|wanted| port.status == wanted)
        };
        let ports = found.into_iter().map(|record| view(&known, record));
        Ok(ports.filter(is_of).take(most).collect())
    }

    /// `port.stats`
    ///
    /// # Errors
    /// There is no such port, or the rules cannot be read.
    pub async fn port_stats(&self, id: PortId) -> Result<Stats, Refusal> {
        self.port(id)?;
        let dropped = self.node.wires.dropped(id).await?;
        let told =
            |d: filter::Dropped| Dropped { reason: d.reason, packets: d.packets, bytes: d.bytes };
        Ok(Stats { dropped: dropped.into_iter().map(told).collect() })
    }

    /// `instance.list_interfaces`
    ///
    /// # Errors
    /// There is no such instance.
    pub fn interfaces(&self, id: InstanceId) -> Result<Vec<Port>, Refusal> {
        let known = self.registry.lock();
        let record = known.instances.get(&id).ok_or_else(|| no_instance(id))?;
        let ports = record.ports.iter().filter_map(|there| known.ports.get(&there.id));
        Ok(ports.map(|port| view(&known, port)).collect())
    }
}

fn view(known: &Known, record: &PortRecord) -> Port {
    let user = known.user_of_port(record.id);
    let operation = known.at_port(record.id).map(|operation| operation.id);
    let runs = user.is_some_and(|(instance, _)| {
        matches!(known.observed(instance.id).power, PowerState::Running | PowerState::Paused)
    });
    Port {
        id: record.id,
        name: record.name.clone(),
        status: match (operation, runs) {
            (Some(_), _) => Status::Build,
            (None, true) => Status::Active,
            (None, false) => Status::Down,
        },
        network: record.network.clone(),
        mac: record.mac,
        fixed_ips: record.fixed_ips.clone(),
        allowed_address_pairs: record.allowed_address_pairs.clone(),
        port_security: record.port_security,
        binding: user
            .map(|(instance, _)| Binding { instance: instance.id, name: instance.name.clone() }),
        delete_on_termination: user.is_some_and(|(_, interface)| !interface.kept),
        tap: tap_name(record.id).as_str().to_owned(),
        owner: record.owner.clone(),
        operation,
        created: record.created,
        updated: record.updated,
    }
}

fn no_port(id: PortId) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no port {id}"))
        .about(format!("port {id}"))
        .next("see which there are")
        .by(Action::PortList)
}
