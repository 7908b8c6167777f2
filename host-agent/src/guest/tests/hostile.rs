//! Guests that mean harm: each is found out at a bounded cost, and nobody else notices.

use std::time::Duration;

use ostler_protocol::qga::encode;
use ostler_protocol::qga::envelope::Timestamp;
use ostler_protocol::rpc::guest::GuestState;
use ostler_protocol::rpc::values::InstanceId;
use tokio::time::timeout;

use super::agent::{Port, ready};
use super::{Error, Node, SOON};

/// What is sent over and over, and what once before.
async fn flood(node: &Node, before: &[u8], chunk: &[u8]) -> (InstanceId, u64) {
    let port = Port::new();
    let id = node.instance(port.path());
    let good = Port::new();
    let neighbour = node.instance(good.path());
    good.serve();
    node.is(neighbour, GuestState::Ready).await;
    let mut wire = port.opened().await;
    let mut sent = 0;
    let attack = async {
        if wire.send(before).await {
            while wire.send(chunk).await {
                sent += chunk.len() as u64;
            }
        }
    };
    let others = async {
        loop {
            node.guests.ping(neighbour).await.unwrap();
        }
    };
    tokio::select! {
        outcome = timeout(SOON, attack) => assert!(outcome.is_ok(), "the flood was never cut"),
        () = others => {}
    }
    node.is(id, GuestState::Garbled).await;
    // and it may come back
    port.serve();
    node.is(id, GuestState::Ready).await;
    node.guests.ping(id).await.unwrap();
    (id, sent)
}

/// More than a socket holds and a session reads before it finds out.
const BOUND: u64 = 4 << 20;

#[tokio::test]
async fn an_endless_line_is_cut() {
    let node = Node::new();
    let (_, sent) = flood(&node, b"{\"return\": \"", &[b'a'; 16 << 10]).await;
    assert!(sent < BOUND, "{sent} bytes were taken of a line that never ends");
}

#[tokio::test]
async fn endless_nesting_is_cut() {
    let node = Node::new();
    let (_, sent) = flood(&node, b"", &[b'['; 16 << 10]).await;
    assert!(sent < BOUND, "{sent}");
}

#[tokio::test]
async fn noise_is_cut() {
    let node = Node::new();
    let mut seed = 0x9E37_79B9_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as u8
    })
    .take(64 << 10)
    .collect();
    let (_, sent) = flood(&node, b"", &noise).await;
    assert!(sent < BOUND, "{sent}");
}

#[tokio::test]
async fn sound_json_that_is_no_message_is_cut() {
    let node = Node::new();
    let (_, sent) = flood(&node, b"", b"[1, 2, {\"a\": null}]\n").await;
    assert!(sent < BOUND, "{sent}");
}

#[tokio::test]
async fn resets_that_nobody_asked_for_are_cut() {
    let node = Node::new();
    // answering the sync first: after it no delimiter is due
    let port = Port::new();
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    tokio::select! {
        () = node.is(id, GuestState::Ready) => {}
        () = wire.serve() => panic!("the host hung up"),
    }
    while wire.send(&[0xFF; 64]).await {}
    node.is(id, GuestState::Garbled).await;
}

#[tokio::test]
async fn events_with_the_wrong_data_are_cut() {
    let node = Node::new();
    let (_, sent) =
        flood(&node, b"", b"{\"event\": \"OSTLER_HEARTBEAT\", \"data\": {\"load\": 1}}\n").await;
    assert!(sent < BOUND, "{sent}");
}

#[tokio::test]
async fn a_flood_of_sound_events_is_read_slowly_and_listeners_are_not_flooded() {
    let node = Node::new();
    let port = Port::new();
    let mut changes = node.guests.changes();
    let id = node.instance(port.path());
    let good = Port::new();
    let neighbour = node.instance(good.path());
    good.serve();
    node.is(neighbour, GuestState::Ready).await;
    let mut wire = port.opened().await;
    let mut sent = 0_usize;
    let attack = async {
        // another version each time: every one of them is a change
        for n in 0_u64.. {
            let line = encode::line(&ready().to_event(Timestamp::default()).unwrap()).unwrap();
            let line = String::from_utf8(line).unwrap().replace("9.9", &format!("9.{n}"));
            if !wire.send(line.as_bytes()).await {
                break;
            }
            sent += line.len();
        }
    };
    let others = async {
        for _ in 0..2000 {
            node.guests.ping(neighbour).await.unwrap();
        }
    };
    tokio::select! {
        () = attack => {}
        () = others => {}
    }
    assert!(sent < 1 << 20, "{sent} bytes of events were taken");
    let mut told = 0;
    while let Ok((of, _)) = changes.try_recv() {
        told += usize::from(of == id);
    }
    assert!(told < 100, "{told} changes were told");
}

#[tokio::test]
async fn a_guest_that_reads_nothing_holds_up_only_itself() {
    let node = Node::with(Duration::from_millis(200));
    let port = Port::new();
    let id = node.instance(port.path());
    let mut wire = port.opened().await;
    wire.ready().await;
    node.is(id, GuestState::Ready).await;
    let word = ostler_protocol::rpc::instance::Word::Plain(
        ostler_protocol::rpc::values::Secret::new("x".repeat(64 << 10)),
    );
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (guests, word) = (node.guests.clone(), word.clone());
        asked.spawn(async move { guests.set_password(id, "root", &word).await });
    }
    while let Some(outcome) = timeout(SOON, asked.join_next()).await.unwrap() {
        let error = outcome.unwrap().unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    node.is(id, GuestState::Silent).await;
    assert_eq!(
        node.guests.ping(id).await.map_err(|error| matches!(error, Error::Unavailable { .. })),
        Err(true)
    );
}

#[tokio::test]
async fn a_port_that_is_closed_at_once_is_opened_again_and_again_in_peace() {
    let node = Node::new();
    let port = Port::new();
    let id = node.instance(port.path());
    for _ in 0..20 {
        drop(timeout(SOON, port.opened()).await.unwrap());
    }
    assert_eq!(node.guests.summary(id).state, GuestState::Waiting);
    port.serve();
    node.is(id, GuestState::Ready).await;
}
