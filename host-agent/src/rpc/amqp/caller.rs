//! Who asks over the broker, for the log: what the broker proves, and what the message claims.

use lapin::BasicProperties;

/// The longest name taken over from a message, characters.
const NAME: usize = 64;

/// As in `amqp user_id=alice app_id=control-plane`. The broker takes no message whose `user_id` is not
/// the login it came by; `app_id` is whatever its sender wrote.
pub(super) fn caller(of: &BasicProperties) -> String {
    let mut caller = "amqp".to_owned();
    for (property, name) in [("user_id", of.user_id()), ("app_id", of.app_id())] {
        if let Some(name) = name {
            caller.push_str(&format!(" {property}={}", plain(name.as_str())));
        }
    }
    caller
}

/// A name with nothing in it that could pass for another property, or act on a terminal.
fn plain(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "._@:/+-".contains(c) { c } else { '_' };
    name.chars().take(NAME).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_and_cannot_pass_for_another() {
        let none = BasicProperties::default();
        assert_eq!(caller(&none), "amqp");
        let known = none.clone().with_user_id("alice".into()).with_app_id("nova-1".into());
        assert_eq!(caller(&known), "amqp user_id=alice app_id=nova-1");
        let sly = none.clone().with_app_id("x user_id=root\n\u{1b}[2J\u{202e}".into());
        assert_eq!(caller(&sly), "amqp app_id=x_user_id_root___2J_");
        let long = none.with_app_id("x".repeat(255).into());
        assert_eq!(caller(&long).len(), "amqp app_id=".len() + NAME);
    }
}
