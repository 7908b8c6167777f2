//! Texts of others, made fit for a terminal.
//!
//! They come from nodes and from the guests behind them, and must not move the cursor, set the title
//! or rewrite what stands on the operator's terminal.

/// A text of several lines without anything else a terminal would obey.
pub(crate) fn clean_lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\t').map(clean).collect::<Vec<_>>().join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A text without anything a terminal would obey: control characters, and the marks that reorder
/// or hide what is around them. What was there stays visible as a replacement character.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_hazard(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether a terminal may do anything else with a character than show it.
pub(crate) fn is_hazard(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_is_printed() {
        let text = clean("a\x1b]0;title\x07\x1b[2J\r\nb\u{9b}31m\u{202e}c\u{200b}ä漢");
        assert_eq!(
            text,
            "a\u{fffd}]0;title\u{fffd}\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}31m\u{fffd}c\u{fffd}ä漢"
        );
    }
}
