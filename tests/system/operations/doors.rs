//! All operations through the broker, asked for with the operator's command.

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use ostler_tests::services::Broker;
use serde_json::{Value, json};

use crate::node::{Node, need_root};

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_goes_through_the_broker_and_the_command() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let image = node.image(Mode::Ostler).await;
    let cli = Cli::over_broker(broker.uri(), node.agent.host()).unwrap();
    let boot = [
        "instance",
        "boot",
        "--name",
        "all",
        "--image",
        &image,
        "--vcpus",
        "1",
        "--memory",
        "192M",
        "--max-vcpus",
        "2",
        "--max-memory",
        "256M",
        "--owner",
        "tenant-1",
        "--metadata",
        "role=web",
    ];
    let booted = cli.json(&boot).await.unwrap();
    let id = booted["id"].as_str().unwrap().to_owned();
    node.adopt(&id);
    assert_eq!(
        (booted["status"].as_str(), booted["owner"].as_str()),
        (Some("ACTIVE"), Some("tenant-1"))
    );
    cli.json(&["guest", "report", "all", "--wait", "60"]).await.unwrap();

    let steps: [(&[&str], &str); 22] = [
        (&["pause", "all"], "PAUSED"),
        (&["unpause", "all"], "ACTIVE"),
        (&["suspend", "all"], "SUSPENDED"),
        (&["resume", "all"], "ACTIVE"),
        (&["adjust", "all", "--vcpus", "2", "--memory", "256M"], "ACTIVE"),
        (&["reboot", "all", "--hard"], "ACTIVE"),
        (&["rescue", "all"], "RESCUE"),
        (&["unrescue", "all"], "ACTIVE"),
        (&["resize", "all", "--memory", "224M"], "VERIFY_RESIZE"),
        (&["resize", "all", "--revert"], "ACTIVE"),
        (&["resize", "all", "--memory", "224M"], "VERIFY_RESIZE"),
        (&["resize", "all", "--confirm"], "ACTIVE"),
        (&["rebuild", "all", "--image", &image], "ACTIVE"),
        (&["reset", "all", "--root-device", "vda"], "ACTIVE"),
        (&["lock", "all", "--reason", "audit"], "ACTIVE"),
        (&["unlock", "all"], "ACTIVE"),
        (&["update", "all", "--name", "every", "--set", "a=b", "--unset", "role"], "ACTIVE"),
        (&["stop", "every", "--grace", "2"], "SHUTOFF"),
        (&["start", "every"], "ACTIVE"),
        (&["shelve", "every", "--grace", "2"], "SHELVED"),
        (&["offload", "every"], "SHELVED_OFFLOADED"),
        (&["unshelve", "every"], "ACTIVE"),
    ];
    for (words, status) in steps {
        let words: Vec<&str> = ["instance"].into_iter().chain(words.iter().copied()).collect();
        cli.json(&words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let shown = cli.json(&["instance", "show", &id]).await.unwrap();
        assert_eq!(shown["status"], status, "{words:?}: {shown:#}");
        assert_eq!(shown["task_state"], Value::Null, "{words:?}: {shown:#}");
    }
    let shown = cli.json(&["instance", "show", "every"]).await.unwrap();
    assert_eq!(shown["metadata"], json!({"a": "b"}));

    cli.json(&["instance", "snapshot", "every", "--name", "shot"]).await.unwrap();
    let images = cli.json(&["image", "list"]).await.unwrap();
    assert!(images.to_string().contains("\"shot\""), "{images:#}");

    cli.json(&["instance", "delete", "every"]).await.unwrap();
    let deleted = cli.json(&["instance", "list", "--status", "SOFT_DELETED"]).await.unwrap();
    assert_eq!(deleted[0]["id"], id);
    cli.json(&["instance", "restore", "every"]).await.unwrap();
    cli.json(&["instance", "delete", "every", "--hard"]).await.unwrap();
    node.nothing_left(&id).await;
}
