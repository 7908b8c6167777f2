//! Memory, in the blocks that can be taken into use and out of it.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Lists the memory blocks.
#[derive(Debug)]
pub enum GuestGetMemoryBlocks {}

impl Command for GuestGetMemoryBlocks {
    const NAME: &'static str = "guest-get-memory-blocks";
    type Arguments = Nothing;
    type Reply = Vec<MemoryBlock>;
}

/// Takes memory blocks into use or out of it, and tells of each what came of it.
#[derive(Debug)]
pub enum GuestSetMemoryBlocks {}

impl Command for GuestSetMemoryBlocks {
    const NAME: &'static str = "guest-set-memory-blocks";
    type Arguments = SetMemoryBlocksArguments;
    type Reply = Vec<MemoryBlockResponse>;
}

/// Arguments of [`GuestSetMemoryBlocks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SetMemoryBlocksArguments {
    /// The blocks, in the order in which they are to be changed.
    pub mem_blks: Vec<MemoryBlock>,
}

/// A block of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MemoryBlock {
    /// Its number.
    pub phys_index: u64,
    /// Whether it is in use.
    pub online: bool,
    /// Whether it can be taken out of use; without meaning in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_offline: Option<bool>,
}

/// What came of the change of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryBlockResponse {
    /// Its number.
    pub phys_index: u64,
    /// What came of it.
    pub response: MemoryBlockResult,
    /// The kernel's error, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<i64>,
}

/// Whether a block is as was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryBlockResult {
    /// It is.
    Success,
    /// There is no such block.
    NotFound,
    /// This system cannot do it.
    OperationNotSupported,
    /// The kernel refused.
    OperationFailed,
    /// A word a later agent has; never sent.
    #[serde(other)]
    Unknown,
}

/// Tells the size of a memory block.
#[derive(Debug)]
pub enum GuestGetMemoryBlockInfo {}

impl Command for GuestGetMemoryBlockInfo {
    const NAME: &'static str = "guest-get-memory-block-info";
    type Arguments = Nothing;
    type Reply = MemoryBlockInfo;
}

/// What all memory blocks have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBlockInfo {
    /// Bytes in one.
    pub size: u64,
}
