//! libvirtd going away and coming back under a running agent.

use std::time::Duration;

use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use serde_json::{Value, json};

use crate::node::{Node, need_root};

#[tokio::test(flavor = "multi_thread")]
async fn states_are_unknown_while_libvirtd_is_gone_and_nothing_is_done() {
    need_root!();
    let mut node = Node::on_own_libvirt(Setup::default(), None).await;
    let on = node.boot("on", Mode::Ostler).await;
    let off = node.boot("off", Mode::Ostler).await;
    node.report(&on).await;
    node.done("instance.stop", json!({"id": off, "manner": "hard"})).await;
    let qemu = node.qemu(&on);

    node.own().stop().await.unwrap();
    for id in [&on, &off] {
        node.until(id, "UNKNOWN", |i| i["power_state"] == "unknown").await;
    }
    let shown = node.show(&on).await;
    assert_eq!(shown["status"], "ACTIVE", "unknown is not off");
    assert_eq!(node.show(&off).await["status"], "SHUTOFF");
    for (method, id) in [("instance.stop", &on), ("instance.start", &off), ("instance.delete", &on)]
    {
        let (reason, text) = node.refused(method, json!({"id": id})).await;
        assert_eq!(reason, "hypervisor_unavailable", "{text}");
    }
    // The guest is still seen: its port does not go through libvirt.
    let report = node.ask("guest.report", json!({"id": on})).await;
    assert_eq!(report["state"], "ready");
    assert_eq!(node.qemu(&on), qemu);

    node.own().start_again().await.unwrap();
    node.until(&on, "running again", |i| i["power_state"] == "running").await;
    node.until(&off, "off again", |i| i["power_state"] == "shutdown").await;
    assert_eq!(node.qemu(&on), qemu, "nothing was acted upon");
    assert_eq!(node.qemu(&off), None);
    let client = &mut node.client;
    poll::until("the link is up", Duration::from_secs(30), async || {
        let shown = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        if shown["hypervisor"] == "up" { Ok(()) } else { Err(shown["hypervisor"].to_string()) }
    })
    .await
    .unwrap();
    node.done("instance.start", json!({"id": off})).await;
    for id in [on, off] {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_waits_for_a_libvirtd_that_goes_away_under_it() {
    need_root!();
    let mut node = Node::on_own_libvirt(Setup::default(), None).await;
    let lan = node.network.clone();
    let params = node.boot_params("patient", Mode::Ostler, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let operation = node.ask("instance.boot", params).await;
    node.own().restart().await.unwrap();
    let over = node.end_of(&operation).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    node.report(&id).await;
    node.delete(&id).await;
}
