//! What libvirt counts of a running domain, in our words.

use std::path::Path;
use std::time::SystemTime;

use ostler_protocol::rpc::values::{Bytes, InstanceId, Timestamp};
use virt::domain::Domain;
use virt::sys;

use super::domain::told;
use super::error::from_xml;
use super::ffi::{Counters, domain_counters};
use super::xml;
use crate::hypervisor::Error;
use crate::hypervisor::inspect::{
    DiskStats, DomainStats, MemoryStats, NicStats, Traffic, VcpuStats,
};
use crate::hypervisor::plug::LiveNic;

/// More of a kind than any domain has.
const MANY: u64 = 1024;

/// Where libvirt keeps the pids of the system's domains.
const PIDS: &str = "/run/libvirt/qemu";

/// Reads them; `xml` is its live definition.
pub(super) fn read(
    step: &'static str,
    id: InstanceId,
    domain: &Domain,
    xml: &str,
) -> Result<DomainStats, Error> {
    const WHICH: u32 = sys::VIR_DOMAIN_STATS_CPU_TOTAL
        | sys::VIR_DOMAIN_STATS_BALLOON
        | sys::VIR_DOMAIN_STATS_VCPU
        | sys::VIR_DOMAIN_STATS_INTERFACE
        | sys::VIR_DOMAIN_STATS_BLOCK;
    let counters = domain_counters(domain, WHICH).map_err(told(step, id))?;
    let nics = xml::live::nics(xml).map_err(|error| from_xml(step, Some(id), &error))?;
    let mut stats = told_by(&counters, &nics);
    let name = domain.name().map_err(told(step, id))?;
    stats.uptime = uptime(&Path::new(PIDS).join(format!("{name}.pid")));
    Ok(stats)
}

/// How long ago libvirt wrote the pid of a domain's QEMU: it does so at its start, once.
fn uptime(pid: &Path) -> Option<u64> {
    let written = pid.metadata().ok()?.modified().ok()?;
    SystemTime::now().duration_since(written).ok().map(|since| since.as_secs())
}

fn told_by(counters: &Counters, nics: &[LiveNic]) -> DomainStats {
    let number = |name: &str| counters.numbers.get(name).copied();
    let count = |name: &str| number(name).unwrap_or(0).min(MANY) as usize;
    let name = |name: &str| counters.names.get(name).cloned().unwrap_or_default();
    let kib = |name: &str| number(name).map(|kib| Bytes(kib.saturating_mul(1024)));
    let nic = |n: usize| {
        let tap = name(&format!("net.{n}.name"));
        let direction = |way: &str| {
            let one = |what: &str| number(&format!("net.{n}.{way}.{what}"));
            Traffic {
                bytes: one("bytes"),
                packets: one("pkts"),
                errors: one("errs"),
                drops: one("drop"),
            }
        };
        let mac = nics.iter().find(|nic| nic.tap == tap).map(|nic| nic.mac);
        // libvirt has turned the tap's directions round already: `rx` is the guest's
        NicStats { tap, mac, received: direction("rx"), sent: direction("tx") }
    };
    let disk = |n: usize| {
        let one = |what: &str| number(&format!("block.{n}.{what}"));
        DiskStats {
            target: name(&format!("block.{n}.name")),
            read_bytes: one("rd.bytes"),
            read_requests: one("rd.reqs"),
            write_bytes: one("wr.bytes"),
            write_requests: one("wr.reqs"),
            flush_requests: one("fl.reqs"),
            errors: one("errors"),
        }
    };
    DomainStats {
        uptime: None,
        cpu_time: number("cpu.time"),
        vcpus: (0..count("vcpu.maximum"))
            .filter(|n| number(&format!("vcpu.{n}.state")).is_some())
            .map(|n| VcpuStats { id: n as u32, time: number(&format!("vcpu.{n}.time")) })
            .collect(),
        nics: (0..count("net.count")).map(nic).collect(),
        disks: (0..count("block.count")).map(disk).collect(),
        memory: MemoryStats {
            maximum: kib("balloon.maximum"),
            current: kib("balloon.current"),
            rss: kib("balloon.rss"),
            available: kib("balloon.available"),
            unused: kib("balloon.unused"),
            usable: kib("balloon.usable"),
            caches: kib("balloon.disk_caches"),
            swap_in: kib("balloon.swap_in"),
            swap_out: kib("balloon.swap_out"),
            major_faults: number("balloon.major_fault"),
            minor_faults: number("balloon.minor_fault"),
            told: number("balloon.last-update")
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Timestamp(seconds.saturating_mul(1000))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_absent_and_counts_are_bounded() {
        let mut counters = Counters::default();
        for (name, number) in [
            ("vcpu.maximum", 2),
            ("vcpu.0.state", 1),
            ("vcpu.0.time", 7),
            ("net.count", 1),
            ("net.0.rx.bytes", 5),
            ("block.count", u64::MAX),
            ("balloon.current", 2),
            ("balloon.last-update", 0),
        ] {
            counters.numbers.insert(name.to_owned(), number);
        }
        counters.names.insert("net.0.name".to_owned(), "tap0".to_owned());
        let mac = ostler_protocol::rpc::values::MacAddress::in_qemu_range(1, 2, 3);
        let stats = told_by(
            &counters,
            &[LiveNic { mac, alias: "net0".to_owned(), tap: "tap0".to_owned() }],
        );
        assert_eq!(stats.vcpus, [VcpuStats { id: 0, time: Some(7) }]);
        assert_eq!((stats.nics[0].mac, stats.nics[0].received.bytes), (Some(mac), Some(5)));
        assert_eq!(stats.nics[0].sent.bytes, None);
        assert_eq!(stats.disks.len(), MANY as usize);
        assert_eq!((stats.memory.current, stats.memory.rss), (Some(Bytes(2048)), None));
        assert_eq!(stats.memory.told, None);
    }
}
