//! The whole life of an instance: what each command asks of the node, and what is told of it.

use ostler_protocol::rpc::envelope::Request;
use ostler_protocol::rpc::fault::Reason;
use serde_json::{Value, json};

use crate::node::{Act, INSTANCE, Node, OPERATION, instance, operation, refuse};
use crate::{assert_exit, run, stderr, stdout};

/// A node where every change is done at once.
fn swift() -> Node {
    Node::new(|request, _| {
        Act::Reply(match request.method.as_str() {
            "instance.show" => instance(INSTANCE, "web"),
            kind => operation(kind, "succeeded", 2, &["done"]),
        })
    })
}

/// A node that has only deleted instances, and says how deleted they are.
fn with_deleted(status: &'static str) -> Node {
    Node::new(move |request, _| {
        Act::Reply(match request.method.as_str() {
            "instance.list" if asks_for(request, "SOFT_DELETED") => {
                json!([instance(INSTANCE, "web")])
            }
            "instance.list" => json!([]),
            "instance.show" => {
                let mut deleted = instance(INSTANCE, "web");
                deleted["status"] = json!(status);
                deleted
            }
            kind => operation(kind, "succeeded", 2, &["done"]),
        })
    })
}

fn asks_for(request: &Request, status: &str) -> bool {
    request.params.as_ref().is_some_and(|params| params["status"] == status)
}

#[test]
fn each_command_asks_for_its_operation() {
    let one = |method: &'static str| (method, json!({"id": INSTANCE}));
    let with = |method: &'static str, more: Value| {
        let mut params = json!({"id": INSTANCE});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (method, params)
    };
    let gib = 1u64 << 30;
    let cases = [
        ("pause ID", one("instance.pause")),
        ("unpause ID", one("instance.unpause")),
        ("suspend ID", one("instance.suspend")),
        ("resume ID", one("instance.resume")),
        ("rebuild ID --image b", with("instance.rebuild", json!({"image": "b"}))),
        ("reset ID --root-device vda", with("instance.reset", json!({"root_device": "vda"}))),
        ("rescue ID", one("instance.rescue")),
        ("rescue ID --image r", with("instance.rescue", json!({"image": "r"}))),
        ("unrescue ID", one("instance.unrescue")),
        ("resize ID --flavor l", with("instance.resize", json!({"flavor": "l"}))),
        (
            "resize ID --vcpus 4 --memory 2G --disk 20G",
            with("instance.resize", json!({"vcpus": 4, "memory": 2 * gib, "disk": 20 * gib})),
        ),
        ("resize ID --confirm", one("instance.confirm_resize")),
        ("resize ID --revert", one("instance.revert_resize")),
        (
            "adjust ID --vcpus 2 --memory 1G",
            with("instance.adjust", json!({"vcpus": 2, "memory": gib})),
        ),
        (
            "snapshot ID --name s",
            with("instance.snapshot", json!({"name": "s", "quiesce": "auto"})),
        ),
        (
            "snapshot ID --name s --quiesce require",
            with("instance.snapshot", json!({"name": "s", "quiesce": "require"})),
        ),
        ("shelve ID", with("instance.shelve", json!({"offload": false}))),
        (
            "shelve ID --offload --grace 20",
            with("instance.shelve", json!({"offload": true, "timeout": 20_000})),
        ),
        ("offload ID", one("instance.offload")),
        ("unshelve ID", one("instance.unshelve")),
        (
            "update ID --name n --owner t --set a=b=c --set d= --unset e",
            with(
                "instance.update",
                json!({"name": "n", "owner": "t",
                       "metadata": {"a": "b=c", "d": "", "e": null}}),
            ),
        ),
        ("update ID --owner=", with("instance.update", json!({"owner": ""}))),
        ("rename ID n", with("instance.update", json!({"name": "n"}))),
        ("lock ID", one("instance.lock")),
        ("lock ID --reason audit", with("instance.lock", json!({"reason": "audit"}))),
        ("unlock ID", one("instance.unlock")),
        ("delete ID", with("instance.delete", json!({"mode": "soft", "ignore_error": false}))),
        (
            "delete ID --hard --ignore",
            with("instance.delete", json!({"mode": "hard", "ignore_error": true})),
        ),
        ("restore ID", one("instance.restore")),
    ];
    let node = swift();
    for (line, (method, params)) in cases {
        let words = line.split(' ').map(|word| if word == "ID" { INSTANCE } else { word });
        let arguments: Vec<&str> = ["instance"].into_iter().chain(words).collect();
        let before = node.requests().len();
        assert_exit(&run(&node, &arguments), 0);
        let request = &node.requests()[before];
        assert_eq!((request.method.as_str(), request.params.as_ref()), (method, Some(&params)));
        assert!(request.context.as_ref().unwrap().key.is_some(), "{line}");
    }
}

#[test]
fn a_boot_says_whose_it_is_and_how_far_it_may_grow() {
    let node = swift();
    let line = "instance boot --name web --image debian --flavor small --max-vcpus 4 \
                --max-memory 2G --tenant t1 --metadata role=web --metadata tier=";
    assert_exit(&run(&node, &line.split_whitespace().collect::<Vec<_>>()), 0);
    assert_eq!(
        node.requests()[0].params,
        Some(json!({
            "name": "web", "image": "debian", "flavor": "small", "networks": [],
            "max_vcpus": 4, "max_memory": 2_147_483_648_u64, "owner": "t1",
            "metadata": {"role": "web", "tier": ""},
        }))
    );
    let twice = "instance boot --name a --image i --flavor s --metadata k=1 --metadata k=2";
    let output = run(&node, &twice.split(' ').collect::<Vec<_>>());
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("\"k\" is given twice"), "{}", stderr(&output));
}

#[test]
fn a_list_is_asked_for_page_by_page() {
    let node = Node::new(|_, _| Act::Reply(json!([])));
    let arguments = [
        "instance", "list", "--name", "web-*", "--tenant", "t1", "--limit", "2", "--marker",
        INSTANCE,
    ];
    let output = run(&node, &arguments);
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "no instances\n");
    let asked = json!({"name": "web-*", "owner": "t1", "limit": 2, "marker": INSTANCE});
    assert_eq!(node.requests()[0].params, Some(asked));
}

#[test]
fn a_snapshot_tells_whether_the_guest_was_quiesced() {
    let taken = |result: Value| {
        Node::new(move |request, _| {
            let mut over = operation(&request.method, "succeeded", 2, &["done"]);
            over["result"] = result.clone();
            Act::Reply(over)
        })
    };
    let arguments = ["instance", "snapshot", INSTANCE, "--name", "web-1"];
    let node = taken(json!({"snapshot": {"image": "web-1", "quiesced": true}}));
    assert_eq!(
        stdout(&run(&node, &arguments)),
        "image web-1 is made; the guest was quiesced for it\n"
    );
    let why = "the guest has no agent\u{1b}[2J";
    let node = taken(json!({"snapshot": {"image": "web-1", "quiesced": false, "why": why}}));
    assert_eq!(
        stdout(&run(&node, &arguments)),
        "image web-1 is made; the guest was not quiesced: the guest has no agent\u{fffd}[2J\n"
    );
    let node = taken(json!({"copied": {"to": "n2"}}));
    assert_eq!(stdout(&run(&node, &arguments)), "{\"copied\":{\"to\":\"n2\"}}\n");
}

#[test]
fn a_delete_tells_whether_it_can_be_taken_back() {
    let node = with_deleted("SOFT_DELETED");
    let text = stdout(&run(&node, &["instance", "delete", INSTANCE]));
    assert!(text.contains(&format!("ostler instance restore {INSTANCE}")), "{text}");
    let node = with_deleted("DELETED");
    let output = run(&node, &["instance", "delete", INSTANCE, "--hard"]);
    assert_eq!(stdout(&output), format!("instance {INSTANCE} is deleted for good\n"));
    // What was deleted stays so, whatever comes of asking how.
    let node = Node::new(|request, _| match request.method.as_str() {
        "instance.show" => refuse(Reason::Internal, "the journal is lost"),
        kind => Act::Reply(operation(kind, "succeeded", 2, &[])),
    });
    let output = run(&node, &["instance", "delete", INSTANCE]);
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), format!("instance {INSTANCE} is deleted\n"));
}

#[test]
fn a_deleted_instance_is_found_by_name_only_where_it_can_be_meant() {
    let node = with_deleted("SOFT_DELETED");
    for verb in ["show", "delete", "restore"] {
        assert_exit(&run(&node, &["instance", verb, "web"]), 0);
    }
    let output = run(&node, &["instance", "start", "web"]);
    assert_exit(&output, 3);
    assert!(stderr(&output).contains("--status SOFT_DELETED"), "{}", stderr(&output));
    let restores = Node::new(|request, _| {
        Act::Reply(match request.method.as_str() {
            "instance.list" => json!([instance(INSTANCE, "web")]),
            "instance.show" => instance(INSTANCE, "web"),
            kind => operation(kind, "succeeded", 2, &[]),
        })
    });
    // Another may have taken the name since: the one to restore is the deleted one.
    assert_exit(&run(&restores, &["instance", "restore", "web"]), 0);
    assert!(asks_for(&restores.requests()[0], "SOFT_DELETED"));
}

#[test]
fn what_went_wrong_with_an_instance_is_shown_to_its_ground() {
    let node = Node::new(|_, _| {
        let mut broken = instance(INSTANCE, "web");
        broken.as_object_mut().unwrap().extend(
            json!({
                "status": "ERROR", "vm_state": "error", "power_state": "none",
                "owner": "t1", "metadata": {"role": "web"}, "locked": "audit",
                "max_vcpus": 4, "max_memory": 1_073_741_824,
                "rescue_image": "rescue", "shelved_image": "web-shelved",
                "resized_from": {"vcpus": 1, "memory": 268_435_456, "disk": 1_073_741_824,
                                 "max_vcpus": 1, "max_memory": 268_435_456},
                "drift": ["the domain has 3 vCPUs"],
                "stalled": {"reason": "no_space", "message": "paused by QEMU: no space left"},
                "fault": {
                    "code": -32017, "message": "the disk could not be made",
                    "data": {"reason": "volume_failed", "step": "create root disk",
                             "causes": ["cannot write", "Input/output error"],
                             "next": "see dmesg"},
                },
            })
            .as_object()
            .unwrap()
            .clone(),
        );
        Act::Reply(broken)
    });
    let text = stdout(&run(&node, &["instance", "show", INSTANCE]));
    let rows: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(name, field)| (name, field.trim()))
        .collect();
    for row in [
        ("status", "ERROR"),
        ("stalled", "paused by QEMU: no space left"),
        ("locked", "yes: audit"),
        ("owner", "t1"),
        ("vcpus", "2 (at most 4 while it runs)"),
        ("memory", "512 MiB (at most 1 GiB while it runs)"),
        ("resized from", "1 vcpus, 256 MiB memory, 1 GiB disk"),
        ("rescued with", "rescue"),
        ("shelved as", "web-shelved"),
        ("metadata", "role=web"),
        ("drift", "the domain has 3 vCPUs"),
        ("fault", "the disk could not be made"),
        ("because", "cannot write"),
        ("because", "Input/output error"),
        ("at step", "create root disk"),
        ("reason", "volume_failed (-32017)"),
        ("next", "see dmesg"),
    ] {
        assert!(rows.contains(&row), "{text}\nlacks {row:?}");
    }
    let text = stdout(&run(&node, &["--color", "always", "instance", "show", INSTANCE]));
    assert!(text.contains("\u{1b}[38;5;11mthe domain has 3 vCPUs"), "{text:?}");
}

#[test]
fn an_operation_shows_its_result_its_deadline_and_its_bytes() {
    let node = Node::new(|_, _| {
        let mut over = operation("instance.snapshot", "running", 2, &["done", "running"]);
        over["deadline"] = json!(1_000);
        over["result"] = json!({"snapshot": {"image": "s", "quiesced": false, "why": "never"}});
        over["steps"][1]["progress"] =
            json!({"done": 1_048_576, "total": 4_194_304, "unit": "bytes"});
        Act::Reply(over)
    });
    let text = stdout(&run(&node, &["operation", "show", OPERATION]));
    for part in [
        "not to be begun after 1970-01-01 00:00:01 UTC",
        "image s is made; the guest was not quiesced: never",
        "2. define domain: running, 1 MiB of 4 MiB (25 %)",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn words_newer_than_the_command_are_shown_as_they_are() {
    let node = Node::new(|request, _| {
        let mut newer = instance("9b2f5b2e-3c1d-4e8a-9a55-0d6f3e5c7a11", "moving");
        newer["status"] = json!("MIGRATING");
        newer["task_state"] = json!("mig\u{1b}rating");
        newer["priority"] = json!(7);
        Act::Reply(match request.method.as_str() {
            "instance.list" => json!([instance(INSTANCE, "web"), newer]),
            _ => newer,
        })
    });
    let text = stdout(&run(&node, &["instance", "list"]));
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[1][1..5], ["web", "ACTIVE", "-", "running"]);
    assert_eq!(rows[2][1..5], ["moving", "MIGRATING", "mig\u{fffd}rating", "running"]);
    let text = stdout(&run(&node, &["instance", "show", INSTANCE]));
    for part in ["MIGRATING", "mig\u{fffd}rating", "priority", "power state"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let output = run(&node, &["-o", "json", "instance", "show", INSTANCE]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&printed["status"], &printed["priority"]), (&json!("MIGRATING"), &json!(7)));
    // Only what is shown is read so: there is no such word to ask for.
    assert_exit(&run(&node, &["instance", "list", "--status", "migrating"]), 2);
}

#[test]
fn an_operation_newer_than_the_command_is_followed() {
    let node = Node::new(|request, _| {
        let (state, revision) = match request.params.as_ref().map(|p| p["revision"].clone()) {
            Some(Value::Number(_)) if request.method == "operation.wait" => ("succeeded", 2),
            _ => ("running", 1),
        };
        let mut newer = operation("instance.migrate", state, revision, &["done", "running"]);
        newer["subject"] = json!({"volume": "v1"});
        newer["steps"][0]["state"] = json!("skipped");
        newer["steps"][1]["progress"] = json!({"done": 5, "unit": "pages"});
        newer["result"] = json!({"migrated": "n2"});
        Act::Reply(match request.method.as_str() {
            "operation.list" => json!([newer]),
            _ => newer,
        })
    });
    let text = stdout(&run(&node, &["operation", "list"]));
    assert!(text.contains("instance.migrate") && text.contains("v1"), "{text}");
    let output = run(&node, &["operation", "wait", OPERATION]);
    assert_exit(&output, 0);
    let text = stdout(&output);
    for part in ["1. create root disk: skipped", "\"pages\"", "\"migrated\":\"n2\""] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let node = Node::absent(|_, _| Act::Close);
    let folder = tempfile::tempdir().unwrap();
    assert_exit(&run(&node, &["man", folder.path().to_str().unwrap()]), 0);
    let bash = stdout(&run(&node, &["completions", "bash"]));
    for verb in [
        "pause", "unpause", "suspend", "resume", "rebuild", "reset", "rescue", "unrescue",
        "resize", "adjust", "snapshot", "shelve", "offload", "unshelve", "update", "rename",
        "lock", "unlock", "delete", "restore",
    ] {
        let page = folder.path().join(format!("ostler-instance-{verb}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("idempotency key"), "{verb}: {page}");
        assert!(bash.contains(&format!("ostler__subcmd__instance__subcmd__{verb}")), "{verb}");
    }
}
