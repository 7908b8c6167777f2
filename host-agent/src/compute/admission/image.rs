//! Images: what a disk is made from, and what boots it. Pure.

use std::collections::BTreeMap;

use ostler_protocol::rpc::image::State as ImageState;
use ostler_protocol::rpc::values::{Name, Sha256};

use super::notes::invalid;
use crate::journal::records::{Base, DirectBoot, ImageRecord, Source};
use crate::refusal::{Action, Reason, Refusal};

/// The longest kernel command line, bytes: the kernel's own COMMAND_LINE_SIZE on x86.
const COMMAND_LINE_MAX: usize = 2047;

/// What a root disk made from this image is made from.
///
/// # Errors
/// There is no such image, it is not here yet, or it is no disk.
pub(in crate::compute) fn source(
    name: &Name,
    images: &BTreeMap<Name, ImageRecord>,
) -> Result<Source, Refusal> {
    let (image, sha256) = ready(images, name, "image")?;
    if !image.format.is_disk() {
        let text = format!("image {} is a {}, not a disk", image.name, image.format.as_str());
        return Err(invalid("image", text));
    }
    let direct = direct_boot(image, images)?;
    let base = Base { sha256, format: image.format, virtual_size: image.virtual_size };
    Ok(Source { image: image.name.clone(), base, direct })
}

/// An image that is in the cache, and the digest of its bytes.
fn ready<'a>(
    images: &'a BTreeMap<Name, ImageRecord>,
    name: &Name,
    parameter: &str,
) -> Result<(&'a ImageRecord, Sha256), Refusal> {
    let missing = || {
        Refusal::new(Reason::NotFound, format!("there is no image {name} on this node"))
            .about(format!("parameter {parameter}"))
            .next("import it, or see which there are")
            .by(Action::ImageImport)
            .by(Action::ImageList)
    };
    let image = images.get(name).ok_or_else(missing)?;
    match (image.state, &image.sha256) {
        (ImageState::Ready, Some(sha256)) => Ok((image, sha256.clone())),
        (ImageState::Importing, _) | (ImageState::Ready, None) => {
            Err(Refusal::new(Reason::Conflict, format!("conflict: image {name} is being imported"))
                .about(format!("parameter {parameter}"))
                .next("wait for the import")
                .by(Action::OperationList))
        }
    }
}

pub(super) fn direct_boot(
    image: &ImageRecord,
    images: &BTreeMap<Name, ImageRecord>,
) -> Result<Option<DirectBoot>, Refusal> {
    let properties = &image.properties;
    let Some(kernel) = &properties.kernel else { return Ok(None) };
    let (_, kernel) = ready(images, kernel, "image")?;
    let ramdisk = match &properties.ramdisk {
        None => None,
        Some(ramdisk) => Some(ready(images, ramdisk, "image")?.1),
    };
    let command_line = properties.command_line.clone().unwrap_or_default();
    Ok(Some(DirectBoot { kernel, ramdisk, command_line }))
}

/// Whether a kernel's command line can be one.
///
/// # Errors
/// `invalid_params`.
pub(in crate::compute) fn command_line(text: &str) -> Result<(), Refusal> {
    if text.len() <= COMMAND_LINE_MAX && text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Ok(());
    }
    let text =
        format!("a kernel command line is printable ASCII, {COMMAND_LINE_MAX} bytes at most");
    Err(invalid("properties.command_line", text))
}
