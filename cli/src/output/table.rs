//! The two forms of results for people: a table of many, and the fields of one.

use comfy_table::{Cell, Color, LineStyle, Table, TableStyle, presets};

use super::{Lines, Look, Paint};
use crate::clean::clean;

/// What a word says about the thing it is about, and so its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should be.
    Good,
    /// On its way, or worth a look.
    Moving,
    /// Wrong.
    Bad,
    /// Nothing to say.
    Neutral,
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    text: String,
    mood: Mood,
}

impl Field {
    /// A word with a mood.
    pub(super) fn new(text: impl ToString, mood: Mood) -> Self {
        Self { text: clean(&text.to_string()), mood }
    }

    /// Any text.
    pub(super) fn plain(text: impl ToString) -> Self {
        Self::new(text, Mood::Neutral)
    }

    /// A text that may be absent.
    pub(super) fn maybe(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self::plain("-"), Self::plain)
    }

    /// The text alone.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn cell(self) -> Cell {
        let cell = Cell::new_owned(self.text);
        match self.mood {
            Mood::Good => cell.fg(Color::Green),
            Mood::Moving => cell.fg(Color::Yellow),
            Mood::Bad => cell.fg(Color::Red),
            Mood::Neutral => cell,
        }
    }
}

/// Many things, one a line.
pub(super) fn list(look: Look, header: &[&str], rows: impl Iterator<Item = Vec<Field>>) -> String {
    let style = match look.lines {
        Lines::Drawn => {
            TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'))
        }
        Lines::None => presets::NOTHING,
    };
    let mut table = table(look, style);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(Field::cell));
    }
    finish(&table)
}

/// One thing, a field a line.
pub(super) fn fields<N: AsRef<str>>(
    look: Look,
    fields: impl IntoIterator<Item = (N, Field)>,
) -> String {
    let mut table = table(look, presets::NOTHING);
    for (name, field) in fields {
        table.add_row([Field::plain(name.as_ref()).cell(), field.cell()]);
    }
    finish(&table)
}

fn table(look: Look, style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    // Fields are copied out of terminals: they are never wrapped, whatever the window's width.
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    match look.paint {
        Paint::Colors => {
            table.enforce_styling();
            // Without this the padding is coloured too, and gets in the way of trimming it.
            table.style_text_only();
        }
        Paint::Plain => {
            table.force_no_tty();
        }
    }
    table
}

fn finish(table: &Table) -> String {
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    // Without borders every cell is padded on its left: what all lines begin with is not needed.
    if lines.iter().all(|line| line.is_empty() || line.starts_with(' ')) {
        for line in &mut lines {
            line.drain(..usize::from(!line.is_empty()));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { lines: Lines::None, paint: Paint::Plain };

    #[test]
    fn without_a_terminal_there_are_no_lines_and_no_colours() {
        let rows = vec![vec![Field::plain("web"), Field::new("ACTIVE", Mood::Good)]];
        assert_eq!(
            list(PLAIN, &["NAME", "STATUS"], rows.into_iter()),
            "NAME  STATUS\nweb   ACTIVE"
        );
    }

    #[test]
    fn colours_are_used_when_asked_for_only() {
        let one = |paint| {
            let look = Look { lines: Lines::None, paint };
            fields(look, [("status", Field::new("ERROR", Mood::Bad))])
        };
        assert_eq!(one(Paint::Plain), "status  ERROR");
        assert!(one(Paint::Colors).contains("\x1b[38;5;9mERROR"), "{:?}", one(Paint::Colors));
    }

    #[test]
    fn a_field_cannot_break_out_of_its_line() {
        let text = fields(PLAIN, [("name", Field::plain("a\nb\x1b[2J"))]);
        assert_eq!(text, "name  a\u{fffd}b\u{fffd}[2J");
    }
}
