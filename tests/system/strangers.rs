//! What is not the agent's own is not touched, and what ran before a request runs after it: on real
//! domains.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::process::command;
use ostler_tests::strangers::{Strangers, changes};
use serde_json::json;

use crate::drain::Rule;
use crate::node::{Node, gone, need_root, virsh};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_what_runs_leaves_it_running_whatever_becomes_of_the_start() {
    need_root!();
    let rule = "after|instance.start|start domain|fail";
    let (_rule, setup) = Rule::of(Setup::default(), rule);
    let mut node = Node::with(setup).await;
    let id = node.boot("runs", Mode::None).await;
    let qemu = node.qemu(&id).unwrap();

    // Its QEMU is slow, and somebody's question holds its job.
    let pid = Pid::from_raw(qemu.cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let domain = format!("ostler-{id}");
    let mut holding = command("virsh");
    holding.args(["-q", "-c", node.uri(), "domblkstat", &domain, "vda"]);
    let mut holding = holding.stdout(std::process::Stdio::null()).spawn().unwrap();
    let started = node.ask("instance.start", json!({"id": id})).await;
    let cancelled = node.ask("operation.cancel", json!({"id": started["id"]})).await;
    let over = node.end_of(&cancelled).await;
    kill(pid, Signal::SIGCONT).unwrap();
    holding.wait().unwrap();
    // Nothing was to do, whether or not it was cancelled before that was seen.
    assert!(over["state"] == "succeeded" || over["state"] == "cancelled", "{over:#}");
    assert_eq!(over["steps"], json!([]), "{over:#}");
    assert_eq!(node.qemu(&id), Some(qemu));

    // Paused behind the agent: there is something to look at, and that fails.
    virsh(&["suspend", &domain]).await;
    node.until(&id, "it is seen to be paused", |i| i["power_state"] == "paused").await;
    let over = node.tried("instance.start", json!({"id": id})).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    assert_eq!(node.qemu(&id), Some(qemu));
    virsh(&["resume", &domain]).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_under_the_id_of_somebodys_domain_is_refused_and_that_stays() {
    need_root!();
    let mut node = Node::start().await;
    let state = node.agent.state_dir();
    let folders = [state.clone(), state.join("instances")];
    let strangers = Strangers::settle(node.uri(), &folders).await.unwrap();
    let before = strangers.look().await.unwrap();
    for id in [strangers.off, strangers.running] {
        let mut params = node.boot_params("taken", Mode::None, &["lan"]).await;
        params["id"] = json!(id);
        let (reason, text) = node.refused("instance.boot", params).await;
        assert_eq!(reason, "conflict", "{text}");
        assert!(text.contains("mark") && text.contains("choose another id"), "{text}");
        assert_eq!(node.refused("instance.delete", gone(id)).await.0, "not_found");
    }
    let now = strangers.look().await.unwrap();
    assert_eq!(changes(&before, &now), [""; 0]);
}
