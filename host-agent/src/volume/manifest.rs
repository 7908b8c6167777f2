//! What is noted beside a volume: its layers, and which of them are snapshots. Pure.
//!
//! ```text
//!   0.raw <── 1.qcow2 <── 3.qcow2 = top      what a guest writes goes to the top
//!              │ snapshot "a" = 1
//!              └────── 2.qcow2               the top until a revert: no longer needed, removed
//! ```
//!
//! A layer is written to only while it is the top; each lies on an older one, or on an image, or on
//! nothing. A new top is noted before QEMU goes on there: an empty one reads like what is below it,
//! so whichever of the two a crash leaves as the one that was written to, the volume is whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ostler_protocol::rpc::values::{Bytes, Name, Timestamp, VolumeId};
use ostler_protocol::rpc::volume::Format;
use serde::{Deserialize, Serialize};

/// The most layers a volume has: QEMU opens all of them.
pub(super) const DEEPEST: usize = 64;

/// The version of the file.
const VERSION: u32 = 1;

/// What is noted beside a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    /// The volume, so that a folder that was renamed is not taken for another.
    pub(super) id: VolumeId,
    /// The disk's size.
    pub(super) size: Bytes,
    /// What a guest writes to.
    pub(super) top: u32,
    /// The number of the next layer: none is used twice.
    next: u32,
    pub(super) layers: BTreeMap<u32, Layer>,
    /// Oldest first.
    pub(super) snapshots: Vec<Snapshot>,
}

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layer {
    pub(super) format: Format,
    /// What is read where nothing is written.
    pub(super) below: Below,
}

/// What lies below a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Below {
    /// Zeros.
    Nothing,
    /// An older layer.
    Layer(u32),
    /// An image in the cache, and its format.
    Image(PathBuf, Format),
}

/// A name for what a layer and those below it hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapshot {
    pub(super) name: Name,
    pub(super) layer: u32,
    pub(super) size: Bytes,
    pub(super) created: Timestamp,
}

impl Manifest {
    /// A volume of one layer.
    pub(super) fn new(id: VolumeId, size: Bytes, format: Format, below: Below) -> Self {
        let layers = BTreeMap::from([(0, Layer { format, below })]);
        Self { version: VERSION, id, size, top: 0, next: 1, layers, snapshots: Vec::new() }
    }

    /// Read it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(bytes: &[u8], id: VolumeId) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        manifest.check(id).map(|()| manifest)
    }

    fn check(&self, id: VolumeId) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("its version is {}, and only {VERSION} is known", self.version));
        }
        if self.id != id {
            return Err(format!("it is that of volume {}", self.id));
        }
        if self.layers.len() > DEEPEST {
            return Err(format!("it has more than {DEEPEST} layers"));
        }
        let known = |layer: u32| self.layers.contains_key(&layer);
        let named = self.snapshots.iter().all(|snapshot| known(snapshot.layer));
        // Each is younger than what it lies on: there is no circle.
        let placed = self.layers.iter().all(|(number, layer)| match &layer.below {
            Below::Nothing => true,
            Below::Layer(below) => below < number && known(*below),
            Below::Image(path, _) => path.is_absolute(),
        });
        let counted = self.layers.keys().all(|number| *number < self.next);
        match known(self.top) && named && placed && counted {
            true => Ok(()),
            false => Err("its layers do not fit together".to_owned()),
        }
    }

    /// The snapshot of this name.
    pub(super) fn snapshot(&self, name: &Name) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == *name)
    }

    /// Note a new top over this layer; its number.
    pub(super) fn grow_from(&mut self, layer: u32) -> u32 {
        let number = self.next;
        self.next += 1;
        let below = Below::Layer(layer);
        self.layers.insert(number, Layer { format: Format::Qcow2, below });
        self.top = number;
        number
    }

    /// The layers on this one.
    pub(super) fn above(&self, layer: u32) -> Vec<u32> {
        let on = |found: &&u32| match self.layers[*found].below {
            Below::Layer(below) => below == layer,
            Below::Nothing | Below::Image(..) => false,
        };
        self.layers.keys().filter(on).copied().collect()
    }

    /// Whether a layer is there for its own sake.
    fn is_wanted(&self, layer: u32) -> bool {
        self.top == layer || self.snapshots.iter().any(|snapshot| snapshot.layer == layer)
    }

    /// Forget the layers that nothing lies on and nobody wants; their numbers and formats.
    pub(super) fn prune(&mut self) -> Vec<(u32, Format)> {
        let mut pruned = Vec::new();
        while let Some(bare) = self
            .layers
            .keys()
            .copied()
            .find(|layer| !self.is_wanted(*layer) && self.above(*layer).is_empty())
        {
            if let Some(layer) = self.layers.remove(&bare) {
                pruned.push((bare, layer.format));
            }
        }
        pruned
    }

    /// A layer that nobody wants and that one other lies on, with that one: what it holds can be
    /// put there, and it can go.
    pub(super) fn foldable(&self) -> Option<(u32, u32)> {
        self.layers.keys().filter(|layer| !self.is_wanted(**layer)).find_map(|layer| {
            match self.above(*layer).as_slice() {
                [only] => Some((*layer, *only)),
                _ => None,
            }
        })
    }

    /// Have what lay on `layer` lie on what that lies on, and forget it; its format.
    pub(super) fn fold(&mut self, layer: u32, into: u32) -> Option<Format> {
        let folded = self.layers.remove(&layer)?;
        self.layers.get_mut(&into)?.below = folded.below;
        Some(folded.format)
    }
}

/// The name of a layer's file.
pub(super) fn file_name(layer: u32, format: Format) -> String {
    match format {
        Format::Qcow2 => format!("{layer}.qcow2"),
        Format::Raw => format!("{layer}.raw"),
        Format::Luks => format!("{layer}.luks"),
    }
}

/// QEMU's word for a format.
pub(super) const fn word(format: Format) -> &'static str {
    match format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
        Format::Luks => "luks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::new(VolumeId::random(), Bytes::mib(1), Format::Raw, Below::Nothing)
    }

    fn take(manifest: &mut Manifest, name: &str) {
        let (layer, size) = (manifest.top, manifest.size);
        let name = name.parse().unwrap();
        manifest.snapshots.push(Snapshot { name, layer, size, created: Timestamp(0) });
        manifest.grow_from(layer);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut made = manifest();
        take(&mut made, "a");
        let bytes = serde_json::to_vec(&made).unwrap();
        assert_eq!(Manifest::parse(&bytes, made.id), Ok(made.clone()));
        assert!(Manifest::parse(&bytes, VolumeId::random()).is_err());
    }

    #[test]
    fn layers_in_a_circle_are_refused() {
        let mut made = manifest();
        take(&mut made, "a");
        made.layers.get_mut(&0).unwrap().below = Below::Layer(1);
        assert!(Manifest::parse(&serde_json::to_vec(&made).unwrap(), made.id).is_err());
        let mut made = manifest();
        made.top = 7;
        assert!(Manifest::parse(&serde_json::to_vec(&made).unwrap(), made.id).is_err());
    }

    #[test]
    fn a_layer_goes_when_nobody_needs_it() {
        let mut made = manifest();
        take(&mut made, "a");
        take(&mut made, "b");
        // 0 = a, 1 = b, 2 = top
        assert_eq!(made.prune(), []);
        made.grow_from(0);
        assert_eq!(made.prune(), [(2, Format::Qcow2)], "b is still wanted");
        made.snapshots.retain(|snapshot| snapshot.name.as_str() != "b");
        assert_eq!(made.prune(), [(1, Format::Qcow2)]);
        assert_eq!(made.foldable(), None, "a is wanted");
        made.snapshots.clear();
        assert_eq!(made.foldable(), Some((0, 3)));
        assert_eq!(made.fold(0, 3), Some(Format::Raw));
        assert_eq!(made.layers[&3].below, Below::Nothing);
    }
}
