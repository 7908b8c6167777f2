//! Which ones a caller means.

use ostler_protocol::rpc::values::InstanceId;

use crate::refusal::{Action, Reason, Refusal};

/// Whether a name fits a pattern in which `*` stands for any characters.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

pub(super) fn no_instance(id: InstanceId) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no instance {id}"))
        .about(format!("instance {id}"))
        .next("see which there are")
        .by(Action::InstanceList)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for pattern in ["web-1", "web*", "*1", "w*b*1", "*", "**", "*web-1*", "web-1*"] {
            assert!(fits(pattern, "web-1"), "{pattern}");
        }
        for pattern in ["", "web", "eb-1", "web-1*1", "*2", "1*", "w*x*1"] {
            assert!(!fits(pattern, "web-1"), "{pattern}");
        }
    }
}
