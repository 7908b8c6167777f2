//! Valid sessions, damaged: ten thousand of them, the same each time.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::agent::Agent;

const SESSIONS: u32 = 10_000;

/// Every command there is, with arguments that mean something to one or another; those that change
/// anything are refused by the profile.
fn requests(agent: &Agent) -> Vec<Vec<u8>> {
    let mut client = agent.connect();
    client.send(b"{'execute': 'guest-info'}");
    let info = client.reply();
    let names = info["return"]["supported_commands"].as_array().unwrap().iter();
    let mut requests: Vec<Value> = names
        // these start a thread each time, and are mutated elsewhere
        .filter(|command| {
            !["guest-get-fsinfo", "guest-get-disks"].contains(&command["name"].as_str().unwrap())
        })
        .map(|command| json!({"execute": command["name"], "id": [1, null, "é"]}))
        .collect();
    requests.extend([
        json!({"execute": "guest-sync", "arguments": {"id": -9_007_199_254_740_993_i64}}),
        json!({"execute": "guest-sync-delimited", "arguments": {"id": 1}, "id": u64::MAX}),
        json!({"execute": "guest-file-read", "arguments": {"handle": 1000, "count": 4096}}),
        json!({"execute": "guest-file-open", "arguments": {"path": "/etc/hostname", "mode": "r"}}),
        json!({"execute": "guest-exec", "arguments": {"path": "/bin/true", "arg": ["\u{1F600}"]}}),
        json!({"execute": "guest-set-vcpus", "arguments": {"vcpus": [{"logical-id": 0}]}}),
    ]);
    requests.into_iter().map(|request| request.to_string().into_bytes()).collect()
}

#[derive(Clone, Debug)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Truncate(prop::sample::Index),
    Duplicate(prop::sample::Index, prop::sample::Index),
    Splice(prop::sample::Index, &'static [u8]),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    let special = prop::sample::select(vec![
        &b"\xFF"[..],
        b"\xFE",
        b"\\",
        b"\"",
        b"'",
        b"\n",
        b"\0",
        b"[[[[[[[[",
        b"}}",
        b"\\u0000",
        b"\\uD800",
        b"1e999",
        b"-0",
        b"\xC0\x80",
        b"18446744073709551616",
        b"null",
        b",",
        b"{\"execute\":",
    ]);
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        place().prop_map(Damage::Remove),
        place().prop_map(Damage::Truncate),
        (place(), place()).prop_map(|(from, to)| Damage::Duplicate(from, to)),
        (place(), special).prop_map(|(at, bytes)| Damage::Splice(at, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: Damage) {
    let length = bytes.len();
    let place = |index: prop::sample::Index| index.index(length + 1);
    match damage {
        Damage::Replace(at, byte) => {
            if let Some(there) = bytes.get_mut(place(at)) {
                *there = byte;
            }
        }
        Damage::Remove(at) => {
            if place(at) < length {
                bytes.remove(place(at));
            }
        }
        Damage::Insert(at, byte) => bytes.insert(place(at), byte),
        Damage::Truncate(at) => bytes.truncate(place(at)),
        Damage::Duplicate(from, to) => {
            let (from, to) = (place(from).min(place(to)), place(from).max(place(to)));
            bytes.extend_from_within(from..to);
        }
        Damage::Splice(at, piece) => {
            let at = place(at);
            drop(bytes.splice(at..at, piece.iter().copied()));
        }
    }
}

/// What the agent opens once and keeps: four folders that it reads in, and what it sends its audit from.
const KEPT: usize = 5;

#[test]
fn no_mutation_of_a_session_crashes_hangs_or_leaks() {
    let mut agent = Agent::start();
    let request = prop::sample::select(requests(&agent));
    let session = (
        prop::collection::vec(request, 1..6),
        prop::collection::vec(damage(), 1..8),
        any::<bool>(),
    );
    let before = agent.descriptors();
    let client = std::cell::RefCell::new(agent.connect());
    let config = Config { cases: SESSIONS, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome =
        TestRunner::new_with_rng(config, rng).run(&session, |(requests, damages, leaves)| {
            let mut bytes = requests.concat();
            for damage in damages {
                apply(&mut bytes, damage);
            }
            client.borrow_mut().send(&bytes);
            if leaves {
                // at once, and the next one must not be told what this one asked
                drop(client.replace(agent.connect()));
            }
            let answers = client.borrow_mut().resynchronize();
            for line in answers.split_inclusive(|byte| *byte == b'\n') {
                let line = line.strip_prefix(b"\xFF").unwrap_or(line);
                let reply: Value = serde_json::from_slice(line).unwrap();
                prop_assert!(reply.get("return").is_some() || reply.get("error").is_some());
            }
            if leaves {
                prop_assert!(answers.is_empty(), "{}", String::from_utf8_lossy(&answers));
            }
            Ok(())
        });
    outcome.unwrap();
    drop(client);
    agent.assert_lives();
    let after = agent.descriptors();
    assert!((before..=before + KEPT).contains(&after), "{before} descriptors became {after}");
}
