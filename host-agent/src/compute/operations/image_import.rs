//! Import: fetch an image into the node's cache, and check it.

use std::path::Path;

use ostler_protocol::rpc::image::{self, Compression, State as ImageState};
use ostler_protocol::rpc::values::{Sha256, Sha512, UploadId};

use super::digest::split_query;
use super::prelude::*;
use crate::compute::admission::{Reservation, hardware, image as rules};
use crate::compute::registry::Volatile;
use crate::journal::records::ImageRecord;
use crate::journal::{Entry, Write};

/// The longest source, bytes.
const SOURCE_MAX: usize = 4096;

/// Fetch the image its record describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct ImageImport {
    /// What the bytes received must hash to.
    pub(in crate::compute) sha256: Option<Sha256>,
    /// The same by SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::compute) sha512: Option<Sha512>,
    /// How they are compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::compute) compression: Option<Compression>,
    /// The URL has a part that may be a secret and is only in memory.
    pub(in crate::compute) partial_source: bool,
}

pub(super) fn ask(import: image::Import, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let subject = Subject::Image(import.name.clone());
    gate.idle(&subject)?;
    if gate.known.images.contains_key(&import.name) {
        let text = format!("conflict: there is an image {} already", import.name);
        return Err(Refusal::new(Reason::Conflict, text)
            .about(subject.to_string())
            .next("choose another name, or remove the image")
            .by(Action::ImageRemove));
    }
    check_source(&import.source)?;
    if let Some(text) = &import.properties.command_line {
        rules::command_line(text)?;
    }
    hardware::check(&import.properties)?;
    let (source, partial_source) = split_query(&import.source);
    let record = ImageRecord {
        name: import.name.clone(),
        state: ImageState::Importing,
        format: import.format,
        source: source.to_owned(),
        sha256: None,
        size: Bytes(0),
        virtual_size: Bytes(0),
        properties: import.properties,
        created: gate.now,
    };
    gate.known.images.insert(record.name.clone(), record.clone());
    let image::Import { sha256, sha512, compression, .. } = import;
    let change = ImageImport { sha256, sha512, compression, partial_source };
    Ok(Admitted {
        volatile: Volatile {
            source: partial_source.then_some(import.source),
            ..Volatile::default()
        },
        reserved: Reservation { new_image: Some(record.name.clone()), ..Reservation::default() },
        write: Write { image: Some(Entry::Put(record)), ..Write::default() },
        ..Admitted::of(subject, change)
    })
}

/// A source is an absolute path, an http(s) URL without credentials in it, or an upload.
fn check_source(source: &str) -> Result<(), Refusal> {
    let is_upload =
        || source.strip_prefix(image::UPLOAD).is_some_and(|id| id.parse::<UploadId>().is_ok());
    if check_url(source, "source")? || Path::new(source).is_absolute() || is_upload() {
        return Ok(());
    }
    let text = "the source must be an absolute path on the node, an http or https URL, or upload: \
                and the id of an upload";
    Err(invalid("source", text))
}

/// Whether a text, which is not too long, is an http(s) URL; one with credentials in it is refused.
pub(super) fn check_url(text: &str, parameter: &str) -> Result<bool, Refusal> {
    if text.len() > SOURCE_MAX || text.chars().any(char::is_control) {
        let why = format!("the {parameter} is at most 4096 characters without control characters");
        return Err(invalid(parameter, why));
    }
    let Some((_, rest)) = text.split_once("://").filter(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    }) else {
        return Ok(false);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        let why = "a URL with credentials is not taken: they would be written down";
        return Err(invalid(parameter, why));
    }
    if authority.is_empty() {
        return Err(invalid(parameter, "the URL names no host"));
    }
    Ok(true)
}

pub(super) fn invalid(parameter: &str, text: impl Into<String>) -> Refusal {
    Refusal::new(Reason::InvalidParams, text).about(format!("parameter {parameter}"))
}

pub(super) fn samples() -> Vec<Change> {
    vec![
        ImageImport { sha256: None, sha512: None, compression: None, partial_source: false }.into(),
    ]
}

impl Describe for ImageImport {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::FetchImage])
    }

    fn permit(&self) -> Permit {
        Permit::Download
    }

    // One that failed leaves nothing; one that succeeded has set the record itself.
    fn image_after(
        &self,
        image: &Name,
        known: Option<&ImageRecord>,
        outcome: State,
    ) -> Option<Entry<ImageRecord>> {
        match outcome {
            State::Succeeded => known.cloned().map(Entry::Put),
            State::Queued | State::Running | State::Failed | State::Cancelled | State::Undone => {
                Some(Entry::Gone(image.clone()))
            }
        }
    }
}
