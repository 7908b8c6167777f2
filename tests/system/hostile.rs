//! Guests that answer with garbage, an endless line, endless nesting, a storm of events, or
//! nothing: a clear outcome in bounded time and memory, and other instances unaffected.

use std::time::{Duration, Instant};

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use serde_json::{Value, json};

use crate::node::{Node, need_root};

/// What the agent may grow by for a hostile guest, KiB.
const GROWTH: u64 = 24 << 10;

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn hostile(mode: Mode) {
    let mut node = Node::start().await;
    let good = node.boot("good", Mode::Ostler).await;
    node.report(&good).await;
    let pid = node.agent.pid().unwrap();
    let before = resident(pid);
    let bad = node.boot("bad", mode).await;

    // Whatever it says, it is never taken for an agent that answers...
    node.login(&bad, ostler_tests::guest_image::ROOT).await;
    let begun = Instant::now();
    let answer = node.client.call("guest.report", json!({"id": bad, "wait": 5000})).await;
    let error = answer.expect_err("a hostile guest has no report");
    assert!(matches!(error.reason(), Some("guest_unavailable" | "guest_failed")), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    // ... and what is asked of it ends, in failure and in time.
    let params = json!({"id": bad, "user": "root", "password": {"plain": "never-set"}});
    let over = node.tried("instance.password", params).await;
    assert_eq!(over["state"], "failed", "{over:#}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());

    // Meanwhile the other one answers, and the agent has not grown.
    let report = node.ask("guest.report", json!({"id": good})).await;
    assert_eq!(report["state"], "ready");
    assert!(report["age"].as_u64().unwrap() < 5_000);
    let after = resident(pid);
    assert!(after < before + GROWTH, "{before} KiB before, {after} KiB after");
    let state = node.show(&bad).await["guest"]["state"].clone();
    assert_ne!(state, "ready");

    for id in [bad, good] {
        node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
        node.delete(&id).await;
    }
}

macro_rules! hostile_guests {
    ($($name:ident $mode:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                need_root!();
                hostile(Mode::$mode).await;
            }
        )*
    };
}

hostile_guests! {
    garbage_hurts_nobody Garbage
    an_endless_line_hurts_nobody Flood
    endless_nesting_hurts_nobody Deep
    silence_hurts_nobody Mute
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_guest_is_shown_with_its_last_report() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("hung", Mode::Ostler).await;
    let fresh = node.report(&id).await;
    crate::node::virsh(&["suspend", &format!("ostler-{id}")]).await;
    let client = &mut node.client;
    let old = poll::until("the last report, from a silent guest", crate::node::BOOT, async || {
        let report = client.call("guest.report", json!({"id": id})).await;
        let report = report.map_err(|e| e.to_string())?;
        if report["state"] == "silent" { Ok(report) } else { Err(report["state"].to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(old["host_name"], fresh["host_name"]);
    assert!(old["age"].as_u64().unwrap() > 0);
    crate::node::virsh(&["resume", &format!("ostler-{id}")]).await;
    node.until(&id, "ready again", |i: &Value| i["guest"]["state"] == "ready").await;
    node.delete(&id).await;
}
