//! Image removal: give up an image's name, and with it the file, unless something else needs that.

use ostler_protocol::rpc::image::State as ImageState;

use super::prelude::*;
use crate::compute::registry::Known;
use crate::journal::Entry;
use crate::journal::records::{ImageRecord, VolumeRecord};

/// Remove the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct ImageRemove {}

pub(super) fn ask(name: Name, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let subject = Subject::Image(name.clone());
    gate.idle(&subject)?;
    let images = &gate.known.images;
    if !images.contains_key(&name) {
        return Err(Refusal::new(Reason::NotFound, format!("there is no image {name}"))
            .about(subject.to_string())
            .next("see which there are")
            .by(Action::ImageList));
    }
    if images[&name].state == ImageState::Importing {
        let text = format!("conflict: image {name} is being made");
        return Err(Refusal::new(Reason::Conflict, text)
            .about(subject.to_string())
            .next("wait for it, or cancel what makes it")
            .by(Action::OperationList));
    }
    // What is made from it does as well with another name of the same file.
    let users = if is_shared(gate.known, &name) {
        shelved_as(gate.known, &name)
    } else {
        users_of(gate.known, &name)
    };
    if users > 0 {
        let text = format!("image {name} is in use by instances made from it: {users}");
        return Err(Refusal::new(Reason::InUse, text)
            .about(subject.to_string())
            .next("delete them first")
            .by(Action::InstanceList));
    }
    Ok(Admitted::of(subject, ImageRemove {}))
}

/// How many instances need an image: its file, or its name.
pub(in crate::compute) fn users_of(known: &Known, name: &Name) -> usize {
    let file = known.images.get(name).and_then(|i| Some((i.sha256.clone()?, i.format)));
    let coming = |i: &InstanceRecord| {
        let under_way = known.live.values().filter(|o| o.subject == Subject::Instance(i.id));
        let mut targets = under_way.filter_map(|o| known.target(o));
        file.as_ref().is_some_and(|(sha256, format)| {
            i.needs(sha256, *format) || targets.any(|target| target.needs(sha256, *format))
        })
    };
    known.instances.values().filter(|i| is_shelved_as(i, name) || coming(i)).count()
}

/// How many volumes lie on an image's file.
pub(in crate::compute) fn lying_on(known: &Known, image: &ImageRecord) -> usize {
    let lies = |volume: &&VolumeRecord| {
        volume.base.as_ref().is_some_and(|base| {
            base.format == image.format && Some(&base.sha256) == image.sha256.as_ref()
        })
    };
    known.volumes.values().filter(lies).count()
}

/// How many instances need an image by its name.
fn shelved_as(known: &Known, name: &Name) -> usize {
    known.instances.values().filter(|i| is_shelved_as(i, name)).count()
}

/// Whether an image's file has another name, which nobody is removing.
fn is_shared(known: &Known, name: &Name) -> bool {
    let Some(image) = known.images.get(name) else { return false };
    image.sha256.is_some()
        && known.images.values().any(|other| {
            other.name != *name
                && (&other.sha256, other.format) == (&image.sha256, image.format)
                && known.at_work(&Subject::Image(other.name.clone())).is_none()
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
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::RemoveImage])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn image_after(
        &self,
        image: &Name,
        _: Option<&ImageRecord>,
        outcome: State,
    ) -> Option<Entry<ImageRecord>> {
        (outcome == State::Succeeded).then(|| Entry::Gone(image.clone()))
    }
}
