//! Rules that are kept in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Dropped, FilterError, Filters, Guard, InPlace};
use crate::network::LinkName;

/// The guards there are, by their taps.
#[derive(Debug, Clone, Default)]
pub struct FakeFilters {
    guards: Arc<Mutex<BTreeMap<LinkName, Guard>>>,
    fails: Arc<Mutex<bool>>,
    changed: Arc<Notify>,
}

impl FakeFilters {
    /// The guards there are.
    pub fn guards(&self) -> Vec<Guard> {
        self.lock().values().cloned().collect()
    }

    /// Somebody flushes the rules, and the kernel tells.
    pub fn flush(&self) {
        self.lock().clear();
        self.changed.notify_one();
    }

    /// Has the next change be refused.
    pub fn fail_next(&self) {
        *self.fails.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LinkName, Guard>> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may(&self) -> Result<(), FilterError> {
        let mut fails = self.fails.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *fails) {
            true => Err(FilterError::Refused { said: "told to fail".to_owned() }),
            false => Ok(()),
        }
    }
}

impl Filters for FakeFilters {
    async fn put(&self, guards: &[Guard]) -> Result<(), FilterError> {
        self.may()?;
        let new = guards.iter().map(|guard| (guard.tap.clone(), guard.clone()));
        self.lock().extend(new);
        Ok(())
    }

    async fn remove(&self, taps: &[LinkName]) -> Result<(), FilterError> {
        self.may()?;
        self.lock().retain(|tap, _| !taps.contains(tap));
        Ok(())
    }

    async fn sync(
        &self,
        guards: impl FnOnce() -> Vec<Guard> + Send,
    ) -> Result<InPlace, FilterError> {
        let mut there = self.lock();
        let wanted: BTreeMap<_, _> = guards().into_iter().map(|g| (g.tap.clone(), g)).collect();
        if *there == wanted {
            return Ok(InPlace::Found);
        }
        *there = wanted;
        Ok(InPlace::Mended)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn dropped(&self, _: &LinkName) -> Result<Vec<Dropped>, FilterError> {
        Ok(Vec::new())
    }
}
