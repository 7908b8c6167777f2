//! Memory, in the blocks that can be taken into use and out of it.

use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::memory::{
    GuestGetMemoryBlockInfo, GuestGetMemoryBlocks, GuestSetMemoryBlocks, MemoryBlock,
    MemoryBlockInfo, MemoryBlockResponse, MemoryBlockResult, SetMemoryBlocksArguments,
};

use super::{Agent, CommandError, Handle};
use crate::root::{self, Root};

const MEMORY: &str = "/sys/devices/system/memory";
/// For looking; a block that is being changed is waited for by the kernel.
const LOOK: Duration = Duration::from_secs(10);
/// For changing: the kernel moves away what is in a block first.
const CHANGE: Duration = Duration::from_secs(120);

/// Why memory blocks could not be told of.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel's list of them.
    #[error("cannot list the memory blocks in {MEMORY}")]
    List(#[source] io::Error),
    /// A list without any. Tools know the text.
    #[error("guest reported zero memory blocks!")]
    Empty,
    /// Their size.
    #[error("cannot read the size of memory blocks")]
    Size(#[source] io::Error),
    /// A size that is no number.
    #[error("'{0}' is no size of memory blocks")]
    NoSize(String),
}

impl Handle for GuestGetMemoryBlocks {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<MemoryBlock>, CommandError> {
        let look = || blocks(&Root::system());
        Ok(agent.workers.run("listing the memory blocks", LOOK, look).await??)
    }
}

impl Handle for GuestSetMemoryBlocks {
    async fn handle(
        agent: Rc<Agent>,
        arguments: SetMemoryBlocksArguments,
    ) -> Result<Vec<MemoryBlockResponse>, CommandError> {
        let change = move || set_blocks(&Root::system(), &arguments.mem_blks);
        Ok(agent.workers.run("changing the memory blocks", CHANGE, change).await?)
    }
}

impl Handle for GuestGetMemoryBlockInfo {
    async fn handle(_: Rc<Agent>, _: Nothing) -> Result<MemoryBlockInfo, CommandError> {
        Ok(info(&Root::system())?)
    }
}

/// The blocks, by number: none on a system without such. One that cannot be looked at is left out.
fn blocks(root: &Root) -> Result<Vec<MemoryBlock>, MemoryError> {
    let folder = root.path(MEMORY);
    let numbers = match root::numbered(&folder, "memory") {
        Ok(numbers) => numbers,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(MemoryError::List(error)),
    };
    if numbers.is_empty() {
        return Err(MemoryError::Empty);
    }
    let block = |phys_index| {
        let folder = folder.join(format!("memory{phys_index}"));
        let (online, can_offline) = match fs::read_to_string(folder.join("state")) {
            Ok(state) => {
                let removable = root::value(&folder.join("removable"));
                (state.starts_with("online"), removable.is_some_and(|text| text != "0"))
            }
            // old kernels have blocks without a state
            Err(error) if error.kind() == io::ErrorKind::NotFound => (true, false),
            Err(_) => return None,
        };
        Some(MemoryBlock { phys_index, online, can_offline: Some(can_offline) })
    };
    Ok(numbers.into_iter().filter_map(block).collect())
}

/// Changes each, whatever came of the others.
fn set_blocks(root: &Root, wanted: &[MemoryBlock]) -> Vec<MemoryBlockResponse> {
    let respond = |block: &MemoryBlock| {
        let (response, error) = match set_block(root, block) {
            Ok(()) => (MemoryBlockResult::Success, None),
            Err((response, error)) => (response, error.raw_os_error()),
        };
        MemoryBlockResponse {
            phys_index: block.phys_index,
            response,
            error_code: error.map(i64::from),
        }
    };
    wanted.iter().map(respond).collect()
}

fn set_block(root: &Root, wanted: &MemoryBlock) -> Result<(), (MemoryBlockResult, io::Error)> {
    use MemoryBlockResult::{NotFound, OperationFailed, OperationNotSupported};
    let when_absent = |absent| {
        move |error: io::Error| {
            let is_absent = error.kind() == io::ErrorKind::NotFound;
            let response = if is_absent { absent } else { OperationFailed };
            (response, error)
        }
    };
    fs::metadata(root.path(MEMORY)).map_err(when_absent(OperationNotSupported))?;
    let block = root.path(MEMORY).join(format!("memory{}", wanted.phys_index));
    fs::metadata(&block).map_err(when_absent(NotFound))?;
    let state = block.join("state");
    let now = match fs::read_to_string(&state) {
        Ok(text) => text.starts_with("online"),
        // without a state it is in use, for ever
        Err(error) if error.kind() == io::ErrorKind::NotFound && wanted.online => true,
        Err(error) => return Err(when_absent(OperationNotSupported)(error)),
    };
    if now == wanted.online {
        return Ok(());
    }
    fs::write(state, if wanted.online { "online" } else { "offline" })
        .map_err(|error| (OperationFailed, error))
}

fn info(root: &Root) -> Result<MemoryBlockInfo, MemoryError> {
    let text = root.text(&format!("{MEMORY}/block_size_bytes")).map_err(MemoryError::Size)?;
    let digits = text.trim();
    match u64::from_str_radix(digits.trim_start_matches("0x"), 16) {
        Ok(size) => Ok(MemoryBlockInfo { size }),
        Err(_) => Err(MemoryError::NoSize(digits.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;
    use nix::libc::ENOENT;

    const BLOCKS: &[(&str, &str)] = &[
        ("/sys/devices/system/memory/block_size_bytes", "8000000\n"),
        ("/sys/devices/system/memory/memory0/state", "online\n"),
        ("/sys/devices/system/memory/memory0/removable", "0\n"),
        ("/sys/devices/system/memory/memory3/state", "online\n"),
        ("/sys/devices/system/memory/memory3/removable", "1\n"),
        ("/sys/devices/system/memory/memory32/state", "offline\n"),
        ("/sys/devices/system/memory/memory33/state", "going-offline\n"),
        ("/sys/devices/system/memory/memory40/phys_device", "0\n"),
    ];

    fn block(phys_index: u64, online: bool) -> MemoryBlock {
        MemoryBlock { phys_index, online, can_offline: None }
    }

    #[test]
    fn blocks_are_told_by_number() {
        let (_folder, root) = tree(BLOCKS);
        let told: Vec<_> = blocks(&root)
            .unwrap()
            .into_iter()
            .map(|told| (told.phys_index, told.online, told.can_offline.unwrap()))
            .collect();
        let expected = [
            (0, true, false),
            (3, true, true),
            (32, false, false),
            (33, false, false),
            (40, true, false),
        ];
        assert_eq!(told, expected);
        assert_eq!(info(&root).unwrap().size, 128 << 20);
    }

    #[test]
    fn a_system_without_blocks_has_none_and_says_so_when_asked_for_their_size() {
        let (_folder, root) = tree(&[]);
        assert_eq!(blocks(&root).unwrap(), []);
        assert!(matches!(info(&root), Err(MemoryError::Size(_))));
        let (_folder, root) = tree(&[("/sys/devices/system/memory/block_size_bytes", "x\n")]);
        assert_eq!(blocks(&root).unwrap_err().to_string(), "guest reported zero memory blocks!");
        assert!(matches!(info(&root), Err(MemoryError::NoSize(_))));
    }

    #[test]
    fn each_block_has_its_own_result() {
        use MemoryBlockResult::{NotFound, OperationNotSupported, Success};
        let (_folder, root) = tree(BLOCKS);
        let wanted = [block(3, false), block(99, true), block(32, true), block(40, false)];
        let results: Vec<_> = set_blocks(&root, &wanted)
            .into_iter()
            .map(|told| (told.phys_index, told.response, told.error_code))
            .collect();
        let absent = Some(i64::from(ENOENT));
        let expected = [
            (3, Success, None),
            (99, NotFound, absent),
            (32, Success, None),
            (40, OperationNotSupported, absent),
        ];
        assert_eq!(results, expected);
        let online: Vec<_> = blocks(&root).unwrap().into_iter().map(|told| told.online).collect();
        assert_eq!(online, [true, false, true, false, true]);
    }

    #[test]
    fn a_block_that_is_as_asked_is_not_written() {
        let (_folder, root) = tree(BLOCKS);
        let results = set_blocks(&root, &[block(0, true), block(40, true)]);
        assert!(results.iter().all(|told| told.response == MemoryBlockResult::Success));
        assert_eq!(root.text(&format!("{MEMORY}/memory0/state")).unwrap(), "online\n");
    }

    #[test]
    fn a_system_without_blocks_cannot_change_them() {
        let (_folder, root) = tree(&[]);
        let results = set_blocks(&root, &[block(0, true)]);
        assert_eq!(results[0].response, MemoryBlockResult::OperationNotSupported);
    }
}
