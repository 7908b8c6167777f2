//! What domains run on is tried once more when the first instance does not start on it.

use ostler_host_agent::hypervisor::spec::CpuMode;
use ostler_host_agent::hypervisor::{VirtChoice, VirtType};

use super::*;

fn found(virt_type: VirtType, cpu: CpuMode) -> VirtChoice {
    VirtChoice { virt_type, cpu, why: format!("{virt_type} was found") }
}

/// What an instance runs on.
fn on(world: &World, id: InstanceId) -> (VirtType, CpuMode) {
    let spec = world.hypervisor.spec(id).unwrap();
    (spec.virt_type, spec.cpu)
}

/// A node where it is tried, and is found to be this.
async fn trying(world: &World, choice: &VirtChoice) -> Life {
    world.configure("virt_type = \"qemu\"", "virt_type = \"auto\"");
    world.hypervisor.runs_on(choice.clone());
    world.furnished().await
}

#[tokio::test]
async fn an_instance_that_does_not_start_on_what_was_found_starts_on_what_is_found_then() {
    let world = World::new();
    let kvm = found(VirtType::Kvm, CpuMode::HostModel);
    let life = trying(&world, &kvm).await;
    let first = InstanceId::random();
    let hold = world.hypervisor.hold_next(Call::Start);
    world.hypervisor.fail_next(Call::Start, Failing::Before, failed("start"));
    let booting = life.submit(boot(first)).await.unwrap();
    world.reached(Call::Start, first).await;
    assert_eq!(on(&world, first), (kvm.virt_type, kvm.cpu));
    let named = CpuMode::Named("qemu64".to_owned());
    world.hypervisor.runs_on(found(VirtType::Kvm, named.clone()));
    drop(hold);
    assert_eq!(life.end_of(&booting).await.state, State::Succeeded);
    assert_eq!(on(&world, first), (VirtType::Kvm, named));
    let host = life.compute.reads().host(ostler_protocol::rpc::host::Link::None).await.unwrap();
    let shown = (host.virt_type.as_str(), host.cpu_mode.as_str(), host.virt_type_reason.as_str());
    assert_eq!(shown, ("kvm", "qemu64", "kvm was found"));
}

#[tokio::test]
async fn a_failure_for_another_reason_changes_nothing_and_is_tried_for_once() {
    let world = World::new();
    let kvm = found(VirtType::Kvm, CpuMode::HostModel);
    let life = trying(&world, &kvm).await;
    for _ in 0..2 {
        world.hypervisor.fail_next(Call::Start, Failing::Before, failed("start"));
        let over = life.tried(boot(InstanceId::random())).await;
        assert_eq!(over.state, State::Undone);
        assert!(over.error.unwrap().message.contains("told to fail"));
    }
    assert_eq!(world.hypervisor.called(Call::VirtType, None), 2);
    let id = InstanceId::random();
    life.done(boot(id)).await;
    assert_eq!(on(&world, id), (kvm.virt_type, kvm.cpu));
}

#[tokio::test]
async fn once_an_instance_has_started_what_runs_is_not_doubted() {
    let world = World::new();
    let life = trying(&world, &found(VirtType::Kvm, CpuMode::HostModel)).await;
    life.done(boot(InstanceId::random())).await;
    world.hypervisor.runs_on(found(VirtType::Qemu, CpuMode::Maximum));
    world.hypervisor.fail_next(Call::Start, Failing::Before, failed("start"));
    assert_eq!(life.tried(boot(InstanceId::random())).await.state, State::Undone);
    assert_eq!(world.hypervisor.called(Call::VirtType, None), 1);
}
