//! `docs/rpc.md` against the types: every method, every reason with its number, and the names of
//! the AMQP transport are in it, and no other.

#![cfg(feature = "rpc")]
#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::BTreeSet;

use ostler_protocol::rpc::envelope::read_request;
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::method::{Call, Effect, NAMES};
use ostler_protocol::rpc::{amqp, versions};
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/rpc.md");

/// The rows of the table below a heading, as cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    section.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

/// Every word there is for a reason, told by the type's schema.
fn reasons() -> BTreeSet<String> {
    fn words(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(word)) = fields.get("const") {
                    found.insert(word.clone());
                }
                if let Some(Value::Array(all)) = fields.get("enum") {
                    found.extend(all.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                fields.values().for_each(|value| words(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| words(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    words(&serde_json::to_value(schemars::schema_for!(Reason)).unwrap(), &mut found);
    found
}

#[test]
fn the_page_has_every_reason_with_its_number() {
    let mut rows = BTreeSet::new();
    for row in table("Errors") {
        let [word, code, ..] = row.as_slice() else { panic!("{row:?}") };
        let reason: Reason = serde_json::from_value(Value::String(word.clone())).unwrap();
        assert_eq!(code.parse::<i64>().unwrap(), reason.code(), "{word}");
        rows.insert(word.clone());
    }
    assert_eq!(rows, reasons());
}

#[test]
fn the_page_has_every_method() {
    let rows = table("Methods");
    let told: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let mut names = NAMES.to_vec();
    let mut sorted = told.clone();
    names.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(sorted, names);
}

#[test]
fn the_pages_examples_are_requests_of_this_version() {
    let (_, rest) = PAGE.split_once("```json\n").unwrap();
    let blocks = rest.split("```json\n").map(|block| block.split("```").next().unwrap());
    let mut requests = 0;
    for block in blocks {
        let value: Value = serde_json::from_str(block).unwrap();
        if value.get("method").is_none() {
            continue;
        }
        let request = read_request(block.as_bytes()).unwrap();
        let call = Call::decode(&request.method, request.params).unwrap();
        if call.effect() == Effect::Change {
            assert!(request.context.unwrap().key.is_some(), "a good example has a key");
        }
        requests += 1;
    }
    assert!(requests >= 3, "{requests} examples");
    assert!(PAGE.contains(&format!("version {}", versions::CURRENT)));
}

#[test]
fn the_page_has_the_names_on_the_broker() {
    let names = [
        amqp::EXCHANGE_RPC,
        amqp::EXCHANGE_BROADCAST,
        amqp::EXCHANGE_EVENTS,
        amqp::EXCHANGE_DEAD,
        amqp::QUEUE_DEAD,
        amqp::HEADER_REASON,
        amqp::DIRECT_REPLY_TO,
        amqp::CONTENT_TYPE,
        &amqp::host_queue("HOST"),
    ];
    for name in names {
        assert!(PAGE.contains(&format!("`{name}`")), "{name}");
    }
    // However its lines are broken.
    let text = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&format!("after {} deliveries", amqp::DELIVERY_LIMIT)));
    assert_eq!((amqp::DEAD_TTL, amqp::DEAD_MAX), (7 * 86_400_000, 10_000));
    assert!(text.contains("kept for a week, the newest 10,000 of them"));
}
