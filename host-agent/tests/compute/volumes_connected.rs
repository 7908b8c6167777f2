//! Volumes that are kept elsewhere: known here as long as an instance has them, and their secrets
//! as long as that, whatever fails or is cut off.

use std::net::TcpListener;

use ostler_host_agent::hypervisor::spec::{DiskCache, Sharing};
use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume::{Attach, Detach};
use serde_json::Value;

use super::*;

/// A server that takes connections, and a volume of it.
struct Server {
    listener: TcpListener,
    volume: VolumeId,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, volume: VolumeId::random() }
    }

    fn attach(&self, id: InstanceId, how: Value) -> Command {
        let portal = self.listener.local_addr().unwrap().to_string();
        let data = json!({"target_portal": portal, "target_iqn": "iqn.x:1", "target_lun": 1,
            "auth_method": "CHAP", "auth_username": "u", "auth_password": "hunter2"});
        let connection = json!({"driver_volume_type": "iscsi", "data": data});
        let volume = self.volume;
        let params = json!({"id": id, "volume": volume, "how": how, "connection": connection});
        Command::AttachVolume(serde_json::from_value::<Attach>(params).unwrap())
    }

    fn detach(&self, id: InstanceId) -> Command {
        let params = json!({"id": id, "volume": self.volume});
        Command::DetachVolume(serde_json::from_value::<Detach>(params).unwrap())
    }

    /// Nothing here knows of it.
    fn is_forgotten(&self, life: &Life, world: &World) {
        assert!(life.compute.reads().volume(self.volume).is_err());
        assert!(world.hypervisor.secrets().is_empty());
    }
}

async fn booted(life: &Life) -> InstanceId {
    let id = InstanceId::random();
    life.done(boot(id)).await;
    id
}

#[tokio::test]
async fn a_connected_volume_and_its_secret_are_known_as_long_as_an_instance_has_them() {
    let world = World::new();
    let life = world.furnished().await;
    let (server, id, other) = (Server::start(), booted(&life).await, booted(&life).await);
    for leave in [server.detach(id), delete(id)] {
        life.done(server.attach(id, json!({}))).await;
        let shown = life.compute.reads().volume(server.volume).unwrap().volume;
        assert_eq!((shown.pool, shown.attachments.len()), (None, 1));
        assert_eq!(world.hypervisor.secrets(), [format!("ostler-{}", server.volume)]);
        let again = life.submit(server.attach(other, json!({}))).await.unwrap_err();
        assert_eq!(again.reason, Reason::InUse);
        // Nothing boots from it.
        let bootable = serde_json::from_value(json!({"id": server.volume, "bootable": true}));
        let refused = life.submit(Command::VolumeUpdate(bootable.unwrap())).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Conflict);
        life.done(leave).await;
        server.is_forgotten(&life, &world);
    }
    let how = json!({"delete_on_termination": true});
    let refused = life.submit(server.attach(other, how)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidParams);
    server.is_forgotten(&life, &world);
}

#[tokio::test]
async fn a_volume_for_several_and_its_secret_stay_until_the_last_has_let_go() {
    let world = World::new();
    let life = world.furnished().await;
    let (server, one, two) = (Server::start(), booted(&life).await, booted(&life).await);
    let shared = |id, change: fn(&mut Value)| {
        let Command::AttachVolume(attach) = server.attach(id, json!({})) else { unreachable!() };
        let mut sent = serde_json::to_value(&attach).unwrap();
        sent["connection"]["multiattach"] = json!(true);
        sent["connection"]["data"]["auth_password"] = json!("hunter2");
        change(&mut sent);
        Command::AttachVolume(serde_json::from_value::<Attach>(sent).unwrap())
    };
    let secret = [format!("ostler-{}", server.volume)];
    for call in [Call::PlugDisk, Call::Define] {
        life.done(shared(one, |_| {})).await;
        // Another connection is another volume, whatever it is called.
        for change in [
            (|sent| sent["connection"]["data"]["target_lun"] = json!(2)) as fn(&mut Value),
            |sent| sent["connection"]["multiattach"] = json!(false),
        ] {
            let refused = life.submit(shared(two, change)).await.unwrap_err();
            assert_eq!(refused.reason, Reason::Conflict, "{refused:?}");
        }
        let cached = shared(two, |sent| sent["how"] = json!({"cache": "writeback"}));
        assert_eq!(life.submit(cached).await.unwrap_err().reason, Reason::InvalidParams);
        // What is undone for one leaves the other what it needs.
        world.hypervisor.fail_next(call, Failing::Before, failed("step"));
        assert_eq!(life.tried(shared(two, |_| {})).await.state, State::Undone);
        assert_eq!(world.hypervisor.secrets(), secret);
        let shown = life.compute.reads().volume(server.volume).unwrap().volume;
        assert_eq!((shown.multiattach, shown.attachments.len()), (true, 1));

        life.done(shared(two, |_| {})).await;
        for id in [one, two] {
            let disks = world.hypervisor.live_disks(id);
            assert_eq!(disks[1].sharing, Sharing::Shared);
            assert_eq!(disks[1].cache, DiskCache::None);
        }
        life.done(server.detach(one)).await;
        assert_eq!(world.hypervisor.secrets(), secret);
        let shown = life.compute.reads().volume(server.volume).unwrap().volume;
        assert_eq!(shown.attachments[0].instance, two);
        life.done(server.detach(two)).await;
        server.is_forgotten(&life, &world);
    }
    // Both instances go at once, whichever is the last.
    for _ in 0..10 {
        let (one, two) = (booted(&life).await, booted(&life).await);
        life.done(shared(one, |_| {})).await;
        life.done(shared(two, |_| {})).await;
        let mut going = Vec::new();
        for id in [one, two] {
            going.push(life.submit(delete(id)).await.unwrap());
        }
        for operation in &going {
            assert_eq!(life.end_of(operation).await.state, State::Succeeded);
        }
        server.is_forgotten(&life, &world);
    }
}

#[tokio::test]
async fn readers_may_be_several_whatever_the_control_plane_says_of_writers() {
    let world = World::new();
    let life = world.furnished().await;
    let (server, one, two) = (Server::start(), booted(&life).await, booted(&life).await);
    let reads = json!({"read_only": true});
    life.done(server.attach(one, reads.clone())).await;
    let writes = life.submit(server.attach(two, json!({}))).await.unwrap_err();
    assert_eq!(writes.reason, Reason::InUse);
    life.done(server.attach(two, reads)).await;
    life.done(delete(one)).await;
    assert_eq!(world.hypervisor.secrets().len(), 1);
    life.done(delete(two)).await;
    server.is_forgotten(&life, &world);
}

#[tokio::test]
async fn an_attach_that_fails_leaves_neither_a_volume_nor_its_secret() {
    let world = World::new();
    let life = world.furnished().await;
    let (server, id) = (Server::start(), booted(&life).await);
    for call in [Call::KeepSecret, Call::PlugDisk, Call::Define] {
        for failing in [Failing::Before, Failing::After] {
            world.hypervisor.fail_next(call, failing, failed("step"));
            let over = life.tried(server.attach(id, json!({}))).await;
            assert_eq!(over.state, State::Undone, "{call:?} {failing:?}: {over:#?}");
            assert_eq!(world.hypervisor.live_disks(id).len(), 1);
            server.is_forgotten(&life, &world);
        }
    }
}

#[tokio::test]
async fn what_a_crash_cuts_off_is_completed_once_libvirt_has_the_secret_and_else_taken_back() {
    for (call, state) in [(Call::KeepSecret, State::Undone), (Call::PlugDisk, State::Succeeded)] {
        let world = World::new();
        let life = world.furnished().await;
        let (server, id) = (Server::start(), booted(&life).await);
        let held = world.hypervisor.hold_next(call);
        let operation = life.submit(server.attach(id, json!({}))).await.unwrap();
        while world.hypervisor.called(call, None) == 0 {
            tokio::task::yield_now().await;
        }
        life.crash().await;
        let journal = std::fs::read(world.path().join("journal.db")).unwrap();
        assert!(!journal.windows(7).any(|seen| seen == b"hunter2"));
        let life = world.live().await;
        let over = life.end_of(&operation).await;
        assert_eq!(over.state, state, "{over:#?}");
        if state == State::Undone {
            let error = over.error.unwrap();
            assert_eq!(error.reason, Reason::Interrupted);
            assert!(error.next.as_ref().is_some_and(|next| next.contains("again")), "{error:?}");
            server.is_forgotten(&life, &world);
        } else {
            assert_eq!(world.hypervisor.secrets().len(), 1);
            life.done(server.detach(id)).await;
            server.is_forgotten(&life, &world);
        }
        // What the life before still waits for ends after this one: a crash ends it for good.
        drop(held);
    }
}
