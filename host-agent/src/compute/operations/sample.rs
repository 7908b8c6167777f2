//! What the samples of changes are made of; and, for tests of what is pure, an instance.

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::Size;
use ostler_protocol::rpc::values::{Bytes, MacAddress, Name, PortId, Timestamp, VolumeId};
use ostler_protocol::rpc::volume::Bus;

use crate::journal::records::{AttachmentRecord, Base, InterfaceRecord, NetworkRecord, Source};

#[expect(clippy::expect_used, reason = "the words are here, and a test says them all")]
pub(in crate::compute) fn name(text: &str) -> Name {
    text.parse().expect("a word is a name")
}

#[expect(clippy::expect_used, reason = "64 hexadecimal digits")]
pub(in crate::compute) fn source(image: &str) -> Source {
    let base = Base {
        sha256: "ab".repeat(32).parse().expect("a digest"),
        format: Format::Qcow2,
        virtual_size: Bytes::mib(16),
    };
    Source { image: name(image), base, direct: None }
}

pub(super) fn size() -> Size {
    Size {
        flavor: None,
        vcpus: 1,
        memory: Bytes::mib(64),
        disk: Bytes::mib(16),
        max_vcpus: 2,
        max_memory: Bytes::mib(128),
    }
}

#[expect(clippy::expect_used, reason = "36 characters of a UUID")]
pub(super) fn volume_id() -> VolumeId {
    "1f8fad5b-d9cb-469f-a165-70867728950e".parse().expect("an id")
}

#[expect(clippy::expect_used, reason = "36 characters of a UUID")]
pub(super) fn other_volume_id() -> VolumeId {
    "7c9e6679-7425-40de-944b-e07fc1f90ae7".parse().expect("an id")
}

#[expect(clippy::expect_used, reason = "36 characters of a UUID")]
pub(super) fn port_id() -> PortId {
    "0f8fad5b-d9cb-469f-a165-70867728950e".parse().expect("an id")
}

pub(super) fn interface(kept: bool) -> InterfaceRecord {
    let mac = MacAddress::in_qemu_range(0x0f, 0x8f, 0xad);
    InterfaceRecord { id: port_id(), network: name("lan"), mac, kept }
}

pub(super) fn attachment() -> AttachmentRecord {
    AttachmentRecord {
        volume: volume_id(),
        device: "vdb".to_owned(),
        bus: Bus::Virtio,
        read_only: false,
        root: false,
        delete_on_termination: false,
        cache: None,
        discard: None,
        io: None,
        boot_index: None,
        known_as: None,
    }
}

pub(super) fn network() -> NetworkRecord {
    NetworkRecord {
        name: name("lan"),
        bridge: "br-lan".to_owned(),
        uplink: None,
        vlan: None,
        vxlan: None,
        mtu: 1500,
        created: Timestamp(0),
    }
}

#[cfg(test)]
pub(in crate::compute) use self::tests::{changes, record};

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::instance::VmState;
    use ostler_protocol::rpc::operation::Kind;
    use ostler_protocol::rpc::values::InstanceId;

    use super::*;
    use crate::compute::operations::{Change, samples};
    use crate::journal::records::InstanceRecord;

    /// One of each change.
    pub(in crate::compute) fn changes() -> Vec<Change> {
        Kind::ALL.iter().flat_map(|kind| samples(*kind)).collect()
    }

    /// An instance in service.
    pub(in crate::compute) fn record() -> InstanceRecord {
        let Source { image, base, direct } = source("debian");
        let Size { flavor, vcpus, memory, disk, max_vcpus, max_memory } = size();
        InstanceRecord {
            id: InstanceId::random(),
            name: name("sample"),
            image: Some(image),
            base: Some(base),
            direct,
            flavor,
            vcpus,
            memory,
            disk,
            max_vcpus,
            max_memory,
            hardware: Default::default(),
            options: Default::default(),
            ports: Vec::new(),
            volumes: Vec::new(),
            owner: None,
            metadata: Default::default(),
            config_drive: None,
            locked: None,
            rescue: None,
            resized: None,
            shelved: None,
            deleted_from: None,
            fingerprint: None,
            built: true,
            vm_state: VmState::Active,
            task_state: None,
            operation: None,
            fault: None,
            created: Timestamp(1),
            updated: Timestamp(1),
            revision: 1,
        }
    }
}
