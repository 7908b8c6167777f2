//! The session: echoes.

use std::rc::Rc;

use ostler_protocol::qga::commands::sync::{
    GuestPing, GuestSync, GuestSyncDelimited, SyncArguments,
};
use ostler_protocol::qga::commands::{Done, Nothing};

use super::{Agent, CommandError, Handle};

impl Handle for GuestSync {
    async fn handle(_: Rc<Agent>, arguments: SyncArguments) -> Result<i64, CommandError> {
        Ok(arguments.id)
    }
}

impl Handle for GuestSyncDelimited {
    async fn handle(_: Rc<Agent>, arguments: SyncArguments) -> Result<i64, CommandError> {
        Ok(arguments.id)
    }
}

impl Handle for GuestPing {
    async fn handle(_: Rc<Agent>, _: Nothing) -> Result<Done, CommandError> {
        Ok(Done {})
    }
}
