//! Results for programs: one JSON document, the node's reply as it is.

use serde::Serialize;

use crate::clean::is_hazard;
use crate::failure::{Cause, Failure};

/// A document, indented. Characters a terminal would obey are written as escapes, which mean the
/// same to every reader: outside of strings JSON has none of them but the line break, and inside
/// serde escapes that.
pub(super) fn text(document: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Cause::Local {
        what: "write the result as JSON".to_owned(),
        source: error.into(),
    })?;
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hazard(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazards_are_escaped_and_read_back_the_same() {
        for word in ["\x1b[2J", "\u{9b}2J", "\u{7f}", "a\nb\tc", "\u{202e}x", "\u{e0041}", "ä\"\\"]
        {
            let document = vec![word.to_owned()];
            let json = text(&document).unwrap();
            assert!(!json.chars().any(|c| is_hazard(c) && c != '\n'), "{json:?}");
            assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), document);
        }
    }
}
