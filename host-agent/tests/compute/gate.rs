//! The gate: what comes together is judged by each other, and nobody waits for another's write.

use ostler_host_agent::compute::{Claims, Shares};
use ostler_protocol::rpc::instance::{Size, TaskState};
use rusqlite::Connection;

use super::*;

/// Keeps the journal from being written while it is held.
fn hold_journal(world: &World) -> Connection {
    let journal = Connection::open(world.path().join("journal.db")).unwrap();
    journal.busy_timeout(Duration::from_secs(5)).unwrap();
    journal.execute_batch("BEGIN IMMEDIATE").unwrap();
    journal
}

/// Until an instance is known, at this task.
async fn known(life: &Life, id: InstanceId, task: TaskState) {
    let task = Some(task);
    let is = || life.compute.reads().instance(id).is_ok_and(|i| i.instance.task_state == task);
    while !is() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_together_are_judged_at_once_and_answered_when_they_are_on_disk() {
    let world = World::new();
    let life = Arc::new(world.furnished().await);
    let held = hold_journal(&world);
    let ids: Vec<_> = std::iter::repeat_with(InstanceId::random).take(8).collect();
    let begin = |command| {
        let life = Arc::clone(&life);
        tokio::spawn(async move { life.submit(command).await })
    };
    let boots: Vec<_> = ids.iter().map(|id| begin(boot(*id))).collect();
    for id in &ids {
        // None is on disk, and yet all are known: a second of the same id is refused at once.
        known(&life, *id, TaskState::Spawning).await;
        let fault = life.submit(boot(*id)).await.unwrap_err();
        assert_eq!(fault.reason, Reason::Conflict, "{fault:?}");
    }
    assert!(boots.iter().all(|boot| !boot.is_finished()), "answered before it was on disk");
    assert_eq!(world.hypervisor.called(Call::Define, None), 0, "begun before it was on disk");
    // What takes the place of one that is not on disk either comes after it.
    let deletion = begin(delete(ids[0]));
    known(&life, ids[0], TaskState::Deleting).await;
    held.execute_batch("ROLLBACK").unwrap();
    for (boot, id) in boots.into_iter().zip(&ids) {
        let over = life.end_of(&boot.await.unwrap().unwrap()).await;
        let expected = if *id == ids[0] { State::Cancelled } else { State::Succeeded };
        assert_eq!(over.state, expected, "{over:#?}");
    }
    let over = life.end_of(&deletion.await.unwrap().unwrap()).await;
    assert_eq!(over.state, State::Succeeded, "{over:#?}");
    assert_eq!(life.status(ids[0]), Status::Deleted);
    assert_eq!(world.traces(ids[0]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_down_is_put_back() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let before = life.compute.reads().instance(id).unwrap().instance;
    let _held = hold_journal(&world);
    let (fresh, stop) = (InstanceId::random(), json!({"id": id, "manner": "hard"}));
    let stop = Command::Stop(serde_json::from_value(stop).unwrap());
    let (booted, stopped) = tokio::join!(life.submit(boot(fresh)), life.submit(stop));
    for refused in [booted, stopped] {
        assert_eq!(refused.unwrap_err().reason, Reason::Internal);
    }
    assert!(life.compute.reads().instance(fresh).is_err());
    let after = life.compute.reads().instance(id).unwrap().instance;
    let state =
        |i: &ostler_protocol::rpc::instance::Instance| (i.status, i.operation, i.power_state);
    assert_eq!(state(&after), state(&before));
    assert_eq!(world.hypervisor.called(Call::Destroy, Some(id)), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_asked_for_by_many_at_once_is_one_operation() {
    let world = World::new();
    let life = Arc::new(world.furnished().await);
    let key: IdempotencyKey = "once".parse().unwrap();
    let asked = (0..8).map(|_| {
        let (life, key) = (Arc::clone(&life), key.clone());
        tokio::spawn(async move {
            let boot = json!({"name": "x", "image": "disk", "vcpus": 1, "memory": 64 << 20});
            let boot = Command::Boot(serde_json::from_value(boot).unwrap());
            life.compute.submit(boot, Context { key: Some(key), deadline: None }).await
        })
    });
    let mut ids = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        ids.push(asked.await.unwrap().unwrap().id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(life.compute.reads().instances(&Default::default()).unwrap().len(), 1);
}

/// A node that has room for one.
struct One;

impl Claims for One {
    fn admit(&self, _: &Size, shares: &Shares) -> Result<(), Refusal> {
        match shares.vcpus.claimed {
            0 => Ok(()),
            _ => Err(Refusal::new(Reason::NoCapacity, "one is here already")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_place_is_given_once() {
    let world = World::new();
    let life = world.live_with(|node| Node { claims: Box::new(One), ..node }).await;
    world.furnish(&life).await;
    let life = Arc::new(life);
    let asked: Vec<_> = std::iter::repeat_with(|| Arc::clone(&life))
        .map(|life| tokio::spawn(async move { life.submit(boot(InstanceId::random())).await }))
        .take(8)
        .collect();
    let mut accepted = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(refusal) => assert_eq!(refusal.reason, Reason::NoCapacity, "{refusal:?}"),
        }
    }
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn what_comes_after_a_restart_is_accepted_after_what_is_taken_up_whatever_the_clock_says() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    let _hold = world.hypervisor.hold_next(Call::Define);
    let boot = life.submit(boot(id)).await.unwrap();
    world.reached(Call::Define, id).await;
    life.crash().await;
    // Since then the clock was set back by an hour.
    let ahead = boot.accepted.0 + 3_600_000;
    let journal = Connection::open(world.path().join("journal.db")).unwrap();
    let sql = "UPDATE operation SET accepted = ?1, body = json_set(body, '$.accepted', ?1) \
               WHERE id = ?2";
    assert_eq!(journal.execute(sql, (ahead as i64, boot.id.to_string())).unwrap(), 1);
    let life = world.live().await;
    let after = life.submit(delete(id)).await.unwrap();
    assert!(after.accepted.0 > ahead, "{after:#?}");
}
