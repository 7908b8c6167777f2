//! Telling disks which blocks are not in use, so that whoever provides them can have them back.
//!
//! Each file system is trimmed once, however often it is mounted, and on a thread: trimming a large one
//! takes minutes. One that is read-only has nothing to tell. A failure is that of its file system and
//! leaves the others alone.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use ostler_protocol::qga::commands::trim::{GuestFstrim, TrimArguments, TrimReport, TrimResult};

use super::freeze::kernel::{Kernel, Linux};
use super::freeze::plan::Filesystem;
use super::ioctl::{self, TrimRange};
use super::{CommandError, freeze};
use crate::commands::Agent;
use crate::commands::Handle;
use crate::worker::WorkerError;

/// For looking through the device tree.
const SURVEY: Duration = Duration::from_secs(10);
/// For one file system.
const TRIM: Duration = Duration::from_secs(600);

/// Why nothing was trimmed.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// The table of mounts.
    #[error("failed to read the table of mounts")]
    Mounts(#[source] io::Error),
}

impl Handle for GuestFstrim {
    async fn handle(
        agent: Rc<Agent>,
        arguments: TrimArguments,
    ) -> Result<TrimReport, CommandError> {
        let survey = agent
            .workers
            .run("looking for file systems", SURVEY, || Linux.filesystems())
            .await?
            .map_err(TrimError::Mounts)?;
        // a negative number wraps, as everywhere in the protocol
        let minimum = arguments.minimum.unwrap_or(0).cast_unsigned();
        let mut paths = Vec::new();
        // in the order of mounting
        for filesystem in survey.into_iter().rev().filter(|filesystem| !filesystem.read_only) {
            let path = filesystem.name();
            let job = move || trim(&filesystem, minimum);
            let outcome = match agent.workers.run("trimming", TRIM, job).await {
                Ok(Some(outcome)) => outcome,
                Ok(None) => continue,
                Err(WorkerError::Late(_)) => {
                    Err(format!("failed to trim: not done after {} s", TRIM.as_secs()))
                }
                Err(error) => Err(format!("failed to trim: {error}")),
            };
            paths.push(match outcome {
                Ok(TrimRange { length, minimum, .. }) => TrimResult {
                    path,
                    trimmed: Some(length.cast_signed()),
                    minimum: Some(minimum.cast_signed()),
                    error: None,
                },
                Err(error) => TrimResult { path, error: Some(error), ..TrimResult::default() },
            });
        }
        Ok(TrimReport { paths })
    }
}

/// Trims one; none if nothing leads to it.
fn trim(filesystem: &Filesystem, minimum: u64) -> Option<Result<TrimRange, String>> {
    let opened: freeze::kernel::Opened = match Linux.open(filesystem) {
        Ok(Some(opened)) => opened,
        Ok(None) => return None,
        Err(error) => return Some(Err(format!("failed to open: {error}"))),
    };
    let mut range = TrimRange { start: 0, length: u64::MAX, minimum };
    Some(match ioctl::trim(&opened.file, &mut range) {
        Ok(()) => Ok(range),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => Err("trim not supported".to_owned()),
        Err(errno) => Err(format!("failed to trim: {}", errno.desc())),
    })
}
