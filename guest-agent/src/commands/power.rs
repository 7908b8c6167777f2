//! Shutting down and suspending.
//!
//! The guest's own programs do it, so that its services are stopped in order: the one named after the
//! mode if there is one, else `shutdown`, else what a busybox is asked for. Only where there is none at
//! all is the kernel told.
//!
//! Suspending tries systemd, then pm-utils, then the kernel itself, until one does it. Neither has an
//! answer when it succeeds: the guest is not there to give it.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use ostler_protocol::qga::commands::power::{
    GuestShutdown, GuestSuspendDisk, GuestSuspendHybrid, GuestSuspendRam, ShutdownArguments,
    ShutdownMode,
};
use ostler_protocol::qga::commands::{Done, Nothing};

use super::program::{self, ProgramError, WhenLate};
use super::{Agent, CommandError, Handle};
use crate::worker::WorkerError;

/// What the kernel can do, and where it is told to.
const STATE: &str = "/sys/power/state";
/// There if systemd is what runs the guest.
const SYSTEMD: &str = "/run/systemd/system";
/// For a program to say what is supported.
const QUESTION: Duration = Duration::from_secs(10);

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
    /// Nothing in the guest can do it.
    #[error("the requested suspend mode is not supported by the guest")]
    Unsupported,
    /// The kernel does not suspend.
    #[error("the kernel refuses to suspend")]
    Suspend(#[source] io::Error),
    /// The thread that tells the kernel.
    #[error(transparent)]
    Worker(#[from] WorkerError),
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

/// How the guest sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Disk,
    Ram,
    Hybrid,
}

/// A way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SleepMethod {
    /// `systemctl` with this.
    Systemd(&'static str),
    /// A program of pm-utils, and what another is asked first.
    PmUtils { program: &'static str, question: &'static str },
    /// This word, written to the kernel.
    Kernel(&'static str),
}

impl Sleep {
    /// The ways, the best first.
    fn ways(self) -> &'static [SleepMethod] {
        match self {
            Self::Disk => &[
                SleepMethod::Systemd("hibernate"),
                SleepMethod::PmUtils { program: "pm-hibernate", question: "--hibernate" },
                SleepMethod::Kernel("disk"),
            ],
            Self::Ram => &[
                SleepMethod::Systemd("suspend"),
                SleepMethod::PmUtils { program: "pm-suspend", question: "--suspend" },
                SleepMethod::Kernel("mem"),
            ],
            // the kernel has no word for both
            Self::Hybrid => &[
                SleepMethod::Systemd("hybrid-sleep"),
                SleepMethod::PmUtils { program: "pm-suspend-hybrid", question: "--suspend-hybrid" },
            ],
        }
    }
}

/// What suspending needs to know of the guest.
struct Guest<'a> {
    find: &'a dyn Fn(&str) -> Option<PathBuf>,
    systemd: &'a Path,
    state: &'a Path,
}

/// Tries one way after the other; the error is that of the last that could be tried.
async fn suspend(agent: &Agent, sleep: Sleep, guest: &Guest<'_>) -> Result<(), PowerError> {
    let mut failure = PowerError::Unsupported;
    for way in sleep.ways() {
        match attempt(agent, *way, guest).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => failure = error,
            None => {}
        }
    }
    Err(failure)
}

/// Tries a way, if there is such a way in this guest.
async fn attempt(
    agent: &Agent,
    way: SleepMethod,
    guest: &Guest<'_>,
) -> Option<Result<(), PowerError>> {
    let run = async |path: &Path, argument: &[&str]| {
        program::run(path, argument, None, DEADLINE, WhenLate::Leave)
            .await
            .map_err(PowerError::from)
    };
    match way {
        SleepMethod::Systemd(word) => {
            let systemctl = (guest.find)("systemctl").filter(|_| guest.systemd.exists())?;
            Some(run(&systemctl, &[word]).await)
        }
        SleepMethod::PmUtils { program, question } => {
            let asked = (guest.find)("pm-is-supported")?;
            let program = (guest.find)(program)?;
            program::run(&asked, &[question], None, QUESTION, WhenLate::Kill).await.ok()?;
            Some(run(&program, &[]).await)
        }
        SleepMethod::Kernel(word) => {
            let state = guest.state.to_owned();
            let job = move || {
                let known = std::fs::read_to_string(&state).ok()?;
                known.split_whitespace().any(|known| known == word).then_some(())?;
                // this returns when the guest is awake again
                Some(std::fs::write(&state, word).map_err(PowerError::Suspend))
            };
            agent
                .workers
                .run("suspending", DEADLINE, job)
                .await
                .unwrap_or_else(|error| Some(Err(error.into())))
        }
    }
}

async fn sleep(agent: &Agent, sleep: Sleep) -> Result<Done, CommandError> {
    let (systemd, state) = (Path::new(SYSTEMD), Path::new(STATE));
    suspend(agent, sleep, &Guest { find: &program::find, systemd, state }).await?;
    Ok(Done {})
}

impl Handle for GuestSuspendDisk {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Done, CommandError> {
        sleep(&agent, Sleep::Disk).await
    }
}

impl Handle for GuestSuspendHybrid {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Done, CommandError> {
        sleep(&agent, Sleep::Hybrid).await
    }
}

impl Handle for GuestSuspendRam {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Done, CommandError> {
        sleep(&agent, Sleep::Ram).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A guest in a folder: programs that write their command lines to `ran`.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn program(&self, name: &str, code: u8) {
            let path = self.0.path().join(name);
            let ran = self.0.path().join("ran");
            fs::write(
                &path,
                format!("#!/bin/sh\necho {name} $* >> {}\nexit {code}\n", ran.display()),
            )
            .unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn file(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
        }

        async fn suspend(&self, sleep: Sleep) -> Result<(), PowerError> {
            let agent = Agent::new(&crate::settings::Settings::for_tests());
            let folder = self.0.path();
            let find = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
            let guest = Guest {
                find: &find,
                systemd: &folder.join("systemd"),
                state: &folder.join("state"),
            };
            suspend(&agent, sleep, &guest).await
        }
    }

    #[tokio::test]
    async fn systemd_is_asked_first_where_it_runs_the_guest() {
        for (sleep, word) in
            [(Sleep::Disk, "hibernate"), (Sleep::Ram, "suspend"), (Sleep::Hybrid, "hybrid-sleep")]
        {
            let guest = Fake::new();
            guest.program("systemctl", 0);
            guest.file("state", "mem disk");
            guest.file("systemd", "");
            guest.suspend(sleep).await.unwrap();
            assert_eq!(guest.read("ran"), format!("systemctl {word}\n"));
            assert_eq!(guest.read("state"), "mem disk");
        }
    }

    #[tokio::test]
    async fn each_way_stands_in_for_the_one_before() {
        let guest = Fake::new();
        guest.program("systemctl", 1);
        guest.file("systemd", "");
        guest.program("pm-is-supported", 0);
        guest.program("pm-suspend", 3);
        guest.file("state", "freeze mem disk\n");
        guest.suspend(Sleep::Ram).await.unwrap();
        assert_eq!(guest.read("ran"), "systemctl suspend\npm-is-supported --suspend\npm-suspend\n");
        assert_eq!(guest.read("state"), "mem");
    }

    #[tokio::test]
    async fn programs_that_are_there_and_not_at_work_are_left_alone() {
        let guest = Fake::new();
        guest.program("systemctl", 0);
        guest.program("pm-is-supported", 1);
        guest.program("pm-hibernate", 0);
        guest.file("state", "disk\n");
        guest.suspend(Sleep::Disk).await.unwrap();
        assert_eq!(guest.read("ran"), "pm-is-supported --hibernate\n");
        assert_eq!(guest.read("state"), "disk");
    }

    #[tokio::test]
    async fn what_no_way_leads_to_is_not_supported() {
        let guest = Fake::new();
        guest.file("state", "freeze mem\n");
        for sleep in [Sleep::Disk, Sleep::Hybrid] {
            assert_eq!(
                guest.suspend(sleep).await.unwrap_err().to_string(),
                "the requested suspend mode is not supported by the guest"
            );
        }
        assert_eq!(guest.read("state"), "freeze mem\n");
    }

    #[tokio::test]
    async fn the_last_failure_is_told() {
        let guest = Fake::new();
        guest.program("systemctl", 5);
        guest.file("systemd", "");
        let error = guest.suspend(Sleep::Ram).await.unwrap_err().to_string();
        assert!(error.contains("systemctl") && error.contains("exit status: 5"), "{error}");
    }

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
