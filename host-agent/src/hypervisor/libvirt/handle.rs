//! What holds a connection open: its users, and what is registered on it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use virt::connect::Connect;

/// A connection whose closing cannot panic. Always there until it is dropped.
pub(super) struct Handle(Option<Connect>);

impl Handle {
    pub(super) fn new(connect: Connect) -> Self {
        Self(Some(connect))
    }

    #[expect(clippy::expect_used, reason = "emptied by `drop` alone")]
    pub(super) fn connect(&self) -> &Connect {
        self.0.as_ref().expect("emptied by `drop` alone")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let connect = self.0.take();
        drop(catch_unwind(AssertUnwindSafe(|| drop(connect))));
    }
}
