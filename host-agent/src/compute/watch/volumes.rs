//! Volumes that were changed behind the agent's back: gone from their pool, grown, or open in a
//! process that is nobody's; plugged into a guest that does not have them by its record, or let go of
//! late. It is shown, and nothing is done about it.

use std::collections::BTreeSet;
use std::time::Duration;

use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::{InstanceId, VolumeId};

use super::Watch;
use crate::compute::outside::Outside;
use crate::hypervisor::Plug;
use crate::journal::records::{AttachmentRecord, VolumeState};
use crate::volume::{Place, VolumeError, Volumes};

/// How long a pool has to answer: one whose server is dead keeps nobody from looking at others.
const PATIENCE: Duration = Duration::from_secs(5);

impl<O: Outside> Watch<O> {
    /// Look at all volumes, where nobody is at work.
    pub(super) async fn find_changed_volumes(&self) {
        let known: Vec<VolumeId> = {
            let known = self.registry.lock();
            let there = known.volumes.values().filter(|v| v.state == VolumeState::Available);
            there.map(|volume| volume.id).collect()
        };
        for id in known {
            let Some((place, size, used)) = self.idle_volume(id) else { continue };
            let opened = tokio::time::timeout(PATIENCE, self.node.volumes.open(&place)).await;
            let mut drift = match opened {
                Err(_) => Some(format!("its pool {} does not answer", place.pool)),
                Ok(Err(error)) => Some(error.to_string()),
                Ok(Ok(opened)) if opened.size != size => Some(format!(
                    "it is {} in its pool, and was {size}: see what it holds before it is used",
                    opened.size
                )),
                Ok(Ok(_)) => None,
            };
            if drift.is_none()
                && !used
                && let Ok(Err(error @ VolumeError::Open { .. })) =
                    tokio::time::timeout(PATIENCE, self.node.volumes.close(&place)).await
            {
                drift = Some(format!("{error}, and no instance has it: see what that is"));
            }
            // What was worked on meanwhile is looked at the next time.
            if self.idle_volume(id).is_none_or(|now| now != (place.clone(), size, used)) {
                continue;
            }
            let mut known = self.registry.lock();
            let before = known.volume_drift.get(&id).cloned();
            if before == drift {
                continue;
            }
            match drift {
                Some(what) => {
                    tracing::warn!(volume = %id, what, "drift");
                    known.volume_drift.insert(id, what);
                }
                None => drop(known.volume_drift.remove(&id)),
            }
        }
    }

    /// A volume of a pool, that nobody works on: where it is, how large, and whether an instance has it.
    fn idle_volume(
        &self,
        id: VolumeId,
    ) -> Option<(Place, ostler_protocol::rpc::values::Bytes, bool)> {
        let known = self.registry.lock();
        if known.at_volume(id).is_some() {
            return None;
        }
        let record = known.volumes.get(&id)?;
        let place = Place { id, pool: record.pool.clone()? };
        Some((place, record.size, !known.users_of(id).is_empty()))
    }

    /// Look at what is plugged into the instances that run.
    pub(super) async fn find_unplugged(&self) {
        let running: Vec<InstanceId> = {
            let known = self.registry.lock();
            let runs = |id: &&InstanceId| {
                matches!(known.observed(**id).power, PowerState::Running | PowerState::Paused)
            };
            known.instances.keys().filter(runs).copied().collect()
        };
        for id in running {
            self.find_unplugged_of(id).await;
        }
    }

    /// The same for one instance, which may have let go of something late.
    pub(super) async fn find_unplugged_of(&self, id: InstanceId) {
        let recorded = || {
            let known = self.registry.lock();
            let quiet = known.instances.get(&id).filter(|i| i.task_state.is_none())?;
            let has: BTreeSet<String> = quiet.volumes.iter().map(AttachmentRecord::alias).collect();
            Some((quiet.revision, has))
        };
        let Some((revision, has)) = recorded() else { return };
        let plugged: BTreeSet<String> = match self.node.hypervisor.disks(id).await {
            Ok(disks) => disks.into_iter().map(|disk| disk.alias).collect(),
            Err(error) => {
                tracing::info!(instance = %id, %error, "cannot see what is plugged in");
                return;
            }
        };
        let name = |alias: &String| alias.trim_start_matches("ua-").to_owned();
        let gone = has.difference(&plugged).map(|alias| {
            format!("volume {} is not plugged in: detach it, or start it anew", name(alias))
        });
        let more = plugged.iter().filter(|alias| alias.starts_with("ua-") && !has.contains(*alias));
        let more = more.map(|alias| {
            format!("volume {} is plugged in and is not its own: start it anew", name(alias))
        });
        let found: Vec<String> = gone.chain(more).collect();
        if recorded().is_none_or(|(now, _)| now != revision) {
            return;
        }
        if self.registry.observe(id, |seen| seen.plugged.clone_from(&found)) {
            for what in &found {
                tracing::warn!(instance = %id, what, "drift");
            }
            self.registry.tell_instance(id);
        }
    }
}
