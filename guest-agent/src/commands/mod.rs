//! What the commands do, one file a topic, named as in the protocol; and what all of them are given,
//! the [`Agent`]: what it knows between them. There are no globals.

pub mod account;
pub mod cpu;
pub mod disk;
pub mod exec;
pub mod file;
pub mod filesystem;
pub mod freeze;
pub mod hash;
pub mod hook;
pub mod info;
pub mod ioctl;
pub mod label;
pub mod memory;
pub mod mount;
pub mod network;
pub mod power;
pub mod program;
pub mod route;
pub mod shadow;
pub mod ssh;
pub mod sync;
pub mod time;
pub mod timezone;
pub mod trim;
pub mod user;
pub mod users;

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::Command;
use ostler_protocol::qga::envelope::Disabled;
use tokio::sync::watch;

use crate::log::Log;
use crate::policy::Policy;
use crate::probe::Probes;
use crate::prompt::Trees;
use crate::root::Root;
use crate::settings::Settings;
use crate::unfinished::Unfinished;
use crate::worker::{WorkerError, Workers};
use disk::address::Addresses;
use exec::Programs;
use file::Files;
use freeze::Freezer;

/// A command this agent carries out.
pub trait Handle: Command {
    /// Carries it out.
    fn handle(
        agent: Rc<Agent>,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Self::Reply, CommandError>>;
}

/// The agent's state.
#[derive(Debug)]
pub struct Agent {
    /// Where it reports.
    pub log: Log,
    /// Its threads for what may block.
    pub workers: Workers,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// What is being asked that may not answer: file systems, disks.
    pub probes: Probes,
    /// What can be read without a thread.
    pub trees: Trees,
    /// What it knows of the disks that are plugged in.
    pub addresses: Addresses,
    /// Held while an account is changed: changes come one after the other.
    pub accounts: tokio::sync::Mutex<()>,
    /// The files that are open for its clients.
    pub files: Files,
    /// The programs it has started for its clients.
    pub programs: Programs,
    /// What freezes and thaws file systems.
    pub freezer: Freezer,
    /// What its owner lets the host do.
    pub policy: Policy,
    /// What was asked for and is not done.
    pub unfinished: Unfinished,
    frozen: watch::Sender<bool>,
}

impl Agent {
    /// The state of an agent that has just started.
    pub fn new(settings: &Settings) -> Self {
        Self {
            log: settings.log.clone(),
            workers: Workers::new(),
            heartbeat: settings.heartbeat,
            probes: Probes::default(),
            trees: Trees::default(),
            addresses: Addresses::default(),
            accounts: tokio::sync::Mutex::new(()),
            files: Files::new(&settings.state_directory),
            programs: Programs::new(settings.programs.clone()),
            freezer: Freezer::new(settings),
            policy: settings.policy.clone(),
            unfinished: Unfinished::default(),
            frozen: watch::Sender::new(false),
        }
    }

    /// Looks at the system: at once if nothing has to be waited for, else on a thread, as long as
    /// `deadline`. What is looked at goes by the root that is given.
    pub async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Duration,
        look: impl Fn(&Root) -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let root = Root::prompt(&self.trees);
        let found = look(&root);
        if !root.has_refused() {
            return Ok(found);
        }
        // the next time it may be quicker
        self.trees.find(&self.workers);
        self.workers.run(what, deadline, move || look(&Root::system())).await
    }

    /// Whether file systems are frozen by this agent.
    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Notes that file systems are now frozen, or no longer; the log is silent in between.
    pub fn set_frozen(&self, frozen: bool) {
        if frozen {
            self.log.hold();
        }
        self.frozen.send_replace(frozen);
        if !frozen {
            self.log.release();
        }
    }

    /// Waits until no file system is frozen by this agent.
    pub async fn thawed(&self) {
        // it fails when the agent's state is gone, and that is borrowed here
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }
}

/// Why a command failed. The dispatcher makes one line of it and its causes.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// One that tells of processors, or changes them.
    #[error(transparent)]
    Cpu(#[from] cpu::CpuError),
    /// One that tells of disks.
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    /// One that tells of memory.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// One that tells of routes.
    #[error(transparent)]
    Route(#[from] route::RouteError),
    /// One that runs programs.
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    /// One that uses files.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// One that tells of the system.
    #[error(transparent)]
    Info(#[from] info::InfoError),
    /// One that tells of the network.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// One that tells of file systems.
    #[error(transparent)]
    Filesystem(#[from] filesystem::FilesystemError),
    /// One that freezes or thaws.
    #[error(transparent)]
    Freeze(#[from] freeze::FreezeError),
    /// One whose arguments ask for more than the guest's owner permits.
    #[error("{command} is refused: {why}")]
    Refused {
        /// Which.
        command: &'static str,
        /// By what.
        why: Disabled,
    },
    /// One that changes who may log in by key.
    #[error(transparent)]
    Ssh(#[from] ssh::SshError),
    /// One that shuts down or suspends.
    #[error(transparent)]
    Power(#[from] power::PowerError),
    /// One that looks at the clock or sets it.
    #[error(transparent)]
    Time(#[from] time::TimeError),
    /// One that trims.
    #[error(transparent)]
    Trim(#[from] trim::TrimError),
    /// One that changes an account.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The thread it needed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::qga::commands::Nothing;
    use ostler_protocol::qga::commands::cpu::{GuestGetCpustats, GuestGetVcpus};
    use ostler_protocol::qga::commands::disk::GuestGetDiskstats;
    use std::sync::mpsc;

    /// Longer than any answer takes.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_the_kernel_answers_needs_no_thread() {
        let agent = Rc::new(Agent::new(&Settings::for_tests()));
        let vcpus = async || GuestGetVcpus::handle(agent.clone(), Nothing {}).await;
        let first = vcpus().await.unwrap();
        while !agent.trees.has_folder("/proc/self") {
            tokio::task::yield_now().await;
        }
        let mut stuck = Vec::new();
        loop {
            let (release, released) = mpsc::channel::<()>();
            match agent.workers.begin("stuck", move || released.recv()) {
                Ok(_) => stuck.push(release),
                Err(_) => break,
            }
        }
        assert_eq!(vcpus().await.unwrap(), first);
        GuestGetCpustats::handle(agent.clone(), Nothing {}).await.unwrap();
        GuestGetDiskstats::handle(agent.clone(), Nothing {}).await.unwrap();
    }

    #[tokio::test]
    async fn what_would_have_to_be_waited_for_is_looked_at_on_a_thread() {
        let agent = Agent::new(&Settings::for_tests());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let path = path.to_str().unwrap().to_owned();
        let here = std::thread::current().id();
        // nothing is known yet of the file system it lies on
        let look =
            move |root: &Root| (root.text(&path).unwrap_or_default(), std::thread::current().id());
        let (text, there) = agent.look("x", LONG, look).await.unwrap();
        assert_eq!(text, "text");
        assert_ne!(there, here);
    }
}
