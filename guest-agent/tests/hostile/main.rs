//! The built program against a host that means no good, or has lost its mind. Whatever it sends, and
//! however it stops reading or leaves, the next sync is answered, no descriptor stays open and no
//! processor time is burnt.
//!
//! The agents here are permitted to look and not to change, so nothing they are asked can do harm.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod agent;
mod memory;
mod mutation;
mod stream;
