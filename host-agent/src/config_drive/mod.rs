//! The config drive: a small read-only disk with what cloud-init and its like read at the first
//! boot. Pure: facts in, the bytes of the disk out, the same for the same facts.
//!
//! * `layout`: which files there are, and what is in them.
//! * `volume`: a FAT file system that has them. Not ISO 9660, which needs extensions for lower-case
//!   names; cloud-init looks for either, by the label.
//! * `check`: what is allowed in it.

mod check;
mod layout;
mod volume;

use std::collections::BTreeMap;
use std::io;

use ostler_protocol::rpc::values::{InstanceId, MacAddress, PortId};

pub(crate) use check::{Wrong, check_data, check_hostname, check_keys, fit_hostname};

use crate::journal::records::ConfigDriveRecord;

/// Bytes of [`Facts::random_seed`]; nova's number.
pub(crate) const SEED_BYTES: usize = 512;

/// What is told to the guest. Not to be shown: the seed is the guest's own.
pub(crate) struct Facts<'a> {
    /// The instance.
    pub(crate) id: InstanceId,
    /// What people call it.
    pub(crate) name: &'a str,
    /// Whose it is.
    pub(crate) owner: Option<&'a str>,
    /// What its owner notes about it.
    pub(crate) metadata: &'a BTreeMap<String, String>,
    /// Layout, host name, keys and data.
    pub(crate) drive: &'a ConfigDriveRecord,
    /// Its NICs, in order.
    pub(crate) nics: Vec<Nic>,
    /// What the guest's random numbers start with.
    pub(crate) random_seed: [u8; SEED_BYTES],
}

/// A NIC: an address comes by DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nic {
    /// Its port.
    pub(crate) port: PortId,
    /// Its MAC.
    pub(crate) mac: MacAddress,
    /// The largest packet, bytes.
    pub(crate) mtu: Option<u16>,
}

/// The bytes of the drive.
///
/// # Errors
/// The data are not base64, which admission sees to; or the file system cannot be made.
pub(crate) fn bytes(facts: &Facts<'_>) -> io::Result<Vec<u8>> {
    volume::of(layout::label(facts.drive.layout), &layout::files(facts)?)
}

#[cfg(test)]
mod tests;
