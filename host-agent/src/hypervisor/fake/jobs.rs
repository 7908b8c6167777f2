//! The fake's jobs. A save ends at once unless it is held; a copy ends at once, or when it is told
//! how ([`Fake::set_copies`]). Both can be aborted while they last.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::sync::Notify;

use super::{Call, Domain, Fake, PowerReason, Saved, refused, step};
use crate::hypervisor::{Change, Error, Job, Jobs};

/// What a finished copy's file holds.
pub const COPIED: &[u8] = b"a copy of a disk";

/// When copies end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// Before `begin_copy` returns.
    #[default]
    AtOnce,
    /// When [`Fake::end_copy`] says so.
    WhenTold,
}

/// What a domain is busy with, or how the last of it ended.
#[derive(Debug, Default)]
pub(super) enum Work {
    #[default]
    None,
    Saving(Arc<Notify>),
    Copying(PathBuf),
    Ended(Job),
}

impl Work {
    /// The domain went off.
    pub(super) fn interrupt(&mut self) {
        match self {
            Self::Copying(to) => {
                drop(std::fs::remove_file(to));
                let reason = "the domain went off".to_owned();
                *self = Self::Ended(Job::Failed { reason });
            }
            Self::None | Self::Saving(_) | Self::Ended(_) => {}
        }
    }

    const fn is_on(&self) -> bool {
        match self {
            Self::Saving(_) | Self::Copying(_) => true,
            Self::None | Self::Ended(_) => false,
        }
    }
}

impl Fake {
    /// When copies end that begin from now on.
    pub fn set_copies(&self, copies: Copies) {
        self.world().copies = copies;
    }

    /// Ends a copy that goes on; does nothing if there is none.
    ///
    /// # Errors
    ///
    /// Its file could not be written.
    pub fn end_copy(&self, id: InstanceId, outcome: Result<(), String>) -> std::io::Result<()> {
        if let Some(domain) = self.world().domains.get_mut(&id)
            && let Work::Copying(to) = &domain.work
        {
            let job = match outcome {
                Ok(()) => {
                    std::fs::write(to, COPIED)?;
                    Job::Completed
                }
                Err(reason) => {
                    drop(std::fs::remove_file(to));
                    Job::Failed { reason }
                }
            };
            domain.work = Work::Ended(job);
        }
        Ok(())
    }

    /// Marks a save as begun, so that it can be seen and aborted while it is held.
    fn begin_save(&self, id: InstanceId) -> Option<Arc<Notify>> {
        let mut world = self.world();
        let domain = world.domains.get_mut(&id)?;
        if !domain.is_on() || domain.work.is_on() {
            return None;
        }
        let aborted = Arc::new(Notify::new());
        domain.work = Work::Saving(Arc::clone(&aborted));
        Some(aborted)
    }

    fn finish_save(&self, id: InstanceId, outcome: &Result<Change, Error>) {
        if let Some(domain) = self.world().domains.get_mut(&id)
            && let Work::Saving(_) = &domain.work
        {
            domain.work = Work::Ended(match outcome {
                Ok(_) => Job::Completed,
                Err(error) => Job::Failed { reason: error.to_string() },
            });
        }
    }

    fn save_now(&self, id: InstanceId, domain: &mut Domain) -> Result<Change, Error> {
        if matches!(domain.work, Work::Copying(_)) {
            let reason = "the domain has a job".to_owned();
            return Err(Error::Busy { step: step(Call::Save), reason });
        }
        match (domain.is_on(), domain.saved) {
            (false, Some(_)) => Ok(Change::AlreadySo),
            (false, None) => Err(refused(Call::Save, id, "the domain is off")),
            (true, _) => {
                let power = domain.state.power;
                domain.saved = Some(Saved { power, damaged: false });
                self.turn_off(id, domain, PowerReason::Saved);
                Ok(Change::Made)
            }
        }
    }
}

impl Jobs for Fake {
    async fn save(&self, id: InstanceId) -> Result<Change, Error> {
        let begun = self.begin_save(id);
        let saving = self.call(Call::Save, Some(id), |world| self.save_now(id, world.domain(id)?));
        let outcome = match begun {
            None => saving.await,
            Some(aborted) => tokio::select! {
                biased;
                () = aborted.notified() => {
                    let message = "aborted".to_owned();
                    Err(Error::Failed { step: step(Call::Save), domain: Some(id), message })
                }
                outcome = saving => outcome,
            },
        };
        self.finish_save(id, &outcome);
        outcome
    }

    async fn begin_copy(&self, id: InstanceId, device: &str, to: &Path) -> Result<(), Error> {
        self.call(Call::BeginCopy, Some(id), |world| {
            let copies = world.copies;
            let domain = world.domain(id)?;
            let refuse = |reason: &str| Err(refused(Call::BeginCopy, id, reason));
            if !domain.is_on() {
                return refuse("the domain is not running");
            }
            if domain.work.is_on() {
                return refuse("a job is on");
            }
            if domain.spec.disks.iter().all(|of| of.device() != device) {
                return refuse("there is no such disk");
            }
            let written =
                OpenOptions::new().write(true).create_new(true).open(to).and_then(|mut file| {
                    match copies {
                        Copies::AtOnce => file.write_all(COPIED),
                        Copies::WhenTold => Ok(()),
                    }
                });
            if let Err(error) = written {
                return refuse(&format!("{}: {error}", to.display()));
            }
            domain.work = match copies {
                Copies::AtOnce => Work::Ended(Job::Completed),
                Copies::WhenTold => Work::Copying(to.to_owned()),
            };
            Ok(())
        })
        .await
    }

    async fn job(&self, id: InstanceId) -> Result<Job, Error> {
        self.call(Call::Job, Some(id), |world| {
            Ok(match &world.domain(id)?.work {
                Work::None => Job::None,
                Work::Saving(_) => Job::Running { done: Bytes(0), total: None },
                Work::Copying(_) => {
                    Job::Running { done: Bytes(0), total: Some(Bytes(COPIED.len() as u64)) }
                }
                Work::Ended(job) => job.clone(),
            })
        })
        .await
    }

    async fn abort_job(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::AbortJob, Some(id), |world| {
            let Some(domain) = world.domains.get_mut(&id) else { return Ok(Change::AlreadySo) };
            match std::mem::take(&mut domain.work) {
                Work::None | Work::Ended(_) => Ok(Change::AlreadySo),
                Work::Saving(aborted) => {
                    aborted.notify_one();
                    Ok(Change::Made)
                }
                Work::Copying(to) => {
                    drop(std::fs::remove_file(to));
                    Ok(Change::Made)
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Failing, PowerState};
    use super::*;
    use crate::hypervisor::spec::{
        Discard, Disk, DiskAccess, DiskBus, DiskCache, DiskFormat, DiskSource, DiskTarget, Sharing,
        sample,
    };
    use crate::hypervisor::{Hypervisor, HypervisorEvent, RESTORE};

    async fn running() -> (Fake, InstanceId) {
        let fake = Fake::new();
        let mut spec = sample();
        spec.disks.push(Disk {
            source: DiskSource::File("/root.qcow2".into()),
            format: DiskFormat::Qcow2,
            bus: DiskBus::Virtio,
            target: DiskTarget(0),
            alias: String::new(),
            sharing: Sharing::Exclusive,
            limits: Default::default(),
            serial: String::new(),
            access: DiskAccess::ReadWrite,
            cache: DiskCache::None,
            discard: Discard::Ignore,
            io: None,
            boot_order: None,
            key: None,
        });
        fake.define(&spec).await.unwrap();
        fake.start(spec.id()).await.unwrap();
        (fake, spec.id())
    }

    #[tokio::test]
    async fn saved_memory_is_restored_once() {
        let (fake, id) = running().await;
        fake.pause(id).await.unwrap();
        let mut events = fake.events();
        assert_eq!(fake.save(id).await, Ok(Change::Made));
        assert_eq!(fake.save(id).await, Ok(Change::AlreadySo));
        assert!(fake.has_save(id));
        assert_eq!(fake.start(id).await, Ok(Change::Made));
        for (power, reason) in [
            (PowerState::Shutdown, PowerReason::Saved),
            (PowerState::Paused, PowerReason::Restored),
        ] {
            let told = HypervisorEvent::Lifecycle { id, power, reason };
            assert_eq!(events.next().await, Some(told));
        }
        assert!(!fake.has_save(id));
        fake.destroy(id).await.unwrap();
        assert!(matches!(fake.save(id).await, Err(Error::Refused { .. })));
    }

    #[tokio::test]
    async fn a_damaged_save_is_kept_until_it_is_discarded() {
        let (fake, id) = running().await;
        fake.save(id).await.unwrap();
        fake.damage_save(id);
        let error = fake.start(id).await.unwrap_err();
        assert!(matches!(error, Error::Failed { step: RESTORE, .. }), "{error}");
        assert_eq!(fake.discard_save(id).await, Ok(Change::Made));
        assert_eq!(fake.discard_save(id).await, Ok(Change::AlreadySo));
        assert_eq!(fake.start(id).await, Ok(Change::Made));
    }

    #[tokio::test]
    async fn a_held_save_can_be_aborted() {
        let (fake, id) = running().await;
        let _hold = fake.hold_next(Call::Save);
        let mut saving = std::pin::pin!(fake.save(id));
        assert!(futures_util::poll!(saving.as_mut()).is_pending());
        assert!(matches!(fake.job(id).await, Ok(Job::Running { .. })));
        assert_eq!(fake.abort_job(id).await, Ok(Change::Made));
        assert!(matches!(saving.await, Err(Error::Failed { .. })));
        assert_eq!(fake.job(id).await, Ok(Job::None));
        assert_eq!(fake.state(id).await.unwrap().power, PowerState::Running);
    }

    #[tokio::test]
    async fn a_copy_ends_as_it_is_told() {
        let (fake, id) = running().await;
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("copy");
        let copy = || fake.begin_copy(id, "vda", &to);
        copy().await.unwrap();
        assert_eq!(fake.job(id).await, Ok(Job::Completed));
        assert_eq!(std::fs::read(&to).unwrap(), COPIED);
        assert!(matches!(copy().await, Err(Error::Refused { .. })), "the file is there");

        std::fs::remove_file(&to).unwrap();
        fake.set_copies(Copies::WhenTold);
        copy().await.unwrap();
        assert!(matches!(fake.job(id).await, Ok(Job::Running { .. })));
        assert!(matches!(copy().await, Err(Error::Refused { .. })), "a job is on");
        assert!(matches!(fake.save(id).await, Err(Error::Busy { .. })));
        fake.end_copy(id, Err("no space".to_owned())).unwrap();
        assert_eq!(fake.job(id).await, Ok(Job::Failed { reason: "no space".to_owned() }));

        copy().await.unwrap();
        assert_eq!(fake.abort_job(id).await, Ok(Change::Made));
        assert_eq!(fake.abort_job(id).await, Ok(Change::AlreadySo));
        assert!(!to.exists());

        copy().await.unwrap();
        fake.destroy(id).await.unwrap();
        assert!(matches!(fake.job(id).await, Ok(Job::Failed { .. })));
        assert!(matches!(copy().await, Err(Error::Refused { .. })), "it is off");
    }

    #[tokio::test]
    async fn a_save_whose_answer_is_lost_is_a_save() {
        let (fake, id) = running().await;
        fake.fail_next(Call::Save, Failing::After, Error::Timeout { step: "save" });
        assert!(fake.save(id).await.is_err());
        assert_eq!(fake.save(id).await, Ok(Change::AlreadySo));
    }
}
