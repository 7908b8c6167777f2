//! The config drive of an instance: made anew from its record, with its disks.

use std::fs::File;
use std::io::{self, Read as _};

use crate::refusal::{Reason, Refusal};

use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::wires::Wires;
use crate::config_drive::{self, Facts, Nic, SEED_BYTES};
use crate::disk::Disks;
use crate::journal::records::InstanceRecord;

impl<O: Outside> Engine<O> {
    pub(super) async fn write_config_drive(
        &self,
        record: &InstanceRecord,
    ) -> Result<(), StepError> {
        let Some(drive) = &record.config_drive else { return Ok(()) };
        let wired = self.node.wires.describe(&self.ports_of(record))?;
        let nics = record.ports.iter().zip(wired);
        let nics = nics.map(|(port, nic)| Nic { port: port.id, mac: nic.mac, mtu: nic.mtu });
        let made = random_seed().and_then(|random_seed| {
            config_drive::bytes(&Facts {
                id: record.id,
                name: record.name.as_str(),
                owner: record.owner.as_deref(),
                metadata: &record.metadata,
                drive,
                nics: nics.collect(),
                random_seed,
            })
        });
        let bytes = made.map_err(|error| {
            let text = format!("the config drive cannot be made: {error}");
            Refusal::new(Reason::Internal, text)
        })?;
        self.node.disks.write_config_drive(record.id, bytes).await?;
        Ok(())
    }
}

/// From the system; it never waits once the node is up.
fn random_seed() -> io::Result<[u8; SEED_BYTES]> {
    let mut seed = [0; SEED_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}
