//! What has begun to destroy something goes on by itself when it fails, until it is done.

use super::*;

#[tokio::test]
async fn a_delete_that_fails_is_tried_again_until_it_is_done() {
    let world = World::new();
    let life = world.furnished().await;
    for failing in [Failing::Before, Failing::After] {
        for call in [Call::Destroy, Call::Undefine] {
            let id = InstanceId::random();
            life.done(boot(id)).await;
            for _ in 0..2 {
                world.hypervisor.fail_next(call, failing, failed("step"));
            }
            let over = life.done(delete(id)).await;
            let failures: u32 = over.steps.iter().map(|step| step.failures).sum();
            assert_eq!((failures, &over.error), (2, &None), "{call:?} {failing:?}: {over:#?}");
            assert_eq!(world.traces(id), [""; 0], "{call:?} {failing:?}");
            assert_eq!(life.status(id), Status::Deleted);
        }
    }
}

#[tokio::test]
async fn what_is_tried_again_is_shown_and_survives_a_restart() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let broken = world.path().join("instances").join(id.to_string());
    // A file where a folder is to be removed: that fails as often as it is tried.
    std::fs::remove_dir_all(&broken).unwrap();
    std::fs::write(&broken, "").unwrap();
    let operation = life.submit(delete(id)).await.unwrap();
    let mut events = life.compute.events();
    let failed = loop {
        let now = life.compute.reads().operation(operation.id).await.unwrap();
        if now.steps.iter().any(|step| step.failures > 0) {
            break now;
        }
        tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
    };
    assert_eq!(failed.state, State::Running);
    let fault = failed.error.unwrap();
    assert_eq!(fault.step.as_deref(), Some("remove files"));
    assert_eq!(life.compute.reads().instance(id).unwrap().fault, Some(fault));
    life.crash().await;
    let life = world.live().await;
    std::fs::remove_file(&broken).unwrap();
    let over = life.end_of(&operation).await;
    assert_eq!(over.state, State::Succeeded, "{over:#?}");
    assert_eq!((over.error, life.compute.reads().instance(id).unwrap().fault), (None, None));
}

#[tokio::test]
async fn a_delete_takes_the_place_of_what_is_tried_in_vain() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    for _ in 0..4 {
        world.hypervisor.fail_next(Call::Undefine, Failing::Before, failed("undefine"));
    }
    let first = life.submit(delete(id)).await.unwrap();
    world.reached(Call::Undefine, id).await;
    let second = life.submit(delete(id)).await.unwrap();
    assert_eq!(life.end_of(&first).await.state, State::Failed);
    // It goes on where nothing was in its way any more.
    let third = life.submit(delete(id)).await.unwrap();
    assert_eq!(life.end_of(&second).await.state, State::Failed);
    let over = life.end_of(&third).await;
    assert_eq!((over.state, life.status(id)), (State::Succeeded, Status::Deleted));
}

#[tokio::test]
async fn a_committed_step_is_not_given_up_for_one_that_failed() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let resize = json!({"id": id, "vcpus": 1, "memory": 32 << 20});
    life.done(Command::Resize(serde_json::from_value(resize).unwrap())).await;
    let aside = world.path().join("instances").join(id.to_string()).join("disk.aside.qcow2");
    let kept = std::fs::read(&aside).unwrap();
    std::fs::remove_file(&aside).unwrap();
    std::fs::create_dir(&aside).unwrap();
    let revert = life.submit(Command::RevertResize(id)).await.unwrap();
    let mut events = life.compute.events();
    while life
        .compute
        .reads()
        .operation(revert.id)
        .await
        .unwrap()
        .steps
        .iter()
        .all(|s| s.failures == 0)
    {
        tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
    }
    std::fs::remove_dir(&aside).unwrap();
    std::fs::write(&aside, kept).unwrap();
    assert_eq!(life.end_of(&revert).await.state, State::Succeeded);
    assert_eq!(life.status(id), Status::Active);
    assert!(!aside.exists());
}
