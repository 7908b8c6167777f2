//! Going to the background, and the file that says who is there.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use crate::file_lock;

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another has the file.
    #[error("another agent runs: it has locked {}", .0.display())]
    Running(PathBuf),
    /// The file cannot be used.
    #[error("cannot use the process id file {}", .0.display())]
    PidFile(PathBuf, #[source] io::Error),
    /// There is no second process, or it could not leave the first one's session.
    #[error("cannot go to the background")]
    Fork(#[source] Errno),
}

/// The locked file with the process id of the agent.
///
/// The lock is of the kind that belongs to the open file: it is taken before the process goes to the
/// background, so that whoever started it hears of a second agent, and goes with it. A stock agent
/// locks the same file with the other kind of `fcntl` lock, and the two kinds exclude each other.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Locks the file; nothing is written yet.
    pub fn lock(path: &Path) -> Result<Self, DaemonError> {
        let failed = |source| DaemonError::PidFile(path.to_owned(), source);
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            if !file_lock::try_lock(&file).map_err(|errno| failed(errno.into()))? {
                return Err(DaemonError::Running(path.to_owned()));
            }
            // the one that had it may have removed it since it was opened
            let ours = file.metadata().map_err(failed)?;
            if std::fs::metadata(path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
            {
                return Ok(Self { path: path.to_owned(), file });
            }
        }
    }

    /// Writes this process's id.
    pub fn write(&mut self) -> Result<(), DaemonError> {
        let text = format!("{}\n", std::process::id());
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(|source| DaemonError::PidFile(self.path.clone(), source))
    }

    /// Removes it, and then unlocks it.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that was started, and is to end.
    Starter,
    /// The one that stays.
    Daemon,
}

/// Leaves the terminal, the session and the folder this process was started in. To be called before
/// there is a second thread.
pub fn detach() -> Result<Side, DaemonError> {
    #[expect(unsafe_code, reason = "there is no other way to go on in another process")]
    // SAFETY: this process has one thread, so no lock is left behind in the copy.
    let forked = unsafe { fork() };
    match forked.map_err(DaemonError::Fork)? {
        ForkResult::Parent { .. } => Ok(Side::Starter),
        ForkResult::Child => {
            umask(Mode::S_IRWXG | Mode::S_IRWXO);
            setsid().map_err(DaemonError::Fork)?;
            chdir("/").map_err(DaemonError::Fork)?;
            // without the device (an initramfs that is not set up) they stay what they are
            if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
                let _ = dup2_stdin(&null);
                let _ = dup2_stdout(&null);
                let _ = dup2_stderr(&null);
            }
            Ok(Side::Daemon)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_the_first_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::fs::write(&path, "a longer text that a dead agent left\n").unwrap();
        let mut first = PidFile::lock(&path).unwrap();
        first.write().unwrap();
        let text = PidFile::lock(&path).unwrap_err().to_string();
        assert_eq!(text, format!("another agent runs: it has locked {}", path.display()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        first.remove();
        assert!(!path.exists());
        PidFile::lock(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let error = PidFile::lock(Path::new("/no/such/pid")).unwrap_err();
        assert!(error.to_string().contains("/no/such/pid"));
    }
}
