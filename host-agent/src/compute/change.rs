//! What a change makes of an instance's record. Pure: the steps of an operation work towards the
//! record as it shall be, undoing works back to the record as it is, and settling puts the one in
//! the place of the other.

use ostler_protocol::rpc::instance::{PowerState, Size};

use crate::journal::records::{Change, InstanceRecord, Resized, Running, Shelved};

impl InstanceRecord {
    /// How large it is.
    pub(super) fn size(&self) -> Size {
        Size {
            flavor: self.flavor.clone(),
            vcpus: self.vcpus,
            memory: self.memory,
            disk: self.disk,
            max_vcpus: self.max_vcpus.max(self.vcpus),
            max_memory: self.max_memory.max(self.memory),
        }
    }

    fn set_size(&mut self, size: &Size) {
        self.flavor.clone_from(&size.flavor);
        self.vcpus = size.vcpus;
        self.memory = size.memory;
        self.disk = size.disk;
        self.max_vcpus = size.max_vcpus;
        self.max_memory = size.max_memory;
    }
}

/// Whether an instance in this power state holds a place that an operation gives back to it.
pub(super) const fn running(power: PowerState) -> Running {
    match power {
        PowerState::Running | PowerState::Paused | PowerState::Suspended => Running::Yes,
        PowerState::Unknown | PowerState::None | PowerState::Shutdown | PowerState::Crashed => {
            Running::No
        }
    }
}

/// The record as it shall be once the change is made; its states are settled elsewhere.
pub(super) fn applied(change: &Change, before: &InstanceRecord, was: Running) -> InstanceRecord {
    let mut record = before.clone();
    match change {
        Change::Boot => record.built = true,
        Change::Rebuild { from } => {
            record.image = from.image.clone();
            record.base = from.base.clone();
            record.direct.clone_from(&from.direct);
        }
        Change::Rescue { from } => record.rescue = Some(from.clone()),
        Change::Unrescue => record.rescue = None,
        Change::Resize { to, .. } => {
            record.resized = Some(Resized { from: before.size(), was });
            record.set_size(to);
        }
        Change::ConfirmResize => record.resized = None,
        Change::RevertResize { .. } => {
            if let Some(resized) = record.resized.take() {
                record.set_size(&resized.from);
            }
        }
        Change::Adjust { vcpus, memory } => {
            record.vcpus = vcpus.unwrap_or(record.vcpus);
            record.memory = memory.unwrap_or(record.memory);
        }
        Change::Shelve { image, .. } => record.shelved = Some(Shelved { image: image.clone() }),
        Change::Unshelve { base, .. } => {
            record.shelved = None;
            if let Some(base) = base {
                record.base = base.clone();
            }
        }
        Change::Update { name, owner, metadata } => {
            record.name = name.clone();
            record.owner.clone_from(owner);
            record.metadata.clone_from(metadata);
        }
        Change::Lock { reason } => record.locked = Some(reason.clone()),
        Change::Unlock => record.locked = None,
        Change::SoftDelete { .. } => {
            // A second one must not forget what the first began with.
            record.deleted_from.get_or_insert(before.vm_state);
        }
        Change::Restore { .. } => record.deleted_from = None,
        Change::Start
        | Change::Stop { .. }
        | Change::Reboot { .. }
        | Change::Pause
        | Change::Unpause
        | Change::Suspend
        | Change::Resume
        | Change::Snapshot { .. }
        | Change::Offload
        | Change::Delete
        | Change::Password { .. }
        | Change::ImageImport { .. }
        | Change::ImageRemove
        | Change::NetworkEnsure { .. }
        | Change::NetworkRemove { .. } => {}
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::operations::sample;

    #[test]
    fn a_resize_and_its_way_back_leave_what_was() {
        let before = sample::record();
        let to = Size { vcpus: 7, ..before.size() };
        let resized = applied(&Change::Resize { to, timeout: 1 }, &before, Running::Yes);
        assert_eq!(resized.vcpus, 7);
        let back = applied(&Change::RevertResize { start: Running::Yes }, &resized, Running::Yes);
        assert_eq!(back, before);
    }

    #[test]
    fn a_change_made_twice_is_the_change() {
        for change in sample::changes() {
            if matches!(change, Change::Resize { .. }) {
                continue; // not legal twice: it remembers what it came from
            }
            let once = applied(&change, &sample::record(), Running::Yes);
            assert_eq!(applied(&change, &once, Running::Yes), once, "{change:?}");
        }
    }
}
