//! Stock agents, behind the standard port.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ostler_protocol::qga::commands::power::ShutdownMode;
use ostler_protocol::rpc::guest::work::{Data, FileWrite};
use ostler_protocol::rpc::guest::{GuestState, Transport};
use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::values::Secret;
use serde_json::{Value, json};

use super::agent::{Port, reply};
use super::{Error, Node, SOON};
use crate::hypervisor;
use crate::hypervisor::fake::{Call, Failing};

fn nowhere() -> PathBuf {
    PathBuf::from("/nowhere/port")
}

/// An agent behind libvirt: replies as text, refusals as libvirt words them.
fn stock(command: &str) -> Result<String, hypervisor::Error> {
    let request: Value = serde_json::from_str(command).unwrap();
    assert!(request.get("id").is_none(), "libvirt has its own ids");
    let name = request["execute"].as_str().unwrap();
    match reply(name) {
        Some(value) => Ok(json!({"return": value}).to_string()),
        None => Ok(json!({"error": {"class": "CommandNotFound", "desc": "no"}}).to_string()),
    }
}

#[tokio::test]
async fn a_stock_agent_is_ready_when_its_port_opens() {
    let node = Node::new();
    let id = node.stock().await;
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Waiting).await;
    node.fake.connect_agent(id, stock);
    node.guests.agent_connected(id, true);
    node.is(id, GuestState::Ready).await;
    let summary = node.guests.summary(id);
    assert_eq!(
        (summary.transport, summary.agent.as_deref()),
        (Some(Transport::Libvirt), Some("9.9"))
    );
    let report = node.guests.report(id, Duration::ZERO, false).await.unwrap();
    assert_eq!(report.transport, Transport::Libvirt);
    assert_eq!((report.host_name.as_deref(), report.missing.len()), (Some("web"), 1));
    node.guests.ping(id).await.unwrap();
    node.guests.agent_connected(id, false);
    node.is(id, GuestState::Silent).await;
    assert_eq!(node.guests.report(id, Duration::ZERO, false).await.unwrap().taken, report.taken);
}

#[tokio::test]
async fn an_agent_that_was_there_before_us_is_found_without_an_event() {
    let node = Node::new();
    let id = node.stock().await;
    node.fake.connect_agent(id, stock);
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Ready).await;
}

#[tokio::test]
async fn an_agent_whose_owner_forbids_info_is_ready_by_its_ping() {
    let node = Node::new();
    let id = node.stock().await;
    node.fake.connect_agent(id, move |command| {
        if command.contains("guest-info") {
            let reason = "Command guest-info has been disabled".to_owned();
            return Err(hypervisor::Error::GuestAgentRefused { domain: id, reason });
        }
        stock(command)
    });
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Ready).await;
}

#[tokio::test]
async fn ostlers_own_port_takes_over_when_it_answers() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.stock().await;
    node.fake.connect_agent(id, stock);
    node.guests.running(id, port.path());
    node.is(id, GuestState::Ready).await;
    assert_eq!(node.guests.summary(id).transport, Some(Transport::Libvirt));
    let mut changes = node.guests.changes();
    port.serve();
    while changes.recv().await.unwrap().1.transport != Some(Transport::Ostler) {}
    node.guests.ping(id).await.unwrap();
}

#[tokio::test]
async fn while_ostlers_port_answers_libvirt_is_left_alone() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.stock().await;
    node.guests.running(id, port.path());
    port.serve();
    node.is(id, GuestState::Ready).await;
    let calls = || node.fake.called(Call::GuestCommand, Some(id));
    let before = calls();
    node.guests.agent_connected(id, true);
    node.guests.report(id, Duration::ZERO, false).await.unwrap();
    assert_eq!(calls(), before);
}

#[tokio::test]
async fn a_hypervisor_that_cannot_be_reached_makes_no_guest_silent() {
    let node = Node::new();
    let id = node.stock().await;
    node.fake.connect_agent(id, stock);
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Ready).await;
    node.fake.fail_next(
        Call::GuestCommand,
        Failing::Before,
        hypervisor::Error::Unreachable { step: "guest command", reason: "cut".into() },
    );
    let error = node.guests.ping(id).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(node.guests.summary(id).state, GuestState::Ready);
}

#[tokio::test]
async fn a_mute_stock_agent_is_asked_once_for_a_report_then_found_again() {
    let node = Node::new();
    let id = node.stock().await;
    node.fake.connect_agent(id, stock);
    node.guests.running(id, nowhere());
    let first = node.guests.report(id, SOON, false).await.unwrap();
    let before = node.fake.called(Call::GuestCommand, Some(id));
    // the next two calls: the report's first question, and the probe that follows
    for _ in 0..2 {
        node.fake.fail_next(
            Call::GuestCommand,
            Failing::Before,
            hypervisor::Error::Timeout { step: "guest command" },
        );
    }
    let mut changes = node.guests.changes();
    let report = node.guests.report(id, Duration::ZERO, false).await.unwrap();
    assert_eq!(report.taken, first.taken);
    assert_eq!(changes.recv().await.unwrap().1.state, GuestState::Silent);
    assert!(node.fake.called(Call::GuestCommand, Some(id)) <= before + 2);
    node.is(id, GuestState::Ready).await;
}

#[tokio::test]
async fn a_stock_agent_that_replies_nonsense_is_garbled() {
    let node = Node::new();
    let id = node.stock().await;
    node.fake.connect_agent(id, |_| Ok("[".repeat(1 << 20)));
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Garbled).await;
}

#[tokio::test]
async fn a_password_and_a_shutdown_go_through_libvirt_too() {
    let node = Node::new();
    let id = node.stock().await;
    let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
    let log = Arc::clone(&heard);
    node.fake.connect_agent(id, move |command| {
        let request: Value = serde_json::from_str(command).unwrap();
        let name = request["execute"].as_str().unwrap().to_owned();
        log.lock().unwrap().push(request);
        match name.as_str() {
            "guest-shutdown" => Err(hypervisor::Error::Timeout { step: "guest command" }),
            "guest-set-user-password" => Err(hypervisor::Error::GuestAgentRefused {
                domain: id,
                reason: "no user of that name; tried $6$salt$hash".into(),
            }),
            _ => stock(command),
        }
    });
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Ready).await;
    let word = Word::Crypted(Secret::new("$6$salt$hash".into()));
    let error = node.guests.set_password(id, "root", &word).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(!error.to_string().contains("salt"), "{error}");
    assert_eq!(node.guests.shutdown(id, ShutdownMode::Powerdown).await, Ok(()));
    let heard = heard.lock().unwrap();
    let arguments =
        |name| &heard.iter().find(|request| request["execute"] == name).unwrap()["arguments"];
    assert_eq!(arguments("guest-set-user-password")["crypted"], true);
    assert_eq!(arguments("guest-shutdown")["mode"], "powerdown");
}

#[tokio::test]
async fn a_stock_agent_is_given_little_to_write_at_a_time() {
    let node = Node::new();
    let id = node.stock().await;
    let written = Arc::new(Mutex::new(Vec::new()));
    let file = Arc::clone(&written);
    node.fake.connect_agent(id, move |command| {
        let request: Value = serde_json::from_str(command).unwrap();
        let value = match request["execute"].as_str().unwrap() {
            "guest-file-open" => json!(7),
            "guest-file-close" => json!({}),
            "guest-file-write" => {
                let piece: Data =
                    serde_json::from_value(request["arguments"]["buf-b64"].clone()).unwrap();
                assert!(piece.0.len() <= 48 << 10, "{} bytes at once", piece.0.len());
                let count = piece.0.len();
                file.lock().unwrap().extend(piece.0);
                json!({"count": count, "eof": false})
            }
            _ => return stock(command),
        };
        Ok(json!({"return": value}).to_string())
    });
    node.guests.running(id, nowhere());
    node.is(id, GuestState::Ready).await;
    let data: Vec<u8> = (0..200_000_u32).map(|n| (n / 7) as u8).collect();
    let write = FileWrite {
        id,
        path: "/f".to_owned(),
        offset: 0,
        data: Data(data.clone()),
        truncate: true,
        mode: None,
    };
    assert_eq!(node.guests.file_write(write).await.unwrap().written, 200_000);
    assert!(*written.lock().unwrap() == data);
}
