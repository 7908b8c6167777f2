//! Shutting down.
//!
//! The guest's own programs do it, so that its services are stopped in order: the one named after the
//! mode if there is one, else `shutdown`, else what a busybox is asked for. Only where there is none at
//! all is the kernel told.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use ostler_protocol::qga::commands::Done;
use ostler_protocol::qga::commands::power::{GuestShutdown, ShutdownArguments, ShutdownMode};

use super::CommandError;
use super::program::{self, ProgramError, WhenLate};
use crate::dispatcher::Handle;
use crate::state::Agent;

/// Programs that stop services may take their time; after so long a failure would help nobody.
const DEADLINE: Duration = Duration::from_secs(600);

/// Why the guest does not shut down.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// A mode there is none of.
    #[error("mode is invalid (valid values are: halt|powerdown|reboot)")]
    Mode,
    /// The program for it.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel, where there is no program.
    #[error("the kernel refuses to shut down")]
    Kernel(#[source] nix::Error),
}

impl Handle for GuestShutdown {
    async fn handle(agent: Rc<Agent>, arguments: ShutdownArguments) -> Result<Done, CommandError> {
        let mode = match &arguments.mode {
            None => ShutdownMode::Powerdown,
            Some(word) => ShutdownMode::from_word(word).ok_or(PowerError::Mode)?,
        };
        agent.log.info(format_args!("guest-shutdown called, mode {}", mode.as_str()));
        match plan(mode, program::is_program) {
            Plan::Program { path, arguments } => {
                program::run(&path, arguments, None, DEADLINE, WhenLate::Leave)
                    .await
                    .map_err(PowerError::from)?;
            }
            Plan::Kernel => {
                nix::unistd::sync();
                kernel(mode).map_err(PowerError::Kernel)?;
            }
        }
        Ok(Done {})
    }
}

fn kernel(mode: ShutdownMode) -> nix::Result<Infallible> {
    reboot(match mode {
        ShutdownMode::Powerdown => RebootMode::RB_POWER_OFF,
        ShutdownMode::Halt => RebootMode::RB_HALT_SYSTEM,
        ShutdownMode::Reboot => RebootMode::RB_AUTOBOOT,
    })
}

/// How it is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Program { path: PathBuf, arguments: &'static [&'static str] },
    Kernel,
}

/// Picks the way, of those there are.
fn plan(mode: ShutdownMode, exists: impl Fn(&Path) -> bool) -> Plan {
    let (name, shutdown, busybox): (_, &'static [_], &'static [_]) = match mode {
        ShutdownMode::Powerdown => ("poweroff", &["-h", "-P", "+0"], &["poweroff"]),
        ShutdownMode::Halt => ("halt", &["-h", "-H", "+0"], &["halt"]),
        ShutdownMode::Reboot => ("reboot", &["-h", "-r", "+0"], &["reboot"]),
    };
    for (name, arguments) in [(name, &[][..]), ("shutdown", shutdown), ("busybox", busybox)] {
        // where these always are, before anywhere else
        for directory in ["/sbin"].into_iter().chain(program::DIRECTORIES) {
            let path = Path::new(directory).join(name);
            if exists(&path) {
                return Plan::Program { path, arguments };
            }
        }
    }
    Plan::Kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(programs: &[&str], mode: ShutdownMode) -> String {
        match plan(mode, |path| programs.iter().any(|program| Path::new(program) == path)) {
            Plan::Program { path, arguments } => {
                format!("{} {}", path.display(), arguments.join(" "))
            }
            Plan::Kernel => "kernel".to_owned(),
        }
    }

    #[test]
    fn the_program_named_after_the_mode_comes_first() {
        let all =
            ["/sbin/poweroff", "/sbin/halt", "/sbin/reboot", "/sbin/shutdown", "/bin/busybox"];
        assert_eq!(with(&all, ShutdownMode::Powerdown), "/sbin/poweroff ");
        assert_eq!(with(&all, ShutdownMode::Halt), "/sbin/halt ");
        assert_eq!(with(&all, ShutdownMode::Reboot), "/sbin/reboot ");
    }

    #[test]
    fn shutdown_and_busybox_stand_in() {
        let some = ["/sbin/shutdown", "/bin/busybox"];
        assert_eq!(with(&some, ShutdownMode::Powerdown), "/sbin/shutdown -h -P +0");
        assert_eq!(with(&some, ShutdownMode::Halt), "/sbin/shutdown -h -H +0");
        assert_eq!(with(&some, ShutdownMode::Reboot), "/sbin/shutdown -h -r +0");
        assert_eq!(with(&["/bin/busybox"], ShutdownMode::Powerdown), "/bin/busybox poweroff");
        assert_eq!(with(&[], ShutdownMode::Reboot), "kernel");
    }
}
