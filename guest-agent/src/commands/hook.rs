//! The program that is told of freezing and thawing, so that databases and the like write out what
//! they have and wait.

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::program::{self, ProgramError, WhenLate};

/// The program, if there is one.
#[derive(Clone, Debug)]
pub struct Hook {
    path: Option<PathBuf>,
    timeout: Duration,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// File systems are about to be frozen.
    Freeze,
    /// They are thawed.
    Thaw,
}

impl Step {
    /// The argument it is told with.
    const fn word(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

/// Why it did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It is not there, or no program.
    #[error("can't access fsfreeze hook '{}'", .path.display())]
    Access {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: nix::Error,
    },
    /// It failed or did not end.
    #[error("fsfreeze hook has failed when told to {}", .step.word())]
    Failed {
        /// What it was told.
        step: Step,
        /// How.
        source: ProgramError,
    },
}

impl Hook {
    /// The hook at `path`, which may take as long as `timeout`.
    pub fn new(path: Option<PathBuf>, timeout: Duration) -> Self {
        Self { path, timeout }
    }

    /// Runs it to its end. It and what it started are killed if it takes too long, or if the caller
    /// gives up.
    pub async fn run(&self, step: Step) -> Result<(), HookError> {
        let Some(path) = &self.path else { return Ok(()) };
        access(path, AccessFlags::X_OK)
            .map_err(|source| HookError::Access { path: path.clone(), source })?;
        program::run(path, &[step.word()], None, self.timeout, WhenLate::Kill)
            .await
            .map_err(|source| HookError::Failed { step, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::chain;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("hook");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn run(folder: &Path, text: &str, timeout: Duration) -> Result<(), HookError> {
        Hook::new(Some(script(folder, text)), timeout).run(Step::Freeze).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn it_is_told_what_happens() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let hook = Hook::new(
            Some(script(folder.path(), &format!("echo $1 $# >> {}", told.display()))),
            LONG,
        );
        hook.run(Step::Freeze).await.unwrap();
        hook.run(Step::Thaw).await.unwrap();
        assert_eq!(fs::read_to_string(told).unwrap(), "freeze 1\nthaw 1\n");
        Hook::new(None, LONG).run(Step::Freeze).await.unwrap();
    }

    #[tokio::test]
    async fn its_failure_tells_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            run(folder.path(), "echo no room; echo at all >&2; exit 4", LONG).await.unwrap_err();
        let text = chain(&error);
        for part in ["fsfreeze hook has failed", "exit status: 4", "no room", "at all"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_an_error() {
        let error =
            Hook::new(Some("/is/not/there".into()), LONG).run(Step::Thaw).await.unwrap_err();
        assert_eq!(
            chain(&error),
            "can't access fsfreeze hook '/is/not/there': ENOENT: No such file or directory"
        );
    }

    #[tokio::test]
    async fn one_that_hangs_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            run(folder.path(), "exec sleep 600", Duration::from_millis(1)).await.unwrap_err();
        assert!(chain(&error).ends_with("did not end in time"), "{}", chain(&error));
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let child = folder.path().join("child");
        let text = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", child.display());
        let until = async |condition: &dyn Fn() -> bool| {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let started = || child.exists();
        tokio::select! {
            ended = run(folder.path(), &text, LONG) => panic!("{ended:?}"),
            () = until(&started) => {}
        }
        let pid = fs::read_to_string(&child).unwrap();
        let gone = || match fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        tokio::time::timeout(LONG, until(&gone)).await.unwrap();
    }
}
