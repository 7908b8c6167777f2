//! The arguments of every command: whatever they are, they are taken or refused in one line. No command
//! is carried out.

#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use ostler_guest_agent::dispatcher::TABLE;
use ostler_guest_agent::options::{self, Invocation};
use ostler_guest_agent::commands::Agent;
use ostler_protocol::qga::encode;
use ostler_protocol::qga::framing::{Frame, Limits, Parser};
use serde_json::Value;

thread_local! {
    static AGENT: Rc<Agent> = {
        let Ok(Invocation::Serve(settings)) = options::parse(std::iter::empty()) else {
            panic!("no options are good options")
        };
        Rc::new(Agent::new(&settings))
    };
}

fuzz_target!(|input: (u8, &[u8])| {
    let (command, bytes) = input;
    let entry = &TABLE[usize::from(command) % TABLE.len()];
    for frame in Parser::new(Limits::agent()).frames(bytes) {
        let Ok(Frame::Value(Value::Object(given))) = frame else { continue };
        // as a request has them, or alone
        let given = match given.get("arguments") {
            Some(Value::Object(inner)) => inner.clone(),
            _ => given,
        };
        if let Err(fault) = AGENT.with(|agent| entry.check(agent.clone(), given)) {
            let line = encode::fault(&fault, None);
            assert!(line.len() > 2 && !line[..line.len() - 1].contains(&b'\n'));
        }
    }
});
