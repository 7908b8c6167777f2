//! Reads: what is shown, and how refusals look.

use ostler_protocol::rpc::fault::{Fault, Reason};
use serde_json::{Value, json};

use crate::node::{Act, INSTANCE, Node, instance, refuse};
use crate::{assert_exit, run, stderr, stdout};

const OTHER: &str = "9b2f5b2e-3c1d-4e8a-9a55-0d6f3e5c7a11";

#[test]
fn a_list_is_a_table_for_people() {
    let node = Node::new(|_, _| Act::Reply(json!([instance(INSTANCE, "web")])));
    let output = run(&node, &["instance", "list", "--name", "web", "--status", "active"]);
    assert_exit(&output, 0);
    let text = stdout(&output);
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0][..3], ["ID", "NAME", "STATUS"]);
    assert_eq!(lines[1][..3], [INSTANCE, "web", "ACTIVE"]);
    assert!(text.contains("512 MiB"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let params = node.requests()[0].params.clone();
    assert_eq!(params, Some(json!({"name": "web", "status": "ACTIVE"})));
}

#[test]
fn json_is_the_reply_as_it_is() {
    let reply = json!([instance(INSTANCE, "web")]);
    let node = Node::new({
        let reply = reply.clone();
        move |_, _| Act::Reply(reply.clone())
    });
    let output = run(&node, &["-o", "json", "instance", "list"]);
    assert_exit(&output, 0);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed[0]["memory"], reply[0]["memory"]);
    assert_eq!(printed, reply);
}

#[test]
fn a_name_is_looked_up_and_an_id_is_not() {
    let node = Node::new(|request, _| match request.method.as_str() {
        "instance.list" => Act::Reply(json!([instance(INSTANCE, "web")])),
        _ => Act::Reply(instance(INSTANCE, "web")),
    });
    assert_exit(&run(&node, &["instance", "show", "web"]), 0);
    assert_exit(&run(&node, &["instance", "show", INSTANCE]), 0);
    assert_eq!(node.methods(), ["instance.list", "instance.show", "instance.show"]);
    assert_eq!(node.requests()[1].params, Some(json!({"id": INSTANCE})));
}

#[test]
fn a_name_of_two_instances_is_not_guessed() {
    let both = json!([instance(INSTANCE, "web"), instance(OTHER, "web")]);
    let node = Node::new(move |_, _| Act::Reply(both.clone()));
    let output = run(&node, &["instance", "stop", "web"]);
    assert_exit(&output, 2);
    let text = stderr(&output);
    assert!(text.contains(INSTANCE) && text.contains(OTHER), "{text}");
    assert_eq!(node.methods(), ["instance.list"]);
}

#[test]
fn a_name_nobody_has_is_refused() {
    let node = Node::new(|_, _| Act::Reply(json!([])));
    let output = run(&node, &["instance", "delete", "web"]);
    assert_exit(&output, 3);
    assert!(stderr(&output).contains("reason: not_found"), "{}", stderr(&output));
}

#[test]
fn a_refusal_says_why_and_what_next() {
    let node = Node::new(|_, _| {
        let mut fault =
            Fault::new(Reason::HypervisorUnavailable, "libvirt does not answer").next("start it");
        fault.data.causes = vec!["no such file".into()];
        Act::Refuse(fault)
    });
    let output = run(&node, &["host", "show"]);
    assert_exit(&output, 3);
    assert_eq!(
        stderr(&output),
        "error: libvirt does not answer\n  because: no such file\n  reason: \
         hypervisor_unavailable\n  next: start it\n"
    );
    assert_eq!(stdout(&output), "");
}

#[test]
fn with_json_a_refusal_is_a_fault_on_standard_error() {
    let node = Node::new(|_, _| refuse(Reason::NoCapacity, "no room"));
    let output = run(&node, &["-o", "json", "host", "show"]);
    assert_exit(&output, 3);
    let fault: Fault = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(fault, Fault::new(Reason::NoCapacity, "no room"));
}

#[test]
fn what_a_guest_says_cannot_reach_the_terminal() {
    let evil = "web\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    let node = Node::new(move |_, _| {
        Act::Reply(json!({
            "id": INSTANCE, "state": "ready", "transport": "ostler", "taken": 0, "age": 1,
            "agent": {"version": evil, "commands": [evil]}, "host_name": evil,
            "interfaces": [{"name": evil, "addresses": [evil]}],
            "filesystems": [{"mountpoint": evil, "kind": evil, "device": evil, "serials": []}],
            "missing": [{"command": evil, "why": evil}],
        }))
    });
    for format in ["table", "json"] {
        let output = run(&node, &["-o", format, "guest", "report", INSTANCE]);
        assert_exit(&output, 0);
        let text = stdout(&output);
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(text.contains("web"), "{text}");
    }
}

#[test]
fn waiting_for_a_guest_is_asked_of_the_node() {
    let node = Node::new(|_, _| refuse(Reason::GuestUnavailable, "the guest has no agent"));
    let output = run(&node, &["guest", "report", INSTANCE, "--wait", "120"]);
    assert_exit(&output, 3);
    // The node said so before the time was over: there is nothing to wait for.
    let requests = node.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].params, Some(json!({"id": INSTANCE, "wait": 60_000, "cached": false})));
}

#[test]
fn a_reply_that_cannot_be_read_is_an_error() {
    let node = Node::new(|_, _| Act::Reply(json!({"unexpected": true})));
    let output = run(&node, &["instance", "list"]);
    assert_exit(&output, 4);
    assert!(stderr(&output).contains("instance.list"), "{}", stderr(&output));
}

#[test]
fn completions_and_man_pages_need_no_node() {
    let node = Node::absent(|_, _| Act::Close);
    let output = run(&node, &["completions", "bash"]);
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("_ostler"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("man1");
    assert_exit(&run(&node, &["man", path.to_str().unwrap()]), 0);
    let page = std::fs::read_to_string(path.join("ostler-instance-boot.1")).unwrap();
    assert!(page.contains("root disk"), "{page}");
    let page = std::fs::read_to_string(path.join("ostler.1")).unwrap();
    assert!(page.contains("refused by the node"), "{page}");
}
