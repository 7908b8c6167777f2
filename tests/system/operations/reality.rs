//! What others do to our domains, and what is not ours: drift is shown, orphans are seen to as the
//! setting says, foreign domains are never touched, and after the node's restart things are as
//! they were.

use std::path::Path;

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root, virsh};

/// Have the agent look again soon.
async fn attentive(node: &mut Node, more: &str) {
    let old = node.agent.setup().more.clone();
    node.agent.setup().more = format!("{old}[instances]\nreconcile_interval = 1\n{more}");
    node.agent.restart().await.unwrap();
    node.reconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_behind_the_agent_is_shown_as_drift() {
    need_root!();
    let mut node = Node::start().await;
    attentive(&mut node, "").await;
    let id = node.boot("drifter", Mode::None).await;
    let domain = format!("ostler-{id}");
    assert_eq!(node.show(&id).await["drift"], Value::Null);

    virsh(&["suspend", &domain]).await;
    let shown = node.until(&id, "drift", |i| i["drift"][0].is_string()).await;
    assert_eq!(shown["status"], "ACTIVE", "{shown:#}");
    virsh(&["resume", &domain]).await;
    node.until(&id, "no drift", |i| i["drift"].is_null()).await;

    virsh(&["setvcpus", &domain, "1", "--config", "--maximum"]).await;
    virsh(&["desc", &domain, "--config", "somebody was here"]).await;
    let shown = node.until(&id, "drift", |i| i["drift"][0].is_string()).await;
    assert!(shown["drift"][0].as_str().unwrap().contains("definition"), "{shown:#}");
    // A restart of the instance makes it what it should be.
    node.becomes("instance.reboot", json!({"id": id, "manner": "hard"}), "ACTIVE").await;

    virsh(&["destroy", &domain]).await;
    node.until(&id, "off, as seen", |i| i["status"] == "SHUTOFF").await;
    virsh(&["undefine", &domain]).await;
    let shown = node.until(&id, "drift", |i| i["drift"][0].is_string()).await;
    assert!(shown["drift"][0].as_str().unwrap().contains("gone"), "{shown:#}");
    node.becomes("instance.start", json!({"id": id}), "ACTIVE").await;
    node.delete(&id).await;
}

/// A line of SQL on the journal of an agent that is down.
async fn journal(node: &Node, sql: &str) {
    let file = node.agent.state_dir().join("journal.db");
    let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\n\
                  db.execute(sys.argv[2])\ndb.commit()\n";
    let file = file.to_str().unwrap();
    Run::new("python3").args(["-c", script, file, sql]).stdout().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reported_adopted_or_removed_and_strangers_left_alone() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("lost", Mode::Ostler).await;
    node.report(&id).await;
    let qemu = node.qemu(&id);
    let stranger = Stranger::define("").await;

    let lose = async |node: &mut Node, more: &str| {
        node.agent.stop().await.unwrap();
        journal(node, &format!("DELETE FROM instance WHERE id = '{id}'")).await;
        journal(node, "DELETE FROM port").await;
        let plain = node.agent.setup().more.clone();
        let plain = plain.split("[instances]").next().unwrap().to_owned();
        node.agent.setup().more = format!("{plain}[instances]\nreconcile_interval = 1\n{more}");
        node.agent.launch().unwrap();
        node.agent.ready().await.unwrap();
        node.reconnect().await;
    };
    lose(&mut node, "").await;
    let domain = format!("ostler-{id}");
    let client = &mut node.client;
    poll::until("the orphan is reported", BOOT, async || {
        let host = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        if host["orphans"] == json!([domain]) { Ok(()) } else { Err(host.to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(node.qemu(&id), qemu, "it is left as it is");
    // Its base is still needed, whatever the journal says.
    let images = std::fs::read_dir(node.agent.state_dir().join("images")).unwrap().flatten();
    let disks = images.filter(|file| file.path().extension().is_some_and(|e| e == "qcow2"));
    assert_eq!(disks.count(), 1);

    lose(&mut node, "orphans = \"adopt\"\n").await;
    let shown = node.until(&id, "adopted", |i| i["status"] == "ACTIVE").await;
    assert_eq!((shown["name"].as_str(), node.qemu(&id)), (Some("lost"), qemu));
    node.until(&id, "its guest is heard", |i| i["guest"]["state"] == "ready").await;
    node.becomes("instance.reboot", json!({"id": id, "manner": "hard"}), "ACTIVE").await;
    let ports = node.ask("instance.list_interfaces", json!({"id": id})).await;
    assert_eq!(ports[0]["port_security"], true, "{ports:#}");

    lose(&mut node, "orphans = \"remove\"\n").await;
    poll::until("the orphan is gone", BOOT, async || match node.qemu(&id) {
        None if node.files(&id).is_empty() => Ok(()),
        _ => Err("it is there".to_owned()),
    })
    .await
    .unwrap();
    let domains = virsh(&["list", "--all", "--name"]).await;
    assert!(!domains.contains(&domain), "{domains}");
    assert!(domains.contains(&stranger.name), "{domains}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_cannot_be_read_is_told_of_once() {
    need_root!();
    let mut node = Node::start().await;
    attentive(&mut node, "orphans = \"remove\"\n").await;
    // In our name, and it does not say whose it is.
    let torn = "<o:instance xmlns:o='urn:ostler:instance:1'><o:name>torn</o:name></o:instance>";
    let stranger = Stranger::define(torn).await;
    let told = virsh(&["domuuid", &stranger.name]).await.trim().to_owned();
    let log = node.agent.log();
    let lines = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().filter(|l| l.contains("cannot be read") && l.contains(&told)).count()
    };
    poll::until("it is told of", BOOT, async || match lines() {
        0 => Err("nothing yet".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();

    // What only a look at all domains finds shows that there was another.
    let id = node.boot("looked-at", Mode::None).await;
    for words in ["somebody", "somebody else"] {
        virsh(&["desc", &format!("ostler-{id}"), "--config", words]).await;
        node.until(&id, "drift", |i| i["drift"][0].is_string()).await;
        node.becomes("instance.reboot", json!({"id": id, "manner": "hard"}), "ACTIVE").await;
    }
    assert_eq!(lines(), 1);
    assert!(virsh(&["list", "--all", "--name"]).await.contains(&stranger.name));
    node.delete(&id).await;
}

/// A domain that is not ours.
struct Stranger {
    name: String,
}

impl Stranger {
    /// One with these metadata.
    async fn define(metadata: &str) -> Self {
        let name = format!("stranger-{}", uuid::Uuid::new_v4().simple());
        let xml = format!(
            "<domain type='qemu'><name>{name}</name>\
             <metadata>{metadata}</metadata><memory unit='MiB'>32</memory>\
             <vcpu>1</vcpu><os><type>hvm</type></os></domain>"
        );
        let file = std::env::temp_dir().join(format!("{name}.xml"));
        std::fs::write(&file, xml).unwrap();
        virsh(&["define", file.to_str().unwrap()]).await;
        std::fs::remove_file(&file).unwrap();
        Self { name }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut run = ostler_tests::process::command("virsh");
        let _ = run.args(["-q", "-c", "qemu:///system", "undefine", &self.name]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_nodes_restart_things_are_as_they_were() {
    need_root!();
    let mut node = Node::start().await;
    let on = node.boot("on", Mode::None).await;
    let off = node.boot("off", Mode::None).await;
    let held = node.boot("held", Mode::None).await;
    node.done("instance.stop", json!({"id": off, "manner": "hard"})).await;
    node.done("instance.suspend", json!({"id": held})).await;

    // The restart: nothing runs, and the kernel has another boot id.
    node.agent.kill().await.unwrap();
    virsh(&["destroy", &format!("ostler-{on}")]).await;
    journal(&node, "UPDATE node SET boot = 'another'").await;
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let shown = node.until(&on, "started again", |i| {
        i["power_state"] == "running" && i["task_state"].is_null()
    });
    assert_eq!(shown.await["status"], "ACTIVE");
    assert_eq!(node.show(&off).await["status"], "SHUTOFF");
    assert_eq!(node.show(&held).await["status"], "SUSPENDED");
    assert_eq!((node.qemu(&off), node.qemu(&held)), (None, None));
    node.done("instance.resume", json!({"id": held})).await;

    // Only a restart of the node does that: what dies while the agent is away stays off.
    node.agent.kill().await.unwrap();
    virsh(&["destroy", &format!("ostler-{on}")]).await;
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    node.until(&on, "off", |i| i["status"] == "SHUTOFF").await;
    for id in [on, off, held] {
        node.delete(&id).await;
    }
    assert!(Path::new(&node.agent.state_dir()).exists());
}
