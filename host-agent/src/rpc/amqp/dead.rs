//! Dead letters: what is kept of a message that no agent can read, or on which sessions end.
//!
//! Not the message. It may hold a password, in a place where nobody looks for one just because
//! the message cannot be read, and dead letters are kept for a week. What is kept tells whose it
//! is and what is wrong with it; who sent it has it still.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use ostler_protocol::rpc::amqp::{BODY_LIMIT, CONTENT_TYPE, HEADER_REASON};
use ostler_protocol::rpc::envelope::Id;
use ostler_protocol::rpc::fault::{Fault, Reason};
use serde_json::{Value, json};

/// The longest text taken over from a message, characters.
const TEXT_MAX: usize = 80;
/// The longest reason, characters: it is a header, which must fit into one frame, and what is
/// wrong with a message may be a name of a megabyte.
const REASON_MAX: usize = 500;

/// A letter, as it is published.
pub(super) struct Letter {
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
}

/// Whether a request refused for this goes to the dead letters besides: because nobody can carry
/// it out, whatever the state of this node.
pub(super) const fn is_dead(reason: Reason) -> bool {
    matches!(reason, Reason::ParseError | Reason::InvalidRequest | Reason::UnknownMethod)
}

/// The letter about a message with this body and these properties.
pub(super) fn letter(host: &str, body: &[u8], of: &BasicProperties, fault: &Fault) -> Letter {
    let reason = brief(&fault.to_string(), REASON_MAX);
    // What was given up is not read: that may be what ends sessions.
    let unread = body.len() > BODY_LIMIT || !is_dead(fault.data.reason);
    let read = if unread { Value::Null } else { envelope(body) };
    let told = json!({
        "host": host,
        "reason": fault.data.reason,
        "message": reason,
        "size": body.len(),
        "method": read["method"].as_str().map(|method| brief(method, TEXT_MAX)),
        "id": id(&read["id"]),
    });
    let mut headers = FieldTable::default();
    headers.insert(HEADER_REASON.into(), AMQPValue::LongString(reason.into()));
    // Only what helps to find the sender. Of the rest, `user_id` would be refused by the broker
    // where it is not ours, `expiration` would take the letter away, and headers can route it.
    let mut properties = BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(2)
        .with_headers(headers);
    if let Some(name) = of.message_id() {
        properties = properties.with_message_id(name.clone());
    }
    if let Some(name) = of.correlation_id() {
        properties = properties.with_correlation_id(name.clone());
    }
    if let Some(name) = of.app_id() {
        properties = properties.with_app_id(name.clone());
    }
    if let Some(time) = of.timestamp() {
        properties = properties.with_timestamp(*time);
    }
    Letter { body: told.to_string().into_bytes(), properties }
}

/// A text of a stranger's, cut to a length.
pub(super) fn brief(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// The message as JSON, if it is JSON.
fn envelope(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// The id of a request, if it is one and short.
fn id(value: &Value) -> Option<Id> {
    match serde_json::from_value(value.clone()).ok()? {
        Id::Number(number) => Some(Id::Number(number)),
        Id::Text(text) => Some(Id::Text(brief(&text, TEXT_MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &[u8], of: &BasicProperties, fault: &Fault) -> (Value, BasicProperties) {
        let letter = letter("node-1", body, of, fault);
        (serde_json::from_slice(&letter.body).unwrap(), letter.properties)
    }

    #[test]
    fn a_letter_tells_whose_it_is_and_what_is_wrong() {
        let body = br#"{"id": "7", "method": "instance.explode"}"#;
        let of = BasicProperties::default()
            .with_message_id("key-1".into())
            .with_app_id("control-plane".into());
        let fault = Fault::new(Reason::InvalidRequest, "jsonrpc is missing");
        let (told, properties) = told(body, &of, &fault);
        assert_eq!(told["host"], "node-1");
        assert_eq!(told["method"], "instance.explode");
        assert_eq!(told["id"], "7");
        assert_eq!(told["reason"], "invalid_request");
        assert_eq!(told["size"], body.len());
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "key-1");
        assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "control-plane");
    }

    #[test]
    fn no_parameter_and_no_piece_of_what_is_not_json_is_kept() {
        let fault = Fault::new(Reason::ParseError, "no");
        for body in [
            r#"{"method": "instance.pasword", "params": {"password": {"plain": "hunter2"}}}"#,
            r#"{"method": "instance.password", "params": {"password": {"plain": "hunter2"}"#,
            r#"{"method": {"plain": "hunter2"}, "id": ["hunter2"], "password": "hunter2"}"#,
            r#"["hunter2"]"#,
        ] {
            let letter = letter("n", body.as_bytes(), &BasicProperties::default(), &fault);
            let text = String::from_utf8(letter.body).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_would_harm_the_letter_is_left_out() {
        let mut headers = FieldTable::default();
        headers.insert("CC".into(), AMQPValue::LongString("ostler.host.other".into()));
        let of = BasicProperties::default()
            .with_user_id("somebody".into())
            .with_expiration("1".into())
            .with_reply_to("a.queue".into())
            .with_headers(headers);
        let fault = Fault::new(Reason::ParseError, "x".repeat(1 << 20));
        let (_, properties) = told(b"?", &of, &fault);
        assert!(properties.user_id().is_none() && properties.expiration().is_none());
        assert!(properties.reply_to().is_none());
        let headers = properties.headers().clone().unwrap();
        assert!(!headers.inner().contains_key("CC"));
        let Some(AMQPValue::LongString(reason)) = headers.inner().get(HEADER_REASON) else {
            panic!("no reason");
        };
        assert!(reason.as_bytes().len() < 600);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(brief("äöü", 2), "äö...");
        assert_eq!(brief("äöü", 3), "äöü");
    }
}
