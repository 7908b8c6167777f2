//! One of each change: for the plans that are told of ([`plans`](mod@super::plans)), and, with an
//! instance, for tests of what is pure.

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::{Manner, Quiesce, Size, VmState};
#[cfg(test)]
use ostler_protocol::rpc::values::InstanceId;
use ostler_protocol::rpc::values::{Bytes, Name, Timestamp};

#[cfg(test)]
use crate::journal::records::InstanceRecord;
use crate::journal::records::{Base, Change, NetworkRecord, Running, Source};

#[expect(clippy::expect_used, reason = "the words are here, and a test says them all")]
fn name(text: &str) -> Name {
    text.parse().expect("a word is a name")
}

#[expect(clippy::expect_used, reason = "64 hexadecimal digits")]
fn source(image: &str) -> Source {
    let base = Base {
        sha256: "ab".repeat(32).parse().expect("a digest"),
        format: Format::Qcow2,
        virtual_size: Bytes::mib(16),
    };
    Source { image: name(image), base, direct: None }
}

/// An instance in service.
#[cfg(test)]
pub(in crate::compute) fn record() -> InstanceRecord {
    let Source { image, base, direct } = source("debian");
    InstanceRecord {
        id: InstanceId::random(),
        name: name("sample"),
        image,
        base,
        direct,
        flavor: None,
        vcpus: 1,
        memory: Bytes::mib(64),
        disk: Bytes::mib(16),
        max_vcpus: 2,
        max_memory: Bytes::mib(128),
        ports: Vec::new(),
        owner: None,
        metadata: Default::default(),
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

/// One of each change.
pub(in crate::compute) fn changes() -> Vec<Change> {
    let timeout = 1000;
    let size = Size {
        flavor: None,
        vcpus: 1,
        memory: Bytes::mib(64),
        disk: Bytes::mib(16),
        max_vcpus: 2,
        max_memory: Bytes::mib(128),
    };
    let network = NetworkRecord {
        name: name("lan"),
        bridge: "br-lan".to_owned(),
        uplink: None,
        mtu: 1500,
        created: Timestamp(0),
    };
    let base = source("shelf").base;
    let shelve = |offload| Change::Shelve { image: name("shelf"), offload, timeout };
    vec![
        Change::Boot,
        Change::Start,
        Change::Stop { manner: Manner::Soft, timeout },
        Change::Stop { manner: Manner::Hard, timeout },
        Change::Reboot { manner: Manner::Soft, timeout },
        Change::Reboot { manner: Manner::Hard, timeout },
        Change::Pause,
        Change::Unpause,
        Change::Suspend,
        Change::Resume,
        Change::Rebuild { from: source("other") },
        Change::Rescue { from: source("rescue") },
        Change::Unrescue,
        Change::Resize { to: size, timeout },
        Change::ConfirmResize,
        Change::RevertResize { start: Running::Yes },
        Change::RevertResize { start: Running::No },
        Change::Adjust { vcpus: Some(2), memory: Some(Bytes::mib(128)) },
        Change::Snapshot { image: name("shot"), quiesce: Quiesce::Auto },
        shelve(false),
        shelve(true),
        Change::Offload,
        Change::Unshelve { image: name("shelf"), base: None },
        Change::Unshelve { image: name("shelf"), base: Some(base) },
        Change::Update { name: name("new"), owner: None, metadata: Default::default() },
        Change::Lock { reason: String::new() },
        Change::Unlock,
        Change::SoftDelete { timeout },
        Change::Restore { to: VmState::Active },
        Change::Delete,
        Change::Password { user: "root".to_owned() },
        Change::ImageImport { sha256: None, partial_source: false },
        Change::ImageRemove,
        Change::NetworkEnsure { network: network.clone() },
        Change::NetworkRemove { network },
    ]
}
