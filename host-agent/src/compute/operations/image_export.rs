//! Export: write an image's bytes to a file of the node, or send them to a server.

use ostler_protocol::rpc::image::{self, State as ImageState};

use super::digest::split_query;
use super::image_import::{check_url, invalid};
use super::prelude::*;
use crate::compute::registry::Volatile;
use crate::image::Destination;

/// Export the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct ImageExport {
    /// Where to, without the query of a URL.
    pub(in crate::compute) to: String,
    /// The URL has a part that may be a secret and is only in memory.
    pub(in crate::compute) partial: bool,
}

pub(super) fn ask(export: image::Export, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let image::Export { name, to } = export;
    let subject = Subject::Image(name.clone());
    gate.idle(&subject)?;
    check_url(&to, "to")?;
    if let Err(error) = to.parse::<Destination>() {
        return Err(invalid("to", error.to_string()));
    }
    let Some(image) = gate.known.images.get(&name) else {
        return Err(Refusal::new(Reason::NotFound, format!("there is no image {name}"))
            .about(subject.to_string())
            .next("see which there are")
            .by(Action::ImageList));
    };
    if image.state == ImageState::Importing || image.sha256.is_none() {
        let text = format!("conflict: image {name} is being made");
        return Err(Refusal::new(Reason::Conflict, text)
            .about(subject.to_string())
            .next("wait for it")
            .by(Action::OperationList));
    }
    let (plain, partial) = split_query(&to);
    let change = ImageExport { to: plain.to_owned(), partial };
    Ok(Admitted {
        volatile: Volatile { to: partial.then_some(to), ..Volatile::default() },
        ..Admitted::of(subject, change)
    })
}

pub(super) fn samples() -> Vec<Change> {
    let to = |to: &str| ImageExport { to: to.to_owned(), partial: false }.into();
    vec![to("/srv/exports/debian.qcow2"), to("https://images.example/debian.qcow2")]
}

impl ImageExport {
    fn is_file(&self) -> bool {
        self.to.starts_with('/')
    }
}

impl Describe for ImageExport {
    fn plan(&self, _: Running) -> Plan {
        match self.is_file() {
            true => Plan::of(&[Step::ExportImage, Step::KeepExport]),
            false => Plan::of(&[Step::ExportImage]),
        }
    }

    fn permit(&self) -> Permit {
        Permit::Copy
    }

    // What a server has taken, it has.
    fn can_undo(&self) -> bool {
        self.is_file()
    }
}
