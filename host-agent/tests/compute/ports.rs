//! Ports: they outlive who has them, or go with them, whatever is cut off.

use ostler_host_agent::hypervisor::fake::LetsGo;
use ostler_protocol::rpc::port::{Port, Status as PortStatus};
use ostler_protocol::rpc::values::PortId;

use super::volumes::command;
use super::*;

fn create(id: PortId) -> Command {
    command(Command::PortCreate, json!({"id": id, "name": "front", "network": "lan"}))
}

fn attach(id: InstanceId, port: PortId) -> Command {
    command(Command::AttachInterface, json!({"id": id, "interface": {"port": port}}))
}

fn attach_new(id: InstanceId) -> Command {
    command(Command::AttachInterface, json!({"id": id, "interface": {"network": "lan"}}))
}

fn detach(id: InstanceId, port: PortId) -> Command {
    command(Command::DetachInterface, json!({"id": id, "port": port, "timeout": 300}))
}

fn boot_on(id: InstanceId, port: PortId) -> Command {
    let boot = json!({"id": id, "name": "x", "image": "disk", "vcpus": 1, "memory": 64 << 20,
                      "networks": [{"port": port}]});
    command(Command::Boot, boot)
}

impl Life {
    fn port(&self, id: PortId) -> Port {
        self.compute.reads().port(id).unwrap()
    }

    fn ports(&self) -> Vec<PortId> {
        let all = self.compute.reads().ports(&Default::default()).unwrap();
        all.into_iter().map(|port| port.id).collect()
    }

    fn ports_of(&self, id: InstanceId) -> Vec<PortId> {
        let all = self.compute.reads().interfaces(id).unwrap();
        all.into_iter().map(|port| port.id).collect()
    }
}

impl World {
    fn wired(&self, id: InstanceId) -> Vec<String> {
        let mut macs: Vec<_> =
            self.hypervisor.live_nics(id).iter().map(|nic| nic.mac.to_string()).collect();
        macs.sort();
        macs
    }

    fn defined_nics(&self, id: InstanceId) -> usize {
        self.hypervisor.spec(id).unwrap().nics.len()
    }
}

#[tokio::test]
async fn a_port_comes_and_goes_with_a_running_guest_and_with_one_that_is_off() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, port) = (InstanceId::random(), PortId::random());
    life.done(boot(id)).await;
    life.done(create(port)).await;
    assert_eq!(life.port(port).status, PortStatus::Down);
    life.done(attach(id, port)).await;
    assert_eq!((world.wired(id).len(), world.defined_nics(id)), (2, 2));
    assert!(world.wired(id).contains(&life.port(port).mac.to_string()));
    let shown = life.port(port);
    assert_eq!((shown.status, shown.binding.unwrap().instance), (PortStatus::Active, id));
    for refused in [command(Command::PortDelete, json!(port)), attach(id, port)] {
        let refused = life.submit(refused).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InUse);
        assert!(refused.message.contains(&id.to_string()), "{refused}");
    }
    life.done(detach(id, port)).await;
    assert_eq!((world.wired(id).len(), world.defined_nics(id)), (1, 1));
    assert_eq!(life.port(port).status, PortStatus::Down);
    life.done(command(Command::Stop, json!({"id": id, "manner": "hard"}))).await;
    life.done(attach(id, port)).await;
    assert_eq!(world.defined_nics(id), 2);
    life.done(Command::Start(id)).await;
    assert_eq!(world.wired(id).len(), 2);
    life.done(delete(id)).await;
    assert_eq!(life.ports(), [port], "the instance's own went with it");
    life.done(command(Command::PortDelete, json!(port))).await;
    assert_eq!(life.ports(), []);
}

#[tokio::test]
async fn a_port_made_for_an_attach_goes_with_the_detach() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let [own] = life.ports_of(id).try_into().unwrap();
    life.done(attach_new(id)).await;
    let made = life.ports_of(id).into_iter().find(|port| *port != own).unwrap();
    assert!(life.port(made).delete_on_termination);
    life.done(detach(id, made)).await;
    assert_eq!(life.ports(), [own]);
    // That one, too, was made for it.
    life.done(detach(id, own)).await;
    assert_eq!((life.ports(), world.wired(id).len()), (vec![], 0));
}

#[tokio::test]
async fn an_attach_that_fails_leaves_nothing_plugged_and_no_port() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, port) = (InstanceId::random(), PortId::random());
    life.done(boot(id)).await;
    life.done(create(port)).await;
    let before = life.ports();
    for failing in [Failing::Before, Failing::After] {
        for call in [Call::PlugNic, Call::Define] {
            for asked in [attach(id, port), attach_new(id)] {
                world.hypervisor.fail_next(call, failing, failed("step"));
                let over = life.tried(asked).await;
                assert_eq!(over.state, State::Undone, "{call:?} {failing:?}: {over:#?}");
                assert_eq!((world.wired(id).len(), world.defined_nics(id)), (1, 1));
                assert_eq!((life.ports(), life.ports_of(id).len()), (before.clone(), 1));
            }
        }
    }
    assert_eq!(life.port(port).binding, None);
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_keeps_its_port() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, port) = (InstanceId::random(), PortId::random());
    life.done(boot(id)).await;
    life.done(create(port)).await;
    life.done(attach(id, port)).await;
    for (how, word) in [(LetsGo::Refuses, "refuses"), (LetsGo::Silent, "does not let go")] {
        world.hypervisor.set_lets_go(id, how);
        let over = life.tried(detach(id, port)).await;
        assert_eq!(over.state, State::Undone, "{over:#?}");
        let fault = over.error.unwrap();
        assert_eq!(fault.reason, Reason::GuestFailed);
        assert!(fault.message.contains(word), "{fault}");
        assert_eq!(life.port(port).binding.unwrap().instance, id);
        assert_eq!((world.wired(id).len(), world.defined_nics(id)), (2, 2));
    }
    world.hypervisor.set_lets_go(id, LetsGo::AtOnce);
    life.done(detach(id, port)).await;
    assert_eq!(life.port(port).binding, None);
}

#[tokio::test]
async fn a_boot_that_fails_gives_its_port_back() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, port) = (InstanceId::random(), PortId::random());
    life.done(create(port)).await;
    world.hypervisor.fail_next(Call::Start, Failing::Before, failed("start"));
    let over = life.tried(boot_on(id, port)).await;
    assert_eq!(over.state, State::Undone);
    assert_eq!(life.port(port).binding, None);
    life.done(boot_on(InstanceId::random(), port)).await;
    assert_eq!(life.port(port).status, PortStatus::Active);
    life.done(delete(id)).await;
    assert_eq!(life.port(port).status, PortStatus::Active, "it is another's now");
}

#[tokio::test]
async fn an_attach_that_a_crash_cuts_off_is_taken_up_again() {
    for call in [Call::PlugNic, Call::Define] {
        let world = World::new();
        let life = world.furnished().await;
        let id = InstanceId::random();
        life.done(boot(id)).await;
        let held = world.hypervisor.hold_next(call);
        let operation = life.submit(attach_new(id)).await.unwrap();
        let before = world.hypervisor.called(call, Some(id));
        while world.hypervisor.called(call, Some(id)) == before && call == Call::PlugNic {
            world.reached(call, id).await;
        }
        life.crash().await;
        drop(held);
        let life = world.live().await;
        let over = life.end_of(&operation).await;
        assert_eq!(over.state, State::Succeeded, "{call:?}: {over:#?}");
        assert_eq!((world.wired(id).len(), world.defined_nics(id)), (2, 2));
        assert_eq!((life.ports().len(), life.ports_of(id).len()), (2, 2));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_port_is_named() {
    let world = World::new();
    let life = world.furnished().await;
    let port = PortId::random();
    let mac = "52:54:00:01:02:03";
    let first = json!({"id": port, "name": "a", "network": "lan", "mac": mac,
                       "fixed_ips": ["192.0.2.7"]});
    life.done(command(Command::PortCreate, first)).await;
    for (more, reason, says) in [
        (json!({"network": "none"}), Reason::NotFound, "no network none"),
        (json!({"mac": mac}), Reason::Conflict, "MAC 52:54:00:01:02:03 is in use"),
        (json!({"id": port}), Reason::Conflict, "exists"),
        (json!({"fixed_ips": ["192.0.2.7"]}), Reason::Conflict, "port a has the address"),
        (json!({"fixed_ips": ["192.0.2.8", "192.0.2.8"]}), Reason::InvalidParams, "twice"),
        (json!({"fixed_ips": ["127.0.0.1"]}), Reason::InvalidParams, "loopback"),
        (json!({"fixed_ips": ["224.0.0.1"]}), Reason::InvalidParams, "multicast"),
        (json!({"fixed_ips": ["0.0.0.0"]}), Reason::InvalidParams, "no address"),
    ] {
        let mut asked = json!({"name": "b", "network": "lan"});
        for (key, value) in more.as_object().unwrap() {
            asked[key] = value.clone();
        }
        let refused = life.submit(command(Command::PortCreate, asked)).await.unwrap_err();
        assert_eq!(refused.reason, reason, "{refused}");
        assert!(refused.message.contains(says), "{refused}");
    }
    for (nic, says) in [
        (json!({}), "name a network or a port"),
        (json!({"port": port, "network": "lan"}), "on a network already"),
        (json!({"port": port, "mac": mac}), "has a MAC already"),
    ] {
        let asked = json!({"name": "x", "image": "disk", "vcpus": 1, "memory": 64 << 20,
                           "networks": [nic]});
        let refused = life.submit(command(Command::Boot, asked)).await.unwrap_err();
        assert!(refused.message.contains(says), "{refused}");
        assert!(refused.subject.unwrap().contains("networks[0]"));
    }
    let removal = life.submit(Command::NetworkRemove("lan".parse().unwrap())).await.unwrap_err();
    assert_eq!(removal.reason, Reason::InUse);
    assert!(removal.message.contains("ports that nobody uses, such as a"), "{removal}");
}

/// The addresses that each guard there is knows.
fn guarded(world: &World) -> Vec<(String, Vec<String>)> {
    let of = |guard: ostler_host_agent::network::filter::Guard| {
        let known = guard.addresses.iter().map(ToString::to_string).collect();
        (guard.mac.to_string(), known)
    };
    world.filters.guards().into_iter().map(of).collect()
}

#[tokio::test]
async fn a_guest_is_guarded_from_before_it_runs_until_its_port_is_gone() {
    let world = World::new();
    let life = world.furnished().await;
    let (id, port) = (InstanceId::random(), PortId::random());
    life.done(create(port)).await;
    // Its rules are there before it is started, and without them it is not.
    world.filters.fail_next();
    let over = life.tried(boot_on(id, port)).await;
    assert_eq!((over.state, world.filters.guards().len()), (State::Undone, 0));
    assert_eq!(world.hypervisor.called(Call::Start, Some(id)), 0);
    life.done(delete(id)).await;
    let id = InstanceId::random();
    let held = world.hypervisor.hold_next(Call::Start);
    let booting = life.submit(boot_on(id, port)).await.unwrap();
    world.reached(Call::Start, id).await;
    let mac = life.port(port).mac.to_string();
    assert_eq!(guarded(&world), [(mac.clone(), vec![])]);
    drop(held);
    assert_eq!(life.end_of(&booting).await.state, State::Succeeded);

    // It is held to what is said of its port from then on, also through an update that fails.
    let update = |more: serde_json::Value| {
        let mut asked = json!({"id": port});
        for (key, value) in more.as_object().unwrap() {
            asked[key] = value.clone();
        }
        command(Command::PortUpdate, asked)
    };
    life.done(update(json!({"fixed_ips": ["192.0.2.7"]}))).await;
    let known = [(mac, vec!["192.0.2.7".to_owned()])];
    assert_eq!(guarded(&world), known);
    world.filters.fail_next();
    let over = life.tried(update(json!({"fixed_ips": ["192.0.2.8"]}))).await;
    assert_eq!(over.state, State::Undone, "{over:#?}");
    assert_eq!(guarded(&world), known);
    assert_eq!(life.port(port).fixed_ips, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);

    // What somebody flushes is put back; what is not to be held to anything is not.
    world.filters.flush();
    let mut link = world.hypervisor.link();
    while guarded(&world) != known {
        let _ = tokio::time::timeout(Duration::from_millis(5), link.changed()).await;
    }
    life.done(update(json!({"port_security": false}))).await;
    assert_eq!(guarded(&world), []);
    life.done(update(json!({"port_security": true}))).await;
    assert_eq!(guarded(&world), known);
    life.done(delete(id)).await;
    assert_eq!(guarded(&world), []);
}
