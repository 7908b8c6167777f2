//! Memory is bounded, and given back.

use serde_json::json;

use super::agent::{Agent, Client};

/// How many commands a soak is; `make soak` asks for a million.
const COMMANDS: &str = "OSTLER_SOAK_COMMANDS";
const USUAL: usize = 10_000;
/// What an agent may have more after a soak than before: pages that were touched for the first time.
const SLACK: usize = 1 << 10;

/// Sends as many requests as fit and reads as many answers.
fn soak(client: &mut Client, count: usize) {
    let long = "A".repeat(100 << 10);
    let mixed = [
        json!({"execute": "guest-ping"}),
        json!({"execute": "guest-info", "id": {"a": [1, 2, 3]}}),
        json!({"execute": "guest-get-host-name"}),
        json!({"execute": "guest-network-get-interfaces"}),
        json!({"execute": "guest-sync", "arguments": {"id": "no number"}}),
        json!({"execute": "guest-file-write", "arguments": {"handle": 1000, "buf-b64": long}}),
        json!({"execute": "guest-exec", "arguments": {"path": "/bin/true"}}),
        json!({"execute": "guest-unknown", "id": null}),
        json!([[[[[[[[]]]]]]]]),
        json!({"execute": "guest-get-osinfo"}),
    ]
    .map(|request| request.to_string().into_bytes());
    for index in 0..count {
        client.send(&mixed[index % mixed.len()]);
        assert!(client.line().ends_with(b"}\n"));
    }
}

#[test]
fn a_soak_of_mixed_commands_ends_at_the_memory_it_started_with() {
    let agent = Agent::start();
    let count = std::env::var(COMMANDS).map_or(USUAL, |text| text.parse().unwrap());
    let mut client = agent.connect();
    soak(&mut client, USUAL / 5);
    let before = agent.memory("VmRSS:");
    soak(&mut client, count);
    client.resynchronize();
    let after = agent.memory("VmRSS:");
    assert!(after <= before + SLACK, "{count} commands: {before} KiB became {after} KiB");
}

#[test]
fn a_large_request_takes_its_size_once_and_is_given_back() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.resynchronize();
    let before = agent.memory("VmRSS:");
    for megabytes in [20, 53, 30, 2, 53] {
        client.send(b"{'execute': 'guest-sync', 'arguments': {'id': '");
        client.send(&vec![b'Q'; megabytes << 20]);
        client.send(b"'}}");
        assert_eq!(client.reply()["error"]["class"], "GenericError");
    }
    // and one that is too large
    client.send(b"\"");
    client.send(&vec![b'Q'; 66 << 20]);
    client.resynchronize();
    let (peak, after) = (agent.memory("VmHWM:"), agent.memory("VmRSS:"));
    assert!(peak - before < 66 << 10, "{before} KiB, at most {peak} KiB");
    assert!(after <= before + SLACK, "{before} KiB became {after} KiB");
}
