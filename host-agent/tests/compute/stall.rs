//! An instance that QEMU paused because its disk failed: it is told as that, and goes on when there
//! is room, if that is what it stopped for.

use ostler_protocol::rpc::event::News;
use ostler_protocol::rpc::instance::{Instance, StallReason};

use super::*;

impl World {
    fn set(&self, line: &str) {
        let file = self.path().join("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, format!("{text}[instances]\n{line}\n")).unwrap();
    }
}

impl Life {
    /// Until an instance is as wanted.
    async fn until(&self, id: InstanceId, is: impl Fn(&Instance) -> bool) -> Instance {
        let mut events = self.compute.events();
        loop {
            let now = self.compute.reads().instance(id).unwrap().instance;
            if is(&now) {
                return now;
            }
            let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
            event.unwrap_or_else(|_| panic!("{now:#?}")).unwrap();
        }
    }

    fn stall(&self, id: InstanceId) -> Option<StallReason> {
        self.compute.reads().instance(id).unwrap().instance.stalled.map(|stalled| stalled.reason)
    }
}

#[tokio::test]
async fn what_qemu_paused_for_a_full_disk_is_told_and_goes_on_when_there_is_room() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let mut events = life.compute.events();
    world.hypervisor.set_power(id, PowerState::Paused, PowerReason::NoSpace);
    let shown = life.until(id, |i| i.stalled.is_some()).await;
    assert_eq!((shown.status, shown.power_state), (Status::Active, PowerState::Paused));
    assert_eq!(shown.drift, [""; 0]);
    let stalled = shown.stalled.unwrap();
    assert_eq!(stalled.reason, StallReason::NoSpace);
    assert!(stalled.message.contains("goes on by itself"), "{}", stalled.message);
    loop {
        let event = tokio::time::timeout(Duration::from_secs(5), events.recv()).await;
        if let News::Instance { stalled: Some(told), .. } = event.unwrap().unwrap().news {
            assert_eq!(told, stalled);
            break;
        }
    }
    // The next life has it from libvirt, and looks at once.
    life.crash().await;
    let life = world.live().await;
    let running = |i: &Instance| i.power_state == PowerState::Running && i.task_state.is_none();
    let shown = life.until(id, running).await;
    assert_eq!((shown.status, shown.stalled), (Status::Active, None));
    assert_eq!(world.hypervisor.called(Call::Unpause, Some(id)), 1);
}

#[tokio::test]
async fn only_what_stopped_for_want_of_space_goes_on_by_itself() {
    let world = World::new();
    let life = world.furnished().await;
    let [failed, paused, held, waits] = [(); 4].map(|()| InstanceId::random());
    for id in [failed, paused, held, waits] {
        life.done(boot(id)).await;
    }
    world.hypervisor.set_power(failed, PowerState::Paused, PowerReason::IoError);
    life.until(failed, |i| i.stalled.is_some()).await;
    // Somebody else paused it, and that is what it is told as.
    world.hypervisor.set_power(paused, PowerState::Paused, PowerReason::PauseRequested);
    let shown = life.until(paused, |i| !i.drift.is_empty()).await;
    assert_eq!(shown.stalled, None);
    // It stands still already when it is paused on request: that counts.
    world.hypervisor.set_power(held, PowerState::Paused, PowerReason::NoSpace);
    life.until(held, |i| i.stalled.is_some()).await;
    life.done(Command::Pause(held)).await;
    assert_eq!((life.stall(held), life.status(held)), (None, Status::Paused));
    world.hypervisor.set_power(waits, PowerState::Paused, PowerReason::NoSpace);
    life.until(waits, |i| i.stalled.is_some()).await;
    life.crash().await;
    let life = world.live().await;
    life.until(waits, |i| i.power_state == PowerState::Running && i.task_state.is_none()).await;
    for id in [failed, paused, held] {
        assert_eq!(world.hypervisor.called(Call::Unpause, Some(id)), 0, "{id}");
    }
    let told = life.until(failed, |i| i.stalled.is_some()).await.stalled.unwrap();
    assert_eq!(told.reason, StallReason::IoError);
    assert!(told.message.contains("unpause it"), "{}", told.message);
    life.done(Command::Unpause(failed)).await;
    life.until(failed, |i| i.stalled.is_none()).await;
}

#[tokio::test]
async fn with_the_setting_off_it_waits_to_be_unpaused_also_while_a_resize_waits() {
    let world = World::new();
    world.set("resume_when_room = false");
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let resize = json!({"id": id, "vcpus": 1, "memory": 32 << 20});
    life.done(Command::Resize(serde_json::from_value(resize).unwrap())).await;
    world.hypervisor.set_power(id, PowerState::Paused, PowerReason::NoSpace);
    let told = life.until(id, |i| i.stalled.is_some()).await.stalled.unwrap();
    assert!(told.message.contains("unpause it"), "{}", told.message);
    life.crash().await;
    let life = world.live().await;
    life.until(id, |i| i.stalled.is_some()).await;
    assert_eq!(world.hypervisor.called(Call::Unpause, Some(id)), 0);
    life.done(Command::Unpause(id)).await;
    assert_eq!((life.stall(id), life.status(id)), (None, Status::VerifyResize));
}
