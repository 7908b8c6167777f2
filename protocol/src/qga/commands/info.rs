//! The agent itself, and the system it runs in.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Tells the agent's version and commands.
#[derive(Debug)]
pub enum GuestInfo {}

impl Command for GuestInfo {
    const NAME: &'static str = "guest-info";
    type Arguments = Nothing;
    type Reply = AgentInfo;
}

/// The agent's version and commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its version, bare.
    pub version: String,
    /// What it has, the forbidden included. The schema spells this one with an underscore.
    pub supported_commands: Vec<CommandInfo>,
}

/// A command the agent has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CommandInfo {
    /// Its name.
    pub name: String,
    /// Whether it would run now.
    pub enabled: bool,
    /// Whether a reply follows its success.
    pub success_response: bool,
}

/// Tells the operating system.
#[derive(Debug)]
pub enum GuestGetOsinfo {}

impl Command for GuestGetOsinfo {
    const NAME: &'static str = "guest-get-osinfo";
    type Arguments = Nothing;
    type Reply = OsInfo;
}

/// The operating system, as far as it says what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct OsInfo {
    /// Release of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// Version of the kernel: the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    /// Architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// `ID` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `NAME` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `PRETTY_NAME` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
    /// `VERSION` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `VERSION_ID` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// `VARIANT` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `VARIANT_ID` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant_id: Option<String>,
}

/// Tells the host name.
#[derive(Debug)]
pub enum GuestGetHostName {}

impl Command for GuestGetHostName {
    const NAME: &'static str = "guest-get-host-name";
    type Arguments = Nothing;
    type Reply = HostName;
}

/// The host name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostName {
    /// As the kernel has it: not the fully qualified one.
    pub host_name: String,
}
