//! What domains run on: KVM or emulation, and with which processor.
//!
//! Found out by trying, where the setting says `auto`, as soon as libvirt can be reached. A trial
//! is no proof: when the first instance does not start all the same, it is tried once more, and an
//! instance whose definition is of a choice that is no longer made gets a new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;
use crate::compute::outside::Outside;
use crate::config;
use crate::hypervisor::{Error, Hypervisor, Link, VirtChoice, VirtSetting};

/// The pause before a trial that could not be made is made again.
const AGAIN: Duration = Duration::from_secs(5);

impl<O: Outside> Engine<O> {
    fn virt_setting(&self) -> VirtSetting {
        match self.registry.settings().virt_type {
            config::VirtType::Auto => VirtSetting::Auto,
            config::VirtType::Kvm => VirtSetting::Kvm,
            config::VirtType::Qemu => VirtSetting::Qemu,
        }
    }

    /// What domains run on; found out once, by really starting one where the setting says `auto`.
    pub(super) async fn virtualization(&self) -> Result<Arc<VirtChoice>, Error> {
        let _alone = self.virtualization.finding.lock().await;
        match self.virtualization.known() {
            Some(choice) => Ok(choice),
            None => self.choose().await,
        }
    }

    async fn choose(&self) -> Result<Arc<VirtChoice>, Error> {
        let choice = Arc::new(self.node.hypervisor.virt_type(self.virt_setting()).await?);
        let VirtChoice { virt_type, cpu, why } = &*choice;
        tracing::info!(%virt_type, %cpu, why, "how domains run is chosen");
        self.virtualization.choice.send_replace(Some(Arc::clone(&choice)));
        Ok(choice)
    }

    /// Whether an instance that did not start for this `error` may start on something else: then
    /// its domain is to be defined again.
    pub(super) async fn runs_on_something_else(&self, error: &Error) -> bool {
        if !matches!(error, Error::Failed { .. } | Error::Refused { .. })
            || self.virt_setting() != VirtSetting::Auto
        {
            return false;
        }
        let known = &self.virtualization;
        let _alone = known.finding.lock().await;
        if !known.settled.swap(true, Ordering::Relaxed) {
            let before = known.known();
            tracing::warn!(%error, "the first instance does not start: testing again how domains run");
            match self.choose().await {
                Ok(now) => {
                    let same = before.is_some_and(|before| {
                        (before.virt_type, &before.cpu) == (now.virt_type, &now.cpu)
                    });
                    known.changed.store(!same, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "cannot test how domains run"),
            }
        }
        known.changed.load(Ordering::Relaxed)
    }

    /// Find out what domains run on as soon as libvirt can be reached, so that no boot waits.
    pub(in crate::compute) async fn probe_virtualization(&self) {
        let mut link = self.node.hypervisor.link();
        while self.virtualization.known().is_none() {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                up = link.wait_for(|link| *link == Link::Up) => if up.is_err() { return },
            }
            if let Err(error) = self.virtualization().await {
                tracing::warn!(%error, "cannot find out how domains run");
                tokio::select! {
                    () = self.shutdown.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }
}
