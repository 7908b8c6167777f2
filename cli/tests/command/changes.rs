//! Changes: what is sent, how they are followed, and how they end.

use std::time::{SystemTime, UNIX_EPOCH};

use ostler_protocol::rpc::fault::Reason;
use serde_json::{Value, json};
use sha_crypt::{PasswordVerifier, ShaCrypt};

use crate::node::{Act, INSTANCE, Node, OPERATION, instance, operation, refuse};
use crate::{assert_exit, run, run_with_input, stderr, stdout};

const OTHER: &str = "9b2f5b2e-3c1d-4e8a-9a55-0d6f3e5c7a11";

/// A node where every change of an instance succeeds, in three steps.
fn obliging() -> Node {
    Node::new(|request, _| {
        let revision = request.params.as_ref().and_then(|params| params["revision"].as_u64());
        Act::Reply(match (request.method.as_str(), revision) {
            ("operation.wait", Some(1)) => {
                operation("instance.boot", "running", 2, &["running", "pending", "pending"])
            }
            ("operation.wait", Some(2)) => {
                operation("instance.boot", "running", 3, &["done", "done", "running"])
            }
            ("operation.wait", _) => {
                operation("instance.boot", "succeeded", 4, &["done", "done", "done"])
            }
            ("instance.show", _) => instance(INSTANCE, "web"),
            (kind, _) => operation(kind, "queued", 1, &["pending", "pending", "pending"]),
        })
    })
}

const BOOT: [&str; 12] = [
    "instance",
    "boot",
    "--name",
    "web",
    "--image",
    "debian",
    "--vcpus",
    "2",
    "--memory",
    "512M",
    "--network",
    "lan,mac=52:54:00:12:34:56",
];

#[test]
fn a_boot_is_followed_to_its_end_and_shown() {
    let node = obliging();
    let output = run(&node, &BOOT);
    assert_exit(&output, 0);
    assert_eq!(
        stderr(&output),
        "instance.boot: 1/3 create root disk\ninstance.boot: 2/3 define domain\n\
         instance.boot: 3/3 start domain\n"
    );
    let text = stdout(&output);
    assert!(text.contains(INSTANCE) && text.contains("52:54:00:12:34:56"), "{text}");
    let boot = &node.requests()[0];
    assert_eq!(
        boot.params,
        Some(json!({
            "name": "web", "image": "debian", "vcpus": 2, "memory": 536_870_912,
            "networks": [{"network": "lan", "mac": "52:54:00:12:34:56"}],
        }))
    );
}

#[test]
fn a_change_carries_a_key_and_a_deadline() {
    let node = obliging();
    assert_exit(&run(&node, &["instance", "start", INSTANCE, "--no-wait"]), 0);
    assert_exit(&run(&node, &["instance", "start", INSTANCE, "--no-wait"]), 0);
    assert_exit(&run(&node, &["instance", "start", INSTANCE, "--no-wait", "--key", "mine"]), 0);
    let contexts: Vec<_> = node.requests().into_iter().map(|r| r.context.unwrap()).collect();
    let key = |n: usize| contexts[n].key.as_ref().unwrap().as_str().to_owned();
    assert_ne!(key(0), key(1));
    assert_eq!(key(2), "mine");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let deadline = contexts[0].deadline.unwrap().0;
    assert!(deadline <= now + 30_000 && deadline + 60_000 > now, "{deadline} at {now}");
}

#[test]
fn without_waiting_the_accepted_operation_is_the_result() {
    let node = obliging();
    let output = run(&node, &["-o", "json", "instance", "start", INSTANCE, "--no-wait"]);
    assert_exit(&output, 0);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&printed["id"], &printed["state"]), (&json!(OPERATION), &json!("queued")));
    assert_eq!(node.methods(), ["instance.start"]);
}

#[test]
fn with_json_nothing_but_the_result_is_printed() {
    let node = obliging();
    let output = run(&node, &["-o", "json", "instance", "stop", INSTANCE, "--grace", "5"]);
    assert_exit(&output, 0);
    assert_eq!(stderr(&output), "");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, instance(INSTANCE, "web"));
    let params = node.requests()[0].params.clone();
    assert_eq!(params, Some(json!({"id": INSTANCE, "manner": "soft", "timeout": 5000})));
}

#[test]
fn an_operation_that_was_undone_is_a_failure() {
    let node = Node::new(|request, _| {
        let kind = "instance.start";
        Act::Reply(if request.method == "operation.wait" {
            let mut over = operation(kind, "undone", 2, &["undone", "failed", "pending"]);
            over["error"] = json!({
                "code": -32016, "message": "the tap cannot be made",
                "data": {"reason": "network_failed", "step": "define domain",
                         "causes": ["EBUSY"], "next": "see ip link"},
            });
            over
        } else {
            operation(kind, "queued", 1, &["pending", "pending", "pending"])
        })
    });
    let output = run(&node, &["instance", "start", INSTANCE]);
    assert_exit(&output, 1);
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    for part in [
        "instance.start: 2/3 define domain: failed",
        "error: the tap cannot be made",
        "because: EBUSY",
        "at step: define domain",
        "things are as they were before",
        "reason: network_failed",
        OPERATION,
        "next: see ip link",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let output = run(&node, &["-o", "json", "instance", "start", INSTANCE]);
    assert_exit(&output, 1);
    let printed: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(printed["data"]["reason"], "network_failed");
    assert_eq!((&printed["state"], &printed["exit"]), (&json!("undone"), &json!(1)));
}

#[test]
fn one_delete_that_is_refused_does_not_keep_the_others() {
    let node = Node::new(|request, _| match request.method.as_str() {
        "instance.delete" if request.params.as_ref().is_some_and(|p| p["id"] == OTHER) => {
            refuse(Reason::NotFound, "there is no such instance")
        }
        "instance.show" => refuse(Reason::NotFound, "it is gone"),
        "instance.delete" => Act::Reply(operation("instance.delete", "queued", 1, &[])),
        _ => Act::Reply(operation("instance.delete", "succeeded", 2, &[])),
    });
    let output = run(&node, &["instance", "delete", OTHER, INSTANCE, INSTANCE]);
    assert_exit(&output, 3);
    assert_eq!(stdout(&output), format!("instance {INSTANCE} is deleted for good\n"));
    let asked = ["instance.delete", "instance.delete", "operation.wait", "instance.show"];
    assert_eq!(node.methods(), asked);
}

#[test]
fn a_password_is_hashed_before_it_is_sent() {
    let node = obliging();
    let arguments = ["instance", "password", INSTANCE, "--user", "admin", "--password-stdin"];
    let output = run_with_input(&node, &arguments, "hunter2\n");
    assert_exit(&output, 0);
    assert!(!stdout(&output).contains("hunter2") && !stderr(&output).contains("hunter2"));
    let params = node.requests()[0].params.clone().unwrap();
    assert_eq!(params["user"], "admin");
    let hash = params["password"]["crypted"].as_str().unwrap();
    assert!(hash.starts_with("$6$") && !hash.contains("rounds"), "{hash}");
    assert!(ShaCrypt::SHA512.verify_password(b"hunter2", hash).is_ok());
}

#[test]
fn a_plain_password_is_sent_only_when_asked_for() {
    let node = obliging();
    let arguments = ["instance", "password", INSTANCE, "--password-stdin", "--plain"];
    assert_exit(&run_with_input(&node, &arguments, "hunter2"), 0);
    let params = node.requests()[0].params.clone().unwrap();
    assert_eq!(params["password"], json!({"plain": "hunter2"}));
}

#[test]
fn without_a_terminal_a_password_must_be_on_standard_input() {
    let node = obliging();
    let output = run(&node, &["instance", "password", INSTANCE]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("--password-stdin"), "{}", stderr(&output));
    assert!(node.requests().is_empty());
}

#[test]
fn a_cancelled_operation_is_waited_for() {
    let node = Node::new(|request, _| {
        let state = if request.method == "operation.wait" { "cancelled" } else { "running" };
        Act::Reply(operation("instance.boot", state, 2, &[]))
    });
    assert_exit(&run(&node, &["operation", "cancel", OPERATION]), 0);
    assert_eq!(node.methods(), ["operation.cancel", "operation.wait"]);
    // Waiting for the same one without having asked for its end is a disappointment.
    assert_exit(&run(&node, &["operation", "wait", OPERATION]), 1);
}

#[test]
fn a_cancel_that_came_too_late_is_told() {
    let node = Node::new(|_, _| Act::Reply(operation("instance.boot", "succeeded", 2, &[])));
    let output = run(&node, &["operation", "cancel", OPERATION]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("succeeded"), "{}", stderr(&output));
}

#[test]
fn a_relative_image_path_is_made_absolute() {
    let node = Node::new(|request, _| {
        Act::Reply(match request.method.as_str() {
            "image.list" => json!([{
                "name": "debian", "state": "ready", "format": "qcow2", "source": "/a/debian.qcow2",
                "size": 1, "virtual_size": 2, "properties": {}, "instances": 0, "created": 0,
            }]),
            _ => operation("image.import", "succeeded", 1, &["done"]),
        })
    });
    let arguments = ["image", "import", "debian", "--source", "debian.qcow2", "--format", "qcow2"];
    let output = run(&node, &arguments);
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("qcow2"), "{}", stdout(&output));
    let params = node.requests()[0].params.clone().unwrap();
    let source = params["source"].as_str().unwrap();
    assert!(source.starts_with('/') && source.ends_with("/debian.qcow2"), "{source}");
}

#[test]
fn a_digest_is_taken_from_a_list_by_the_sources_file_name() {
    let node = obliging();
    let source = "https://images.example/12/disk.raw.xz?sig=1";
    let import = ["image", "import", "debian", "--no-wait", "--format", "raw", "--source", source];
    let import = [&import[..], &["--checksum-file", "-"]].concat();
    let digest = |digit: &str| digit.repeat(128);
    let list = format!("{}  disk.raw\n{}  disk.raw.xz\n", digest("a"), digest("b"));
    assert_exit(&run_with_input(&node, &import, &list), 0);
    let params = node.requests()[0].params.clone().unwrap();
    assert_eq!(params["sha512"], digest("b"));
    assert_eq!(params["compression"], "xz");
    assert!(params.get("sha256").is_none());

    let twice = format!("{list}{}  old/disk.raw.xz\n", digest("c"));
    for (list, says) in [("", "no SHA-256 or SHA-512 hash of"), (&twice, "which differ")] {
        let output = run_with_input(&node, &import, list);
        assert_exit(&output, 2);
        let said = stderr(&output);
        assert!(said.contains(says) && said.contains("\"disk.raw.xz\""), "{said}");
    }
    assert_eq!(node.requests().len(), 1, "a list that does not tell sends nothing");
}
