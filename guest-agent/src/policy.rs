//! What the guest's owner lets the host do.
//!
//! A profile says how far commands may go; lists permit or refuse single ones on top of it. All that
//! decides is in a command's row of the table, so it is decided before its arguments are looked at.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ostler_protocol::qga::envelope::Disabled;

/// What a command does to the guest, the least first. A [`Profile`] permits up to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It only looks, and sees nothing private.
    Reads,
    /// It changes how the guest runs, in a way that is named (its clock, its power, a password), or
    /// reads any file.
    Manages,
    /// It can change anything: programs, file contents, who may log in by key.
    Commands,
}

/// How far commands may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// They look.
    Observe,
    /// They also do what hosts do to guests: shut down, freeze, set the clock or a password.
    Manage,
    /// They do anything: run programs, write files, change keys. What stock agents permit.
    #[default]
    Full,
}

/// No profile has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile '{0}': it is observe, manage or full")]
pub struct ProfileError(String);

impl Profile {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Manage => "manage",
            Self::Full => "full",
        }
    }

    /// The most it permits.
    const fn limit(self) -> Effect {
        match self {
            Self::Observe => Effect::Reads,
            Self::Manage => Effect::Manages,
            Self::Full => Effect::Commands,
        }
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(name: &str) -> Result<Self, ProfileError> {
        [Self::Observe, Self::Manage, Self::Full]
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| ProfileError(name.to_owned()))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which commands the guest's owner permits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How far they may go.
    pub profile: Profile,
    /// If given, only these.
    pub allowed: Option<BTreeSet<String>>,
    /// Of those, none of these.
    pub blocked: BTreeSet<String>,
}

impl Policy {
    /// Why a command of this name and effect is refused, if it is.
    pub fn refusal(&self, name: &str, effect: Effect) -> Option<Disabled> {
        let listed = self.allowed.as_ref().is_none_or(|allowed| allowed.contains(name))
            && !self.blocked.contains(name);
        if !listed {
            Some(Disabled::Blocked)
        } else if effect > self.profile.limit() {
            Some(Disabled::Profile(self.profile.name()))
        } else {
            None
        }
    }

    /// Whether what `effect` says may be done: for a command whose arguments decide what it does.
    pub fn permits(&self, effect: Effect) -> Result<(), Disabled> {
        if effect > self.profile.limit() {
            return Err(Disabled::Profile(self.profile.name()));
        }
        Ok(())
    }
}
