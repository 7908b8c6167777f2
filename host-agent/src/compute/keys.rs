//! Requests under the same idempotency key are taken one after the other: the second finds what
//! became of the first. Others do not wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ostler_protocol::rpc::values::IdempotencyKey;
use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// The keys of requests being taken.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<HashMap<IdempotencyKey, Weak<Lock>>>);

impl Keys {
    /// Hold a key until its request is taken.
    pub(super) async fn hold(&self, key: &IdempotencyKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| lock.strong_count() > 0);
            let held = held.entry(key.clone()).or_default();
            held.upgrade().unwrap_or_else(|| {
                let lock = Arc::new(Lock::default());
                *held = Arc::downgrade(&lock);
                lock
            })
        };
        lock.lock_owned().await
    }
}
