//! Hardware: the board of an instance, and the devices it finds there.
//!
//! The words are those of glance's image properties, so that an image brought over from OpenStack
//! says here what it said there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An enum whose variants are words.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[$what])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// The board.
    MachineType {
        /// PCI Express.
        Q35 = "q35",
        /// The classic PC: plain PCI.
        Pc = "pc",
    }
}

words! {
    /// What the board starts with.
    FirmwareType {
        /// SeaBIOS.
        Bios = "bios",
        /// UEFI.
        Uefi = "uefi",
    }
}

words! {
    /// Whether UEFI starts signed code only.
    SecureBoot {
        /// It does; a node that cannot do that is refused.
        Required = "required",
        /// It does where the node can do that.
        Optional = "optional",
        /// It starts anything.
        Disabled = "disabled",
    }
}

words! {
    /// The version of a TPM.
    TpmVersion {
        /// TPM 2.0.
        Two = "2.0",
    }
}

words! {
    /// How a guest talks to its TPM.
    TpmModel {
        /// Through a command response buffer.
        Crb = "tpm-crb",
        /// Through the older interface (TIS).
        Tis = "tpm-tis",
    }
}

words! {
    /// What the instance's own disks are plugged into.
    RootBus {
        /// virtio-blk.
        Virtio = "virtio",
        /// virtio-scsi.
        Scsi = "scsi",
        /// SATA (AHCI): for guests without drivers of virtio.
        Sata = "sata",
    }
}

words! {
    /// The model of the NICs.
    VifModel {
        /// virtio-net.
        Virtio = "virtio",
        /// Intel's 82574.
        E1000e = "e1000e",
        /// Realtek's.
        Rtl8139 = "rtl8139",
    }
}

words! {
    /// The model of the random number generator, which every instance has.
    RngModel {
        /// virtio-rng.
        Virtio = "virtio",
    }
}

words! {
    /// What the watchdog does when the guest lets it expire.
    Watchdog {
        /// It resets the guest.
        Reset = "reset",
        /// It pulls the plug.
        Poweroff = "poweroff",
        /// It stops the vCPUs.
        Pause = "pause",
        /// It only tells.
        None = "none",
        /// There is none.
        Disabled = "disabled",
    }
}

words! {
    /// Yes or no, as glance writes it.
    YesNo {
        /// Yes.
        Yes = "yes",
        /// No.
        No = "no",
    }
}

/// What an instance is made with: what its image wants and its boot asked for, and for all else
/// what there is by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Hardware {
    /// The board.
    pub machine: MachineType,
    /// What it starts with.
    pub firmware: FirmwareType,
    /// Whether that starts signed code only.
    pub secure_boot: bool,
    /// The TPM 2.0, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmModel>,
    /// What its own disks are plugged into.
    pub disk_bus: RootBus,
    /// The model of its NICs.
    pub vif_model: VifModel,
    /// What its watchdog does.
    pub watchdog: Watchdog,
    /// Whether it has the channel of the standard guest agent.
    pub guest_agent: bool,
    /// Whether it is frozen for a snapshot, or there is none.
    pub require_quiesce: bool,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            machine: MachineType::Q35,
            firmware: FirmwareType::Bios,
            secure_boot: false,
            tpm: None,
            disk_bus: RootBus::Virtio,
            vif_model: VifModel::Virtio,
            watchdog: Watchdog::Reset,
            guest_agent: true,
            require_quiesce: false,
        }
    }
}

/// What a board can do on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Board {
    /// UEFI firmware for it is installed.
    pub uefi: bool,
    /// And such as starts signed code only.
    pub secure_boot: bool,
}

/// What a node can make instances with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Boards {
    /// The board `q35`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q35: Option<Board>,
    /// The board `pc`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pc: Option<Board>,
    /// A software TPM 2.0 is installed.
    pub tpm: bool,
}

impl Boards {
    /// What this board can do; none if the node has no such board.
    pub const fn of(&self, machine: MachineType) -> Option<Board> {
        match machine {
            MachineType::Q35 => self.q35,
            MachineType::Pc => self.pc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_before_there_was_a_choice_has_the_defaults() {
        assert_eq!(serde_json::from_str::<Hardware>("{}").unwrap(), Hardware::default());
    }

    #[test]
    fn a_word_that_is_none_is_answered_with_those_that_are() {
        let wrong = serde_json::from_str::<FirmwareType>("\"efi\"").unwrap_err().to_string();
        for word in FirmwareType::ALL {
            assert!(wrong.contains(word.as_str()), "{wrong}");
        }
    }
}
