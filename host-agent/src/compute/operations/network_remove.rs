//! Network removal: forget a network that no instance is on, and remove its bridge if the agent
//! made it.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::operation::{State, Subject};
use ostler_protocol::rpc::values::Name;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Traits, sample};
use crate::compute::gate::{Admitted, Gate, Reservation};
use crate::compute::registry::{Registry, Volatile};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, NetworkRecord, Running};
use crate::journal::{Entry, Write};

pub(super) const TRAITS: Traits = BRIEF;

/// Forget a network, and remove its bridge if it is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct NetworkRemove {
    /// As it was.
    pub(in crate::compute) network: NetworkRecord,
}

pub(super) fn ask(name: Name, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let subject = Subject::Network(name.clone());
    gate.idle(&subject)?;
    let Some(network) = gate.registry.networks.get(&name).cloned() else {
        return Err(Fault::new(Reason::NotFound, format!("there is no network {name}"))
            .about(subject.to_string())
            .next("see ostler network list"));
    };
    is_unused(gate.registry, &name)?;
    Ok(Admitted {
        subject,
        change: NetworkRemove { network }.into(),
        volatile: Volatile::default(),
        was: Running::No,
        to_do: true,
        undo: Reservation::None,
        write: Write::default(),
    })
}

/// Whether no instance has a port on a network.
///
/// # Errors
/// `in_use`.
pub(in crate::compute) fn is_unused(registry: &Registry, name: &Name) -> Result<(), Fault> {
    let has_port = |instance: &&InstanceRecord| {
        instance.vm_state != VmState::Deleted
            && instance.ports.iter().any(|port| port.network == *name)
    };
    let users: Vec<_> = registry.instances.values().filter(has_port).collect();
    let Some(first) = users.first() else { return Ok(()) };
    let text = format!("network {name} is in use by instances: {}", users.len());
    Err(Fault::new(Reason::InUse, text)
        .about(Subject::Network(name.clone()).to_string())
        .next(format!("delete them first, such as {}: ostler instance list", first.id)))
}

pub(super) fn samples() -> Vec<Change> {
    vec![NetworkRemove { network: sample::network() }.into()]
}

impl Describe for NetworkRemove {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::RemoveBridge]
    }

    fn settle(&self, _: &Subject, state: State, _: &mut Registry, write: &mut Write) {
        // The registry does without it since the step was done.
        if state == State::Succeeded {
            write.network = Some(Entry::Gone(self.network.name.clone()));
        }
    }
}
