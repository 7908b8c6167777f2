//! What people write to a record: owners and metadata. Pure.

use std::collections::BTreeMap;

use crate::refusal::{Reason, Refusal};

/// The longest owner, key or value of metadata, bytes; nova's bound.
const TEXT_MAX: usize = 255;
/// The most items of metadata; nova's default.
const METADATA_MAX: usize = 128;

pub(super) fn invalid(parameter: &str, text: String) -> Refusal {
    Refusal::new(Reason::InvalidParams, text).about(format!("parameter {parameter}"))
}

/// What is noted about an instance, within bounds.
///
/// # Errors
/// `invalid_params`.
pub(in crate::compute) fn notes(
    owner: Option<&str>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    text("owner", owner.unwrap_or_default(), TEXT_MAX)?;
    if metadata.len() > METADATA_MAX {
        let text = format!("an instance has at most {METADATA_MAX} items of metadata");
        return Err(invalid("metadata", text));
    }
    metadata.iter().try_for_each(|(key, value)| {
        if key.is_empty() {
            return Err(invalid("metadata", "a key of metadata cannot be empty".to_owned()));
        }
        text("metadata", key, TEXT_MAX).and_then(|()| text("metadata", value, TEXT_MAX))
    })
}

/// A text that may be shown and written anywhere: short, without control characters.
///
/// # Errors
/// `invalid_params`.
pub(in crate::compute) fn text(parameter: &str, text: &str, most: usize) -> Result<(), Refusal> {
    // What XML cannot carry, the domain's metadata cannot.
    let bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    if text.len() <= most && !text.chars().any(bad) {
        return Ok(());
    }
    let text = format!("{parameter} is at most {most} bytes without control characters");
    Err(invalid(parameter, text))
}
