//! Network removal: forget a network that no instance is on, and remove its bridge if the agent
//! made it.

use super::prelude::*;
use super::sample;
use crate::compute::registry::Known;
use crate::journal::Entry;
use crate::journal::records::NetworkRecord;

/// Forget a network, and remove its bridge if it is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct NetworkRemove {
    /// As it was.
    pub(in crate::compute) network: NetworkRecord,
}

pub(super) fn ask(name: Name, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let subject = Subject::Network(name.clone());
    gate.idle(&subject)?;
    let Some(network) = gate.known.networks.get(&name).cloned() else {
        return Err(Refusal::new(Reason::NotFound, format!("there is no network {name}"))
            .about(subject.to_string())
            .next("see which there are")
            .by(Action::NetworkList));
    };
    is_unused(gate.known, &name)?;
    Ok(Admitted::of(subject, NetworkRemove { network }))
}

/// Whether no instance has a port on a network.
///
/// # Errors
/// `in_use`.
pub(in crate::compute) fn is_unused(known: &Known, name: &Name) -> Result<(), Refusal> {
    let has_port = |instance: &&InstanceRecord| {
        instance.vm_state != VmState::Deleted
            && instance.ports.iter().any(|port| port.network == *name)
    };
    let users: Vec<_> = known.instances.values().filter(has_port).collect();
    let Some(first) = users.first() else {
        return match known.ports.values().find(|port| port.network == *name) {
            None => Ok(()),
            Some(port) => {
                let text =
                    format!("network {name} has ports that nobody uses, such as {}", port.name);
                Err(Refusal::new(Reason::InUse, text)
                    .about(Subject::Network(name.clone()).to_string())
                    .next("delete them first")
                    .by(Action::PortList))
            }
        };
    };
    let text = format!("network {name} is in use by instances: {}", users.len());
    Err(Refusal::new(Reason::InUse, text)
        .about(Subject::Network(name.clone()).to_string())
        .next(format!("delete them first, such as {}", first.id))
        .by(Action::InstanceList))
}

pub(super) fn samples() -> Vec<Change> {
    vec![NetworkRemove { network: sample::network() }.into()]
}

impl Describe for NetworkRemove {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::RemoveBridge])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn network_after(&self, outcome: State) -> Option<Entry<NetworkRecord>> {
        // The registry does without it since the step was done.
        (outcome == State::Succeeded).then(|| Entry::Gone(self.network.name.clone()))
    }
}
