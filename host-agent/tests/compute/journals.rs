//! Journals that an earlier version left are taken up; what cannot be read ends nothing.
//!
//! `journals/1.jsonl` was written by the version before operations were described in one file each:
//! by the fault bench, which killed it at every step of every operation. A line has the operation
//! that was cut off, and all instances, images and networks known then.

use ostler_protocol::rpc::operation::{Kind, StepState};
use rusqlite::{Connection, params};
use serde_json::Value;

use super::*;

const LEFT: &str = include_str!("journals/1.jsonl");

/// A row, as the journal's tables keep it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

impl World {
    /// The journal, which nobody else has open.
    async fn journal(&self) -> Connection {
        let path = self.path().join("journal.db");
        let (journal, ended) = Journal::open(&path).unwrap();
        drop(journal);
        let _ = ended.await;
        Connection::open(path).unwrap()
    }

    /// Leave what an agent left that was killed.
    async fn leave(&self, left: &Value) {
        let db = self.journal().await;
        let named = [("image", "name"), ("network", "name")];
        for (table, key) in named {
            for row in left[format!("{table}s")].as_array().unwrap() {
                let sql = format!("INSERT INTO {table} (name, body) VALUES (?1, ?2)");
                db.execute(&sql, params![text(&row[key]), row.to_string()]).unwrap();
            }
        }
        for row in left["instances"].as_array().unwrap() {
            db.execute(
                "INSERT INTO instance (id, revision, body) VALUES (?1, ?2, ?3)",
                params![text(&row["id"]), row["revision"].as_i64(), row.to_string()],
            )
            .unwrap();
        }
        let body = &left["body"];
        db.execute(
            "INSERT INTO operation (id, key, fingerprint, subject, state, accepted, change, was, \
             body) VALUES (?1, NULL, '', '', ?2, ?3, ?4, ?5, ?6)",
            params![
                text(&body["id"]),
                text(&body["state"]),
                body["accepted"].as_i64(),
                left["change"].to_string(),
                left["was"].to_string(),
                body.to_string()
            ],
        )
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_left_is_taken_up_as_that_planned_it() {
    let mut cut_off = std::collections::BTreeSet::new();
    for line in LEFT.lines() {
        let left: Value = serde_json::from_str(line).unwrap();
        let operation: Operation = serde_json::from_value(left["body"].clone()).unwrap();
        let world = World::new();
        world.leave(&left).await;
        let life = world.live().await;
        let mut now = life.compute.reads().operation(operation.id).await.unwrap();
        // There are no files and no domains, so what can only go on is tried again and again.
        let goes_on = |now: &Operation| now.steps.iter().any(|step| step.failures > 0);
        while !now.state.is_over() && !goes_on(&now) {
            let wait = Wait { id: now.id, revision: Some(now.revision), timeout: Some(20_000) };
            let then = life.compute.reads().wait(&wait).await.unwrap();
            assert!(then.revision > now.revision, "it stands still: {then:#?}");
            now = then;
        }
        let names = |o: &Operation| o.steps.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        // Where it had what it wanted, the steps that were not needed are gone.
        assert!(names(&operation).starts_with(&names(&now)), "{operation:#?} {now:#?}");
        // What was done before is not done again.
        let done = |o: &Operation| {
            let finished = o.steps.iter().map(|step| (step.state, step.finished));
            finished.take_while(|(state, _)| *state == StepState::Done).collect::<Vec<_>>()
        };
        if now.state == State::Succeeded {
            assert!(done(&now).starts_with(&done(&operation)), "{operation:#?} {now:#?}");
        }
        if let (Subject::Instance(id), true) = (&operation.subject, now.state.is_over()) {
            let instance = life.compute.reads().instance(*id).unwrap().instance;
            assert_eq!(instance.task_state, None, "{now:#?}");
        }
        cut_off.insert(operation.kind);
        life.crash().await;
    }
    // Version 1 had no volumes, no ports of their own, and no export.
    let is_new = |kind: &&Kind| {
        let of = |what: &str| kind.method().contains(what);
        of("volume") || of("interface") || of("port.") || **kind == Kind::ImageExport
    };
    let mut then = Kind::ALL.iter().filter(|kind| !is_new(kind));
    assert!(then.all(|kind| cut_off.contains(kind)), "{cut_off:?}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_set_aside_and_what_it_held_up_is_free() {
    let world = World::new();
    let life = world.furnished().await;
    let (known, lost, held) = (InstanceId::random(), InstanceId::random(), InstanceId::random());
    for id in [known, lost, held] {
        life.done(boot(id)).await;
    }
    // Held to the end: what the first life left behind must not go on beside the second.
    let _hold = world.hypervisor.hold_next(Call::Pause);
    let pause = life.submit(Command::Pause(held)).await.unwrap();
    world.reached(Call::Pause, held).await;
    life.crash().await;
    let db = world.journal().await;
    let set = "UPDATE operation SET change = '\"juggle\"' WHERE id = ?1";
    assert_eq!(db.execute(set, [pause.id.to_string()]).unwrap(), 1);
    let set = "UPDATE instance SET body = '{}' WHERE id = ?1";
    assert_eq!(db.execute(set, [lost.to_string()]).unwrap(), 1);
    drop(db);
    let life = world.live().await;
    assert_eq!(life.status(known), Status::Active);
    assert!(life.compute.reads().instance(lost).is_err());
    let free = life.compute.reads().instance(held).unwrap();
    assert_eq!((free.instance.task_state, free.instance.operation), (None, None));
    assert!(free.fault.unwrap().message.contains("cannot be read"));
    // Its bytes may be what the one that cannot be read needs.
    for id in [known, held] {
        life.done(delete(id)).await;
    }
    life.done(Command::ImageRemove("disk".parse().unwrap())).await;
    let images = std::fs::read_dir(world.path().join("images")).unwrap();
    let kept = images.filter(|file| {
        file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "raw")
    });
    assert_eq!(kept.count(), 1);
}

#[tokio::test]
async fn a_step_that_this_version_does_not_know_is_left_out() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    // Held to the end: what the first life left behind must not go on beside the second.
    let _hold = world.hypervisor.hold_next(Call::Destroy);
    let stop = serde_json::from_value(json!({"id": id, "manner": "hard"})).unwrap();
    let stop = life.submit(Command::Stop(stop)).await.unwrap();
    world.reached(Call::Destroy, id).await;
    life.crash().await;
    let db = world.journal().await;
    let body: String = db
        .query_row("SELECT body FROM operation WHERE id = ?1", [stop.id.to_string()], |r| r.get(0))
        .unwrap();
    let mut body: Value = serde_json::from_str(&body).unwrap();
    let unknown = json!({"name": "bow to the guest", "state": "pending"});
    body["steps"].as_array_mut().unwrap().insert(0, unknown.clone());
    body["steps"].as_array_mut().unwrap().push(unknown);
    let set = "UPDATE operation SET body = ?2 WHERE id = ?1";
    db.execute(set, [stop.id.to_string(), body.to_string()]).unwrap();
    drop(db);
    let life = world.live().await;
    let over = life.end_of(&stop).await;
    assert_eq!((over.state, over.steps.len()), (State::Succeeded, 3), "{over:#?}");
    assert_eq!(life.status(id), Status::Shutoff);
}
