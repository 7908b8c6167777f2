//! Volumes: one subject with the instance that has them, and whole whatever is cut off.

use std::os::unix::fs::FileExt;

use ostler_host_agent::hypervisor::fake::LetsGo;
use ostler_protocol::rpc::values::{Name, VolumeId};
use ostler_protocol::rpc::volume::{Format, Status as VolumeStatus};
use serde_json::Value;

use super::*;

pub(super) fn command<T: serde::de::DeserializeOwned>(
    of: impl FnOnce(T) -> Command,
    params: Value,
) -> Command {
    of(serde_json::from_value(params).unwrap())
}

pub(super) fn create(id: VolumeId) -> Command {
    command(Command::VolumeCreate, json!({"id": id, "name": "data", "size": 1 << 20}))
}

pub(super) fn attach(id: InstanceId, volume: VolumeId) -> Command {
    command(Command::AttachVolume, json!({"id": id, "volume": volume}))
}

pub(super) fn detach(id: InstanceId, volume: VolumeId) -> Command {
    command(Command::DetachVolume, json!({"id": id, "volume": volume, "timeout": 300}))
}

fn remove(volume: VolumeId) -> Command {
    command(Command::VolumeDelete, json!({"id": volume}))
}

fn snapshot(volume: VolumeId, name: &str) -> Command {
    command(Command::VolumeSnapshot, json!({"id": volume, "name": name}))
}

fn revert(volume: VolumeId, name: &str) -> Command {
    command(Command::VolumeRevert, json!({"id": volume, "name": name}))
}

impl Life {
    pub(super) fn volume(&self, id: VolumeId) -> ostler_protocol::rpc::volume::Volume {
        self.compute.reads().volume(id).unwrap().volume
    }

    pub(super) async fn guest_with(&self, world: &World) -> (InstanceId, VolumeId) {
        let (id, volume) = (InstanceId::random(), VolumeId::random());
        self.done(boot(id)).await;
        self.done(create(volume)).await;
        self.done(attach(id, volume)).await;
        assert_eq!(world.plugged(id), ["vda", "vdb"]);
        (id, volume)
    }
}

impl World {
    fn plugged(&self, id: InstanceId) -> Vec<String> {
        self.hypervisor.live_disks(id).iter().map(|disk| disk.device()).collect()
    }

    fn defined(&self, id: InstanceId) -> Vec<String> {
        let spec = self.hypervisor.spec(id).unwrap();
        spec.disks.iter().map(|disk| disk.device()).collect()
    }

    fn volume_files(&self, volume: VolumeId) -> bool {
        self.path().join("volumes").join(volume.to_string()).exists()
    }
}

#[tokio::test]
async fn a_volume_comes_and_goes_with_a_running_guest_and_with_one_that_is_off() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    assert_eq!(life.volume(volume).status, VolumeStatus::InUse);
    assert_eq!(world.defined(id), ["vda", "vdb"]);
    let refused = life.submit(remove(volume)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InUse);
    assert!(refused.message.contains(&id.to_string()), "{refused}");
    life.done(detach(id, volume)).await;
    assert_eq!((world.plugged(id), world.defined(id)), (vec!["vda".into()], vec!["vda".into()]));
    assert_eq!(life.volume(volume).status, VolumeStatus::Available);
    life.done(command(Command::Stop, json!({"id": id, "manner": "hard"}))).await;
    life.done(attach(id, volume)).await;
    assert_eq!(world.defined(id), ["vda", "vdb"]);
    life.done(Command::Start(id)).await;
    assert_eq!(world.plugged(id), ["vda", "vdb"]);
    life.done(delete(id)).await;
    assert_eq!(life.volume(volume).status, VolumeStatus::Available);
    life.done(remove(volume)).await;
    assert!(!world.volume_files(volume));
    assert!(life.compute.reads().volume(volume).is_err());
}

#[tokio::test]
async fn devices_stay_when_another_is_taken_away() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, first) = life.guest_with(&world).await;
    let second = VolumeId::random();
    life.done(create(second)).await;
    life.done(attach(id, second)).await;
    life.done(detach(id, first)).await;
    life.done(command(Command::Reboot, json!({"id": id, "manner": "hard"}))).await;
    assert_eq!(world.plugged(id), ["vda", "vdc"]);
    life.done(attach(id, first)).await;
    assert_eq!(life.volume(first).attachments[0].device, "vdb");
    life.done(command(Command::Rescue, json!({"id": id}))).await;
    assert_eq!(world.defined(id), ["vda", "vdd", "vdc", "vdb"], "the root disk makes way");
    life.done(Command::Unrescue(id)).await;
    assert_eq!(world.defined(id), ["vda", "vdc", "vdb"]);
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_keeps_its_volume() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    for how in [LetsGo::Silent, LetsGo::Refuses] {
        world.hypervisor.set_lets_go(id, how);
        let over = life.tried(detach(id, volume)).await;
        assert_eq!(over.state, State::Undone, "{over:#?}");
        let error = over.error.unwrap();
        assert_eq!(error.reason, Reason::GuestFailed);
        assert!(error.message.contains("vdb"), "{error}");
        assert_eq!(life.volume(volume).status, VolumeStatus::InUse);
        assert_eq!(
            (world.plugged(id), world.defined(id).len()),
            (vec!["vda".into(), "vdb".into()], 2)
        );
    }
    world.hypervisor.set_lets_go(id, LetsGo::AtOnce);
    life.done(detach(id, volume)).await;
}

#[tokio::test]
async fn an_attach_is_undone_wherever_it_fails() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = (InstanceId::random(), VolumeId::random());
    life.done(boot(id)).await;
    life.done(create(volume)).await;
    for call in [Call::PlugDisk, Call::Define] {
        for failing in [Failing::Before, Failing::After] {
            world.hypervisor.fail_next(call, failing, failed("step"));
            let over = life.tried(attach(id, volume)).await;
            assert_eq!(over.state, State::Undone, "{call:?} {failing:?}: {over:#?}");
            assert_eq!((world.plugged(id).len(), world.defined(id).len()), (1, 1));
            assert_eq!(life.volume(volume).status, VolumeStatus::Available);
        }
    }
    life.done(attach(id, volume)).await;
    for call in [Call::Unplug, Call::Define] {
        for failing in [Failing::Before, Failing::After] {
            world.hypervisor.fail_next(call, failing, failed("step"));
            let over = life.tried(detach(id, volume)).await;
            assert_eq!(over.state, State::Undone, "{call:?} {failing:?}: {over:#?}");
            assert_eq!((world.plugged(id).len(), world.defined(id).len()), (2, 2));
            assert_eq!(life.volume(volume).status, VolumeStatus::InUse);
        }
    }
    life.done(detach(id, volume)).await;
}

/// The cancel is over by then: what is undone waits for the guest.
#[tokio::test]
async fn an_attach_that_is_cancelled_waits_until_the_guest_lets_go() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = (InstanceId::random(), VolumeId::random());
    life.done(boot(id)).await;
    life.done(create(volume)).await;
    world.hypervisor.set_lets_go(id, LetsGo::Silent);
    let called = |call| world.hypervisor.called(call, Some(id));
    let held = world.hypervisor.hold_next(Call::PlugDisk);
    let operation = life.submit(attach(id, volume)).await.unwrap();
    while called(Call::PlugDisk) == 0 {
        tokio::task::yield_now().await;
    }
    life.compute.cancel(operation.id).await.unwrap();
    drop(held);
    while called(Call::Unplug) == 0 {
        tokio::task::yield_now().await;
    }
    world.hypervisor.let_go(id, &format!("ua-{volume}"));
    let over = life.end_of(&operation).await;
    assert_eq!(over.state, State::Cancelled, "{over:#?}");
    assert_eq!((world.plugged(id).len(), world.defined(id).len()), (1, 1));
    assert_eq!(life.volume(volume).status, VolumeStatus::Available);
}

#[tokio::test]
async fn an_attach_that_a_crash_cuts_off_is_completed() {
    for call in [Call::PlugDisk, Call::Define] {
        let world = World::new();
        let life = world.furnished().await;
        let (id, volume) = (InstanceId::random(), VolumeId::random());
        life.done(boot(id)).await;
        life.done(create(volume)).await;
        let before = world.hypervisor.called(call, Some(id));
        let held = world.hypervisor.hold_next(call);
        let operation = life.submit(attach(id, volume)).await.unwrap();
        while world.hypervisor.called(call, Some(id)) == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(life.volume(volume).status, VolumeStatus::Attaching);
        let refused = life.submit(remove(volume)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Conflict);
        life.crash().await;
        drop(held);
        let life = world.live().await;
        assert_eq!(life.end_of(&operation).await.state, State::Succeeded, "{call:?}");
        assert_eq!(world.plugged(id), ["vda", "vdb"]);
        assert_eq!(life.volume(volume).status, VolumeStatus::InUse);
    }
}

#[tokio::test]
async fn a_snapshot_of_a_running_guest_has_it_go_on_elsewhere() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    let source = |world: &World| world.hypervisor.live_disks(id)[1].source.clone();
    let before = source(&world);
    world.hypervisor.fail_next(Call::SwitchDisk, Failing::Before, failed("switch"));
    let over = life.tried(snapshot(volume, "a")).await;
    assert_eq!(over.state, State::Undone, "{over:#?}");
    assert_eq!((source(&world), life.volume(volume).snapshots.len()), (before.clone(), 0));
    life.done(snapshot(volume, "a")).await;
    assert_ne!(source(&world), before);
    assert_eq!(world.hypervisor.spec(id).unwrap().disks[1].source, source(&world));
    assert_eq!(life.volume(volume).snapshots[0].name, "a".parse::<Name>().unwrap());
    assert_eq!(life.submit(snapshot(volume, "a")).await.unwrap_err().reason, Reason::Conflict);
    // While the guest runs there is no way back.
    assert_eq!(life.submit(revert(volume, "a")).await.unwrap_err().reason, Reason::Conflict);
    life.done(command(Command::Stop, json!({"id": id, "manner": "hard"}))).await;
    assert_eq!(life.submit(revert(volume, "b")).await.unwrap_err().reason, Reason::NotFound);
    life.done(revert(volume, "a")).await;
    life.done(Command::Start(id)).await;
}

#[tokio::test]
async fn one_who_writes_is_alone_unless_the_volume_is_for_several() {
    let world = World::new();
    let life = world.furnished().await;
    let (_, alone) = life.guest_with(&world).await;
    let other = InstanceId::random();
    life.done(boot(other)).await;
    let refused = life.submit(attach(other, alone)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InUse);
    let shared = VolumeId::random();
    let params = json!({"id": shared, "name": "cluster", "size": 1 << 20, "multiattach": true});
    life.done(command(Command::VolumeCreate, params)).await;
    let (one, two) = (InstanceId::random(), InstanceId::random());
    for id in [one, two] {
        life.done(boot(id)).await;
        life.done(attach(id, shared)).await;
    }
    assert_eq!(life.volume(shared).attachments.len(), 2);
    let extend = || command(Command::VolumeExtend, json!({"id": shared, "size": 2 << 20}));
    assert_eq!(life.submit(extend()).await.unwrap_err().reason, Reason::InUse);
    life.done(detach(one, shared)).await;
    life.done(extend()).await;
    // What QEMU lets several write to is raw, and stays so.
    assert_eq!(life.volume(shared).format, Some(Format::Raw));
    assert_eq!(life.submit(snapshot(shared, "a")).await.unwrap_err().reason, Reason::Conflict);
    let params = json!({"name": "a", "size": 512, "multiattach": true, "format": "qcow2"});
    let refused = life.submit(command(Command::VolumeCreate, params)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidParams);
}

#[tokio::test]
async fn a_guest_that_keeps_a_disk_has_the_volume_though_the_attach_failed() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, other, volume) = (InstanceId::random(), InstanceId::random(), VolumeId::random());
    life.done(boot(id)).await;
    life.done(boot(other)).await;
    life.done(create(volume)).await;
    world.hypervisor.set_lets_go(id, LetsGo::Refuses);
    world.hypervisor.fail_next(Call::PlugDisk, Failing::After, failed("plug"));
    world.hypervisor.fail_next(Call::Unplug, Failing::Before, failed("unplug"));
    let over = life.tried(attach(id, volume)).await;
    assert_eq!(over.state, State::Failed, "{over:#?}");
    assert_eq!(world.plugged(id), ["vda", "vdb"]);
    assert_eq!(life.volume(volume).status, VolumeStatus::InUse);
    assert_eq!(life.submit(attach(other, volume)).await.unwrap_err().reason, Reason::InUse);
    assert_eq!(life.submit(remove(volume)).await.unwrap_err().reason, Reason::InUse);
    world.hypervisor.set_lets_go(id, LetsGo::AtOnce);
    life.done(detach(id, volume)).await;
    life.done(attach(other, volume)).await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_taken_back_is_there_to_be_deleted() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    world.hypervisor.fail_next(Call::SwitchDisk, Failing::After, failed("switch"));
    let held = world.hypervisor.hold_next(Call::SwitchDisk);
    let operation = life.submit(snapshot(volume, "a")).await.unwrap();
    while world.hypervisor.called(Call::SwitchDisk, Some(id)) == 0 {
        tokio::task::yield_now().await;
    }
    let layer = world.path().join("volumes").join(volume.to_string()).join("1.qcow2");
    #[expect(clippy::disallowed_methods, reason = "in QEMU's place: it has gone on there")]
    let mut qemu = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stderr(std::fs::File::open(layer).unwrap())
        .spawn()
        .unwrap();
    drop(held);
    let operation = life.end_of(&operation).await;
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert_eq!(operation.state, State::Failed, "{operation:#?}");
    assert_eq!(life.volume(volume).snapshots.len(), 1);
    assert_eq!(life.submit(snapshot(volume, "a")).await.unwrap_err().reason, Reason::Conflict);
    let drop_it = json!({"id": volume, "name": "a"});
    life.done(command(Command::VolumeDeleteSnapshot, drop_it)).await;
    assert_eq!(life.volume(volume).snapshots.len(), 0);
}

#[tokio::test]
async fn a_volume_that_grew_though_nobody_noted_it_never_shrinks() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    let extend = |size: u64| command(Command::VolumeExtend, json!({"id": volume, "size": size}));
    world.hypervisor.fail_next(Call::ResizeDisk, Failing::After, failed("resize"));
    assert_eq!(life.tried(extend(4 << 20)).await.state, State::Undone);
    assert_eq!(life.volume(volume).size, Bytes::mib(4), "as large as it is");
    assert_eq!(life.submit(extend(2 << 20)).await.unwrap_err().reason, Reason::InvalidParams);
    life.done(snapshot(volume, "a")).await;
    assert_eq!(life.volume(volume).snapshots[0].size, Bytes::mib(4));
    life.done(command(Command::Reboot, json!({"id": id, "manner": "hard"}))).await;
    life.done(detach(id, volume)).await;
    life.done(attach(id, volume)).await;
}

/// As of a pool whose devices the agent makes larger: the guest is told after that.
#[tokio::test]
async fn a_volume_that_grew_under_a_guest_that_was_not_told_is_as_large_as_it_is() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = (InstanceId::random(), VolumeId::random());
    life.done(boot(id)).await;
    let params = json!({"id": volume, "name": "raw", "size": 1 << 20, "format": "raw"});
    life.done(command(Command::VolumeCreate, params)).await;
    life.done(attach(id, volume)).await;
    let extend = |size: u64| command(Command::VolumeExtend, json!({"id": volume, "size": size}));
    world.hypervisor.keep_size(id, "vdb");
    let file = world.path().join("volumes").join(volume.to_string()).join("0.raw");
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(4 << 20).unwrap();
    world.hypervisor.fail_next(Call::ResizeDisk, Failing::Before, failed("resize"));
    let over = life.tried(extend(4 << 20)).await;
    assert_eq!(over.state, State::Undone, "{over:#?}");
    let error = over.error.unwrap();
    assert!(error.message.contains("its guest was not told"), "{error:?}");
    assert!(error.next.unwrap().contains("same size"));
    assert_eq!(life.volume(volume).size, Bytes::mib(4), "as large as it is");

    // It is told when asked again, and that is the end of it.
    life.done(extend(4 << 20)).await;
    assert_eq!(world.hypervisor.called(Call::ResizeDisk, Some(id)), 2);
    assert!(life.volume(volume).fault.is_none());
    assert_eq!(life.submit(extend(4 << 20)).await.unwrap_err().reason, Reason::InvalidParams);
    // Who has it next finds the volume that is on record.
    life.done(detach(id, volume)).await;
    life.done(attach(id, volume)).await;
}

#[tokio::test]
async fn what_goes_with_an_instance_stays_when_another_is_being_given_it() {
    let world = World::new();
    let life = world.furnished().await;
    let (one, two, volume) = (InstanceId::random(), InstanceId::random(), VolumeId::random());
    life.done(boot(one)).await;
    life.done(boot(two)).await;
    life.done(create(volume)).await;
    let read = |id: InstanceId, goes: bool| {
        let how = json!({"read_only": true, "delete_on_termination": goes});
        command(Command::AttachVolume, json!({"id": id, "volume": volume, "how": how}))
    };
    life.done(read(one, true)).await;
    let held = world.hypervisor.hold_next(Call::PlugDisk);
    let operation = life.submit(read(two, false)).await.unwrap();
    while world.hypervisor.called(Call::PlugDisk, Some(two)) == 0 {
        tokio::task::yield_now().await;
    }
    let delete = life.submit(delete(one)).await.unwrap();
    drop(held);
    assert_eq!(life.end_of(&delete).await.state, State::Succeeded);
    assert_eq!(life.end_of(&operation).await.state, State::Succeeded);
    assert_eq!(life.volume(volume).attachments.len(), 1);
    assert!(world.volume_files(volume));
}

#[tokio::test]
async fn a_rebuild_does_not_put_the_root_disk_where_a_volume_is() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = (InstanceId::random(), VolumeId::random());
    life.done(boot(id)).await;
    life.done(create(volume)).await;
    let how = json!({"bus": "scsi", "device": "sda"});
    let params = json!({"id": id, "volume": volume, "how": how});
    life.done(command(Command::AttachVolume, params)).await;
    let source = world.path().join("disk.raw");
    let import = json!({"name": "scsi", "source": source, "format": "raw",
                        "properties": {"hw_disk_bus": "scsi"}});
    life.done(command(Command::ImageImport, import)).await;
    let rebuild = || command(Command::Rebuild, json!({"id": id, "image": "scsi"}));
    let refused = life.submit(rebuild()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Conflict);
    assert!(refused.message.contains("sda"), "{refused}");
    life.done(detach(id, volume)).await;
    life.done(rebuild()).await;
    assert_eq!(world.plugged(id), ["sda"]);
}

#[tokio::test]
async fn what_goes_with_an_instance_is_deleted_with_it_and_nothing_else() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, stays) = life.guest_with(&world).await;
    let goes = VolumeId::random();
    life.done(create(goes)).await;
    let how = json!({"delete_on_termination": true});
    let params = json!({"id": id, "volume": goes, "how": how});
    life.done(command(Command::AttachVolume, params)).await;
    life.done(delete(id)).await;
    assert!(life.compute.reads().volume(goes).is_err() && !world.volume_files(goes));
    assert_eq!(life.volume(stays).status, VolumeStatus::Available);
    assert!(world.volume_files(stays));
}

#[tokio::test]
async fn a_volume_that_cannot_be_made_is_refused() {
    let world = World::new();
    let life = world.furnished().await;
    for bad in [
        json!({"name": "a"}),
        json!({"name": "a", "size": 513}),
        json!({"name": "a", "size": 0}),
        json!({"name": "a", "size": 1 << 20, "pool": "nowhere"}),
        json!({"name": "a", "size": 512, "source": {"image": "disk"}}),
        json!({"name": "a", "source": {"volume": VolumeId::random()}}),
    ] {
        assert!(life.submit(command(Command::VolumeCreate, bad.clone())).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_lies_in_a_pool_without_a_record_is_nobodys_to_delete() {
    let world = World::new();
    let life = world.furnished().await;
    let volume = VolumeId::random();
    let folder = world.path().join("volumes").join(volume.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let kept = folder.join("disk");
    std::fs::write(&kept, "of another node").unwrap();
    let over = life.tried(create(volume)).await;
    assert_eq!(over.error.unwrap().reason, Reason::Conflict);
    let force = command(Command::VolumeDelete, json!({"id": volume, "force": true}));
    assert_eq!(life.submit(force).await.unwrap_err().reason, Reason::NotFound);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "of another node");
}

#[tokio::test]
async fn an_image_stays_as_long_as_a_volume_lies_on_it() {
    let world = World::new();
    let life = world.furnished().await;
    let volume = VolumeId::random();
    let params = json!({"id": volume, "name": "root", "source": {"image": "disk"}});
    life.done(command(Command::VolumeCreate, params)).await;
    assert!(life.volume(volume).bootable);
    life.done(Command::ImageRemove("disk".parse().unwrap())).await;
    let images = || std::fs::read_dir(world.path().join("images")).unwrap().flatten();
    let kept =
        || images().filter(|file| file.file_name().to_string_lossy().contains(".raw")).count();
    assert_eq!(kept(), 1);
    life.done(remove(volume)).await;
    assert_eq!(kept(), 0);
}

fn boot_on(id: InstanceId, more: Value) -> Command {
    let mut params = json!({"id": id, "name": "web", "vcpus": 1, "memory": 64 << 20});
    for (key, value) in more.as_object().unwrap() {
        params[key] = value.clone();
    }
    command(Command::Boot, params)
}

#[tokio::test]
async fn a_volume_with_a_system_that_somebody_installed_is_booted_from_once_that_is_said() {
    let world = World::new();
    let life = world.furnished().await;
    let (installer, volume) = life.guest_with(&world).await;
    let update = |bootable: bool| {
        command(Command::VolumeUpdate, json!({"id": volume, "bootable": bootable}))
    };
    let id = InstanceId::random();
    let from_it = || boot_on(id, json!({"volume": volume}));
    let refused = async || {
        let refusal = life.submit(from_it()).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::InvalidParams);
        assert!(refusal.to_string().contains("not bootable"), "{refusal}");
    };

    // The guest that installs still has it.
    life.done(update(true)).await;
    life.done(delete(installer)).await;
    life.done(update(false)).await;
    refused().await;
    life.done(update(true)).await;
    // What is not named stays.
    life.done(command(Command::VolumeUpdate, json!({"id": volume, "name": "system"}))).await;
    life.done(from_it()).await;
    let shown = life.compute.reads().instance(id).unwrap().instance;
    assert_eq!((shown.volumes[0].volume, shown.volumes[0].root), (volume, true));
}

#[tokio::test]
async fn an_instance_boots_from_a_volume_that_is_made_for_it() {
    let world = World::new();
    let life = world.furnished().await;
    for goes in [false, true] {
        let id = InstanceId::random();
        let root = json!({"image": "disk", "volume_size": 2 << 20, "delete_on_termination": goes});
        life.done(boot_on(id, root)).await;
        let shown = life.compute.reads().instance(id).unwrap().instance;
        assert_eq!((shown.disk, shown.volumes.len()), (Bytes(0), 1));
        let volume = shown.volumes[0].volume;
        assert!(shown.volumes[0].root && life.volume(volume).bootable);
        assert_eq!(world.plugged(id), ["vda"]);
        // It runs from it.
        let refused = life.submit(detach(id, volume)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Conflict);
        life.done(delete(id)).await;
        assert_eq!(
            (life.compute.reads().volume(volume).is_err(), world.volume_files(volume)),
            (goes, !goes)
        );
    }
}

#[tokio::test]
async fn a_boot_from_a_volume_that_fails_leaves_what_was_there_and_nothing_else() {
    let world = World::new();
    let life = world.furnished().await;
    let kept = VolumeId::random();
    let create = json!({"id": kept, "name": "root", "source": {"image": "disk"}});
    life.done(command(Command::VolumeCreate, create)).await;
    for call in [Call::Define, Call::Start] {
        for (root, volumes) in
            [(json!({"image": "disk", "volume_size": 2 << 20}), 1), (json!({"volume": kept}), 1)]
        {
            let id = InstanceId::random();
            world.hypervisor.fail_next(call, Failing::After, failed("step"));
            let over = life.tried(boot_on(id, root)).await;
            assert_eq!(over.state, State::Undone, "{call:?}: {over:#?}");
            assert_eq!(world.traces(id), [""; 0]);
            let all = life.compute.reads().volumes(&Default::default()).unwrap();
            assert_eq!(all.len(), volumes);
            assert_eq!(life.volume(kept).status, VolumeStatus::Available);
        }
    }
    let id = InstanceId::random();
    life.done(boot_on(id, json!({"volume": kept}))).await;
    assert_eq!(life.volume(kept).status, VolumeStatus::InUse);
    for bad in [
        json!({}),
        json!({"image": "disk", "volume": kept}),
        json!({"volume": kept}),
        json!({"volume": VolumeId::random()}),
        json!({"volume_size": 1 << 20}),
        json!({"image": "disk", "volume_size": 512}),
        json!({"image": "disk", "volume_size": 2 << 20, "disk": 2 << 20}),
        json!({"image": "disk", "delete_on_termination": true}),
    ] {
        let refused = life.submit(boot_on(InstanceId::random(), bad.clone())).await;
        assert!(refused.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_root_volume_survives_whatever_is_done_to_its_instance() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot_on(id, json!({"image": "disk", "volume_size": 2 << 20}))).await;
    let volume = life.compute.reads().instance(id).unwrap().instance.volumes[0].volume;
    let root = |world: &World| {
        let disks = world.hypervisor.spec(id).unwrap().disks;
        let found = disks.iter().find(|disk| disk.serial == volume.to_string()).unwrap().clone();
        (found.device(), found.source)
    };
    let before = root(&world);
    assert_eq!(before.0, "vda");
    life.done(command(Command::Rescue, json!({"id": id}))).await;
    assert_eq!((root(&world).0.as_str(), &root(&world).1), ("vdb", &before.1));
    life.done(Command::Unrescue(id)).await;
    assert_eq!(root(&world), before);
    life.done(command(Command::Rebuild, json!({"id": id, "image": "disk"}))).await;
    assert_eq!(root(&world), before);
    life.done(command(Command::Resize, json!({"id": id, "vcpus": 2}))).await;
    life.done(Command::RevertResize(id)).await;
    life.done(command(Command::Resize, json!({"id": id, "vcpus": 2}))).await;
    life.done(Command::ConfirmResize(id)).await;
    assert_eq!(root(&world), before);
    life.done(command(Command::Shelve, json!({"id": id}))).await;
    assert_eq!(life.status(id), Status::ShelvedOffloaded);
    assert_eq!(world.traces(id), [""; 0]);
    assert_eq!(life.volume(volume).status, VolumeStatus::InUse);
    life.done(Command::Unshelve(id)).await;
    assert_eq!((life.status(id), root(&world)), (Status::Active, before));
    for refused in [
        command(Command::Snapshot, json!({"id": id, "name": "shot"})),
        command(Command::Reset, json!({"id": id, "root_device": "vda"})),
    ] {
        let fault = life.submit(refused).await.unwrap_err();
        assert_eq!(fault.reason, Reason::Conflict);
        assert!(fault.next.unwrap().contains("ostler volume"));
    }
}

impl Life {
    /// Until an instance or a volume is seen to have drifted, or not to have. It is looked at again
    /// and again: a look that comes while another is under way may be that one.
    async fn until_drift(&self, world: &World, what: impl Fn(&Self) -> Vec<String>, word: &str) {
        let mut looks = tokio::time::interval(Duration::from_millis(200));
        let seen = async {
            while !match word {
                "" => what(self).is_empty(),
                word => what(self).iter().any(|drift| drift.contains(word)),
            } {
                looks.tick().await;
                world.hypervisor.set_link(Link::Down);
                world.hypervisor.set_link(Link::Up);
            }
        };
        let late = || format!("no drift {word:?}: {:?}", what(self));
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .unwrap_or_else(|_| panic!("{}", late()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_behind_the_agent_is_shown() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    let instance = |life: &Life| life.compute.reads().instance(id).unwrap().instance.drift;
    // A guest lets go after the agent has given up waiting.
    world.hypervisor.set_lets_go(id, LetsGo::Silent);
    assert_eq!(life.tried(detach(id, volume)).await.state, State::Undone);
    world.hypervisor.let_go(id, &format!("ua-{volume}"));
    life.until_drift(&world, instance, "is not plugged in").await;
    life.done(detach(id, volume)).await;
    life.until_drift(&world, instance, "").await;

    let folder = world.path().join("volumes").join(volume.to_string());
    let shown = |life: &Life| life.volume(volume).drift;
    std::fs::rename(&folder, folder.with_extension("away")).unwrap();
    life.until_drift(&world, shown, "somebody removed it").await;
    assert!(life.tried(attach(id, volume)).await.error.unwrap().message.contains("removed it"));
    std::fs::rename(folder.with_extension("away"), &folder).unwrap();
    life.until_drift(&world, shown, "").await;
    let layer = std::fs::OpenOptions::new().write(true).open(folder.join("0.qcow2")).unwrap();
    layer.write_all_at(&(2u64 << 20).to_be_bytes(), 24).unwrap();
    life.until_drift(&world, shown, "2 MiB").await;
    let over = life.tried(attach(id, volume)).await;
    assert!(over.error.unwrap().message.contains("somebody changed it"));
}

#[tokio::test]
async fn limits_hold_at_once_and_at_the_next_start() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, volume) = life.guest_with(&world).await;
    let update = |qos: Value| command(Command::VolumeUpdate, json!({"id": volume, "qos": qos}));
    let live =
        |world: &World| serde_json::to_value(&world.hypervisor.live_disks(id)[1].limits).unwrap();
    let limits = json!({"total_iops_sec": 500, "total_bytes_sec": 1 << 20});
    world.hypervisor.fail_next(Call::LimitDisk, Failing::After, failed("limit"));
    assert_eq!(life.tried(update(limits.clone())).await.state, State::Undone);
    assert_eq!(live(&world), json!({}));
    life.done(update(limits.clone())).await;
    assert_eq!(live(&world), limits);
    life.done(update(json!({"total_bytes_sec": 0}))).await;
    assert_eq!(live(&world), json!({"total_iops_sec": 500}));
    life.done(command(Command::Reboot, json!({"id": id, "manner": "hard"}))).await;
    assert_eq!(live(&world), json!({"total_iops_sec": 500}));
    let bad = update(json!({"read_iops_sec": 5}));
    assert_eq!(life.submit(bad).await.unwrap_err().reason, Reason::InvalidParams);
}
