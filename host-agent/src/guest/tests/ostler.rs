//! Ostler's own port.

use std::time::Duration;

use ostler_protocol::qga::ErrorClass;
use ostler_protocol::qga::commands::network::NetworkInterface;
use ostler_protocol::qga::commands::power::ShutdownMode;
use ostler_protocol::qga::encode;
use ostler_protocol::qga::events::{GuestEvent, NetworkChanged};
use ostler_protocol::rpc::guest::{GuestState, Transport};
use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::values::{InstanceId, Secret};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::agent::{Port, heartbeat, ready, reply};
use super::{Error, Node, SOON, why};

#[tokio::test]
async fn a_guest_is_ready_when_its_agent_says_so() {
    let (node, port) = (Node::new(), Port::new());
    let mut changes = node.guests.changes();
    let id = node.instance(port.path());
    assert_eq!(changes.recv().await.unwrap().1.state, GuestState::Waiting);
    let mut wire = port.opened().await;
    let said = Instant::now();
    wire.ready().await;
    let (of, summary) = timeout(SOON, changes.recv()).await.unwrap().unwrap();
    println!("known after {:?}", said.elapsed());
    assert_eq!(
        (of, summary.state, summary.transport),
        (id, GuestState::Ready, Some(Transport::Ostler))
    );
    assert_eq!(summary.agent.as_deref(), Some("9.9"));
    assert!(summary.heard.is_some());
}

#[tokio::test]
async fn an_agent_without_events_is_ready_by_its_answer() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    tokio::spawn(async move { wire.serve().await });
    node.is(id, GuestState::Ready).await;
}

#[tokio::test]
async fn a_port_that_appears_later_is_found() {
    let node = Node::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let id = node.instance(path.clone());
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    timeout(SOON, listener.accept()).await.unwrap().unwrap();
    assert_eq!(node.guests.summary(id).state, GuestState::Waiting);
}

#[tokio::test]
async fn a_report_waits_for_the_agent_and_has_what_it_told() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let asked = node.guests.report(id, SOON, false);
    let (report, ()) = tokio::join!(asked, async { port.serve() });
    let report = report.unwrap();
    assert_eq!((report.state, report.transport), (GuestState::Ready, Transport::Ostler));
    assert_eq!((report.agent.version.as_str(), report.agent.commands.len()), ("9.9", 1));
    assert_eq!(report.host_name.as_deref(), Some("web"));
    assert_eq!(report.interfaces[0].addresses, ["10.0.0.5/24"]);
    assert_eq!(
        (report.missing[0].command.as_str(), report.missing[0].why.as_str()),
        ("guest-get-fsinfo", "no")
    );
    assert!(!report.truncated);
}

#[tokio::test]
async fn a_report_is_asked_for_all_at_once_and_answered_in_any_order() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let agent = async {
        let mut questions = Vec::new();
        while questions.len() < 5 {
            questions.push(wire.question().await.unwrap());
        }
        for question in questions.iter().rev() {
            let value = reply(&question.execute).unwrap_or(json!([]));
            wire.answer(question, value).await;
        }
    };
    let (report, ()) = tokio::join!(node.guests.report(id, Duration::ZERO, false), agent);
    assert_eq!(report.unwrap().missing, []);
}

#[tokio::test]
async fn a_list_the_agent_has_cut_is_told_to_be() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    for cut in ["guest-info", "guest-network-get-interfaces", "guest-get-fsinfo", "none"] {
        let agent = async {
            for _ in 0..5 {
                let question = wire.question().await.unwrap();
                let value = reply(&question.execute).unwrap_or(json!([]));
                let truncated = question.execute == cut;
                let told = json!({"return": value, "id": question.id, "truncated": truncated});
                wire.send(&encode::line(&told).unwrap()).await;
            }
        };
        let (report, ()) = tokio::join!(node.guests.report(id, Duration::ZERO, false), agent);
        assert_eq!(report.unwrap().truncated, cut != "none", "{cut}");
    }
}

#[tokio::test]
async fn what_the_agent_tells_unasked_is_known_without_asking() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    let interface = NetworkInterface {
        name: "eth7".into(),
        hardware_address: None,
        ip_addresses: None,
        statistics: None,
    };
    wire.event(&ready()).await;
    let changed = NetworkChanged { interfaces: vec![interface], truncated: true };
    wire.event(&GuestEvent::NetworkChanged(changed)).await;
    wire.event(&heartbeat()).await;
    // its answer comes after the events: once it is here, so are they
    let ping = async {
        node.is(id, GuestState::Ready).await;
        node.guests.ping(id).await.unwrap();
    };
    let answer = async {
        let question = wire.question().await.unwrap();
        wire.answer(&question, json!({})).await;
    };
    tokio::join!(ping, answer);
    let report = node.guests.report(id, Duration::ZERO, true).await.unwrap();
    assert_eq!(report.host_name.as_deref(), Some("web"));
    assert_eq!(report.interfaces[0].name, "eth7");
    assert!(report.truncated, "the guest has said so");
    assert!(report.heartbeat.is_some());
}

#[tokio::test]
async fn late_and_made_up_answers_are_nobodys() {
    let (node, port) = (Node::with(Duration::from_millis(150)), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let late = async {
        let late = wire.question().await.unwrap();
        wire.event(&heartbeat()).await;
        late
    };
    let (timed_out, late) = tokio::join!(node.guests.ping(id), late);
    assert_eq!(timed_out, Err(Error::Timeout { command: "guest-ping" }));
    node.is(id, GuestState::Ready).await;
    let agent = async {
        wire.answer(&late, json!({"late": true})).await;
        wire.send(b"{\"return\": {}, \"id\": 18446744073709551615}\n").await;
        wire.send(b"{\"return\": 7}\n{\"return\": {}, \"id\": [\"x\"]}\n").await;
        let question = wire.question().await.unwrap();
        wire.answer(&question, json!({})).await;
        wire.serve().await;
    };
    tokio::select! {
        pong = node.guests.ping(id) => assert!(pong.is_ok(), "{pong:?}"),
        () = agent => panic!("the host hung up"),
    }
}

#[tokio::test]
async fn a_hung_guest_is_silent_keeps_its_last_report_and_recovers() {
    let (node, port) = (Node::with(Duration::from_millis(300)), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    let first = tokio::select! {
        report = node.guests.report(id, SOON, false) => report.unwrap(),
        () = wire.serve() => panic!("the host hung up"),
    };
    // now nobody reads the wire
    let hung = node.guests.report(id, Duration::ZERO, false).await.unwrap();
    assert_eq!((hung.state, hung.taken), (GuestState::Silent, first.taken));
    assert!(hung.age >= 300);
    assert!(why(node.guests.ping(id).await.unwrap_err()).contains("does not answer"));
    tokio::spawn(async move {
        wire.serve().await;
        port.serve();
    });
    node.is(id, GuestState::Ready).await;
}

#[tokio::test]
async fn a_link_that_breaks_in_a_reply_is_opened_again() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let cut = async {
        let _ = wire.question().await;
        wire.send(b"{\"return\": {\"vers").await;
        drop(wire);
    };
    let (pong, ()) = tokio::join!(node.guests.ping(id), cut);
    assert!(why(pong.unwrap_err()).contains("closed"));
    port.serve();
    node.is(id, GuestState::Ready).await;
    node.guests.ping(id).await.unwrap();
}

#[tokio::test]
async fn an_agent_may_write_byte_by_byte() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    tokio::spawn(async move {
        wire.ready().await;
        let question = wire.question().await.unwrap();
        for byte in format!("{{\"return\": {{}}, \"id\": {}}}\n", question.id.unwrap()).bytes() {
            wire.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        wire.hung_up().await;
    });
    node.is(id, GuestState::Ready).await;
    node.guests.ping(id).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_succeeds_without_an_answer_or_by_the_end_of_the_link() {
    for ends in [false, true] {
        let (node, port) = (Node::new(), Port::new());
        let id = node.instance(port.path());
        let mut wire = port.opened().await;
        wire.ready().await;
        node.is(id, GuestState::Ready).await;
        let agent = async {
            let question = wire.question().await.unwrap();
            assert_eq!(question.execute, "guest-shutdown");
            assert_eq!(question.arguments["mode"], "reboot");
            (!ends).then_some(wire)
        };
        let (told, _wire) = tokio::join!(node.guests.shutdown(id, ShutdownMode::Reboot), agent);
        assert_eq!(told, Ok(()));
    }
}

#[tokio::test]
async fn a_refused_shutdown_is_told_with_the_guests_words_cleaned() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let agent = async {
        let question = wire.question().await.unwrap();
        wire.refuse(&question, &format!("no\u{1b}[2J{}", "x".repeat(1000))).await;
    };
    let (told, ()) = tokio::join!(node.guests.shutdown(id, ShutdownMode::Powerdown), agent);
    let Err(Error::Refused { class, desc, .. }) = told else { panic!("{told:?}") };
    assert_eq!(class, ErrorClass::GenericError);
    assert!(desc.starts_with("no[2Jxxx") && desc.len() == 255, "{desc}");
}

#[tokio::test]
async fn a_password_goes_in_base64_and_is_in_no_error() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let word = Word::Plain(Secret::new("hunter2".into()));
    let agent = async {
        let question = wire.question().await.unwrap();
        assert_eq!(question.arguments["username"], "root");
        assert_eq!(question.arguments["password"], "aHVudGVyMg==");
        assert_eq!(question.arguments["crypted"], false);
        wire.refuse(&question, "chpasswd: root:hunter2 is bad").await;
        let question = wire.question().await.unwrap();
        wire.refuse(&question, "cannot set aHVudGVyMg==").await;
        let question = wire.question().await.unwrap();
        wire.answer(&question, json!({})).await;
    };
    let set = async {
        for _ in 0..2 {
            let error = node.guests.set_password(id, "root", &word).await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        }
        assert_eq!(node.guests.set_password(id, "root", &word).await, Ok(()));
    };
    tokio::join!(set, agent);
}

#[tokio::test]
async fn a_stopped_guest_keeps_its_last_report_until_it_is_forgotten() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    port.serve();
    let taken = node.guests.report(id, SOON, false).await.unwrap().taken;
    node.guests.stopped(id);
    let summary = node.guests.summary(id);
    assert_eq!((summary.state, summary.transport), (GuestState::Off, None));
    for cached in [true, false] {
        let report = node.guests.report(id, Duration::ZERO, cached).await.unwrap();
        assert_eq!((report.state, report.taken), (GuestState::Off, taken));
    }
    let off = Err(Error::NotRunning { instance: id });
    assert_eq!(node.guests.ping(id).await, off);
    node.guests.forget(id);
    assert_eq!(node.guests.report(id, SOON, false).await.map(|_| Duration::ZERO), off);
}

#[tokio::test]
async fn an_unknown_instance_is_off() {
    let node = Node::new();
    let id = InstanceId::random();
    assert_eq!(node.guests.summary(id).state, GuestState::Off);
    node.guests.stopped(id);
    node.guests.agent_connected(id, true);
    assert_eq!(node.guests.ping(id).await, Err(Error::NotRunning { instance: id }));
}

#[tokio::test]
async fn a_guest_that_never_spoke_has_no_report() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let _wire = port.opened().await;
    for cached in [true, false] {
        let error = node.guests.report(id, Duration::from_millis(20), cached).await.unwrap_err();
        assert!(error.is_retryable());
        assert!(why(error).contains("no agent"));
    }
}

#[tokio::test]
async fn running_again_keeps_the_session_and_a_restart_begins_another() {
    let (node, port) = (Node::new(), Port::new());
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    node.guests.running(id, port.path());
    assert_eq!(node.guests.summary(id).state, GuestState::Ready);
    node.guests.restarted(id);
    assert_eq!(node.guests.summary(id).state, GuestState::Waiting);
    wire.hung_up().await;
    port.serve();
    node.is(id, GuestState::Ready).await;
}

#[tokio::test]
async fn draining_ends_every_session() {
    let node = Node::new();
    let ports = [Port::new(), Port::new()];
    let ids = ports.each_ref().map(|port| node.instance(port.path()));
    let mut wires = Vec::new();
    for port in &ports {
        wires.push(port.opened().await);
    }
    timeout(SOON, node.guests.drain()).await.unwrap();
    for wire in &mut wires {
        timeout(SOON, wire.hung_up()).await.unwrap();
    }
    assert!(node.guests.ping(ids[0]).await.is_err());
}
