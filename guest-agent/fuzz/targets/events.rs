//! What a host reads from a guest it does not trust: any bytes are messages or errors, and what is read
//! stays within the limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_protocol::qga::envelope::{Message, Timestamp};
use ostler_protocol::qga::events::GuestEvent;
use ostler_protocol::qga::framing::{Frame, Limits, Parser};

fuzz_target!(|bytes: &[u8]| {
    for frame in Parser::new(Limits::host()).frames(bytes) {
        let Ok(Frame::Value(value)) = frame else { continue };
        let Ok(Message::Event(event)) = Message::from_value(value) else { continue };
        let Ok(event) = GuestEvent::from_event(event) else { continue };
        let sent = event.to_event(Timestamp::default()).expect("an event has a form");
        let again = GuestEvent::from_event(sent).expect("what is written is read");
        assert_eq!(again, event);
    }
});
