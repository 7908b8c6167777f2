//! A hypervisor in memory, for the tests of whatever stands on the trait.
//!
//! It has state like the real one: what is defined, what runs, who is told. And it can be told to
//! misbehave: to fail a call before or after doing what it was asked, to hold one, to be
//! unreachable; its guests can be told to die, to ignore a shutdown, or to answer; and a copy ends
//! at once, or when and how it is told to.

mod adjust;
mod jobs;
mod mirror;
mod plug;
mod secrets;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_protocol::rpc::hardware::Boards;
use ostler_protocol::rpc::values::{Bytes, InstanceId, Secret, Timestamp};
use tokio::sync::{broadcast, oneshot, watch};

use self::jobs::Work;
pub use self::jobs::{COPIED, Copies};
use self::mirror::Mirrored;
pub use self::plug::LetsGo;
use super::event::EVENT_CAPACITY;
use super::inspect::{Definition, DomainStats, Inspect, Screen};
use super::spec::{CpuMode, Disk, Nic, SecretKind};
use super::{
    Capabilities, Change, DomainRecord, DomainSpec, DomainState, Error, Events, Hypervisor,
    HypervisorEvent, Link, PowerReason, PowerState, RESTORE, VirtChoice, VirtSetting, VirtType,
};

/// The trait's methods, to say which of them is to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Call {
    Define,
    Start,
    Pause,
    Unpause,
    DiscardSave,
    Shutdown,
    Reboot,
    Destroy,
    Undefine,
    State,
    List,
    GuestCommand,
    Capabilities,
    VirtType,
    Save,
    BeginCopy,
    Job,
    AbortJob,
    SetMetadata,
    SetVcpus,
    SetMemory,
    SetVncPassword,
    Xml,
    Fingerprint,
    Stats,
    Screen,
    Console,
    Disks,
    PlugDisk,
    Unplug,
    Nics,
    PlugNic,
    ResizeDisk,
    SwitchDisk,
    LimitDisk,
    BeginMirror,
    Mirroring,
    SwitchToMirror,
    DropMirror,
    DefinedDisks,
    KeepSecret,
    ForgetSecret,
}

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// Nothing was done.
    Before,
    /// It was done all the same, as after a lost answer.
    After,
}

/// How a guest's agent answers a command.
type Agent = Arc<dyn Fn(&str) -> Result<String, Error> + Send + Sync>;

/// The hypervisor. Clones are the same one.
#[derive(Clone)]
pub struct Fake {
    world: Arc<Mutex<World>>,
    link: watch::Sender<Link>,
    events: broadcast::Sender<HypervisorEvent>,
}

#[derive(Default)]
struct World {
    domains: BTreeMap<InstanceId, Domain>,
    failures: BTreeMap<Call, VecDeque<(Failing, Error)>>,
    holds: BTreeMap<Call, VecDeque<oneshot::Receiver<()>>>,
    calls: Vec<(Call, Option<InstanceId>)>,
    copies: Copies,
    secrets: BTreeMap<(SecretKind, String), Secret>,
    /// What guests are found to run on.
    found: Option<VirtChoice>,
    /// What domains can be made with.
    boards: Boards,
}

struct Domain {
    spec: DomainSpec,
    /// Whether it carries our mark.
    ours: bool,
    state: DomainState,
    ignores_shutdown: bool,
    agent: Option<Agent>,
    saved: Option<Saved>,
    work: Work,
    /// The screen's password and until when; none is locked.
    screen: Option<(Secret, Timestamp)>,
    console: Option<PathBuf>,
    /// What is plugged in while it runs.
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    lets_go: LetsGo,
    /// How large it sees disks whose files have another size by now.
    sizes: BTreeMap<String, Bytes>,
    mirror: Option<Mirrored>,
}

/// Memory that is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Saved {
    /// What the domain did, and will do again.
    power: PowerState,
    damaged: bool,
}

/// Keeps a call from going on, until it is dropped.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "its drop is what matters")] oneshot::Sender<()>);

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// An empty node, its link up.
    pub fn new() -> Self {
        let (link, _) = watch::channel(Link::Up);
        let (events, _) = broadcast::channel(EVENT_CAPACITY);
        Self { world: Arc::default(), link, events }
    }

    /// Has the next call of this kind fail; several are taken in turn.
    pub fn fail_next(&self, call: Call, failing: Failing, error: Error) {
        self.world().failures.entry(call).or_default().push_back((failing, error));
    }

    /// What guests are found to run on from now on, where that is tried.
    pub fn runs_on(&self, found: VirtChoice) {
        self.world().found = Some(found);
    }

    /// What domains can be made with from now on.
    pub fn offers(&self, boards: Boards) {
        self.world().boards = boards;
    }

    /// Has the next call of this kind wait, before it does anything, until the hold is dropped.
    pub fn hold_next(&self, call: Call) -> Hold {
        let (hold, held) = oneshot::channel();
        self.world().holds.entry(call).or_default().push_back(held);
        Hold(hold)
    }

    /// Cuts or restores the link; while it is down every call fails as unreachable.
    pub fn set_link(&self, link: Link) {
        if self.link.send_replace(link) != link {
            self.tell(match link {
                Link::Up => HypervisorEvent::LinkUp,
                Link::Down => HypervisorEvent::LinkDown,
            });
        }
    }

    /// Changes a domain's power state as if from outside, and tells.
    ///
    /// Does nothing if there is no such domain.
    pub fn set_power(&self, id: InstanceId, power: PowerState, reason: PowerReason) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.state = DomainState { power, reason };
            self.tell(HypervisorEvent::Lifecycle { id, power, reason: unasked(reason) });
        }
    }

    /// Takes our mark off a domain: it is somebody else's from now on.
    pub fn disown(&self, id: InstanceId) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.ours = false;
        }
    }

    /// Has a guest ignore, or heed, what [`Hypervisor::shutdown`] asks.
    pub fn set_ignores_shutdown(&self, id: InstanceId, ignores: bool) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.ignores_shutdown = ignores;
        }
    }

    /// Puts an agent into a guest, and tells.
    pub fn connect_agent(
        &self,
        id: InstanceId,
        agent: impl Fn(&str) -> Result<String, Error> + Send + Sync + 'static,
    ) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.agent = Some(Arc::new(agent));
            self.tell(HypervisorEvent::AgentConnected { id, connected: true });
        }
    }

    /// Whether memory of a domain is saved.
    pub fn has_save(&self, id: InstanceId) -> bool {
        self.world().domains.get(&id).is_some_and(|domain| domain.saved.is_some())
    }

    /// Makes what is saved of a domain's memory unusable: its restore fails.
    pub fn damage_save(&self, id: InstanceId) {
        if let Some(saved) = self.world().domains.get_mut(&id).and_then(|d| d.saved.as_mut()) {
            saved.damaged = true;
        }
    }

    /// Gives a domain this console, or takes it away.
    pub fn set_console(&self, id: InstanceId, console: Option<PathBuf>) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.console = console;
        }
    }

    /// Removes a domain as if from outside, running or not, and tells.
    pub fn forget(&self, id: InstanceId) {
        if self.world().domains.remove(&id).is_some() {
            self.tell(HypervisorEvent::Removed { id });
        }
    }

    /// What a domain is defined as.
    pub fn spec(&self, id: InstanceId) -> Option<DomainSpec> {
        self.world().domains.get(&id).map(|domain| domain.spec.clone())
    }

    /// How often a method was called, about one domain or about any; failed calls count.
    pub fn called(&self, call: Call, about: Option<InstanceId>) -> usize {
        let of = |made: &&(Call, Option<InstanceId>)| {
            made.0 == call && (about.is_none() || made.1 == about)
        };
        self.world().calls.iter().filter(of).count()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: HypervisorEvent) {
        // nobody listens: nobody is told
        drop(self.events.send(event));
    }

    /// Every call comes through here, so that each can be held, failed and counted.
    async fn call<T>(
        &self,
        call: Call,
        about: Option<InstanceId>,
        work: impl FnOnce(&mut World) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let (held, failure) = {
            let mut world = self.world();
            world.calls.push((call, about));
            let held = world.holds.get_mut(&call).and_then(VecDeque::pop_front);
            let failure = world.failures.get_mut(&call).and_then(VecDeque::pop_front);
            (held, failure)
        };
        if let Some(held) = held {
            // a dropped hold is a lifted one
            drop(held.await);
        }
        if *self.link.borrow() == Link::Down {
            return Err(Error::Unreachable { step: step(call), reason: "cut".to_owned() });
        }
        let mut world = self.world();
        let of = about.and_then(|id| world.domains.get(&id));
        if let Some(domain) = about.filter(|_| of.is_some_and(|domain| !domain.ours)) {
            let why = "it does not carry an agent's mark".to_owned();
            return Err(Error::NotOurs { domain, why });
        }
        match failure {
            Some((Failing::Before, error)) => Err(error),
            Some((Failing::After, error)) => {
                drop(work(&mut world));
                Err(error)
            }
            None => work(&mut world),
        }
    }

    fn becomes(&self, id: InstanceId, domain: &mut Domain, power: PowerState, reason: PowerReason) {
        domain.state = DomainState { power, reason };
        self.tell(HypervisorEvent::Lifecycle { id, power, reason });
    }

    fn turn_off(&self, id: InstanceId, domain: &mut Domain, reason: PowerReason) {
        domain.state = DomainState { power: PowerState::Shutdown, reason };
        domain.screen = None;
        domain.work.interrupt();
        domain.mirror = None;
        if domain.agent.take().is_some() {
            self.tell(HypervisorEvent::AgentConnected { id, connected: false });
        }
        self.tell(HypervisorEvent::Lifecycle { id, power: PowerState::Shutdown, reason });
    }
}

impl World {
    fn domain(&mut self, domain: InstanceId) -> Result<&mut Domain, Error> {
        self.domains.get_mut(&domain).ok_or(Error::NotFound { domain })
    }

    fn running(&mut self, call: Call, id: InstanceId) -> Result<&mut Domain, Error> {
        match self.domain(id)? {
            domain if domain.is_on() => Ok(domain),
            _ => Err(refused(call, id, "the domain does not run")),
        }
    }
}

impl Domain {
    fn is_on(&self) -> bool {
        match self.state.power {
            PowerState::Running | PowerState::Paused | PowerState::Suspended => true,
            PowerState::Unknown | PowerState::None | PowerState::Shutdown | PowerState::Crashed => {
                false
            }
        }
    }
}

fn step(call: Call) -> &'static str {
    match call {
        Call::Define => "define",
        Call::Start => "start",
        Call::Pause => "pause",
        Call::Unpause => "unpause",
        Call::DiscardSave => "discard saved memory",
        Call::Shutdown => "shutdown",
        Call::Reboot => "reboot",
        Call::Destroy => "destroy",
        Call::Undefine => "undefine",
        Call::State => "state",
        Call::List => "list",
        Call::GuestCommand => "guest command",
        Call::Capabilities => "capabilities",
        Call::VirtType => "probe",
        Call::Save => "save",
        Call::BeginCopy => "copy",
        Call::Job => "job",
        Call::AbortJob => "abort job",
        Call::SetMetadata => "set metadata",
        Call::SetVcpus => "set vCPUs",
        Call::SetMemory => "set memory",
        Call::SetVncPassword => "set VNC password",
        Call::Xml => "read the definition",
        Call::Fingerprint => "read the definition",
        Call::Stats => "read the counters",
        Call::Screen => "find the screen",
        Call::Console => "find the console",
        Call::Disks => "list the disks",
        Call::PlugDisk => "plug a disk",
        Call::Unplug => "unplug a device",
        Call::Nics => "list the NICs",
        Call::PlugNic => "plug a NIC",
        Call::ResizeDisk => "resize a disk",
        Call::SwitchDisk => "switch a disk",
        Call::LimitDisk => "limit a disk",
        Call::BeginMirror => "mirror a disk",
        Call::Mirroring => "see how far a mirror is",
        Call::SwitchToMirror => "switch to a mirror",
        Call::DropMirror => "drop a mirror",
        Call::DefinedDisks => "list the defined disks",
        Call::KeepSecret => "keep a secret",
        Call::ForgetSecret => "forget a secret",
    }
}

/// What is told of a reason to those who did not ask for it.
fn unasked(reason: PowerReason) -> PowerReason {
    if reason == PowerReason::NoSpace { PowerReason::IoError } else { reason }
}

fn refused(call: Call, id: InstanceId, reason: &str) -> Error {
    Error::Refused { step: step(call), domain: Some(id), reason: reason.to_owned() }
}

impl Hypervisor for Fake {
    async fn define(&self, spec: &DomainSpec) -> Result<(), Error> {
        let id = spec.id();
        self.call(Call::Define, Some(id), |world| {
            match world.domains.get_mut(&id) {
                Some(domain) => domain.spec = spec.clone(),
                None => {
                    let state =
                        DomainState { power: PowerState::Shutdown, reason: PowerReason::Unstated };
                    let spec = spec.clone();
                    let domain = Domain {
                        spec,
                        ours: true,
                        state,
                        ignores_shutdown: false,
                        agent: None,
                        saved: None,
                        work: Work::default(),
                        screen: None,
                        console: None,
                        disks: Vec::new(),
                        nics: Vec::new(),
                        lets_go: LetsGo::default(),
                        sizes: BTreeMap::new(),
                        mirror: None,
                    };
                    world.domains.insert(id, domain);
                }
            }
            Ok(())
        })
        .await
    }

    async fn start(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::Start, Some(id), |world| {
            let domain = world.domain(id)?;
            if domain.is_on() {
                return Ok(Change::AlreadySo);
            }
            let (power, reason) = match domain.saved {
                None => (PowerState::Running, PowerReason::Booted),
                Some(Saved { damaged: true, .. }) => {
                    let message = "the saved memory is damaged".to_owned();
                    return Err(Error::Failed { step: RESTORE, domain: Some(id), message });
                }
                Some(Saved { power, damaged: false }) => (power, PowerReason::Restored),
            };
            domain.saved = None;
            domain.disks = domain.spec.disks.clone();
            domain.nics = domain.spec.nics.clone();
            domain.state = DomainState { power, reason };
            self.tell(HypervisorEvent::Lifecycle { id, power, reason });
            Ok(Change::Made)
        })
        .await
    }

    async fn pause(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::Pause, Some(id), |world| {
            let domain = world.domain(id)?;
            match (domain.is_on(), domain.state.power == PowerState::Paused) {
                (false, _) => Err(refused(Call::Pause, id, "the domain is not running")),
                (true, true) => Ok(Change::AlreadySo),
                (true, false) => {
                    self.becomes(id, domain, PowerState::Paused, PowerReason::PauseRequested);
                    Ok(Change::Made)
                }
            }
        })
        .await
    }

    async fn unpause(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::Unpause, Some(id), |world| {
            let domain = world.domain(id)?;
            match (domain.is_on(), domain.state.power == PowerState::Running) {
                (false, _) => Err(refused(Call::Unpause, id, "the domain is not running")),
                (true, true) => Ok(Change::AlreadySo),
                (true, false) => {
                    self.becomes(id, domain, PowerState::Running, PowerReason::Resumed);
                    Ok(Change::Made)
                }
            }
        })
        .await
    }

    async fn discard_save(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::DiscardSave, Some(id), |world| {
            let saved = world.domains.get_mut(&id).and_then(|domain| domain.saved.take());
            Ok(if saved.is_some() { Change::Made } else { Change::AlreadySo })
        })
        .await
    }

    async fn shutdown(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::Shutdown, Some(id), |world| {
            let domain = world.domain(id)?;
            if !domain.is_on() {
                return Ok(Change::AlreadySo);
            }
            if !domain.ignores_shutdown {
                self.turn_off(id, domain, PowerReason::ShutDown);
            }
            Ok(Change::Made)
        })
        .await
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), Error> {
        self.call(Call::Reboot, Some(id), |world| {
            let domain = world.domain(id)?;
            if !domain.is_on() {
                return Err(refused(Call::Reboot, id, "the domain is not running"));
            }
            if !domain.ignores_shutdown {
                self.tell(HypervisorEvent::Rebooted { id });
            }
            Ok(())
        })
        .await
    }

    async fn destroy(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::Destroy, Some(id), |world| match world.domains.get_mut(&id) {
            Some(domain) if domain.is_on() => {
                self.turn_off(id, domain, PowerReason::Destroyed);
                Ok(Change::Made)
            }
            Some(_) | None => Ok(Change::AlreadySo),
        })
        .await
    }

    async fn undefine(&self, id: InstanceId) -> Result<Change, Error> {
        self.call(Call::Undefine, Some(id), |world| match world.domains.get(&id) {
            Some(domain) if domain.is_on() => Err(refused(Call::Undefine, id, "the domain runs")),
            Some(_) => {
                world.domains.remove(&id);
                self.tell(HypervisorEvent::Removed { id });
                Ok(Change::Made)
            }
            None => Ok(Change::AlreadySo),
        })
        .await
    }

    async fn state(&self, id: InstanceId) -> Result<DomainState, Error> {
        self.call(Call::State, Some(id), |world| world.domain(id).map(|domain| domain.state)).await
    }

    async fn list(&self) -> Result<Vec<DomainRecord>, Error> {
        let record = |(id, domain): (&InstanceId, &Domain)| DomainRecord {
            id: *id,
            name: domain.spec.domain_name(),
            state: DomainState { reason: unasked(domain.state.reason), ..domain.state },
            ours: domain.ours.then(|| domain.spec.metadata.clone()),
        };
        self.call(Call::List, None, |world| Ok(world.domains.iter().map(record).collect())).await
    }

    async fn guest_command(
        &self,
        id: InstanceId,
        command: &str,
        _timeout: Duration,
    ) -> Result<String, Error> {
        let agent = self
            .call(Call::GuestCommand, Some(id), |world| {
                let domain = world.domain(id)?;
                if !domain.is_on() {
                    return Err(refused(Call::GuestCommand, id, "the domain is not running"));
                }
                domain.agent.clone().ok_or_else(|| Error::GuestAgentUnavailable {
                    domain: id,
                    reason: "not connected".to_owned(),
                })
            })
            .await?;
        // not under the lock: the agent may be a test that looks at this very node
        agent(command)
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.call(Call::Capabilities, None, |world| {
            Ok(Capabilities {
                libvirt_version: "0.0.0".to_owned(),
                hypervisor_version: "0.0.0".to_owned(),
                emulator: "/usr/bin/fake".to_owned(),
                arch: "x86_64".to_owned(),
                kvm_offered: false,
                max_vcpus: 64,
                boards: world.boards,
            })
        })
        .await
    }

    async fn virt_type(&self, setting: VirtSetting) -> Result<VirtChoice, Error> {
        self.call(Call::VirtType, None, |world| {
            let (virt_type, cpu) = match (setting, &world.found) {
                (VirtSetting::Auto, Some(found)) => return Ok(found.clone()),
                (VirtSetting::Kvm, _) => (VirtType::Kvm, CpuMode::HostModel),
                (VirtSetting::Auto | VirtSetting::Qemu, _) => (VirtType::Qemu, CpuMode::Maximum),
            };
            Ok(VirtChoice { virt_type, cpu, why: "fake".to_owned() })
        })
        .await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn events(&self) -> Events {
        Events::new(self.events.subscribe())
    }
}

impl Inspect for Fake {
    async fn xml(&self, id: InstanceId, _: Definition) -> Result<String, Error> {
        let xml = |domain: &mut Domain| {
            format!("<domain><name>{}</name></domain>", domain.spec.domain_name())
        };
        self.call(Call::Xml, Some(id), |world| world.domain(id).map(xml)).await
    }

    async fn fingerprint(&self, id: InstanceId) -> Result<String, Error> {
        let told = |domain: &mut Domain| format!("{:?}", domain.spec);
        self.call(Call::Fingerprint, Some(id), |world| world.domain(id).map(told)).await
    }

    async fn stats(&self, id: InstanceId) -> Result<DomainStats, Error> {
        self.call(Call::Stats, Some(id), |world| {
            world.running(Call::Stats, id).map(|_| DomainStats::default())
        })
        .await
    }

    async fn screen(&self, id: InstanceId) -> Result<Option<Screen>, Error> {
        self.call(Call::Screen, Some(id), |world| {
            let vnc = world.running(Call::Screen, id)?.spec.vnc;
            Ok(vnc.map(|vnc| Screen { address: vnc.listen, port: 5900 }))
        })
        .await
    }

    async fn console(&self, id: InstanceId) -> Result<PathBuf, Error> {
        self.call(Call::Console, Some(id), |world| {
            let console = world.running(Call::Console, id)?.console.clone();
            console.ok_or_else(|| refused(Call::Console, id, "the domain has no serial console"))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::sample;
    use super::*;

    #[tokio::test]
    async fn changes_are_idempotent_and_say_so() {
        let fake = Fake::new();
        let spec = sample();
        let id = spec.id();
        for _ in 0..2 {
            fake.define(&spec).await.unwrap();
        }
        assert_eq!(fake.start(id).await, Ok(Change::Made));
        assert_eq!(fake.start(id).await, Ok(Change::AlreadySo));
        assert!(matches!(fake.undefine(id).await, Err(Error::Refused { .. })));
        assert_eq!(fake.destroy(id).await, Ok(Change::Made));
        assert_eq!(fake.destroy(id).await, Ok(Change::AlreadySo));
        assert_eq!(fake.undefine(id).await, Ok(Change::Made));
        assert_eq!(fake.undefine(id).await, Ok(Change::AlreadySo));
        assert_eq!(fake.state(id).await, Err(Error::NotFound { domain: id }));
    }

    #[tokio::test]
    async fn a_lost_answer_still_did_it() {
        let fake = Fake::new();
        let spec = sample();
        fake.define(&spec).await.unwrap();
        let lost = Error::Timeout { step: "start" };
        fake.fail_next(Call::Start, Failing::After, lost.clone());
        assert_eq!(fake.start(spec.id()).await, Err(lost));
        assert_eq!(fake.state(spec.id()).await.unwrap().power, PowerState::Running);
        assert_eq!(fake.called(Call::Start, Some(spec.id())), 1);
    }

    #[tokio::test]
    async fn a_held_call_waits() {
        let fake = Fake::new();
        let hold = fake.hold_next(Call::List);
        let mut listing = std::pin::pin!(fake.list());
        assert!(futures_util::poll!(listing.as_mut()).is_pending());
        drop(hold);
        assert_eq!(listing.await, Ok(vec![]));
    }

    #[tokio::test]
    async fn a_cut_link_fails_every_call_and_is_told() {
        let fake = Fake::new();
        let mut events = fake.events();
        fake.set_link(Link::Down);
        assert!(matches!(fake.list().await, Err(Error::Unreachable { .. })));
        fake.set_link(Link::Up);
        assert_eq!(fake.list().await, Ok(vec![]));
        assert_eq!(events.next().await, Some(HypervisorEvent::LinkDown));
        assert_eq!(events.next().await, Some(HypervisorEvent::LinkUp));
    }
}
