//! The node for people.

use ostler_protocol::rpc::hardware::{Board, Boards, MachineType};
use ostler_protocol::rpc::host::{Host, Link};
use ostler_protocol::rpc::values::Bytes;

use super::table::{Field, Mood, fields};
use super::time::instant;
use super::{Look, Show};

impl Show for Host {
    fn show(&self, look: Look) -> String {
        let [one, five, fifteen] = self.load;
        let count = self.instances.iter().map(|(status, count)| format!("{count} {status}"));
        let instances: Vec<String> = count.collect();
        let share = |claimed: String, limit: String| Field::plain(format!("{claimed} of {limit}"));
        let (vcpus, memory, disk) = (self.vcpus_share, self.memory_share, self.disk_share);
        let mut rows = vec![
            ("host", Field::plain(&self.host)),
            ("version", Field::plain(&self.version)),
            ("started", Field::plain(instant(self.started))),
            ("hypervisor", link(self.hypervisor)),
            ("broker", link(self.broker)),
            ("virtualization", Field::plain(virtualization(self))),
            ("machines", Field::maybe(self.boards.as_ref().map(machines))),
            ("kernel", Field::plain(&self.kernel)),
            ("cpu", Field::plain(format!("{} x {}", self.cpus, self.cpu_model))),
            ("load", Field::plain(format!("{one:.2} {five:.2} {fifteen:.2}"))),
            ("memory", Field::plain(free(self.memory_available, self.memory))),
            ("disk", Field::plain(free(self.disk_available, self.disk))),
            ("vcpus claimed", share(vcpus.claimed.to_string(), vcpus.limit.to_string())),
            (
                "memory claimed",
                share(Bytes(memory.claimed).to_string(), Bytes(memory.limit).to_string()),
            ),
            ("disk claimed", share(Bytes(disk.claimed).to_string(), Bytes(disk.limit).to_string())),
            (
                "instances",
                Field::plain(if instances.is_empty() {
                    "none".to_owned()
                } else {
                    instances.join(", ")
                }),
            ),
            ("operations", Field::plain(format!("{} not over", self.operations))),
        ];
        for (name, flavor) in &self.flavors {
            let disk =
                flavor.disk.map_or_else(|| "the image's".to_owned(), |disk| disk.to_string());
            let (vcpus, memory) = (flavor.vcpus, flavor.memory);
            let text = format!("{name}: {vcpus} vcpus, {memory} memory, {disk} disk");
            rows.push(("flavor", Field::plain(text)));
        }
        fields(look, rows)
    }
}

fn virtualization(host: &Host) -> String {
    let Host { virt_type, cpu_mode, virt_type_reason: why, .. } = host;
    match (cpu_mode.as_str(), why.as_str()) {
        ("", _) => virt_type.clone(),
        (cpu, "") => format!("{virt_type}, {cpu} cpu"),
        (cpu, why) => format!("{virt_type}, {cpu} cpu: {why}"),
    }
}

/// What instances can be made with, as in `q35 (uefi, secure boot), pc (bios); tpm`.
fn machines(boards: &Boards) -> String {
    let able = |machine: &MachineType| {
        let how = match boards.of(*machine)? {
            Board { uefi: false, .. } => "bios",
            Board { secure_boot: false, .. } => "bios, uefi",
            Board { secure_boot: true, .. } => "bios, uefi, secure boot",
        };
        Some(format!("{} ({how})", machine.as_str()))
    };
    let machines: Vec<String> = MachineType::ALL.iter().filter_map(able).collect();
    let tpm = if boards.tpm { "tpm" } else { "no tpm" };
    format!("{}; {tpm}", machines.join(", "))
}

fn free(available: Bytes, all: Bytes) -> String {
    format!("{available} available of {all}")
}

fn link(link: Link) -> Field {
    match link {
        Link::Up => Field::new("up", Mood::Good),
        Link::Down => Field::new("down", Mood::Bad),
        Link::None => Field::plain("not configured"),
    }
}
