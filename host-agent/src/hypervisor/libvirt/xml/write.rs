//! Writes a document element by element. Errors are kept and told once, at the end, so that the
//! code that lays out a domain reads as the domain does.

use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

use super::XmlError;

/// Attributes: name and value.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a str)];

/// A document being written.
pub(super) struct Document {
    writer: Writer<Vec<u8>>,
    failed: Option<XmlError>,
}

impl Document {
    pub(super) fn new() -> Self {
        Self { writer: Writer::new_with_indent(Vec::new(), b' ', 2), failed: None }
    }

    /// An element without content.
    pub(super) fn leaf(&mut self, name: &str, attributes: Attributes<'_>) {
        let start = self.start(name, attributes);
        self.event(Event::Empty(start));
    }

    /// An element that holds text.
    pub(super) fn text(&mut self, name: &str, attributes: Attributes<'_>, text: &str) {
        self.check(name, text);
        let start = self.start(name, attributes);
        self.event(Event::Start(start));
        self.event(Event::Text(BytesText::new(text)));
        self.event(Event::End(BytesEnd::new(name)));
    }

    /// An element that holds elements.
    pub(super) fn within(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self),
    ) {
        let start = self.start(name, attributes);
        self.event(Event::Start(start));
        content(self);
        self.event(Event::End(BytesEnd::new(name)));
    }

    /// The path as text; the document fails if it is not.
    pub(super) fn path<'p>(&mut self, path: &'p Path) -> &'p str {
        path.to_str().unwrap_or_else(|| {
            self.fail(XmlError::Path { path: path.to_owned() });
            ""
        })
    }

    /// The document, or the first thing that went wrong.
    pub(super) fn finish(self) -> Result<String, XmlError> {
        match self.failed {
            Some(error) => Err(error),
            None => String::from_utf8(self.writer.into_inner())
                .map_err(|error| XmlError::Write { reason: error.to_string() }),
        }
    }

    fn start<'n>(&mut self, name: &'n str, attributes: Attributes<'_>) -> BytesStart<'n> {
        for (_, value) in attributes {
            self.check(name, value);
        }
        BytesStart::new(name).with_attributes(attributes.iter().copied())
    }

    fn event(&mut self, event: Event<'_>) {
        if let Err(error) = self.writer.write_event(event) {
            self.fail(XmlError::Write { reason: error.to_string() });
        }
    }

    fn check(&mut self, element: &str, text: &str) {
        if let Some(character) = text.chars().find(|c| !is_xml_char(*c)) {
            self.fail(XmlError::Character { element: element.to_owned(), character });
        }
    }

    fn fail(&mut self, error: XmlError) {
        self.failed.get_or_insert(error);
    }
}

/// XML 1.0's `Char`. The C1 controls are legal but read differently by XML 1.1, and a carriage
/// return is escaped by the writer.
fn is_xml_char(c: char) -> bool {
    matches!(c,
        '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
