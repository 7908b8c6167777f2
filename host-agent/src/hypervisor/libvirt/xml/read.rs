//! Reads a document into a small tree, within bounds: the text comes from the hypervisor, which
//! keeps what anybody on the node wrote there.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};

use super::XmlError;

/// Elements within elements.
const MAX_DEPTH: usize = 64;
/// Elements in all. A node's domain capabilities have some two thousand.
const MAX_ELEMENTS: usize = 100_000;

/// An element; names without their namespace prefix.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    /// Its text, the pieces between its children put together.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child that must be there.
    pub(super) fn required(&self, name: &'static str) -> Result<&str, XmlError> {
        self.child(name).map(|child| child.text.as_str()).ok_or(XmlError::Missing { element: name })
    }
}

/// The document's root element.
pub(super) fn parse(xml: &str) -> Result<Element, XmlError> {
    let mut reader = Reader::from_str(xml);
    let mut open: Vec<Element> = Vec::new();
    let mut elements = 0usize;
    loop {
        let event = reader.read_event().map_err(wrong)?;
        match event {
            Event::Start(start) => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                    return Err(refused("too deep or too large"));
                }
                open.push(element(&start)?);
            }
            Event::Empty(start) => {
                elements += 1;
                if elements > MAX_ELEMENTS {
                    return Err(refused("too large"));
                }
                let empty = element(&start)?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(empty),
                    None => return Ok(empty),
                }
            }
            Event::End(_) => {
                let closed = open.pop().ok_or_else(|| refused("an end without a start"))?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(closed),
                    None => return Ok(closed),
                }
            }
            Event::Text(text) => append(&mut open, &text.xml10_content()),
            Event::CData(text) => append(&mut open, &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let mut buffer = [0; 4];
                let text = match reference.resolve_char_ref().map_err(wrong)? {
                    Some(character) => &*character.encode_utf8(&mut buffer),
                    None => resolve_xml_entity(&reference)
                        .ok_or_else(|| refused("an entity that is not XML's own"))?,
                };
                append(&mut open, text);
            }
            Event::DocType(_) => return Err(refused("a document type")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return Err(refused("it ends early")),
        }
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(wrong)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(wrong)?;
        attributes.push((attribute.key.local_name().as_ref().to_owned(), value.into_owned()));
    }
    Ok(Element { name: start.local_name().as_ref().to_owned(), attributes, ..Element::default() })
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn wrong(error: impl std::fmt::Display) -> XmlError {
    XmlError::Read { reason: error.to_string() }
}

fn refused(reason: &str) -> XmlError {
    XmlError::Read { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_and_prefixes_are_resolved() {
        let root =
            parse("<o:a xmlns:o='u' k='1 &lt; 2'>x &amp; &#x79;<o:b>z</o:b><c/></o:a>").unwrap();
        assert_eq!(root.name, "a");
        assert_eq!(root.attribute("k"), Some("1 < 2"));
        assert_eq!(root.text, "x & y");
        assert_eq!(root.required("b"), Ok("z"));
        assert!(root.child("c").is_some());
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let deep = "<a>".repeat(MAX_DEPTH + 1);
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        for bad in ["", "text", "<a>", "<a></b>", "<a>&lol;</a>", "<!DOCTYPE a><a/>", &deep, &wide]
        {
            assert!(parse(bad).is_err(), "{:?} was taken", &bad[..bad.len().min(40)]);
        }
    }
}
