//! Image removal: give up an image's name, and with it the file, unless something else needs that.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::image::State as ImageState;
use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::operation::{State, Subject};
use ostler_protocol::rpc::values::Name;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Traits};
use crate::compute::gate::{Admitted, Gate, Reservation};
use crate::compute::registry::{Registry, Volatile};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};
use crate::journal::{Entry, Write};

pub(super) const TRAITS: Traits = BRIEF;

/// Remove the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct ImageRemove {}

pub(super) fn ask(name: Name, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let subject = Subject::Image(name.clone());
    gate.idle(&subject)?;
    let images = &gate.registry.images;
    if !images.contains_key(&name) {
        return Err(Fault::new(Reason::NotFound, format!("there is no image {name}"))
            .about(subject.to_string())
            .next("see ostler image list"));
    }
    if images[&name].state == ImageState::Importing {
        let text = format!("conflict: image {name} is being made");
        return Err(Fault::new(Reason::Conflict, text)
            .about(subject.to_string())
            .next("wait for it, or cancel what makes it: ostler operation list"));
    }
    // What is made from it does as well with another name of the same file.
    let users = if is_shared(gate.registry, &name) {
        shelved_as(gate.registry, &name)
    } else {
        users_of(gate.registry, &name)
    };
    if users > 0 {
        let text = format!("image {name} is in use by instances made from it: {users}");
        return Err(Fault::new(Reason::InUse, text)
            .about(subject.to_string())
            .next("delete them first: ostler instance list"));
    }
    Ok(Admitted {
        subject,
        change: ImageRemove {}.into(),
        volatile: Volatile::default(),
        was: Running::No,
        to_do: true,
        undo: Reservation::None,
        write: Write::default(),
    })
}

/// How many instances need an image: its file, or its name.
pub(in crate::compute) fn users_of(registry: &Registry, name: &Name) -> usize {
    let file = registry.images.get(name).and_then(|i| Some((i.sha256.clone()?, i.format)));
    let coming = |i: &InstanceRecord| {
        let under_way = registry.live.values().filter(|o| o.subject == Subject::Instance(i.id));
        let mut targets = under_way.filter_map(|o| registry.target(o));
        file.as_ref().is_some_and(|(sha256, format)| {
            i.needs(sha256, *format) || targets.any(|target| target.needs(sha256, *format))
        })
    };
    registry.instances.values().filter(|i| is_shelved_as(i, name) || coming(i)).count()
}

/// How many instances need an image by its name.
fn shelved_as(registry: &Registry, name: &Name) -> usize {
    registry.instances.values().filter(|i| is_shelved_as(i, name)).count()
}

/// Whether an image's file has another name, which nobody is removing.
fn is_shared(registry: &Registry, name: &Name) -> bool {
    let Some(image) = registry.images.get(name) else { return false };
    image.sha256.is_some()
        && registry.images.values().any(|other| {
            other.name != *name
                && (&other.sha256, other.format) == (&image.sha256, image.format)
                && registry.at_work(&Subject::Image(other.name.clone())).is_none()
        })
}

fn is_shelved_as(instance: &InstanceRecord, name: &Name) -> bool {
    instance.vm_state != VmState::Deleted
        && instance.shelved.as_ref().is_some_and(|shelved| shelved.image == *name)
}

pub(super) fn samples() -> Vec<Change> {
    vec![ImageRemove {}.into()]
}

impl Describe for ImageRemove {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::RemoveImage]
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn settle(&self, subject: &Subject, state: State, registry: &mut Registry, write: &mut Write) {
        if let (Subject::Image(name), State::Succeeded) = (subject, state) {
            registry.images.remove(name);
            write.image = Some(Entry::Gone(name.clone()));
        }
    }
}
