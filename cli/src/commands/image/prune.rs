//! `ostler image prune`: makes room by removing images that nothing needs and that can be imported
//! again. Each is an operation of its own, `image.remove`, which the node refuses if somebody came
//! to need the image meanwhile. Images made of instances are the only copy there is, and stay.

use std::time::Duration;

use clap::Args;
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::host::{Host, Nothing};
use ostler_protocol::rpc::image::{Image, Select, State, UPLOAD};
use ostler_protocol::rpc::method::{HostShow, ImageList, ImageRemove};
use ostler_protocol::rpc::values::{Bytes, Name, Timestamp};
use serde::Serialize;

use crate::args::{Changing, span};
use crate::commands::Session;
use crate::failure::{Cause, Failure};
use crate::reply::Shown;
use crate::size;

/// Which images to remove.
#[derive(Args)]
pub(crate) struct PruneArgs {
    /// Leave those alone that were used in this time, as in 30d
    #[arg(long, value_name = "AGE", value_parser = span)]
    unused_for: Option<Duration>,
    /// Stop when this much is free on the node's disk, as in 50G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    until_free: Option<Bytes>,
    /// Only tell which would be removed
    #[arg(long)]
    dry_run: bool,
}

/// What was removed, or would be.
#[derive(Serialize)]
struct Pruned {
    removed: Vec<Removed>,
    frees: Bytes,
    dry_run: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct Removed {
    name: Name,
    /// Nothing, while its file has another name.
    frees: Bytes,
}

impl PruneArgs {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let images: Vec<Shown<Image>> = session.client.ask::<ImageList, _>(&Nothing {}).await?;
        // Of an image with a word this command does not know, it cannot be told what needs it.
        if images.iter().any(|image| image.known.is_none()) {
            let message = "the node has images that this command is too old for";
            return Err(
                Cause::usage(message, "use the ostler of the node's version".to_owned()).into()
            );
        }
        let images: Vec<Image> = images.into_iter().filter_map(|image| image.known).collect();
        let mut free = match self.until_free {
            Some(_) => session.client.ask::<HostShow, Host>(&Nothing {}).await?.disk_available,
            None => Bytes(0),
        };
        let now = Timestamp::now();
        let mut pruned = Pruned { removed: Vec::new(), frees: Bytes(0), dry_run: self.dry_run };
        let mut left: Vec<&Image> = images.iter().collect();
        for image in unused(&images, now, self.unused_for.unwrap_or_default()) {
            if self.until_free.is_some_and(|wanted| free >= wanted) {
                break;
            }
            if !self.dry_run && !remove(session, &image.name).await? {
                continue;
            }
            left.retain(|other| other.name != image.name);
            let shared = left.iter().any(|other| is_same_file(other, image));
            let frees = if shared { Bytes(0) } else { image.size };
            free = Bytes(free.0.saturating_add(frees.0));
            pruned.frees = Bytes(pruned.frees.0.saturating_add(frees.0));
            pruned.removed.push(Removed { name: image.name.clone(), frees });
        }
        let word = if self.dry_run { "would be" } else { "is" };
        let line = |it: &Removed| format!("image {} {word} removed: {}", it.name, it.frees);
        let mut lines: Vec<String> = pruned.removed.iter().map(line).collect();
        lines.push(format!(
            "{} {}",
            pruned.frees,
            if self.dry_run { "would be freed" } else { "are freed" }
        ));
        session.output.sentences(&pruned, &lines)
    }
}

/// Remove an image; false if somebody needs it by now, or has removed it.
async fn remove(session: &mut Session, name: &Name) -> Result<bool, Failure> {
    let changing = Changing { no_wait: false, key: None };
    match session.follow::<ImageRemove>(&Select { name: name.clone() }, &changing).await {
        Ok(_) => Ok(true),
        Err(Failure { cause: Cause::Refused(fault), .. })
            if matches!(fault.data.reason, Reason::InUse | Reason::Conflict | Reason::NotFound) =>
        {
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

/// The images that nothing has needed for so long, in the order they go. A kernel or a ramdisk
/// goes after the last image that is booted with it.
fn unused(images: &[Image], now: Timestamp, age: Duration) -> Vec<&Image> {
    let last = |image: &Image| image.used.map_or(image.created, |used| used.max(image.created));
    let is_idle = |image: &Image| {
        let old = u128::from(now.since(last(image))) >= age.as_millis();
        let only_copy = ["instance ", UPLOAD].iter().any(|word| image.source.starts_with(word));
        image.state == State::Ready && image.instances + image.volumes == 0 && old && !only_copy
    };
    let boots_with = |image: &Image, part: &Image| {
        let properties = &image.properties;
        [&properties.kernel, &properties.ramdisk].contains(&&Some(part.name.clone()))
    };
    let booted_with = |part: &Image| {
        let name = part.clone();
        images.iter().filter(move |image| boots_with(image, &name))
    };
    let goes = |image: &&Image| is_idle(image) && booted_with(image).all(is_idle);
    let mut going: Vec<&Image> = images.iter().filter(goes).collect();
    going.sort_by_key(|image| {
        let latest = booted_with(image).map(last).chain([last(image)]).max();
        (latest, !image.format.is_disk())
    });
    going
}

fn is_same_file(one: &Image, other: &Image) -> bool {
    one.sha256 == other.sha256 && one.format == other.format
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn image(name: &str, used: u64, more: Value) -> Image {
        let mut image = json!({
            "name": name, "state": "ready", "format": "raw", "source": "/a", "size": 1,
            "virtual_size": 1, "properties": {}, "instances": 0, "created": 1, "used": used,
        });
        for (key, value) in more.as_object().unwrap() {
            image[key] = value.clone();
        }
        serde_json::from_value(image).unwrap()
    }

    fn names(images: &[Image], age: u64) -> Vec<&str> {
        let unused = unused(images, Timestamp(1000), Duration::from_millis(age));
        unused.into_iter().map(|image| image.name.as_str()).collect()
    }

    #[test]
    fn what_is_needed_or_the_only_copy_stays_and_the_rest_goes_oldest_use_first() {
        let images = [
            image("late", 900, json!({})),
            image("early", 100, json!({})),
            image("instance", 1, json!({"instances": 1})),
            image("volume", 1, json!({"volumes": 1})),
            image("coming", 1, json!({"state": "importing"})),
            image("snapshot", 1, json!({"source": "instance 0f8f"})),
            image("sent", 1, json!({"source": "upload:0f8fad5b-d9cb-469f-a165-70867728950e"})),
        ];
        assert_eq!(names(&images, 0), ["early", "late"]);
        assert_eq!(names(&images, 500), ["early"]);
    }

    #[test]
    fn a_kernel_goes_after_what_is_booted_with_it_and_stays_with_it() {
        let kernel = || image("kernel", 1, json!({"format": "kernel"}));
        let disk = |more: Value| {
            let mut all = json!({"properties": {"kernel": "kernel"}});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            image("disk", 500, all)
        };
        assert_eq!(names(&[kernel(), disk(json!({}))], 0), ["disk", "kernel"]);
        assert!(names(&[kernel(), disk(json!({"instances": 1}))], 0).is_empty());
        assert!(names(&[kernel(), disk(json!({}))], 600).is_empty());
    }
}
