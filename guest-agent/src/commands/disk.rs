//! Disks: where they are plugged in, what is on them and what they tell.
//!
//! All comes from the kernel's tree, udev's part of it included where there is one: a guest without
//! udev has disks too. Only the health of an NVMe disk is asked of the disk itself, and a disk that
//! does not answer is listed without.

pub mod address;
mod smart;

use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::disk::{
    DiskInfo, DiskSmart, DiskStats, DiskStatsInfo, GuestGetDisks, GuestGetDiskstats,
};
use ostler_protocol::qga::commands::filesystem::DiskBusType;

use super::{Agent, CommandError, Handle};
use crate::probe::Survey;
use crate::root::{self, Root};
use address::{Addresses, Device};

const DISKS: &str = "/sys/block";
const STATISTICS: &str = "/proc/diskstats";
/// For looking through the kernel's tree.
const SURVEY: Duration = Duration::from_secs(10);

/// Why disks could not be told of.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The kernel's list of them.
    #[error("cannot list the disks in {DISKS}")]
    List(#[source] io::Error),
    /// The kernel's counters.
    #[error("cannot read {STATISTICS}")]
    Counters(#[source] io::Error),
}

impl Handle for GuestGetDisks {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<DiskInfo>, CommandError> {
        let addresses = agent.addresses.clone();
        let find = move || {
            let disks = disks(&Root::system(), &addresses)?;
            let node = |disk: &DiskInfo| (format!("health of {}", disk.name), disk.name.clone());
            let nodes = disks.iter().filter(|disk| is_asked(disk)).map(node).collect();
            Ok::<_, CommandError>((disks, nodes))
        };
        let ask = |node: &String| smart::ask(node);
        let what = "looking for disks";
        let Survey { found: mut disks, answers, hung } =
            agent.probes.survey(&agent.workers, what, SURVEY, find, ask).await?;
        for key in hung {
            agent.log.error(format_args!("the {key} is not told in time"));
        }
        let asked = disks.iter_mut().filter(|disk| is_asked(disk));
        for (disk, answer) in asked.zip(answers) {
            disk.smart = answer.map(|smart| DiskSmart::Nvme(Box::new(smart)));
        }
        Ok(disks)
    }
}

impl Handle for GuestGetDiskstats {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<DiskStatsInfo>, CommandError> {
        let read = |root: &Root| root.text(STATISTICS);
        let text = agent.look("reading the disks' counters", SURVEY, read).await?;
        Ok(statistics(&text.map_err(DiskError::Counters)?))
    }
}

/// The disks by name, each followed by its partitions. One without a size is a drive without a medium,
/// and left out; so is one that goes away meanwhile.
fn disks(root: &Root, addresses: &Addresses) -> Result<Vec<DiskInfo>, DiskError> {
    let mut folders: Vec<_> = fs::read_dir(root.path(DISKS))
        .map_err(DiskError::List)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    let mut disks = Vec::new();
    for folder in folders {
        if root::value(&folder.join("size")).is_none_or(|size| size == "0") {
            continue;
        }
        let Some(device) = Device::find(root, &folder) else { continue };
        let Some(name) = device.node() else { continue };
        let nodes =
            |slaves: Vec<Device<'_>>| slaves.iter().filter_map(Device::node).collect::<Vec<_>>();
        disks.push(DiskInfo {
            name: name.clone(),
            partition: false,
            dependencies: device.slaves().map(nodes),
            address: (!device.is_virtual()).then(|| device.address(addresses)),
            alias: root::value(&device.path().join("dm/name")),
            smart: None,
        });
        for partition in partitions(root, &device) {
            let Some(node) = partition.node() else { continue };
            disks.push(DiskInfo {
                name: node,
                partition: true,
                dependencies: Some(vec![name.clone()]),
                address: None,
                alias: None,
                smart: None,
            });
        }
    }
    Ok(disks)
}

/// The partitions of a disk, by number.
fn partitions<'a>(root: &'a Root, disk: &Device<'_>) -> Vec<Device<'a>> {
    let folders = fs::read_dir(disk.path()).into_iter().flatten().flatten();
    let mut partitions: Vec<(u64, Device<'_>)> = folders
        .filter_map(|folder| {
            let number = root::value(&folder.path().join("partition"))?.parse().ok()?;
            Some((number, Device::find(root, &folder.path())?))
        })
        .collect();
    partitions.sort_by_key(|(number, _)| *number);
    partitions.into_iter().map(|(_, device)| device).collect()
}

/// Whether a disk is asked for its health.
fn is_asked(disk: &DiskInfo) -> bool {
    disk.address.as_ref().is_some_and(|address| address.bus_type == DiskBusType::Nvme)
}

/// The counters of each device. How many there are tells what they are: partitions had four once,
/// discards and flushes were added later.
fn statistics(text: &str) -> Vec<DiskStatsInfo> {
    let device = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let major = words.next()?.parse().ok()?;
        let minor = words.next()?.parse().ok()?;
        let name = words.next()?.to_owned();
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let stats = match numbers[..] {
            [] | [_] | [_, _] | [_, _, _] => return None,
            [read_ios, read_sectors, write_ios, write_sectors] => DiskStats {
                read_ios: Some(read_ios),
                read_sectors: Some(read_sectors),
                write_ios: Some(write_ios),
                write_sectors: Some(write_sectors),
                ..DiskStats::default()
            },
            _ => counters(&numbers),
        };
        Some(DiskStatsInfo { name, major, minor, stats })
    };
    text.lines().filter_map(device).collect()
}

fn counters(numbers: &[u64]) -> DiskStats {
    // a group that is not whole is not told
    let from = |group: usize| if numbers.len() >= group { numbers } else { &[] };
    let at = |group, at: usize| from(group).get(at).copied();
    DiskStats {
        read_ios: at(11, 0),
        read_merges: at(11, 1),
        read_sectors: at(11, 2),
        read_ticks: at(11, 3),
        write_ios: at(11, 4),
        write_merges: at(11, 5),
        write_sectors: at(11, 6),
        write_ticks: at(11, 7),
        ios_pgr: at(11, 8),
        total_ticks: at(11, 9),
        weight_ticks: at(11, 10),
        discard_ios: at(15, 11),
        discard_merges: at(15, 12),
        discard_sectors: at(15, 13),
        discard_ticks: at(15, 14),
        flush_ios: at(17, 15),
        flush_ticks: at(17, 16),
    }
}

#[cfg(test)]
mod tests;
