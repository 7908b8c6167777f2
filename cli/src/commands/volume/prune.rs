//! `ostler volume prune`: deletes the volumes that no instance has had for long. Each is an operation
//! of its own, `volume.delete`, which the node refuses if somebody came to need the volume meanwhile.

use std::time::Duration;

use clap::Args;
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::method::{VolumeDelete, VolumeList};
use ostler_protocol::rpc::values::{Bytes, Name, Timestamp, VolumeId};
use ostler_protocol::rpc::volume::{Delete, List, Status, Volume};
use serde::Serialize;

use crate::args::{Changing, span};
use crate::commands::Session;
use crate::failure::{Cause, Failure};
use crate::reply::Shown;

/// Which volumes to delete.
#[derive(Args)]
pub(crate) struct PruneArgs {
    /// Those that no instance has had, and nobody has changed, in this time, as in 30d
    #[arg(long, value_name = "AGE", value_parser = span)]
    unused_for: Duration,
    /// Only those of this owner
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// Only tell which would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// What was deleted, or would be.
#[derive(Serialize)]
struct Pruned {
    deleted: Vec<Deleted>,
    dry_run: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct Deleted {
    id: VolumeId,
    name: Name,
    size: Bytes,
}

impl PruneArgs {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let list = List {
            name: None,
            status: Some(Status::Available),
            owner: self.owner,
            limit: None,
            marker: None,
        };
        let volumes: Vec<Shown<Volume>> = session.client.ask::<VolumeList, _>(&list).await?;
        let volumes: Vec<Volume> = volumes.into_iter().filter_map(|volume| volume.known).collect();
        let mut pruned = Pruned { deleted: Vec::new(), dry_run: self.dry_run };
        for volume in unused(&volumes, Timestamp::now(), self.unused_for) {
            if self.dry_run || delete(session, volume.id).await? {
                let Volume { id, name, size, .. } = volume.clone();
                pruned.deleted.push(Deleted { id, name, size });
            }
        }
        let word = if self.dry_run { "would be" } else { "is" };
        let line =
            |it: &Deleted| format!("volume {} ({}) {word} deleted: {}", it.name, it.id, it.size);
        let mut lines: Vec<String> = pruned.deleted.iter().map(line).collect();
        if lines.is_empty() {
            lines.push("no volume has been unused for so long".to_owned());
        }
        session.output.sentences(&pruned, &lines)
    }
}

/// Delete a volume; false if somebody needs it by now, or has deleted it.
async fn delete(session: &mut Session, id: VolumeId) -> Result<bool, Failure> {
    let changing = Changing { no_wait: false, key: None };
    match session.follow::<VolumeDelete>(&Delete { id, force: false }, &changing).await {
        Ok(_) => Ok(true),
        Err(Failure { cause: Cause::Refused(fault), .. })
            if matches!(fault.data.reason, Reason::InUse | Reason::Conflict | Reason::NotFound) =>
        {
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

/// The volumes that nobody has used for so long, those first that were used the longest ago.
fn unused(volumes: &[Volume], now: Timestamp, age: Duration) -> Vec<&Volume> {
    let is_old = |volume: &&Volume| u128::from(now.since(volume.updated)) >= age.as_millis();
    let is_free =
        |volume: &&Volume| volume.status == Status::Available && volume.attachments.is_empty();
    let mut going: Vec<&Volume> = volumes.iter().filter(is_free).filter(is_old).collect();
    going.sort_by_key(|volume| volume.updated);
    going
}
