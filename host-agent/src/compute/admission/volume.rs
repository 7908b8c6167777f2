//! Volumes: whether one is there, who has it, and whether it can be worked on. Pure.
//!
//! What is done to a volume that an instance has is about that instance: it is judged by the
//! instance's state, and nothing else happens to the instance meanwhile.

use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{Bytes, Name, Secret, VolumeId};
use ostler_protocol::rpc::volume::{Limit, Qos, Snapshot};

use super::{Admission, Admitted};
use crate::compute::claims::only_disk;
use crate::compute::describe::{Change, Legal};
use crate::journal::records::{InstanceRecord, VolumeRecord, VolumeState};
use crate::refusal::{Action, Reason, Refusal};

impl Admission<'_> {
    /// A volume that is there, and that nobody works on.
    ///
    /// # Errors
    /// Why it cannot be worked on.
    pub(in crate::compute) fn idle_volume(&self, id: VolumeId) -> Result<VolumeRecord, Refusal> {
        let about = || Subject::Volume(id).to_string();
        let Some(record) = self.known.volumes.get(&id) else {
            return Err(Refusal::new(Reason::NotFound, format!("there is no volume {id}"))
                .about(about())
                .next("see which there are")
                .by(Action::VolumeList));
        };
        if let Some(operation) = self.known.at_volume(id) {
            let kind = operation.now.borrow().kind;
            let text = format!("conflict: volume {} is being worked on: {kind}", record.name);
            return Err(Refusal::new(Reason::Conflict, text)
                .about(about())
                .next("wait for it")
                .by(Action::OperationWait(Some(operation.id))));
        }
        Ok(record.clone())
    }

    /// The same, of one that is whole.
    ///
    /// # Errors
    /// Why it cannot be worked on.
    pub(in crate::compute) fn whole_volume(&self, id: VolumeId) -> Result<VolumeRecord, Refusal> {
        let record = self.idle_volume(id)?;
        is_here(&record)?;
        match record.state {
            VolumeState::Available => Ok(record),
            VolumeState::Creating | VolumeState::Error | VolumeState::ErrorDeleting => {
                let text = format!("conflict: volume {} is in error", record.name);
                Err(Refusal::new(Reason::Conflict, text)
                    .about(Subject::Volume(id).to_string())
                    .next("see why, then delete it")
                    .by(Action::VolumeShow(Some(id)))
                    .by(Action::VolumeDeleteForced))
            }
        }
    }

    /// The same, of one that no instance has.
    ///
    /// # Errors
    /// Why it cannot be worked on; `in_use`, and by whom.
    pub(in crate::compute) fn free_volume(
        &self,
        id: VolumeId,
        word: &str,
    ) -> Result<VolumeRecord, Refusal> {
        let record = self.whole_volume(id)?;
        self.nobody_has(&record, word).map(|()| record)
    }

    /// Whether no instance has a volume.
    ///
    /// # Errors
    /// `in_use`, and by whom.
    pub(in crate::compute) fn nobody_has(
        &self,
        record: &VolumeRecord,
        word: &str,
    ) -> Result<(), Refusal> {
        let users = self.known.users_of(record.id);
        let Some((first, _)) = users.first() else { return Ok(()) };
        let more = match users.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let text = format!(
            "volume {} is in use by instance {} ({}){more}, and cannot be {word}",
            record.name, first.name, first.id
        );
        Err(Refusal::new(Reason::InUse, text)
            .about(Subject::Volume(record.id).to_string())
            .next("detach it first")
            .by(Action::InstanceDetachVolume))
    }

    /// Something done to a volume: by itself, or, while an instance has it, to that.
    ///
    /// # Errors
    /// Why it is refused: nothing is reserved then.
    pub(in crate::compute) fn act_on_volume(
        &mut self,
        id: VolumeId,
        legal: &Legal,
        change: impl FnOnce(&VolumeRecord, Option<&InstanceRecord>, &Self) -> Result<Change, Refusal>,
    ) -> Result<Admitted, Refusal> {
        let record = self.whole_volume(id)?;
        let subject = Subject::Volume(id);
        let about = |fault: Refusal| match fault.subject {
            None => fault.about(subject.to_string()),
            Some(_) => fault,
        };
        let users: Vec<_> = self.known.users_of(id).into_iter().map(|(i, _)| i.id).collect();
        match users.as_slice() {
            [] => {
                let change = change(&record, None, self).map_err(about)?;
                Ok(Admitted::of(subject, change))
            }
            [one] => self.act(*one, legal, |instance, gate| {
                change(&record, Some(instance), gate).map_err(about)
            }),
            [_, _, ..] => {
                let text = format!(
                    "volume {} is in use by {} instances, and cannot be {}",
                    record.name,
                    users.len(),
                    legal.word
                );
                Err(about(Refusal::new(Reason::InUse, text))
                    .next("detach it from all but one first")
                    .by(Action::InstanceDetachVolume))
            }
        }
    }

    /// Whether a pool that shares the room of the instances' disks has so much more.
    ///
    /// # Errors
    /// `no_capacity`, with what there is.
    pub(in crate::compute) fn room_in(&self, pool: &Name, more: Bytes) -> Result<(), Refusal> {
        match self.known.shared_pools.contains(pool) {
            true => self.room(&only_disk(more)),
            // Any other is looked at when it is written to.
            false => Ok(()),
        }
    }
}

/// Whether a volume is one of this node's own.
///
/// # Errors
/// `conflict`: another has it in keeping.
pub(in crate::compute) fn is_here(record: &VolumeRecord) -> Result<(), Refusal> {
    if record.connection.is_none() {
        return Ok(());
    }
    let text = format!("conflict: volume {} is kept elsewhere", record.name);
    Err(Refusal::new(Reason::Conflict, text)
        .about(Subject::Volume(record.id).to_string())
        .next("have its control plane do that; here it can only be detached"))
}

/// Whether a passphrase can be one.
///
/// # Errors
/// `invalid_params`; it is in no text.
pub(in crate::compute) fn passphrase(passphrase: Option<&Secret>) -> Result<(), Refusal> {
    let length = passphrase.map(|passphrase| passphrase.expose().len());
    if length.is_none_or(|length| (1..=PASSPHRASE_MAX).contains(&length)) {
        return Ok(());
    }
    let text = format!("a passphrase has 1 to {PASSPHRASE_MAX} bytes");
    Err(Refusal::new(Reason::InvalidParams, text).about("parameter passphrase"))
}

/// The longest that QEMU takes.
const PASSPHRASE_MAX: usize = 512;

/// The states in which an instance's volumes can be attached, detached and changed: nova's, save
/// for those in which there is no domain.
pub(in crate::compute) const WITH_VOLUMES: &[VmState] =
    &[VmState::Active, VmState::Paused, VmState::Stopped, VmState::Resized];

/// Whether a size can be a disk's.
///
/// # Errors
/// `invalid_params`.
pub(in crate::compute) fn size(size: Bytes) -> Result<(), Refusal> {
    if size.0 > 0 && size.0.is_multiple_of(512) && size <= crate::qcow2::LARGEST {
        return Ok(());
    }
    let text = format!(
        "a volume's size is a multiple of 512 bytes, from 512 bytes to {}",
        crate::qcow2::LARGEST
    );
    Err(Refusal::new(Reason::InvalidParams, text).about("parameter size"))
}

/// The most a limit can be: what QEMU takes.
const LIMIT_MAX: u64 = 1_000_000_000_000_000;

/// Whether limits can be together, as QEMU has it: one of all requests goes with none of its own
/// for reads or writes, and a burst is a limit's that it is above.
///
/// # Errors
/// `invalid_params`.
pub(in crate::compute) fn limits(qos: &Qos) -> Result<(), Refusal> {
    let wrong =
        |text: String| Err(Refusal::new(Reason::InvalidParams, text).about("parameter qos"));
    let of = |name: &str| {
        let found = Limit::ALL.into_iter().find(|limit| limit.as_str() == name);
        found.and_then(|limit| qos.get(&limit)).copied().filter(|most| *most > 0)
    };
    if let Some((limit, _)) = qos.iter().find(|(_, most)| **most > LIMIT_MAX) {
        return wrong(format!("{} is at most {LIMIT_MAX}", limit.as_str()));
    }
    for kind in ["bytes_sec", "iops_sec"] {
        for way in ["read", "write"] {
            if of(&format!("total_{kind}")).is_some() && of(&format!("{way}_{kind}")).is_some() {
                return wrong(format!("give total_{kind}, or read_{kind} and write_{kind}"));
            }
        }
        for way in ["total", "read", "write"] {
            let name = format!("{way}_{kind}");
            let (most, burst) = (of(&name), of(&format!("{name}_max")));
            match (most, burst, of(&format!("{name}_max_length"))) {
                (None, Some(_), _) => return wrong(format!("{name}_max needs {name}")),
                (Some(most), Some(burst), _) if burst < most => {
                    return wrong(format!("{name}_max is less than {name}"));
                }
                (_, None, Some(_)) => return wrong(format!("{name}_max_length needs {name}_max")),
                (_, _, _) => {}
            }
        }
    }
    Ok(())
}

/// A volume's snapshot.
///
/// # Errors
/// `not_found`.
pub(in crate::compute) fn snapshot_of<'a>(
    record: &'a VolumeRecord,
    name: &Name,
) -> Result<&'a Snapshot, Refusal> {
    record.snapshots.iter().find(|snapshot| snapshot.name == *name).ok_or_else(|| {
        let text = format!("volume {} has no snapshot {name}", record.name);
        Refusal::new(Reason::NotFound, text)
            .about(format!("volume {}", record.id))
            .next("see which it has")
            .by(Action::VolumeShow(Some(record.id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_together_are_refused() {
        let limits_of = |text: &str| limits(&serde_json::from_str(text).unwrap());
        for good in [
            "{}",
            r#"{"total_iops_sec": 500, "total_bytes_sec": 1000000}"#,
            r#"{"read_iops_sec": 500, "write_iops_sec": 100, "read_iops_sec_max": 900}"#,
            r#"{"total_iops_sec": 5, "total_iops_sec_max": 9, "total_iops_sec_max_length": 10}"#,
            r#"{"total_iops_sec": 0, "read_iops_sec": 5}"#,
        ] {
            assert_eq!(limits_of(good), Ok(()), "{good}");
        }
        for bad in [
            r#"{"total_iops_sec": 500, "read_iops_sec": 5}"#,
            r#"{"total_iops_sec_max": 500}"#,
            r#"{"total_iops_sec": 500, "total_iops_sec_max": 5}"#,
            r#"{"total_iops_sec": 500, "total_iops_sec_max_length": 5}"#,
            r#"{"total_iops_sec": 9000000000000000}"#,
        ] {
            assert!(limits_of(bad).is_err(), "{bad}");
        }
    }
}
