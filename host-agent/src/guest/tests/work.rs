//! Work in guests whose agents are late, lie, or say nothing.

use std::time::Duration;

use ostler_protocol::qga::base64::Base64Data;
use ostler_protocol::qga::envelope::Request;
use ostler_protocol::qga::events::{GuestEvent, Ready, Thawed, capability};
use ostler_protocol::rpc::guest::GuestState;
use ostler_protocol::rpc::guest::work::{Exec, ExecState, FileRead};
use ostler_protocol::rpc::values::{InstanceId, Timestamp};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::agent::{Port, Wire, ready};
use super::{Error, Node, SOON};
use crate::guest::exec::helper;

fn program(id: InstanceId) -> Exec {
    helper(id, "/bin/p", vec!["hunter2".into()])
}

fn read(id: InstanceId) -> FileRead {
    FileRead { id, path: "/f".into(), offset: 0, count: 4 }
}

/// A node that waits this long, and a guest whose agent is ready.
async fn guest(answer: Duration, event: &GuestEvent) -> (Node, InstanceId, Wire) {
    let (node, port) = (Node::with(answer), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.event(event).await;
    node.is(id, GuestState::Ready).await;
    (node, id, wire)
}

async fn asked(wire: &mut Wire, command: &str) -> Request {
    let request = timeout(SOON, wire.question()).await.unwrap().unwrap();
    assert_eq!(request.execute, command);
    request
}

#[tokio::test]
async fn a_file_that_is_opened_too_late_is_closed() {
    let (node, id, mut wire) = guest(Duration::from_millis(200), &ready()).await;
    let given_up = async { node.guests.file_read(&read(id)).await };
    let agent = async { asked(&mut wire, "guest-file-open").await };
    let (outcome, open) = tokio::join!(given_up, agent);
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    wire.answer(&open, json!(7)).await;
    // it is no use reading any more, but that is not known where it is opened
    let request = asked(&mut wire, "guest-file-read").await;
    wire.answer(&request, json!({"count": 0, "buf-b64": "", "eof": true})).await;
    let close = asked(&mut wire, "guest-file-close").await;
    assert_eq!(close.arguments["handle"], 7);
}

#[tokio::test]
async fn a_guest_that_sends_more_of_a_file_than_was_asked_for_is_not_believed() {
    let (node, id, mut wire) = guest(SOON, &ready()).await;
    for told in [
        json!({"count": 8, "buf-b64": Base64Data(vec![0; 8]), "eof": false}),
        json!({"count": -1, "buf-b64": "", "eof": true}),
        json!({"count": 4, "buf-b64": "", "eof": true}),
    ] {
        let agent = async {
            for (command, value) in [
                ("guest-file-open", json!(7)),
                ("guest-file-read", told.clone()),
                ("guest-file-close", json!({})),
            ] {
                let request = asked(&mut wire, command).await;
                wire.answer(&request, value).await;
            }
        };
        let reading = read(id);
        let (outcome, ()) = tokio::join!(node.guests.file_read(&reading), agent);
        assert!(matches!(outcome, Err(Error::Garbled { .. })), "{told}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_program_whose_start_was_not_answered_is_not_started_again() {
    let (node, id, mut wire) = guest(Duration::from_millis(200), &ready()).await;
    let key = Some("k".parse().unwrap());
    for _ in 0..3 {
        let outcome = node.guests.exec(program(id), key.clone()).await;
        assert!(outcome.as_ref().is_err_and(Error::may_have_happened), "{outcome:?}");
    }
    asked(&mut wire, "guest-exec").await;
    // an answer to nobody's question makes it ready again
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let ping = async { node.guests.ping(id).await };
    let agent = async {
        let next = asked(&mut wire, "guest-ping").await;
        wire.answer(&next, json!({})).await;
    };
    let (ping, ()) = tokio::join!(ping, agent);
    ping.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_comes_again_while_it_is_given_up_is_answered() {
    let (node, port) = (Node::new(), Port::new());
    // nobody has answered on it: nothing can be asked
    let id = node.instance(port.path());
    let twins = (0..4).map(|_| {
        let guests = node.guests.clone();
        tokio::spawn(async move {
            for _ in 0..20_000 {
                let outcome = guests.exec(program(id), Some("k".parse().unwrap())).await;
                assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
            }
        })
    });
    for twin in twins.collect::<Vec<_>>() {
        timeout(SOON * 2, twin).await.expect("each is answered").unwrap();
    }
}

#[tokio::test]
async fn a_program_the_guest_refused_may_be_tried_again_and_the_error_has_no_arguments() {
    let (node, id, mut wire) = guest(SOON, &ready()).await;
    for _ in 0..2 {
        let agent = async {
            let request = asked(&mut wire, "guest-exec").await;
            wire.refuse(&request, "cannot run /bin/p hunter2").await;
        };
        let key = Some("k".parse().unwrap());
        let (outcome, ()) = tokio::join!(node.guests.exec(program(id), key), agent);
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_guest_that_is_frozen_has_its_programs_still() {
    let (node, id, mut wire) = guest(SOON, &ready()).await;
    let key = || Some("k".parse().unwrap());
    let agent = async {
        let request = asked(&mut wire, "guest-exec").await;
        wire.refuse_frozen(&request).await;
        let request = asked(&mut wire, "guest-exec").await;
        wire.answer(&request, json!({"pid": 1})).await;
        for _ in 0..3 {
            let request = asked(&mut wire, "guest-exec-status").await;
            wire.refuse_frozen(&request).await;
        }
        let request = asked(&mut wire, "guest-exec-status").await;
        // an old agent's words, which do not say why
        let old = "The command guest-exec-status has been disabled for this instance";
        wire.refuse(&request, old).await;
        let request = asked(&mut wire, "guest-exec-status").await;
        wire.answer(&request, json!({"exited": true, "exitcode": 7})).await;
    };
    let host = async {
        let outcome = node.guests.exec(program(id), key()).await;
        assert!(matches!(outcome, Err(Error::Busy { .. })), "{outcome:?}");
        let exec = node.guests.exec(program(id), key()).await.unwrap().exec;
        let now = node.guests.exec_wait(id, exec, SOON, [0; 2]).await.unwrap();
        assert_eq!((now.state, now.exit_code), (ExecState::Exited, Some(7)), "{:?}", now.why);
    };
    tokio::join!(agent, host);
}

#[tokio::test]
async fn a_file_that_is_open_when_the_guest_is_frozen_is_closed_afterwards() {
    let (node, id, mut wire) = guest(SOON, &ready()).await;
    let agent = async {
        let request = asked(&mut wire, "guest-file-open").await;
        wire.answer(&request, json!(7)).await;
        for command in ["guest-file-read", "guest-file-close"] {
            let request = asked(&mut wire, command).await;
            wire.refuse_frozen(&request).await;
        }
        let request = asked(&mut wire, "guest-file-close").await;
        wire.answer(&request, json!({})).await;
    };
    let reading = read(id);
    let (outcome, ()) = tokio::join!(node.guests.file_read(&reading), agent);
    assert!(matches!(outcome, Err(Error::Busy { .. })), "{outcome:?}");
}

#[tokio::test]
async fn output_without_end_is_cut() {
    let able = GuestEvent::Ready(Box::new(Ready {
        capabilities: vec![capability::EXEC_OUTPUT.to_owned()],
        ..Ready::default()
    }));
    let (node, id, mut wire) = guest(SOON, &able).await;
    let flood = tokio::spawn(async move {
        let data: Value = json!(Base64Data(vec![b'a'; 300 << 10]));
        while let Some(request) = wire.question().await {
            let full = request.arguments.get("out-from") == Some(&json!(i64::MAX));
            let value = match request.execute.as_str() {
                "guest-exec" => json!({"pid": 1}),
                _ => json!({"exited": full, "exitcode": 0, "out-data": data}),
            };
            wire.answer(&request, value).await;
        }
    });
    let started = node.guests.exec(program(id), None).await.unwrap();
    let over = async {
        loop {
            let now = node.guests.exec_wait(id, started.exec, SOON, [u64::MAX; 2]).await.unwrap();
            if now.state != ExecState::Running {
                return now;
            }
        }
    };
    let now = timeout(SOON * 6, over).await.unwrap();
    assert_eq!((now.state, now.stdout_size), (ExecState::Exited, 16 << 20));
    assert!(now.stdout_truncated && !now.stderr_truncated);
    flood.abort();
}

#[tokio::test]
async fn a_program_whose_agent_never_tells_its_end_is_lost_after_its_limit() {
    for has_limits in [true, false] {
        let (node, id, mut wire) = guest(SOON, &ready()).await;
        let limited = Exec { timeout_ms: Some(1), ..program(id) };
        let agent = async {
            let mut signals = Vec::new();
            while let Some(request) = wire.question().await {
                let arguments = Value::Object(request.arguments.clone());
                match (request.execute.as_str(), arguments["path"].as_str()) {
                    ("guest-exec", Some("kill")) => {
                        signals.push(arguments["arg"][0].clone());
                        wire.answer(&request, json!({"pid": 2})).await;
                    }
                    ("guest-exec", _) if !has_limits && arguments.get("timeout").is_some() => {
                        wire.refuse(&request, "Parameter 'timeout' is unexpected").await;
                    }
                    ("guest-exec", _) => {
                        wire.answer(&request, json!({"pid": 1})).await;
                    }
                    _ => {
                        let exited = arguments["pid"] == 2;
                        wire.answer(&request, json!({"exited": exited, "exitcode": 0})).await;
                    }
                }
            }
            signals
        };
        let host = async {
            let exec = node.guests.exec(limited, None).await.unwrap().exec;
            let now = node.guests.exec_wait(id, exec, SOON, [0; 2]).await.unwrap();
            node.guests.stopped(id);
            now
        };
        let (now, signals) = tokio::join!(host, agent);
        assert_eq!(now.state, ExecState::Lost);
        assert!(now.why.unwrap().contains("in time"));
        assert_eq!(signals, if has_limits { vec![] } else { vec!["-TERM", "-KILL"] });
    }
}

#[tokio::test]
async fn a_program_is_lost_when_its_guest_restarts_or_stops() {
    for restart in [true, false] {
        let (node, id, mut wire) = guest(SOON, &ready()).await;
        let agent = async {
            let request = asked(&mut wire, "guest-exec").await;
            wire.answer(&request, json!({"pid": 1})).await;
        };
        let (started, ()) = tokio::join!(node.guests.exec(program(id), None), agent);
        if restart {
            node.guests.restarted(id);
        } else {
            node.guests.stopped(id);
        }
        let exec = started.unwrap().exec;
        let now = node.guests.exec_wait(id, exec, SOON, [0; 2]).await.unwrap();
        assert_eq!(now.state, ExecState::Lost);
        let why = now.why.unwrap();
        assert!(why.contains(if restart { "restarted" } else { "stopped" }), "{why}");
        let other = node.guests.exec_wait(InstanceId::random(), exec, SOON, [0; 2]).await;
        assert!(matches!(other, Err(Error::UnknownExec { .. })), "{other:?}");
    }
}

#[tokio::test]
async fn a_freeze_that_is_not_answered_is_thawed_until_that_is() {
    let (node, id, mut wire) = guest(Duration::from_millis(200), &ready()).await;
    let agent = async {
        let freeze = asked(&mut wire, "guest-fsfreeze-freeze").await;
        assert!(freeze.arguments.get("lease").is_none(), "it did not say that it has leases");
        asked(&mut wire, "guest-fsfreeze-thaw").await;
        let again = asked(&mut wire, "guest-fsfreeze-thaw").await;
        wire.answer(&again, json!(2)).await;
    };
    let (outcome, ()) = tokio::join!(node.guests.freeze(id, Duration::from_secs(5)), agent);
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_lease_goes_to_agents_that_have_them_and_its_lapse_is_noted() {
    let able = GuestEvent::Ready(Box::new(Ready {
        capabilities: vec![capability::FREEZE_LEASE.to_owned()],
        ..Ready::default()
    }));
    let (node, id, mut wire) = guest(SOON, &able).await;
    let before = Timestamp::now();
    let agent = async {
        let freeze = asked(&mut wire, "guest-fsfreeze-freeze").await;
        assert_eq!(freeze.arguments["lease"], 5);
        wire.answer(&freeze, json!(3)).await;
        wire.event(&GuestEvent::Thawed(Thawed { filesystems: 3, lease: 5 })).await;
        let thaw = asked(&mut wire, "guest-fsfreeze-thaw").await;
        wire.refuse(&thaw, "the lease is over").await;
    };
    let host = async {
        assert_eq!(node.guests.freeze(id, Duration::from_secs(5)).await, Ok(3));
        assert!(matches!(node.guests.thaw(id).await, Err(Error::Refused { .. })));
    };
    tokio::join!(agent, host);
    assert!(node.guests.thawed_since(id, before));
    assert!(!node.guests.thawed_since(id, Timestamp(u64::MAX)));
    assert!(!node.guests.thawed_since(InstanceId::random(), before));
}

#[tokio::test]
async fn nothing_may_have_been_run_in_a_guest_that_could_not_be_asked() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let key = Some("k".parse().unwrap());
    let unasked = async || {
        let error = node.guests.exec(program(id), key.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(!error.may_have_happened(), "{error}");
    };
    unasked().await;
    let mut wire = port.opened().await;
    while wire.send(&[b'['; 16 << 10]).await {}
    node.is(id, GuestState::Garbled).await;
    unasked().await;
}

#[tokio::test]
async fn numbers_no_agent_means_are_no_answers() {
    let (node, id, mut wire) = guest(SOON, &ready()).await;
    let agent = async {
        for (command, value) in [
            ("guest-get-time", json!(-1)),
            ("guest-exec", json!({"pid": 0})),
            ("guest-exec", json!({"pid": -1})),
            ("guest-fstrim", json!({"paths": [{"path": "/", "trimmed": -5}]})),
        ] {
            let request = asked(&mut wire, command).await;
            wire.answer(&request, value).await;
        }
    };
    let host = async {
        assert!(matches!(node.guests.clock(id).await, Err(Error::Garbled { .. })));
        for _ in 0..2 {
            let outcome = node.guests.exec(program(id), None).await;
            assert!(matches!(outcome, Err(Error::Garbled { .. })), "{outcome:?}");
        }
        assert!(matches!(node.guests.trim(id, None).await, Err(Error::Garbled { .. })));
    };
    tokio::join!(agent, host);
}
