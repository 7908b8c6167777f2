//! What is noted about an instance: names, owners, metadata, locks; and lists of many.

use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};

use crate::node::{Node, need_root, virsh};

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_kept_and_written_into_the_domain() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("first", Mode::None).await;
    let update = json!({"id": id, "name": "second", "owner": "tenant-7",
                        "metadata": {"role": "web", "tier": "<&>"}});
    let shown = node.becomes("instance.update", update, "ACTIVE").await;
    assert_eq!(
        (shown["name"].as_str(), shown["owner"].as_str()),
        (Some("second"), Some("tenant-7"))
    );
    let xml = virsh(&["dumpxml", &format!("ostler-{id}")]).await;
    assert!(xml.contains("tenant-7") && xml.contains("second"), "{xml}");
    let update = json!({"id": id, "metadata": {"tier": null, "zone": "a"}});
    let shown = node.becomes("instance.update", update, "ACTIVE").await;
    assert_eq!(shown["metadata"], json!({"role": "web", "zone": "a"}));
    let (reason, text) = node.refused("instance.update", json!({"id": id, "owner": "a\nb"})).await;
    assert_eq!(reason, "invalid_params", "{text}");

    node.becomes("instance.lock", json!({"id": id, "reason": "audit"}), "ACTIVE").await;
    for (method, params) in [
        ("instance.stop", json!({"id": id})),
        ("instance.delete", json!({"id": id, "mode": "hard"})),
        ("instance.update", json!({"id": id, "name": "third"})),
    ] {
        let (reason, text) = node.refused(method, params).await;
        assert_eq!((reason.as_str(), text.contains("audit")), ("conflict", true), "{text}");
    }
    // Notes and lock outlive the agent.
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let shown = node.show(&id).await;
    assert_eq!((shown["locked"].as_str(), shown["name"].as_str()), (Some("audit"), Some("second")));
    node.until(&id, "known again", |i| i["power_state"] == "running").await;
    node.becomes("instance.unlock", json!({"id": id}), "ACTIVE").await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    need_root!();
    let mut node = Node::start().await;
    let image = node.image(Mode::None).await;
    let mut ids = Vec::new();
    for (n, (name, owner)) in
        [("db-1", "a"), ("web-1", "a"), ("web-2", "b"), ("web-3", "a")].into_iter().enumerate()
    {
        let id = uuid::Uuid::new_v4().to_string();
        node.adopt(&id);
        let boot = json!({"id": id, "name": name, "image": image, "owner": owner,
                          "vcpus": 1, "memory": 64u64 << 20});
        node.done("instance.boot", boot).await;
        if n == 3 {
            node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
        }
        ids.push(id);
    }
    let mut names = async |filter: Value| -> Vec<String> {
        let found = node.ask("instance.list", filter).await;
        let name = |i: &Value| i["name"].as_str().unwrap().to_owned();
        found.as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(json!({"name": "web-*"})).await, ["web-1", "web-2", "web-3"]);
    assert_eq!(names(json!({"name": "web-*", "owner": "a"})).await, ["web-1", "web-3"]);
    assert_eq!(names(json!({"status": "SHUTOFF"})).await, ["web-3"]);
    assert_eq!(names(json!({"limit": 2})).await, ["db-1", "web-1"]);
    assert_eq!(names(json!({"limit": 2, "marker": ids[1]})).await, ["web-2", "web-3"]);
    assert_eq!(names(json!({"marker": ids[3]})).await, [""; 0]);
    let nobody = uuid::Uuid::new_v4().to_string();
    let (reason, _) = node.refused("instance.list", json!({"marker": nobody})).await;
    assert_eq!(reason, "not_found");
    for id in &ids {
        node.delete(id).await;
    }
}
