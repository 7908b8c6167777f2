//! Sizes: whether there is room for an instance, and whether what it names exists. The facts come
//! in, a record or a refusal comes out.

use std::collections::BTreeMap;

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::rpc::host::Flavor;
use ostler_protocol::rpc::image::Properties;
use ostler_protocol::rpc::instance::{Adjust, Boot, Resize, Size, TaskState, VmState};
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name};

use super::notes::{invalid, notes};
use super::{Admission, config_drive, hardware, port, root};
use crate::journal::records::{BoardOptions, InstanceRecord, PortRecord, VolumeRecord};

/// The most vCPUs one instance may have: what QEMU's q35 machine takes without more.
const VCPUS_MAX: u32 = 255;
/// The least memory one instance may have.
const MEMORY_MIN: Bytes = Bytes::mib(16);

/// What a boot becomes.
pub(in crate::compute) struct Admitted {
    /// The instance.
    pub(in crate::compute) record: InstanceRecord,
    /// The volume that is made for it.
    pub(in crate::compute) volume: Option<VolumeRecord>,
    /// The ports that are made for it.
    pub(in crate::compute) ports: Vec<PortRecord>,
}

/// The record of the instance a boot asks for, and of what is made for it.
///
/// # Errors
/// Whatever is wrong with it; nothing has been done.
pub(in crate::compute) fn admit(boot: &Boot, gate: &Admission<'_>) -> Result<Admitted, Refusal> {
    let id = boot.id.unwrap_or_else(InstanceId::random);
    if gate.known.instances.contains_key(&id) {
        return Err(Refusal::new(Reason::Conflict, format!("conflict: instance {id} exists"))
            .about(format!("instance {id}"))
            .next("leave out the id to have one made, or repeat the request under its own key"));
    }
    let root = root::of(boot, gate)?;
    let size = size(boot, &gate.settings.flavors)?;
    let none = Properties::default();
    let properties = root.image.as_ref().map_or(&none, |(_, properties)| properties);
    let image = root.image.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
    let disk = match &root.volume {
        Some(_) => Bytes(0),
        None => size.disk.unwrap_or(root.least.max(properties.min_disk.unwrap_or_default())),
    };
    let on = match &root.new {
        Some(volume) => volume.size,
        None => disk,
    };
    // What is on a volume that is there fits it.
    let there = root.volume.is_some() && root.new.is_none();
    least(image, properties, size.memory, Some(on).filter(|_| !there))?;
    if disk < root.least {
        let text =
            format!("a disk of {disk} cannot hold image {image}, which needs {}", root.least);
        return Err(invalid("disk", text));
    }
    let (max_vcpus, max_memory) = maximum(boot, &size)?;
    notes(boot.owner.as_deref(), &boot.metadata)?;
    let options = BoardOptions {
        machine: boot.machine,
        firmware: boot.firmware,
        secure_boot: boot.secure_boot,
        tpm: boot.tpm,
    };
    let hardware = hardware::admit(properties, &options, gate)?;
    let volume = root.volume.map(|volume| root::on_bus(volume, hardware.disk_bus)).transpose()?;
    let config_drive = config_drive::admit(boot, id, gate.settings.config_drive)?;
    let owner = boot.owner.clone().filter(|owner| !owner.is_empty());
    let (interfaces, ports) = port::all(&boot.networks, owner.as_ref(), gate)?;
    let Flavor { vcpus, memory, .. } = size;
    gate.room(&Size { flavor: None, vcpus, memory, disk, max_vcpus, max_memory })?;
    let record = InstanceRecord {
        id,
        name: boot.name.clone(),
        image: root.image.map(|(name, _)| name),
        base: root.base,
        direct: root.direct,
        flavor: boot.flavor.clone(),
        vcpus: size.vcpus,
        memory: size.memory,
        disk,
        max_vcpus,
        max_memory,
        hardware,
        options,
        ports: interfaces,
        volumes: volume.into_iter().collect(),
        owner,
        metadata: boot.metadata.clone(),
        config_drive,
        locked: None,
        rescue: None,
        resized: None,
        shelved: None,
        deleted_from: None,
        fingerprint: None,
        built: false,
        vm_state: VmState::Building,
        task_state: Some(TaskState::Spawning),
        operation: Some(gate.by),
        fault: None,
        created: gate.now,
        updated: gate.now,
        revision: 0,
    };
    Ok(Admitted { record, volume: root.new, ports })
}

/// Whether an instance of this size has what an image needs at least.
///
/// # Errors
/// `invalid_params`.
pub(in crate::compute) fn least(
    image: &str,
    Properties { min_memory, min_disk, .. }: &Properties,
    memory: Bytes,
    disk: Option<Bytes>,
) -> Result<(), Refusal> {
    let sizes = [("memory", min_memory, Some(memory)), ("disk", min_disk, disk)];
    for (what, least, is) in sizes {
        if let (Some(least), Some(is)) = (least, is)
            && *least > is
        {
            return Err(invalid(what, format!("image {image} needs {least} of {what} at least")));
        }
    }
    Ok(())
}

/// The most vCPUs and memory an instance can be given while it runs.
fn maximum(boot: &Boot, size: &Flavor) -> Result<(u32, Bytes), Refusal> {
    let vcpus = boot.max_vcpus.unwrap_or(size.vcpus);
    if !(size.vcpus..=VCPUS_MAX).contains(&vcpus) {
        let text = format!("max_vcpus must be from {} to {VCPUS_MAX}", size.vcpus);
        return Err(invalid("max_vcpus", text));
    }
    let memory = boot.max_memory.unwrap_or(size.memory);
    if memory < size.memory || !memory.0.is_multiple_of(1 << 20) {
        let text = format!("max_memory must be whole MiB, {} or more", size.memory);
        return Err(invalid("max_memory", text));
    }
    Ok((vcpus, memory))
}

/// The size an instance shall have after a resize, if there is room for it beside the one it has.
///
/// # Errors
/// Why it cannot be.
pub(in crate::compute) fn resize(
    asked: &Resize,
    record: &InstanceRecord,
    gate: &Admission<'_>,
) -> Result<Size, Refusal> {
    let now = record.size();
    let flavor = match &asked.flavor {
        None => None,
        Some(name) => Some(known_flavor(name, &gate.settings.flavors)?),
    };
    let vcpus = asked.vcpus.or(flavor.map(|f| f.vcpus)).unwrap_or(now.vcpus);
    let memory = asked.memory.or(flavor.map(|f| f.memory)).unwrap_or(now.memory);
    let disk = match record.root_volume() {
        None => asked.disk.or(flavor.and_then(|f| f.disk)).unwrap_or(now.disk),
        Some(_) if asked.disk.is_none() => now.disk,
        Some(volume) => {
            let text = "the instance boots from a volume".to_owned();
            let next = format!("extend that: ostler volume extend {volume} SIZE");
            return Err(invalid("disk", text).next(next));
        }
    };
    check_size(vcpus, memory, Some(disk).filter(|disk| disk.0 > 0))?;
    if disk < now.disk {
        let text = format!("a disk never shrinks: it has {}, and {disk} is asked for", now.disk);
        return Err(invalid("disk", text));
    }
    let to = Size {
        flavor: asked.flavor.clone(),
        vcpus,
        memory,
        disk,
        // What could be given before can be given still.
        max_vcpus: now.max_vcpus.max(vcpus),
        max_memory: now.max_memory.max(memory),
    };
    if to == now || (to.vcpus, to.memory, to.disk) == (now.vcpus, now.memory, now.disk) {
        let text = "the instance has that size already".to_owned();
        return Err(invalid("flavor", text));
    }
    let more = Size {
        flavor: None,
        vcpus: to.vcpus.saturating_sub(now.vcpus),
        memory: Bytes(to.max_memory.0.saturating_sub(now.max_memory.0)),
        max_vcpus: 0,
        max_memory: Bytes(to.max_memory.0.saturating_sub(now.max_memory.0)),
        // The old disk is kept beside the new one.
        disk: to.disk,
    };
    gate.room(&more)?;
    Ok(to)
}

/// Whether an instance can be given these vCPUs and memory while it runs.
///
/// # Errors
/// Why not.
pub(in crate::compute) fn adjust(
    asked: &Adjust,
    record: &InstanceRecord,
    gate: &Admission<'_>,
) -> Result<(), Refusal> {
    let now = record.size();
    if asked.vcpus.is_none() && asked.memory.is_none() {
        return Err(invalid("vcpus", "nothing is asked for: give vcpus or memory".to_owned()));
    }
    let (vcpus, memory) = (asked.vcpus.unwrap_or(now.vcpus), asked.memory.unwrap_or(now.memory));
    check_size(vcpus, memory, None)?;
    let beyond = |parameter: &str, most: String| {
        let text = format!("the instance was booted to have {most} at most");
        Err(invalid(parameter, text).next("resize it").by(Action::InstanceResize))
    };
    if vcpus > now.max_vcpus {
        return beyond("vcpus", format!("{} vCPUs", now.max_vcpus));
    }
    if memory > now.max_memory {
        return beyond("memory", format!("{} of memory", now.max_memory));
    }
    let more = Size {
        flavor: None,
        vcpus: vcpus.saturating_sub(now.vcpus),
        memory: Bytes(0),
        disk: Bytes(0),
        max_vcpus: 0,
        max_memory: Bytes(0),
    };
    gate.room(&more)
}

fn size(boot: &Boot, flavors: &BTreeMap<Name, Flavor>) -> Result<Flavor, Refusal> {
    let flavor = match &boot.flavor {
        None => None,
        Some(name) => Some(known_flavor(name, flavors)?),
    };
    let missing = |what: &str| {
        invalid(what, format!("{what} is missing: name a flavor, or give vcpus and memory"))
    };
    let vcpus = boot.vcpus.or(flavor.map(|f| f.vcpus)).ok_or_else(|| missing("vcpus"))?;
    let memory = boot.memory.or(flavor.map(|f| f.memory)).ok_or_else(|| missing("memory"))?;
    let disk = boot.disk.or(flavor.and_then(|f| f.disk));
    check_size(vcpus, memory, disk)?;
    Ok(Flavor { vcpus, memory, disk })
}

fn known_flavor<'a>(
    name: &Name,
    flavors: &'a BTreeMap<Name, Flavor>,
) -> Result<&'a Flavor, Refusal> {
    flavors.get(name).ok_or_else(|| {
        let known: Vec<&str> = flavors.keys().map(Name::as_str).collect();
        Refusal::new(Reason::NotFound, format!("there is no flavor {name}"))
            .about("parameter flavor")
            .next(format!("use one of: {}", known.join(", ")))
    })
}

fn check_size(vcpus: u32, memory: Bytes, disk: Option<Bytes>) -> Result<(), Refusal> {
    if !(1..=VCPUS_MAX).contains(&vcpus) {
        return Err(invalid(
            "vcpus",
            format!("{vcpus} vCPUs are out of range: use 1 to {VCPUS_MAX}"),
        ));
    }
    if memory < MEMORY_MIN {
        return Err(invalid(
            "memory",
            format!("{memory} is too little memory: use {MEMORY_MIN} or more"),
        ));
    }
    if !memory.0.is_multiple_of(1 << 20) {
        return Err(invalid("memory", "memory must be whole MiB".to_owned()));
    }
    if disk.is_some_and(|disk| disk.0 == 0 || !disk.0.is_multiple_of(512)) {
        return Err(invalid("disk", "the disk's size must be a multiple of 512 bytes".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ostler_protocol::rpc::hardware::{Board, Boards, FirmwareType, TpmModel};
    use ostler_protocol::rpc::image::{Format, State as ImageState};
    use ostler_protocol::rpc::instance::DriveLayout;
    use ostler_protocol::rpc::values::{OperationId, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::compute::authority::ByState;
    use crate::compute::claims::{ByCapacity, Capacity};
    use crate::compute::registry::Known;
    use crate::config::{Admission as Policy, Settings};
    use crate::hypervisor::Link;
    use crate::journal::records::ImageRecord;
    use crate::journal::records::NetworkRecord;

    struct World {
        settings: Settings,
        known: Known,
        boards: Option<Boards>,
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn world() -> World {
        let image = ImageRecord {
            name: name("debian"),
            state: ImageState::Ready,
            format: Format::Qcow2,
            source: "/x".into(),
            sha256: Some("ab".repeat(32).parse().unwrap()),
            size: Bytes::mib(10),
            virtual_size: Bytes::gib(2),
            properties: Default::default(),
            created: Timestamp(0),
        };
        let network = NetworkRecord {
            name: name("lan"),
            bridge: "br-lan".into(),
            uplink: None,
            vlan: None,
            vxlan: None,
            mtu: 1500,
            created: Timestamp(0),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "host = \"n\"\n").unwrap();
        let mut settings = Settings::load(Some(&file)).unwrap();
        settings.admission = Policy {
            cpu_ratio: 2.0,
            memory_ratio: 1.0,
            memory_reserve: Bytes::gib(1),
            disk_ratio: 1.5,
            disk_reserve: Bytes::gib(1),
        };
        let small = Flavor { vcpus: 1, memory: Bytes::gib(1), disk: None };
        settings.flavors = BTreeMap::from([(name("small"), small)]);
        let known = Known {
            images: BTreeMap::from([(image.name.clone(), image)]),
            networks: BTreeMap::from([(network.name.clone(), network)]),
            ..Known::default()
        };
        World { settings, known, boards: Some(Boards::default()) }
    }

    impl World {
        fn admit(&mut self, boot: serde_json::Value) -> Result<InstanceRecord, Refusal> {
            let boot: Boot = serde_json::from_value(boot).unwrap();
            admit(
                &boot,
                &Admission {
                    known: &mut self.known,
                    settings: &self.settings,
                    authority: &ByState,
                    claims: &ByCapacity,
                    by: OperationId::random(),
                    now: Timestamp(1),
                    capacity: Some(Capacity {
                        cpus: 2,
                        memory: Bytes::gib(4),
                        disk: Bytes::gib(10),
                    }),
                    lacks_capacity: &Cell::new(false),
                    boards: self.boards,
                    lacks_boards: &Cell::new(false),
                    hypervisor: Link::Up,
                },
            )
            .map(|admitted| admitted.record)
        }

        fn refused(&mut self, boot: serde_json::Value) -> (Reason, String) {
            let fault = self.admit(boot).unwrap_err();
            (fault.reason, fault.message)
        }
    }

    #[test]
    fn each_part_of_a_config_drive_makes_one_and_nothing_else_does() {
        let drive = |more: serde_json::Value| {
            let mut boot = json!({"name": "Web_1", "image": "debian", "flavor": "small"});
            boot.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            world().admit(boot).unwrap().config_drive
        };
        assert_eq!(drive(json!({})), None);
        let own = drive(json!({"config_drive": "default"})).unwrap();
        assert_eq!((own.layout, own.hostname.as_str()), (DriveLayout::Openstack, "web-1"));
        for more in
            [json!({"user_data": ""}), json!({"vendor_data": "eA=="}), json!({"hostname": "web-1"})]
        {
            assert_eq!(drive(more).unwrap().layout, DriveLayout::Openstack);
        }
        let named = drive(json!({"config_drive": "nocloud", "hostname": "a.b"})).unwrap();
        assert_eq!((named.layout, named.hostname.as_str()), (DriveLayout::Nocloud, "a.b"));
    }

    #[test]
    fn disks_are_promised_only_as_often_as_there_is_room() {
        let mut world = world();
        // 10 GiB, of which 1 GiB is kept, half as much again: six disks of 2 GiB.
        let boot = || {
            serde_json::json!({"name": "a", "image": "debian", "vcpus": 1,
            "memory": 64u64 << 20, "disk": 2u64 << 30})
        };
        world.settings.admission.cpu_ratio = 100.0;
        for n in 0..6 {
            let record = world.admit(boot()).unwrap_or_else(|fault| panic!("{n}: {fault}"));
            world.known.instances.insert(record.id, record);
        }
        assert_eq!(world.refused(boot()).0, Reason::NoCapacity);
    }

    #[test]
    fn a_flavor_gives_what_is_not_said() {
        let mut world = world();
        let boot = serde_json::json!({"name": "a", "image": "debian", "flavor": "small",
            "vcpus": 2, "networks": [{"network": "lan"}]});
        let record = world.admit(boot).unwrap();
        assert_eq!((record.vcpus, record.memory), (2, Bytes::gib(1)));
        assert_eq!(record.disk, Bytes::gib(2));
        assert_eq!(record.ports[0].mac.octets()[..3], [0x52, 0x54, 0x00]);
    }

    #[test]
    fn what_does_not_exist_or_fit_is_refused_with_the_reason() {
        let mut world = world();
        let mut with = |changes: serde_json::Value| {
            let mut boot = serde_json::json!({"name": "a", "image": "debian", "flavor": "small"});
            for (field, value) in changes.as_object().unwrap() {
                boot[field] = value.clone();
            }
            world.refused(boot)
        };
        let cases = [
            (serde_json::json!({"image": "nope"}), Reason::NotFound, "no image nope"),
            (serde_json::json!({"flavor": "nope"}), Reason::NotFound, "no flavor nope"),
            (serde_json::json!({"networks": [{"network": "x"}]}), Reason::NotFound, "no network x"),
            (serde_json::json!({"vcpus": 0}), Reason::InvalidParams, "0 vCPUs"),
            (serde_json::json!({"vcpus": 5}), Reason::NoCapacity, "no room for 5 vCPUs: 4 of 4"),
            (
                serde_json::json!({"memory": 5u64 << 30}),
                Reason::NoCapacity,
                "no room for 5 GiB of memory: 3 GiB",
            ),
            (serde_json::json!({"disk": 1u64 << 30}), Reason::InvalidParams, "cannot hold image"),
            (
                serde_json::json!({"disk": 20u64 << 30}),
                Reason::NoCapacity,
                "no room for 20 GiB of disk: 13.5 GiB of 13.5 GiB",
            ),
        ];
        for (changes, reason, text) in cases {
            let (found, message) = with(changes.clone());
            assert_eq!(found, reason, "{changes}: {message}");
            assert!(message.contains(text), "{message} lacks {text}");
        }
    }

    #[test]
    fn claims_of_the_living_count_and_those_of_the_deleted_do_not() {
        let mut world = world();
        let boot = || serde_json::json!({"name": "a", "image": "debian", "flavor": "small"});
        for _ in 0..3 {
            let record = world.admit(boot()).unwrap();
            world.known.instances.insert(record.id, record);
        }
        assert_eq!(world.refused(boot()).0, Reason::NoCapacity);
        world.known.instances.values_mut().next().unwrap().vm_state = VmState::Deleted;
        assert!(world.admit(boot()).is_ok());
    }

    #[test]
    fn what_the_node_cannot_make_is_refused_with_what_to_install() {
        let mut world = world();
        let boot = |more: serde_json::Value| {
            let mut boot = json!({"name": "a", "image": "debian", "flavor": "small"});
            boot.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            boot
        };
        let secure = json!({"firmware": "uefi", "secure_boot": true, "tpm": true});
        let none = Board::default();
        let uefi = Board { uefi: true, secure_boot: false };
        let both = Board { uefi: true, secure_boot: true };
        let boards = |q35, tpm| Boards { q35: Some(q35), pc: None, tpm };
        for (can, text) in [
            (boards(none, true), "no UEFI firmware for machine q35"),
            (boards(uefi, true), "no UEFI firmware with secure boot"),
            (boards(both, false), "no software TPM"),
        ] {
            world.boards = Some(can);
            let (reason, message) = world.refused(boot(secure.clone()));
            assert_eq!(reason, Reason::NoCapacity, "{message}");
            assert!(message.contains(text), "{message} lacks {text}");
        }
        world.boards = Some(boards(both, true));
        let made = world.admit(boot(secure)).unwrap().hardware;
        assert_eq!((made.firmware, made.secure_boot), (FirmwareType::Uefi, true));
        assert_eq!(made.tpm, Some(TpmModel::Crb));
        assert_eq!(world.refused(boot(json!({"machine": "pc"}))).0, Reason::NoCapacity);
        // What is usual needs nobody to look.
        world.boards = None;
        assert!(world.admit(boot(json!({}))).is_ok());
    }

    #[test]
    fn an_image_gets_the_disk_and_the_memory_it_needs() {
        let mut world = world();
        let image = world.known.images.get_mut(&name("debian")).unwrap();
        image.properties.min_disk = Some(Bytes::gib(3));
        image.properties.min_memory = Some(Bytes::gib(1));
        let boot = json!({"name": "a", "image": "debian", "flavor": "small"});
        assert_eq!(world.admit(boot.clone()).unwrap().disk, Bytes::gib(3));
        for (field, size) in [("disk", Bytes::gib(2)), ("memory", Bytes::mib(512))] {
            let mut small = boot.clone();
            small[field] = json!(size);
            let (reason, message) = world.refused(small);
            assert_eq!(reason, Reason::InvalidParams);
            assert!(message.contains(&format!("of {field} at least")), "{message}");
        }
    }

    #[test]
    fn a_mac_is_given_once() {
        let mut world = world();
        let mac = "52:54:00:00:00:01";
        let boot = serde_json::json!({"name": "a", "image": "debian", "flavor": "small",
            "networks": [{"network": "lan", "mac": mac}, {"network": "lan", "mac": mac}]});
        assert_eq!(world.refused(boot).0, Reason::Conflict);
    }
}
