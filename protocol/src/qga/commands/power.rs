//! Shutting down and suspending.

use serde::{Deserialize, Serialize};

use super::{Command, Done, Nothing};

/// Shuts the guest down. Success has no reply: only a failure is answered.
#[derive(Debug)]
pub enum GuestShutdown {}

impl Command for GuestShutdown {
    const NAME: &'static str = "guest-shutdown";
    const SUCCESS_RESPONSE: bool = false;
    type Arguments = ShutdownArguments;
    type Reply = Done;
}

/// Arguments of [`GuestShutdown`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownArguments {
    /// How, `powerdown` if absent. The schema has a string here, so a bad word is the command's own
    /// error: see [`ShutdownMode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// How to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Stop and switch off.
    Powerdown,
    /// Stop.
    Halt,
    /// Stop and start again.
    Reboot,
}

impl ShutdownMode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Powerdown => "powerdown",
            Self::Halt => "halt",
            Self::Reboot => "reboot",
        }
    }

    /// The mode of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Powerdown, Self::Halt, Self::Reboot].into_iter().find(|mode| mode.as_str() == word)
    }
}

/// Suspends to disk. Success has no reply.
#[derive(Debug)]
pub enum GuestSuspendDisk {}

impl Command for GuestSuspendDisk {
    const NAME: &'static str = "guest-suspend-disk";
    const SUCCESS_RESPONSE: bool = false;
    type Arguments = Nothing;
    type Reply = Done;
}

/// Suspends to memory and to disk both. Success has no reply.
#[derive(Debug)]
pub enum GuestSuspendHybrid {}

impl Command for GuestSuspendHybrid {
    const NAME: &'static str = "guest-suspend-hybrid";
    const SUCCESS_RESPONSE: bool = false;
    type Arguments = Nothing;
    type Reply = Done;
}

/// Suspends to memory. Success has no reply.
#[derive(Debug)]
pub enum GuestSuspendRam {}

impl Command for GuestSuspendRam {
    const NAME: &'static str = "guest-suspend-ram";
    const SUCCESS_RESPONSE: bool = false;
    type Arguments = Nothing;
    type Reply = Done;
}
