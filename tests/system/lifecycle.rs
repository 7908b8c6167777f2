//! The whole life of an instance, by message and by the operator's command.

use ostler_tests::cli::Cli;
use ostler_tests::console::{Console, Login};
use ostler_tests::guest_image::{Account, Mode, ROOT};
use ostler_tests::poll;
use ostler_tests::rpc::{Amqp, Call};
use ostler_tests::services::Broker;
use serde_json::{Value, json};
use std::time::Duration;

use crate::node::{BOOT, Node, gone, need_root, virsh};

/// Everything an operator does first, through RabbitMQ and the command, as `make demo` does.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_and_dies_by_message() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let image = node.image(Mode::Ostler).await;
    let events = Amqp::connect(broker.uri(), node.agent.host()).await.unwrap();
    let mut events = events.events(&format!("operation.{}.#", node.agent.host())).await.unwrap();
    let cli = Cli::over_broker(broker.uri(), node.agent.host()).unwrap();

    let booted = cli
        .json(&[
            "instance",
            "boot",
            "--name",
            "first",
            "--image",
            &image,
            "--vcpus",
            "1",
            "--memory",
            "192M",
            "--network",
            "lan",
        ])
        .await
        .unwrap();
    let id = booted["id"].as_str().unwrap().to_owned();
    node.adopt(&id);
    assert_eq!(booted["status"], "ACTIVE", "{booted:#}");
    let told = events
        .next(Duration::from_secs(30), |event| {
            event["news"]["operation"]["state"] == "succeeded"
                && event["news"]["operation"]["kind"] == "instance.boot"
        })
        .await
        .unwrap();
    assert_eq!(told["host"], node.agent.host());

    // The standard port may be the first to answer; Ostler's own follows, and is preferred.
    let mac = booted["ports"][0]["mac"].as_str().unwrap();
    let report = poll::until("a report over Ostler's port, with an address", BOOT, async || {
        let report = cli.json(&["guest", "report", "first", "--wait", "60"]).await;
        let report = report.map_err(|e| e.to_string())?;
        let nic = report["interfaces"].as_array().unwrap().iter().find(|i| i["mac"] == mac);
        let addresses = nic.and_then(|nic| nic["addresses"].as_array());
        let local = |a: &Value| a.as_str().unwrap().starts_with("169.254.");
        let told = addresses.is_some_and(|a| a.iter().any(local));
        if told && report["transport"] == "ostler" { Ok(report) } else { Err(report.to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(report["state"], "ready");
    let root = report["filesystems"].as_array().unwrap().iter().find(|f| f["mountpoint"] == "/");
    let root = root.unwrap_or_else(|| panic!("no root filesystem in {report:#}"));
    assert_eq!(root["kind"], "ext4");
    assert!(root["total"].as_u64().unwrap() > 10 << 20, "{root}");
    assert_eq!(
        root["serials"][0],
        id.replace('-', "")[..20],
        "the disk's serial names the instance"
    );
    // The password the image has works; then the new one does, and the old one no longer.
    let session = node.login(&id, ROOT).await;
    session.logout().await.unwrap();
    cli.json_with(
        &["instance", "password", "first", "--user", "root", "--password-stdin"],
        "n3w word\n",
    )
    .await
    .unwrap();
    let session = node.login(&id, Account { user: "root", password: "n3w word" }).await;
    let console = session.logout().await.unwrap();
    let old = console.login(ROOT.user, ROOT.password).await.unwrap();
    assert!(matches!(old, Login::Refused(_)), "the old password still holds");

    let stopped = cli.json(&["instance", "stop", "first"]).await.unwrap();
    assert_eq!(stopped["status"], "SHUTOFF");
    assert_eq!(node.qemu(&id), None);
    let started = cli.json(&["instance", "start", "first"]).await.unwrap();
    assert_eq!(started["status"], "ACTIVE");
    cli.json(&["guest", "report", "first", "--wait", "120"]).await.unwrap();

    // The password survived the restart: it is on the disk, not in the agent's memory.
    let session = node.login(&id, Account { user: "root", password: "n3w word" }).await;
    session.logout().await.unwrap();

    cli.json(&["instance", "delete", "first", "--hard"]).await.unwrap();
    node.nothing_left(&id).await;
    assert_eq!(cli.json(&["instance", "list"]).await.unwrap(), json!([]));

    // Neither the log nor the journal has the word, or its hash.
    for file in [node.agent.log(), node.agent.state_dir().join("journal.db")] {
        let bytes = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("n3w word") && !text.contains("$6$"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_is_asked_to_stop_and_forced_when_it_does_not() {
    need_root!();
    let mut node = Node::start().await;
    let polite = node.boot("polite", Mode::Ostler).await;
    let deaf = node.boot("deaf", Mode::None).await;
    node.report(&polite).await;

    let over = node.done("instance.stop", json!({"id": polite})).await;
    let asked = &over["steps"][0];
    let took = asked["finished"].as_u64().unwrap() - asked["started"].as_u64().unwrap();
    assert!(took < 30_000, "it was waited for, not asked: {over:#}");
    let log = std::fs::read_to_string(
        node.agent.state_dir().join(format!("instances/{polite}/console.log")),
    );
    assert!(log.unwrap().contains("Power down"), "the guest's own shutdown did not run");

    // No agent, and its kernel has no power button program for long: by force, after the time.
    let session = node.login(&deaf, ROOT).await;
    let mut session = session;
    session.run("killall acpid").await.unwrap();
    // Who cancels that hears that it was asked, and cannot be asked to forget it.
    let stop = node.ask("instance.stop", json!({"id": deaf, "timeout": 120_000})).await;
    let client = &mut node.client;
    poll::until("the guest was asked", BOOT, async || {
        let now = client.call("operation.get", json!({"id": stop["id"]})).await;
        let now = now.map_err(|error| error.to_string())?;
        if now["steps"][0]["progress"].is_object() { Ok(()) } else { Err(now.to_string()) }
    })
    .await
    .unwrap();
    node.ask("operation.cancel", json!({"id": stop["id"]})).await;
    let over = node.end_of(&stop).await;
    let told = over["error"]["message"].as_str().unwrap();
    assert_eq!(over["state"], "cancelled", "{over:#}");
    assert!(told.contains("asked to shut down already"), "{told}");
    assert_eq!(node.show(&deaf).await["status"], "ACTIVE");

    let over = node.done("instance.stop", json!({"id": deaf, "timeout": 2000})).await;
    assert_eq!(over["steps"][1]["state"], "done");
    let shown = node.show(&deaf).await;
    assert_eq!(
        (shown["status"].as_str(), shown["power_state"].as_str()),
        (Some("SHUTOFF"), Some("shutdown"))
    );
    for id in [polite, deaf] {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_reboot_goes_through_the_guest_and_a_hard_one_does_not() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("again", Mode::Ostler).await;
    node.report(&id).await;
    let qemu = node.qemu(&id);
    let mut session = node.login(&id, ROOT).await;
    let boot_id = session.ask("cat /proc/sys/kernel/random/boot_id").await.unwrap();

    let over = node.done("instance.reboot", json!({"id": id, "timeout": 60_000})).await;
    assert_eq!(over["steps"].as_array().unwrap().len(), 1, "the guest complied: {over:#}");
    assert_eq!(node.qemu(&id), qemu, "the same QEMU");
    let console = Console::of_domain(node.uri(), &format!("ostler-{id}")).await.unwrap();
    let mut session = console.login(ROOT.user, ROOT.password).await.unwrap().session().unwrap();
    assert_ne!(session.ask("cat /proc/sys/kernel/random/boot_id").await.unwrap(), boot_id);
    node.until(&id, "ready after the reboot", |i| i["guest"]["state"] == "ready").await;

    node.done("instance.reboot", json!({"id": id, "manner": "hard"})).await;
    assert_ne!(node.qemu(&id), qemu, "another QEMU");
    node.until(&id, "ready after the reset", |i| i["guest"]["state"] == "ready").await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_starts_stops_and_deletes_change_nothing() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("twice", Mode::Ostler).await;
    let qemu = node.qemu(&id);
    node.done("instance.start", json!({"id": id})).await;
    assert_eq!(node.qemu(&id), qemu);
    for _ in 0..2 {
        node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    }
    for _ in 0..2 {
        node.delete(&id).await;
    }
    assert_eq!(node.show(&id).await["status"], "DELETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_powers_itself_off_is_seen_to_be_off() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("self", Mode::Ostler).await;
    let mut console = Console::of_domain(node.uri(), &format!("ostler-{id}")).await.unwrap();
    console = console
        .login(ROOT.user, ROOT.password)
        .await
        .unwrap()
        .session()
        .unwrap()
        .logout()
        .await
        .unwrap();
    drop(console);
    virsh(&["shutdown", "--mode", "agent", &format!("ostler-{id}")]).await;
    node.until(&id, "SHUTOFF", |i| i["status"] == "SHUTOFF").await;
    // Somebody starts it behind our back: believed, and ready again.
    virsh(&["start", &format!("ostler-{id}")]).await;
    node.until(&id, "ACTIVE and ready", |i| {
        i["status"] == "ACTIVE" && i["guest"]["state"] == "ready"
    })
    .await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_boot_leaves_nothing_and_a_delete_overtakes() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let params = node.boot_params("halted", Mode::Ostler, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let boot = node.ask("instance.boot", params).await;
    node.ask("operation.cancel", json!({"id": boot["id"]})).await;
    let over = node.end_of(&boot).await;
    // It may have been done before the word came.
    match over["state"].as_str().unwrap() {
        "cancelled" => node.nothing_left(&id).await,
        "succeeded" => node.delete(&id).await,
        other => panic!("{other}: {over:#}"),
    }

    let params = node.boot_params("overtaken", Mode::Ostler, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let boot = node.ask("instance.boot", params).await;
    let deleted = node.done("instance.delete", gone(&id)).await;
    assert_eq!(deleted["state"], "succeeded");
    let boot = node.ask("operation.get", json!({"id": boot["id"]})).await;
    assert!(matches!(boot["state"].as_str(), Some("cancelled" | "succeeded")), "{boot:#}");
    node.nothing_left(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_command_is_refused_and_never_run() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let params = node.boot_params("late", Mode::Ostler, &[&lan]).await;
    let id = params["id"].clone();
    let call = Call::new("instance.boot", params).deadline(1);
    let error = node.client.send(&call).await.unwrap_err();
    assert_eq!(error.reason(), Some("expired"), "{error}");
    assert_eq!(node.refused("instance.show", json!({"id": id})).await.0, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_come_and_go_at_once() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let mut ids = Vec::new();
    for n in 0..8 {
        let params = node.boot_params(&format!("many-{n}"), Mode::None, &[&lan]).await;
        ids.push((params["id"].clone(), node.ask("instance.boot", params).await));
    }
    for (_, boot) in &ids {
        let over = node.end_of(boot).await;
        assert_eq!(over["state"], "succeeded", "{over:#}");
    }
    let mut deletes = Vec::new();
    for (id, _) in &ids {
        deletes.push(node.ask("instance.delete", gone(id)).await);
    }
    for delete in &deletes {
        let over = node.end_of(delete).await;
        assert_eq!(over["state"], "succeeded", "{over:#}");
    }
    for (id, _) in &ids {
        node.nothing_left(id.as_str().unwrap()).await;
    }
}
