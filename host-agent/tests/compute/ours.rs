//! What is not ours is not touched, and an undo takes back only what its operation did.

use ostler_host_agent::hypervisor::DomainSpec;

use super::*;

/// A definition as an agent makes it, with this id.
async fn spec(world: &World, life: &Life, id: InstanceId) -> DomainSpec {
    let model = InstanceId::random();
    life.done(boot(model)).await;
    let mut spec = world.hypervisor.spec(model).unwrap();
    life.done(delete(model)).await;
    spec.metadata.id = id;
    spec
}

/// Somebody else's domain of this id.
async fn stranger(world: &World, life: &Life, id: InstanceId, power: PowerState) {
    let spec = spec(world, life, id).await;
    world.hypervisor.define(&spec).await.unwrap();
    if power == PowerState::Running {
        world.hypervisor.start(id).await.unwrap();
    }
    world.hypervisor.disown(id);
}

async fn power(world: &World, id: InstanceId) -> PowerState {
    let listed = world.hypervisor.list().await.unwrap();
    listed.into_iter().find(|domain| domain.id == id).map_or(PowerState::None, |d| d.state.power)
}

fn stop(id: InstanceId) -> Command {
    let stop = json!({"id": id, "manner": "hard"});
    Command::Stop(serde_json::from_value(stop).unwrap())
}

#[tokio::test]
async fn a_request_for_what_is_so_has_nothing_to_do() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let soft = Command::Delete(serde_json::from_value(json!({"id": id})).unwrap());
    for (twice, call) in [
        (Command::Start(id), Call::Start),
        (Command::Unpause(id), Call::Unpause),
        (Command::Resume(id), Call::Start),
        (Command::Pause(id), Call::Pause),
        (Command::Unpause(id), Call::Unpause),
        (Command::Suspend(id), Call::Save),
        (Command::Resume(id), Call::Start),
        (stop(id), Call::Destroy),
        (soft, Call::Destroy),
    ] {
        life.done(twice.clone()).await;
        let (asked, status) = (world.hypervisor.called(call, Some(id)), life.status(id));
        let over = life.done(twice.clone()).await;
        assert_eq!(over.steps, [], "{twice:?}");
        assert_eq!(world.hypervisor.called(call, Some(id)), asked, "{twice:?}");
        assert_eq!(life.status(id), status, "{twice:?}");
    }
    let twice = Command::Adjust(serde_json::from_value(json!({"id": id, "vcpus": 1})).unwrap());
    life.done(Command::Restore(id)).await;
    assert_eq!(life.done(twice).await.steps, []);
}

#[tokio::test]
async fn what_ran_before_a_start_that_fails_runs_after_it() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    // ACTIVE, and paused behind the agent: a start has something to look at.
    world.hypervisor.set_power(id, PowerState::Paused, PowerReason::PauseRequested);
    let mut events = life.compute.events();
    while life.compute.reads().instance(id).unwrap().instance.power_state != PowerState::Paused {
        tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
    }
    world.hypervisor.fail_next(Call::Start, Failing::After, failed("start"));
    let over = life.tried(Command::Start(id)).await;
    assert_eq!(over.state, State::Undone, "{over:#?}");
    assert!(over.steps.last().unwrap().already, "{over:#?}");
    assert_eq!(power(&world, id).await, PowerState::Paused);

    // The same, cut off by a crash: what was found is on disk.
    let held = world.hypervisor.hold_next(Call::Start);
    let before = world.hypervisor.called(Call::Start, Some(id));
    let operation = life.submit(Command::Start(id)).await.unwrap();
    while world.hypervisor.called(Call::Start, Some(id)) == before {
        world.reached(Call::Start, id).await;
        tokio::task::yield_now().await;
    }
    life.crash().await;
    world.hypervisor.fail_next(Call::Start, Failing::After, failed("start"));
    let life = world.live().await;
    assert_eq!(life.end_of(&operation).await.state, State::Undone);
    drop(held);
    assert_eq!(power(&world, id).await, PowerState::Paused);
}

#[tokio::test]
async fn an_id_that_is_taken_is_refused_and_what_has_it_stays() {
    let world = World::new();
    let life = world.furnished().await;
    for there in [PowerState::Shutdown, PowerState::Running] {
        let id = InstanceId::random();
        stranger(&world, &life, id, there).await;
        let fault = life.submit(boot(id)).await.unwrap_err();
        assert_eq!(fault.reason, Reason::Conflict, "{fault:#?}");
        assert!(fault.message.contains("mark"), "{fault:#?}");
        assert!(life.compute.reads().instance(id).is_err());
        assert_eq!(life.submit(delete(id)).await.unwrap_err().reason, Reason::NotFound);
        assert_eq!(power(&world, id).await, there);
    }
    // One of ours that the journal has lost.
    let id = InstanceId::random();
    world.hypervisor.define(&spec(&world, &life, id).await).await.unwrap();
    assert_eq!(life.submit(boot(id)).await.unwrap_err().reason, Reason::Conflict);
    assert!(world.hypervisor.spec(id).is_some());
    // A folder of that name.
    let id = InstanceId::random();
    let disk = world.path().join("instances").join(id.to_string()).join("disk.qcow2");
    std::fs::create_dir(disk.parent().unwrap()).unwrap();
    std::fs::write(&disk, "somebody's").unwrap();
    assert_eq!(life.submit(boot(id)).await.unwrap_err().reason, Reason::Conflict);
    assert_eq!(std::fs::read_to_string(disk).unwrap(), "somebody's");
}

#[tokio::test]
async fn a_domain_that_has_lost_our_mark_is_left_alone() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    world.hypervisor.disown(id);
    for command in [stop(id), delete(id)] {
        let over = life.tried(command).await;
        assert_eq!(over.state, State::Failed, "{over:#?}");
        let fault = over.error.unwrap();
        assert_eq!(fault.reason, Reason::Conflict, "{fault:#?}");
        assert!(fault.next.unwrap().contains("virsh"));
        assert_eq!(power(&world, id).await, PowerState::Running);
    }
    assert!(world.path().join("instances").join(id.to_string()).join("disk.qcow2").exists());
}

#[tokio::test]
async fn what_was_never_up_is_deleted_beside_a_stranger_of_its_id() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    world.hypervisor.fail_next(Call::Start, Failing::Before, failed("start"));
    assert_eq!(life.tried(boot(id)).await.state, State::Undone);
    stranger(&world, &life, id, PowerState::Running).await;
    life.done(delete(id)).await;
    assert_eq!(power(&world, id).await, PowerState::Running);
}

#[tokio::test]
async fn a_disk_set_aside_by_nobody_is_not_put_in_the_place_of_the_own() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let aside = world.path().join("instances").join(id.to_string()).join("disk.aside.qcow2");
    let root = aside.with_file_name("disk.qcow2");
    let own = std::fs::read(&root).unwrap();
    std::fs::write(&aside, "from long ago").unwrap();
    let resize = json!({"id": id, "vcpus": 1, "memory": 32 << 20});
    let over = life.tried(Command::Resize(serde_json::from_value(resize).unwrap())).await;
    assert_eq!(over.state, State::Undone, "{over:#?}");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "from long ago");
    assert_eq!(std::fs::read(root).unwrap(), own);
    assert_eq!(life.status(id), Status::Active);
}

#[tokio::test]
async fn a_bridge_that_was_there_survives_an_ensure_that_fails() {
    let world = World::new();
    let life = world.furnished().await;
    life.crash().await;
    // The journal is lost, and the network's bridge is not.
    std::fs::remove_file(world.path().join("journal.db")).unwrap();
    let life = world.live().await;
    let links = world.network.links();
    world.network.fail_next(NetworkCall::EnsureBridge);
    let ensure = serde_json::from_value(json!({"name": "lan"})).unwrap();
    assert_eq!(life.tried(Command::NetworkEnsure(ensure)).await.state, State::Undone);
    assert_eq!(world.network.links(), links);
}
