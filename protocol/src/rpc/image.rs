//! Images: what instances are made from, kept in the node's cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guest::work::Data;
use super::hardware::{
    FirmwareType, MachineType, RngModel, RootBus, SecureBoot, TpmModel, TpmVersion, VifModel,
    Watchdog, YesNo,
};
use super::values::{Bytes, Name, Sha256, Sha512, Timestamp, UploadId};

/// What an image's bytes are. Declared by whoever imports it, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A QEMU copy-on-write disk, version 2 or 3, without backing file.
    Qcow2,
    /// A disk, byte for byte.
    Raw,
    /// A VMware disk of type streamOptimized; converted to qcow2 when it is imported.
    Vmdk,
    /// A Hyper-V disk without parent; converted to qcow2 when it is imported.
    Vhdx,
    /// A VirtualBox disk without parent; converted to qcow2 when it is imported.
    Vdi,
    /// A CD or DVD with an ISO 9660 file system, which a guest has as a CD-ROM.
    Iso,
    /// A Linux kernel, for direct boot.
    Kernel,
    /// An initial ramdisk, for direct boot.
    Ramdisk,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 8] = [
        Self::Qcow2,
        Self::Raw,
        Self::Vmdk,
        Self::Vhdx,
        Self::Vdi,
        Self::Iso,
        Self::Kernel,
        Self::Ramdisk,
    ];

    /// What a node keeps of it.
    pub const fn kept(self) -> Self {
        match self {
            Self::Vmdk | Self::Vhdx | Self::Vdi => Self::Qcow2,
            Self::Qcow2 | Self::Raw | Self::Iso | Self::Kernel | Self::Ramdisk => self,
        }
    }

    /// Whether an instance's root disk can be made from it.
    pub const fn is_disk(self) -> bool {
        match self {
            Self::Qcow2 | Self::Raw | Self::Vmdk | Self::Vhdx | Self::Vdi | Self::Iso => true,
            Self::Kernel | Self::Ramdisk => false,
        }
    }

    /// Whether a guest has it as a CD-ROM, which it can only read.
    pub const fn is_cdrom(self) -> bool {
        matches!(self, Self::Iso)
    }

    /// QEMU's word for how it is laid out.
    pub const fn layout(self) -> &'static str {
        match self {
            Self::Iso => Self::Raw.as_str(),
            Self::Qcow2
            | Self::Raw
            | Self::Vmdk
            | Self::Vhdx
            | Self::Vdi
            | Self::Kernel
            | Self::Ramdisk => self.as_str(),
        }
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Iso => "iso",
            Self::Kernel => "kernel",
            Self::Ramdisk => "ramdisk",
        }
    }
}

/// How a file that is imported is compressed. Declared like the format, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// gzip (`.gz`).
    Gzip,
    /// xz (`.xz`).
    Xz,
    /// Zstandard (`.zst`).
    Zstd,
}

impl Compression {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// What instances made from a disk image need besides the disk. The hardware goes by glance's own
/// keys and words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    /// An image of format `kernel`: boot it directly, without firmware and boot loader (nova's
    /// `kernel_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Name>,
    /// An image of format `ramdisk` that goes with the kernel (nova's `ramdisk_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<Name>,
    /// The kernel's command line (nova's `os_command_line`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// The least memory an instance needs, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<Bytes>,
    /// The smallest root disk an instance needs, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_disk: Option<Bytes>,
    /// The board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_machine_type: Option<MachineType>,
    /// What it starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_firmware_type: Option<FirmwareType>,
    /// Whether UEFI starts signed code only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_secure_boot: Option<SecureBoot>,
    /// The TPM an instance has; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_tpm_version: Option<TpmVersion>,
    /// How the guest talks to its TPM; `tpm-crb` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_tpm_model: Option<TpmModel>,
    /// What the instance's own disks are plugged into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_disk_bus: Option<RootBus>,
    /// The model of its NICs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_vif_model: Option<VifModel>,
    /// The model of its random number generator, which every instance has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_rng_model: Option<RngModel>,
    /// What its watchdog does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_watchdog_action: Option<Watchdog>,
    /// Whether it has the channel of the standard guest agent; `yes` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_qemu_guest_agent: Option<YesNo>,
    /// Whether a snapshot of it that runs fails if the guest cannot be frozen; `no` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_require_quiesce: Option<YesNo>,
}

/// Parameters of `image.import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// What it is called on this node.
    pub name: Name,
    /// An absolute path on the node, an http or https URL, or `upload:` and the id of bytes that
    /// were sent by `image.upload`.
    pub source: String,
    /// What its bytes are, unpacked.
    pub format: Format,
    /// How the source is compressed: it is unpacked on the node, and kept so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// What the bytes of the source must hash to, before they are unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// The same by SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Sha512>,
    /// What instances made from it need.
    #[serde(default)]
    pub properties: Properties,
}

/// Parameters of `image.export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The image.
    pub name: Name,
    /// Where its bytes go: an absolute path on the node at which nothing is, in one of
    /// `images.export_directories`, or an http or https URL, for a PUT.
    pub to: String,
}

/// What a source begins with that is an upload: its id follows.
pub const UPLOAD: &str = "upload:";

/// Parameters of `image.upload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Which upload; a random UUID. The first piece begins it.
    pub id: UploadId,
    /// Where the piece goes, bytes; at most what is there already.
    pub offset: u64,
    /// The piece, in base64, 512 KiB at most.
    pub data: Data,
}

/// The answer to `image.upload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Uploaded {
    /// Bytes that are there by now.
    pub size: Bytes,
}

/// Parameters of `image.remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The image.
    pub name: Name,
}

/// Where an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ImageState")]
pub enum State {
    /// Being fetched and checked.
    Importing,
    /// In the cache.
    Ready,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// What it is called.
    pub name: Name,
    /// Where it is.
    pub state: State,
    /// What its bytes are.
    pub format: Format,
    /// Where it came from, without credentials.
    pub source: String,
    /// What its bytes hash to, as they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// Bytes of the file.
    pub size: Bytes,
    /// Bytes of the disk inside.
    pub virtual_size: Bytes,
    /// What instances made from it need.
    pub properties: Properties,
    /// How many instances are made from it.
    pub instances: u32,
    /// How many volumes lie on its file.
    #[serde(default)]
    pub volumes: u32,
    /// When it was last made into something or given up by something, or else imported; of what
    /// has the same file, the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
    /// When its import was accepted.
    pub created: Timestamp,
}
