//! Streams that are broken, cut, glued, too large or not read.

use std::time::{Duration, Instant};

use serde_json::json;

use super::agent::{Agent, PATIENCE};

/// `\xNN` for a byte that cannot be shown, `\\` for a backslash.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
        } else if let Some(after) = rest.strip_prefix(b"x") {
            let digits = std::str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(
                *rest
                    .strip_prefix(b"\\")
                    .map(|after| {
                        rest = after;
                        &b'\\'
                    })
                    .unwrap(),
            );
        }
    }
    bytes
}

/// What is sent and what comes back, as stock agents answer; where they answer otherwise, the file says so.
#[test]
fn every_stream_is_answered_byte_for_byte_as_on_record() {
    let agent = Agent::start();
    let mut checked = 0;
    for entry in include_str!("stream.txt").split("\n> ").skip(1) {
        let mut lines = entry.lines();
        let sent = bytes(lines.next().unwrap());
        let expected: Vec<u8> = lines
            .filter_map(|line| line.strip_prefix("< "))
            .flat_map(|line| [bytes(line), vec![b'\n']].concat())
            .collect();
        let mut client = agent.connect();
        client.send(&sent);
        let received = client.resynchronize();
        assert_eq!(
            String::from_utf8_lossy(&received),
            String::from_utf8_lossy(&expected),
            "of {}",
            String::from_utf8_lossy(&sent)
        );
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn a_request_is_heard_byte_by_byte() {
    let agent = Agent::start();
    let mut client = agent.connect();
    for byte in b"{\"execute\": \"guest-ping\", \"id\": \"\\u00e9\xC3\xA9\"}" {
        client.send(&[*byte]);
    }
    assert_eq!(client.reply(), json!({"return": {}, "id": "éé"}));
}

#[test]
fn a_reset_is_obeyed_at_every_place_of_a_request() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let request = b"{\"execute\": \"guest-ping\", \"id\": [\"\\u00e9\", 12, true]}";
    for place in 0..request.len() {
        for reset in [0xFE, 0xFF] {
            client.send(&request[..place]);
            client.send(&[reset]);
            client.send(b"{'execute': 'guest-ping', 'id': 'next'}");
            assert_eq!(client.line(), b"{\"return\": {}, \"id\": \"next\"}\n", "{place}");
        }
    }
}

#[test]
fn garbage_depth_and_size_are_survived() {
    let mut agent = Agent::start();
    let before = agent.descriptors();
    let brackets = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
    let objects = b"{\"a\":".repeat(200_000);
    let all_bytes: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
    let string = [&b"\""[..], &vec![b'x'; 70 << 20]].concat();
    let numbers = vec![b'1'; 8 << 20];
    let commas = [&b"["[..], &b"1,".repeat(2 << 20)].concat();
    for hostile in [brackets, objects, all_bytes, string, numbers, commas] {
        let mut client = agent.connect();
        client.send(&hostile);
        client.resynchronize();
    }
    agent.assert_lives();
    assert_eq!(agent.descriptors(), before);
}

#[test]
fn a_thousand_pipelined_commands_are_answered_in_order() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let mut requests = Vec::new();
    for id in 0..1000 {
        let name = ["guest-ping", "guest-get-host-name", "guest-x", "guest-info"][id % 4];
        requests.extend(json!({"execute": name, "id": id}).to_string().into_bytes());
    }
    client.send(&requests);
    for id in 0..1000 {
        assert_eq!(client.reply()["id"], id);
    }
    client.resynchronize();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_takes_nothing_with_it() {
    let mut agent = Agent::start();
    let before = agent.descriptors();
    for round in 0..10 {
        let mut client = agent.connect();
        client.stuff(&b"{'execute': 'guest-info'}".repeat(1000));
        client.read(round * 1000 + 1);
    }
    agent.assert_lives();
    assert_eq!(agent.descriptors(), before);
}

#[test]
fn a_client_that_does_not_read_costs_no_processor_time() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let request = b"{'execute': 'guest-info'}".repeat(1000);
    let taken = client.stuff(&request);
    assert!(taken < 4 << 20, "{taken} bytes were taken");
    let memory = agent.memory("VmRSS:");
    assert!(memory < 32 << 10, "{memory} KiB");
    // its time is counted while ours passes: to write again and again in vain takes that long
    let before = agent.processor_time();
    let began = Instant::now();
    client.stuff(b"x");
    client.stuff(b"x");
    client.stuff(b"x");
    client.stuff(b"x");
    client.stuff(b"x");
    let (spent, passed) = (agent.processor_time() - before, began.elapsed());
    assert!(passed >= Duration::from_secs(1) && passed < PATIENCE);
    assert!(spent <= Duration::from_millis(50), "{spent:?} of {passed:?}");
    // once it reads again, it is served again
    let mut other = agent.connect();
    drop(client);
    other.resynchronize();
}
