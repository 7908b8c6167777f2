//! Losing contact: what is sent again, what is told, and what is bounded.

use ostler_protocol::rpc::fault::Reason;
use serde_json::json;

use crate::node::{Act, INSTANCE, Node, OPERATION, instance, operation, refuse};
use crate::{Running, assert_exit, command, run, run_with_input, stderr, stdout};

const STEPS: [&str; 3] = ["running", "pending", "pending"];

#[test]
fn a_change_whose_answer_was_lost_is_sent_again_with_the_same_key() {
    let node = Node::new(|request, number| match (request.method.as_str(), number) {
        ("instance.start", 0) => Act::Close,
        ("instance.start", _) => Act::Reply(operation("instance.start", "succeeded", 2, &[])),
        _ => Act::Reply(instance(INSTANCE, "web")),
    });
    assert_exit(&run(&node, &["instance", "start", INSTANCE]), 0);
    let requests = node.requests();
    assert_eq!(node.methods(), ["instance.start", "instance.start", "instance.show"]);
    assert!(requests[0].context.as_ref().unwrap().key.is_some());
    assert_eq!(requests[0], requests[1]);
}

#[test]
fn the_wait_survives_a_node_that_goes_away_and_comes_back() {
    let node = Node::new(|request, number| match (request.method.as_str(), number) {
        ("instance.start", _) => Act::Reply(operation("instance.start", "queued", 1, &STEPS)),
        ("operation.wait", 1) => Act::Leave,
        ("operation.wait", 2) => refuse(Reason::Draining, "the agent is stopping"),
        ("operation.wait", 3) => Act::Close,
        ("operation.wait", _) => Act::Reply(operation("instance.start", "succeeded", 2, &[])),
        _ => Act::Reply(instance(INSTANCE, "web")),
    });
    let mut running = Running::start(&node, &["instance", "start", INSTANCE]);
    running.wait_for("trying again");
    // The second time it is not the answer that is missing, but the socket.
    running.wait_for("cannot be reached");
    node.appear();
    let (output, rest) = running.end();
    assert_exit(&output, 0);
    assert!(rest.contains("the agent is stopping; trying again"), "{rest}");
    assert!(stdout(&output).contains(INSTANCE));
    let starts = node.methods().iter().filter(|method| *method == "instance.start").count();
    assert_eq!(starts, 1);
}

#[test]
fn a_node_that_goes_away_before_its_first_answer_is_waited_for() {
    let node = Node::new(|_, number| match number {
        0 => Act::Leave,
        _ => Act::Reply(operation("instance.start", "succeeded", 2, &[])),
    });
    let mut running = Running::start(&node, &["operation", "wait", OPERATION]);
    running.wait_for("cannot be reached");
    node.appear();
    let (output, _) = running.end();
    assert_exit(&output, 0);
    assert_eq!(node.methods(), ["operation.wait", "operation.wait"]);
}

#[test]
fn an_agent_that_is_not_there_is_told_at_once() {
    let node = Node::absent(|_, _| Act::Close);
    let output = run(&node, &["instance", "list"]);
    assert_exit(&output, 4);
    let text = stderr(&output);
    assert!(text.contains("cannot be reached") && text.contains("next:"), "{text}");
}

#[test]
fn an_agent_that_never_answers_is_given_up_on() {
    let node = Node::new(|_, _| Act::Silence);
    let output = run(&node, &["--timeout", "0.3", "instance", "list"]);
    assert_exit(&output, 5);
    let output = run(&node, &["--timeout", "0.3", "instance", "start", INSTANCE, "--key", "k7"]);
    assert_exit(&output, 5);
    assert!(stderr(&output).contains("--key k7"), "{}", stderr(&output));
}

#[test]
fn a_wait_that_takes_too_long_tells_that_the_operation_goes_on() {
    let node = Node::new(|request, _| match request.method.as_str() {
        "operation.wait" => Act::Silence,
        _ => Act::Reply(operation("instance.start", "running", 1, &STEPS)),
    });
    let output = run(&node, &["--timeout", "0.5", "instance", "start", INSTANCE]);
    assert_exit(&output, 5);
    let text = stderr(&output);
    assert!(text.contains(&format!("ostler operation wait {OPERATION}")), "{text}");
}

#[test]
fn a_node_that_answers_too_eagerly_is_not_asked_without_pause() {
    let node = Node::new(|_, _| Act::Reply(operation("instance.start", "running", 1, &STEPS)));
    let output = run(&node, &["--timeout", "1.5", "operation", "wait", OPERATION]);
    assert_exit(&output, 5);
    let asked = node.requests().len();
    assert!((2..=4).contains(&asked), "asked {asked} times");
}

#[test]
fn an_interrupted_wait_tells_that_the_operation_goes_on() {
    let node = Node::new(|request, _| match request.method.as_str() {
        "operation.wait" => Act::Silence,
        _ => Act::Reply(operation("instance.start", "running", 1, &STEPS)),
    });
    let mut running = Running::start(&node, &["instance", "start", INSTANCE]);
    running.wait_for("create root disk");
    running.interrupt();
    let (output, text) = running.end();
    assert_exit(&output, 130);
    assert!(text.contains(&format!("ostler operation wait {OPERATION}")), "{text}");
}

#[test]
fn an_interrupted_change_tells_its_key() {
    let (asked, waiting) = std::sync::mpsc::channel();
    let node = Node::new(move |_, _| {
        asked.send(()).unwrap();
        Act::Silence
    });
    let running = Running::start(&node, &["instance", "start", INSTANCE, "--key", "k8"]);
    waiting.recv().unwrap();
    running.interrupt();
    let (output, text) = running.end();
    assert_exit(&output, 130);
    assert!(text.contains("--key k8"), "{text}");
}

#[test]
fn an_interrupted_program_is_told_to_go_on_and_how_to_end_it() {
    let exec = "5b0e6dc5-98b8-4b3a-8a4e-9f1c9b8a4a11";
    let (asked, waiting) = std::sync::mpsc::channel();
    let node = Node::new(move |request, _| match request.method.as_str() {
        "host.ping" => Act::Reply(
            json!({"host": "n", "version": "1", "protocol": 1, "protocol_oldest": 1, "time": 1}),
        ),
        "guest.exec" => Act::Reply(json!({"exec": exec, "pid": 4711})),
        "guest.exec_wait" => {
            asked.send(()).unwrap();
            Act::Silence
        }
        _ => Act::Reply(instance(INSTANCE, "web")),
    });
    let line = ["guest", "exec", "-n", INSTANCE, "--key", "k9", "--", "sleep", "600"];
    let running = Running::start(&node, &line);
    waiting.recv().unwrap();
    running.interrupt();
    let (output, text) = running.end();
    assert_exit(&output, 130);
    for told in ["goes on in the guest", "--key k9", "-- kill 4711"] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn a_guest_that_leaves_a_piece_unanswered_is_asked_again() {
    let node = Node::new(|request, number| match (request.method.as_str(), number) {
        ("guest.file_write", 1) => refuse(Reason::GuestUnavailable, "not for now"),
        ("guest.file_write", _) => Act::Reply(json!({"written": 1})),
        _ => Act::Reply(instance(INSTANCE, "web")),
    });
    let place = format!("{INSTANCE}:/root/file");
    let output = run_with_input(&node, &["guest", "push", "-", &place], &"x".repeat(600 << 10));
    assert_exit(&output, 0);
    let offsets: Vec<_> =
        node.requests().iter().map(|r| r.params.as_ref().unwrap()["offset"].clone()).collect();
    assert_eq!(offsets, [json!(0), json!(512 << 10), json!(512 << 10)]);

    // Who never answered is not waited for.
    let node = Node::new(|_, _| refuse(Reason::GuestUnavailable, "no agent"));
    assert_exit(&run_with_input(&node, &["guest", "push", "-", &place], "x"), 3);
    assert_eq!(node.methods(), ["guest.file_write"]);
}

#[test]
fn an_endless_answer_is_cut_off() {
    let node = Node::new(|_, _| Act::Send(vec![b'x'; 20 << 20]));
    let output = run(&node, &["instance", "list"]);
    assert_exit(&output, 4);
    assert!(stderr(&output).contains("16 MiB"), "{}", stderr(&output));
}

#[test]
fn nonsense_is_not_an_answer() {
    for nonsense in ["HTTP/1.1 400 Bad Request\n", "\n", "\u{0}\n", "[]\n"] {
        let node = Node::new(move |_, _| Act::Send(nonsense.into()));
        let output = run(&node, &["instance", "list"]);
        assert_exit(&output, 4);
        assert!(stderr(&output).contains("not a JSON-RPC response"), "{}", stderr(&output));
    }
}

#[test]
fn deep_nesting_is_not_an_answer() {
    let node = Node::new(|request, _| {
        let id = serde_json::to_string(&request.id).unwrap();
        let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{open}{close}}}\n");
        Act::Send(text.into())
    });
    assert_exit(&run(&node, &["instance", "list"]), 4);
}

#[test]
fn a_password_in_the_brokers_uri_is_refused_unread() {
    let node = Node::absent(|_, _| Act::Close);
    let arguments = ["--broker", "amqp://u:hunter2@b", "--host", "n", "host", "ping"];
    let output = run(&node, &arguments);
    assert_exit(&output, 2);
    let text = stderr(&output);
    assert!(text.contains("OSTLER_BROKER_PASSWORD_FILE") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_broker_that_is_not_there_is_told_at_once() {
    let node = Node::absent(|_, _| Act::Close);
    // A port nobody listens on: it was free a moment ago, and is not given out again so soon.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = command(&node, &["host", "ping", "--host", "n"])
        .env("OSTLER_BROKER", format!("amqp://u:hunter2@127.0.0.1:{port}"))
        .output()
        .unwrap();
    assert_exit(&output, 4);
    let text = stderr(&output);
    assert!(text.contains("the broker cannot be reached") && !text.contains("hunter2"), "{text}");
}
