//! A volume in the place of another: the instance has the one or the other, whole, whatever fails or
//! is cut off, and the guest knows the disk by the id it always had.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ostler_host_agent::hypervisor::fake::Copies;
use ostler_host_agent::hypervisor::spec::{Disk, DiskSource};
use ostler_host_agent::hypervisor::{Mirror, Mirroring, PowerReason};
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume::Status as VolumeStatus;
use serde_json::Value;

use super::volumes::{attach, command, create, detach};
use super::*;

fn swap(id: InstanceId, volume: VolumeId, new: VolumeId) -> Command {
    command(Command::SwapVolume, json!({"id": id, "volume": volume, "new": new}))
}

fn create_so(id: VolumeId, more: Value) -> Command {
    let mut params = json!({"id": id, "name": "data", "size": 1 << 20});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    command(Command::VolumeCreate, params)
}

impl Life {
    /// A guest with a volume, and one that nobody has.
    async fn with_two(&self, world: &World) -> (InstanceId, VolumeId, VolumeId) {
        let (id, old) = self.guest_with(world).await;
        let new = VolumeId::random();
        self.done(create(new)).await;
        (id, old, new)
    }

    async fn stop(&self, id: InstanceId) {
        self.done(command(Command::Stop, json!({"id": id, "manner": "hard"}))).await;
    }

    /// The instance has the one volume, known to the guest as `known`, and nobody has the other.
    fn has(&self, world: &World, id: InstanceId, volume: VolumeId, not: VolumeId, known: VolumeId) {
        let shown = self.compute.reads().instance(id).unwrap().instance;
        let has: Vec<_> =
            shown.volumes.iter().map(|there| (there.volume, there.serial.clone())).collect();
        assert_eq!(has, [(volume, known.to_string())]);
        assert_eq!(self.volume(volume).status, VolumeStatus::InUse);
        assert_eq!(self.volume(not).status, VolumeStatus::Available);
        assert_eq!(shown.drift, [""; 0]);
        let defined = world.hypervisor.spec(id).unwrap().disks;
        let live = world.hypervisor.live_disks(id);
        let runs = shown.power_state == PowerState::Running;
        for disk in [Some(defined), runs.then_some(live)].into_iter().flatten() {
            is_on(&disk[1], volume, known);
        }
    }
}

fn is_on(disk: &Disk, volume: VolumeId, known: VolumeId) {
    let DiskSource::File(path) = &disk.source else { panic!("{disk:?}") };
    assert!(path.to_str().unwrap().contains(&volume.to_string()), "{disk:?}");
    assert_eq!((&disk.serial, &disk.alias), (&known.to_string(), &format!("ua-{known}")));
    assert_eq!(disk.device(), "vdb");
}

fn raw(world: &World, volume: VolumeId) -> PathBuf {
    world.path().join("volumes").join(volume.to_string()).join("0.raw")
}

#[tokio::test]
async fn a_guest_that_runs_goes_on_with_the_new_volume_by_the_old_name() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, old, new) = life.with_two(&world).await;
    let other = InstanceId::random();
    life.done(boot(other)).await;
    life.done(swap(id, old, new)).await;
    life.has(&world, id, new, old, old);
    assert_eq!(world.hypervisor.called(Call::PlugDisk, Some(id)), 1);
    life.done(command(Command::Reboot, json!({"id": id, "manner": "hard"}))).await;
    life.has(&world, id, new, old, old);

    // Its name is taken in this guest, and in no other.
    let refused = life.submit(attach(id, old)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Conflict);
    assert!(refused.message.contains(&new.to_string()), "{refused}");
    life.done(attach(other, old)).await;
    life.done(detach(other, old)).await;

    // Back, and it is what it was; on to another and away, and nothing is left of the name.
    life.done(swap(id, new, old)).await;
    life.has(&world, id, old, new, old);
    life.done(attach(other, new)).await;
    life.done(detach(other, new)).await;
    life.done(swap(id, old, new)).await;
    life.done(detach(id, new)).await;
    life.done(attach(id, old)).await;
    life.has(&world, id, old, new, old);
}

#[tokio::test]
async fn an_instance_that_is_off_starts_with_what_it_had() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, old, new) = (InstanceId::random(), VolumeId::random(), VolumeId::random());
    life.done(boot(id)).await;
    life.done(create_so(old, json!({"format": "raw"}))).await;
    life.done(create_so(new, json!({"format": "raw", "size": 2 << 20}))).await;
    life.done(attach(id, old)).await;
    life.stop(id).await;
    let before = std::fs::OpenOptions::new().write(true).open(raw(&world, old)).unwrap();
    before.write_all_at(b"what it held", 4096).unwrap();
    let there = std::fs::OpenOptions::new().read(true).write(true).open(raw(&world, new)).unwrap();
    there.write_all_at(&[1; 8192], 0).unwrap();
    life.done(swap(id, old, new)).await;
    life.has(&world, id, new, old, old);
    let mut found = [9; 8192];
    there.read_exact_at(&mut found, 0).unwrap();
    assert_eq!((&found[4096..4108], found[0]), (&b"what it held"[..], 0));
    life.done(Command::Start(id)).await;
    life.has(&world, id, new, old, old);
}

#[tokio::test]
async fn what_fails_before_the_switch_is_undone_and_what_fails_from_there_on_is_done() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, old, new) = life.with_two(&world).await;
    for failing in [Failing::Before, Failing::After] {
        for call in [Call::BeginMirror, Call::Mirroring] {
            world.hypervisor.fail_next(call, failing, failed("step"));
            let over = life.tried(swap(id, old, new)).await;
            assert_eq!(over.state, State::Undone, "{call:?} {failing:?}: {over:#?}");
            life.has(&world, id, old, new, old);
            assert_eq!(world.hypervisor.mirroring(id, "vdb").await, Ok(Mirroring::None));
        }
        for call in [Call::SwitchToMirror, Call::Define] {
            world.hypervisor.fail_next(call, failing, failed("step"));
            life.done(swap(id, old, new)).await;
            life.has(&world, id, new, old, old);
            life.done(swap(id, new, old)).await;
            life.has(&world, id, old, new, old);
        }
    }
    life.stop(id).await;
    for failing in [Failing::Before, Failing::After] {
        world.hypervisor.fail_next(Call::Define, failing, failed("step"));
        assert_eq!(life.tried(swap(id, old, new)).await.state, State::Undone);
        life.has(&world, id, old, new, old);
    }
}

#[tokio::test]
async fn a_copy_that_fails_or_is_cancelled_leaves_the_old_volume() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, old, new) = life.with_two(&world).await;
    world.hypervisor.set_copies(Copies::WhenTold);
    for state in [State::Undone, State::Cancelled] {
        let seen = world.hypervisor.called(Call::Mirroring, Some(id));
        let operation = life.submit(swap(id, old, new)).await.unwrap();
        // Once before it is begun, and from then on.
        while world.hypervisor.called(Call::Mirroring, Some(id)) < seen + 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(life.volume(new).status, VolumeStatus::Attaching);
        assert_eq!(life.volume(old).status, VolumeStatus::InUse);
        for taken in [attach(id, new), detach(id, old)] {
            assert_eq!(life.submit(taken).await.unwrap_err().reason, Reason::Conflict);
        }
        match state {
            State::Undone => world.hypervisor.end_mirror(id, Err(())),
            State::Queued
            | State::Running
            | State::Succeeded
            | State::Failed
            | State::Cancelled => drop(life.compute.cancel(operation.id).await.unwrap()),
        }
        let over = life.end_of(&operation).await;
        assert_eq!(over.state, state, "{over:#?}");
        life.has(&world, id, old, new, old);
        assert_eq!(world.hypervisor.mirroring(id, "vdb").await, Ok(Mirroring::None));
    }
}

#[tokio::test]
async fn a_swap_goes_on_after_a_crash_wherever_that_was() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, old, new) = life.with_two(&world).await;
    let mut life = life;
    let (mut from, mut to) = (old, new);
    for call in [Call::BeginMirror, Call::Mirroring, Call::SwitchToMirror, Call::Define] {
        let seen = world.hypervisor.called(call, Some(id));
        let held = world.hypervisor.hold_next(call);
        let operation = life.submit(swap(id, from, to)).await.unwrap();
        while world.hypervisor.called(call, Some(id)) == seen {
            tokio::task::yield_now().await;
        }
        life.crash().await;
        drop(held);
        life = world.live().await;
        let over = life.end_of(&operation).await;
        assert_eq!(over.state, State::Succeeded, "{call:?}: {over:#?}");
        life.has(&world, id, to, from, old);
        (from, to) = (to, from);
    }
}

#[tokio::test]
async fn a_guest_that_went_off_during_a_crash_has_the_volume_it_wrote_to() {
    for (call, state) in [(Call::SwitchToMirror, State::Undone), (Call::Define, State::Succeeded)] {
        let world = World::new();
        let life = world.furnished().await;
        let (id, old, new) = life.with_two(&world).await;
        let seen = world.hypervisor.called(call, Some(id));
        let held = world.hypervisor.hold_next(call);
        let operation = life.submit(swap(id, old, new)).await.unwrap();
        while world.hypervisor.called(call, Some(id)) == seen {
            tokio::task::yield_now().await;
        }
        life.crash().await;
        world.hypervisor.set_power(id, PowerState::Shutdown, PowerReason::Unstated);
        drop(held);
        let life = world.live().await;
        let over = life.end_of(&operation).await;
        assert_eq!(over.state, state, "{call:?}: {over:#?}");
        let (has, not) = if state == State::Undone { (old, new) } else { (new, old) };
        life.has(&world, id, has, not, old);
    }
}

#[tokio::test]
async fn what_cannot_take_the_place_is_refused() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, old, new) = life.with_two(&world).await;
    let (other, read) = (InstanceId::random(), VolumeId::random());
    life.done(boot(other)).await;
    let refused = async |id, volume, to, reason, says: &str| {
        let fault = life.submit(swap(id, volume, to)).await.unwrap_err();
        assert_eq!(fault.reason, reason, "{fault}");
        assert!(fault.message.contains(says) && fault.next.is_some(), "{fault}");
    };
    for (more, says) in [
        (json!({"size": 512}), "as large"),
        (json!({"size": 2 << 20}), "no larger"),
        (json!({"multiattach": true}), "for several"),
        (json!({"source": {"image": "disk"}}), "from an image"),
    ] {
        let bad = VolumeId::random();
        life.done(create_so(bad, more)).await;
        refused(id, old, bad, Reason::Conflict, says).await;
    }
    refused(id, old, VolumeId::random(), Reason::NotFound, "there is no volume").await;
    refused(id, new, new, Reason::NotFound, "does not have").await;
    refused(id, old, old, Reason::InUse, "in use").await;
    life.done(attach(other, new)).await;
    refused(id, old, new, Reason::InUse, "in use").await;
    life.done(detach(other, new)).await;
    life.done(create(read)).await;
    let how = json!({"id": id, "volume": read, "how": {"read_only": true}});
    life.done(command(Command::AttachVolume, how)).await;
    refused(id, read, new, Reason::Conflict, "read-only").await;
    life.stop(id).await;
    life.done(swap(id, read, new)).await;
}
