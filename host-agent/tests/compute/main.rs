//! Compute over fake drivers and a real journal: what fails is undone, what a crash cuts off is
//! taken up again, whatever the step.
#![expect(clippy::unwrap_used, reason = "a test's own functions")]

mod gate;
mod goes_on;
mod images;
mod journals;
mod ours;
mod outside;
mod ports;
mod stall;
mod virtualization;
mod volumes;
mod volumes_connected;
mod volumes_swapped;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ostler_host_agent::compute::{
    Bridges, ByCapacity, ByState, Command, Compute, Context, Node, Outside,
};
use ostler_host_agent::config::{Driver, Settings};
use ostler_host_agent::disk::Directory;
use ostler_host_agent::guest::{GuestSettings, Guests};
use ostler_host_agent::host::Host;
use ostler_host_agent::hypervisor::fake::{Call, Failing, Fake};
use ostler_host_agent::hypervisor::{Error, Hypervisor, Link, PowerReason};
use ostler_host_agent::image::{Cache, Limits};
use ostler_host_agent::journal::Journal;
use ostler_host_agent::network::filter::FakeFilters;
use ostler_host_agent::network::{FakeNetwork, NetworkCall};
use ostler_host_agent::refusal::{Action, Operation, Reason, Refusal};
use ostler_host_agent::volume::{self, Pools};
use ostler_protocol::rpc::instance::{PowerState, Status};
use ostler_protocol::rpc::operation::{State, Subject, Wait};
use ostler_protocol::rpc::values::{Bytes, IdempotencyKey, InstanceId, Timestamp};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Drivers that are fake, but for files.
struct Faked;

impl Outside for Faked {
    type Hypervisor = Fake;
    type Network = FakeNetwork;
    type Wires = Bridges<FakeNetwork, FakeFilters>;
    type Disks = Directory;
    type Images = Cache;
    type Volumes = Pools;
}

/// A node whose drivers are fake and outlive the agent, as the real ones do.
struct World {
    folder: TempDir,
    hypervisor: Fake,
    network: FakeNetwork,
    filters: FakeFilters,
}

/// One life of the agent.
struct Life<O: Outside = Faked> {
    compute: Arc<Compute<O>>,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let text = format!(
            "host = \"n\"\nstate_dir = {0:?}\nrun_dir = {0:?}\n[hypervisor]\nvirt_type = \"qemu\"\n\
             [guest]\nshutdown_timeout = 1\nanswer_timeout = 1\n[limits]\nboots = 2\nqueue = 3\n",
            folder.path()
        );
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        std::fs::create_dir(folder.path().join("guest")).unwrap();
        Self {
            folder,
            hypervisor: Fake::new(),
            network: FakeNetwork::new(),
            filters: FakeFilters::default(),
        }
    }

    /// Say something else in its configuration.
    fn configure(&self, before: &str, now: &str) {
        let file = self.path().join("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(before), "{text}");
        std::fs::write(file, text.replace(before, now)).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn live(&self) -> Life {
        self.live_with(|node| node).await
    }

    /// A life in which something of the node is another.
    async fn live_with<O>(&self, other: impl FnOnce(Node<Faked>) -> Node<O>) -> Life<O>
    where
        O: Outside<Hypervisor = Fake, Network = FakeNetwork>,
    {
        let settings = Settings::load(Some(&self.path().join("config.toml"))).unwrap();
        let (journal, _ended) = Journal::open(&self.path().join("journal.db")).unwrap();
        let shutdown = CancellationToken::new();
        let hypervisor = Arc::new(self.hypervisor.clone());
        let guest_settings = GuestSettings::new(settings.answer_timeout);
        let directories = vec![self.path().to_owned()];
        let limits = Limits { keep_free: Bytes(0), directories, ..Limits::default() };
        let network = Arc::new(self.network.clone());
        let node = other(Node {
            guests: Guests::new(Arc::clone(&hypervisor), guest_settings, shutdown.clone()),
            hypervisor,
            wires: Bridges { network: Arc::clone(&network), filters: self.filters.clone() },
            network,
            disks: Directory::open(self.path()).await.unwrap(),
            images: Arc::new(Cache::open(&self.path().join("images"), limits).await.unwrap()),
            volumes: self.pools(&settings).await,
            host: Host::open(self.path()).await.unwrap(),
            authority: Box::new(ByState),
            claims: Box::new(ByCapacity),
        });
        let settings = Arc::new(settings);
        let compute = Compute::start(settings, journal, node, shutdown.clone()).await.unwrap();
        Life { compute, shutdown }
    }

    async fn pools(&self, settings: &Settings) -> Pools {
        let mut pools = Vec::new();
        for pool in &settings.pools {
            let Driver::Directory { path } = &pool.driver else { panic!("{pool:?}") };
            let name = pool.name.clone();
            let opened =
                volume::Directory::open(name, path, pool.format, pool.is_shared, Bytes(0)).await;
            pools.push(volume::Pool::Directory(opened.unwrap()));
        }
        Pools(pools)
    }

    /// A life with an image and a network.
    async fn furnished(&self) -> Life {
        let life = self.live().await;
        self.furnish(&life).await;
        life
    }

    async fn furnish<O: Outside>(&self, life: &Life<O>) {
        let image = self.path().join("disk.raw");
        std::fs::write(&image, vec![7; 1 << 20]).unwrap();
        let import = json!({"name": "disk", "source": image, "format": "raw"});
        life.done(Command::ImageImport(serde_json::from_value(import).unwrap())).await;
        let ensure = json!({"name": "lan"});
        life.done(Command::NetworkEnsure(serde_json::from_value(ensure).unwrap())).await;
    }

    /// Until the hypervisor was asked for this.
    async fn reached(&self, call: Call, id: InstanceId) {
        let mut link = self.hypervisor.link();
        while self.hypervisor.called(call, Some(id)) == 0 {
            // Nothing changes on the link: this only gives the others their turn.
            let _ = tokio::time::timeout(Duration::from_millis(5), link.changed()).await;
        }
    }

    /// What there is of an instance: domain, folder, tap.
    fn traces(&self, id: InstanceId) -> Vec<String> {
        let mut traces = Vec::new();
        if self.hypervisor.spec(id).is_some() {
            traces.push("domain".to_owned());
        }
        if self.path().join("instances").join(id.to_string()).exists() {
            traces.push("folder".to_owned());
        }
        traces.extend(self.network.links().into_iter().filter(|link| link.starts_with("tap")));
        traces
    }
}

fn boot(id: InstanceId) -> Command {
    let boot = json!({"id": id, "name": "x", "image": "disk", "vcpus": 1, "memory": 64 << 20,
                      "networks": [{"network": "lan"}]});
    Command::Boot(serde_json::from_value(boot).unwrap())
}

fn delete(id: InstanceId) -> Command {
    let delete = json!({"id": id, "mode": "hard", "ignore_error": true});
    Command::Delete(serde_json::from_value(delete).unwrap())
}

fn failed(call: &'static str) -> Error {
    Error::Failed { step: call, domain: None, message: "told to fail".into() }
}

impl<O: Outside> Life<O> {
    async fn submit(&self, command: Command) -> Result<Operation, Refusal> {
        self.compute.submit(command, Context::default()).await
    }

    async fn end_of(&self, operation: &Operation) -> Operation {
        let wait = Wait { id: operation.id, revision: None, timeout: Some(60_000) };
        let over = self.compute.reads().wait(&wait).await.unwrap();
        assert!(over.state.is_over(), "{over:#?}");
        over
    }

    async fn tried(&self, command: Command) -> Operation {
        let operation = self.submit(command).await.unwrap();
        self.end_of(&operation).await
    }

    async fn done(&self, command: Command) -> Operation {
        let over = self.tried(command).await;
        assert_eq!(over.state, State::Succeeded, "{over:#?}");
        over
    }

    fn status(&self, id: InstanceId) -> Status {
        self.compute.reads().instance(id).unwrap().instance.status
    }

    /// End without a word to anything that is under way, as near to a crash as a process can come
    /// to its own.
    async fn crash(self) {
        self.shutdown.cancel();
        self.compute.drain(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_boot_is_undone_wherever_it_fails() {
    let world = World::new();
    let life = world.furnished().await;
    for failing in [Failing::Before, Failing::After] {
        for call in [Call::Define, Call::Start] {
            let id = InstanceId::random();
            world.hypervisor.fail_next(call, failing, failed("step"));
            let over = life.tried(boot(id)).await;
            assert_eq!(over.state, State::Undone, "{call:?} {failing:?}: {over:#?}");
            assert_eq!(world.traces(id), [""; 0], "{call:?} {failing:?}");
            assert_eq!(life.status(id), Status::Error);
            let fault = life.compute.reads().instance(id).unwrap().fault.unwrap();
            assert_eq!(fault.reason, Reason::HypervisorFailed);
            assert!(fault.step.is_some(), "{fault:?}");
            life.done(delete(id)).await;
        }
    }
    let id = InstanceId::random();
    world.network.fail_next(NetworkCall::EnsureBridge);
    let over = life.tried(boot(id)).await;
    assert_eq!((over.state, world.traces(id).len()), (State::Undone, 0));
    assert_eq!(over.error.unwrap().reason, Reason::NetworkFailed);
}

#[tokio::test]
async fn an_undo_that_fails_is_told_and_a_delete_cleans_up() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    world.hypervisor.fail_next(Call::Start, Failing::Before, failed("start"));
    world.hypervisor.fail_next(Call::Undefine, Failing::Before, failed("undefine"));
    let over = life.tried(boot(id)).await;
    assert_eq!(over.state, State::Failed);
    let fault = over.error.unwrap();
    assert!(fault.to_string().contains("undo define domain failed too"), "{fault}");
    assert_eq!(world.traces(id), ["domain"]);
    life.done(delete(id)).await;
    assert_eq!(world.traces(id), [""; 0]);
}

#[tokio::test]
async fn what_a_crash_cuts_off_is_taken_up_again() {
    for call in [Call::Define, Call::Start] {
        let world = World::new();
        let life = world.furnished().await;
        let id = InstanceId::random();
        // The call never returns; the agent ends under it.
        let held = world.hypervisor.hold_next(call);
        let operation = life.submit(boot(id)).await.unwrap();
        world.reached(call, id).await;
        life.crash().await;
        drop(held);
        let life = world.live().await;
        let over = life.end_of(&operation).await;
        assert_eq!(over.state, State::Succeeded, "{call:?}: {over:#?}");
        assert_eq!(life.status(id), Status::Active);
        life.done(delete(id)).await;
        assert_eq!(world.traces(id), [""; 0], "{call:?}");
    }
}

#[tokio::test]
async fn an_undo_that_a_crash_cuts_off_is_not_turned_forward_again() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    // Nothing of the undo is done yet when the agent ends.
    world.hypervisor.fail_next(Call::Define, Failing::After, failed("define"));
    let held = world.hypervisor.hold_next(Call::Undefine);
    let operation = life.submit(boot(id)).await.unwrap();
    world.reached(Call::Undefine, id).await;
    life.crash().await;
    drop(held);
    let life = world.live().await;
    let over = life.end_of(&operation).await;
    assert_eq!(over.state, State::Undone, "{over:#?}");
    assert_eq!(over.error.unwrap().reason, Reason::HypervisorFailed);
    assert_eq!(world.hypervisor.called(Call::Start, Some(id)), 0);
    assert_eq!(world.traces(id), [""; 0]);
}

#[tokio::test]
async fn a_cancellation_stands_whatever_becomes_of_the_agent() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    let held = world.hypervisor.hold_next(Call::Define);
    let operation = life.submit(boot(id)).await.unwrap();
    world.reached(Call::Define, id).await;
    let asked = life.compute.cancel(operation.id).await.unwrap();
    assert!(asked.cancel_asked.is_some() && !asked.state.is_over(), "{asked:#?}");
    life.crash().await;
    drop(held);
    let life = world.live().await;
    let over = life.end_of(&operation).await;
    assert_eq!(over.state, State::Cancelled, "{over:#?}");
    assert_eq!((over.cancel_asked, world.traces(id).len()), (asked.cancel_asked, 0));
    assert_eq!(world.hypervisor.called(Call::Start, Some(id)), 0);
}

#[tokio::test]
async fn what_a_restart_cut_off_after_the_plug_was_pulled_is_not_cancelled() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let held = world.hypervisor.hold_next(Call::Destroy);
    let reboot = json!({"id": id, "manner": "hard"});
    let operation =
        life.submit(Command::Reboot(serde_json::from_value(reboot).unwrap())).await.unwrap();
    world.reached(Call::Destroy, id).await;
    life.compute.cancel(operation.id).await.unwrap();
    life.crash().await;
    drop(held);
    // Whether it is off by now is not known; left so, it would stay off.
    let life = world.live().await;
    assert_eq!(life.end_of(&operation).await.state, State::Succeeded);
    assert_eq!(life.status(id), Status::Active);
}

#[tokio::test]
async fn after_a_restart_what_is_deleted_is_shown_as_it_is() {
    let world = World::new();
    let life = world.furnished().await;
    let (soft, hard) = (InstanceId::random(), InstanceId::random());
    for id in [soft, hard] {
        life.done(boot(id)).await;
    }
    life.done(Command::Delete(serde_json::from_value(json!({"id": soft})).unwrap())).await;
    life.done(delete(hard)).await;
    life.crash().await;
    let life = world.live().await;
    let mut events = life.compute.events();
    let power = |id| life.compute.reads().instance(id).unwrap().instance.power_state;
    while power(soft) != PowerState::Shutdown {
        tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
    }
    assert_eq!(power(hard), PowerState::None);
    world.hypervisor.set_link(Link::Down);
    while power(soft) != PowerState::Unknown {
        tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
    }
    assert_eq!(power(hard), PowerState::None);
}

#[tokio::test]
async fn a_soft_deleted_instance_says_when_it_goes() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let shown = |life: &Life| life.compute.reads().instance(id).unwrap().instance;
    assert_eq!(shown(&life).reclaimed_at, None);
    life.done(Command::Delete(serde_json::from_value(json!({"id": id})).unwrap())).await;
    let deleted = shown(&life);
    let week = Timestamp(deleted.updated.0 + 7 * 24 * 3600 * 1000);
    assert_eq!(deleted.reclaimed_at, Some(week));
    life.done(Command::Restore(id)).await;
    assert_eq!(shown(&life).reclaimed_at, None);
}

#[tokio::test]
async fn a_step_waits_while_libvirt_is_gone() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    let gone = Error::Unreachable { step: "define", reason: "gone".into() };
    world.hypervisor.fail_next(Call::Define, Failing::Before, gone.clone());
    world.hypervisor.fail_next(Call::Start, Failing::After, gone);
    life.done(boot(id)).await;
    assert_eq!(world.hypervisor.called(Call::Define, Some(id)), 2);
    assert_eq!(life.status(id), Status::Active);
}

#[tokio::test]
async fn nothing_is_done_while_libvirt_is_gone() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    world.hypervisor.set_link(Link::Down);
    for command in [delete(id), Command::Start(id), boot(InstanceId::random())] {
        let fault = life.submit(command).await.unwrap_err();
        assert_eq!(fault.reason, Reason::HypervisorUnavailable);
    }
    world.hypervisor.set_link(Link::Up);
    life.done(delete(id)).await;
}

#[tokio::test]
async fn what_libvirt_tells_is_believed_and_unknown_is_not_off() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let mut events = life.compute.events();
    let mut until = async |status: Status, power: PowerState| {
        let seen = |i: ostler_protocol::rpc::instance::Instance| (i.status, i.power_state);
        while seen(life.compute.reads().instance(id).unwrap().instance) != (status, power) {
            tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        }
    };
    // On its way down, or round through a reboot: not off until it is.
    world.hypervisor.set_power(id, PowerState::Shutdown, PowerReason::ShuttingDown);
    world.hypervisor.set_power(id, PowerState::Paused, PowerReason::Unstated);
    until(Status::Active, PowerState::Paused).await;
    world.hypervisor.set_power(id, PowerState::Shutdown, PowerReason::ShutDown);
    until(Status::Shutoff, PowerState::Shutdown).await;
    world.hypervisor.set_power(id, PowerState::Running, PowerReason::Booted);
    until(Status::Active, PowerState::Running).await;
    world.hypervisor.set_link(Link::Down);
    until(Status::Active, PowerState::Unknown).await;
    world.hypervisor.set_link(Link::Up);
    until(Status::Active, PowerState::Running).await;
}

#[tokio::test]
async fn a_key_is_one_operation_also_after_a_crash() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    let key: IdempotencyKey = "k".parse().unwrap();
    let context = Context { key: Some(key), deadline: None };
    let first = life.compute.submit(boot(id), context.clone()).await.unwrap();
    let again = life.compute.submit(boot(id), context.clone()).await.unwrap();
    assert_eq!(first.id, again.id);
    life.end_of(&first).await;
    life.crash().await;
    let life = world.live().await;
    let again = life.compute.submit(boot(id), context.clone()).await.unwrap();
    assert_eq!((again.id, again.state), (first.id, State::Succeeded));
    let other = life.compute.submit(delete(id), context).await.unwrap_err();
    assert_eq!(other.reason, Reason::KeyReused);
    assert_eq!(world.hypervisor.called(Call::Start, Some(id)), 1);
}

#[tokio::test]
async fn a_delete_ends_a_boot_that_is_stuck_behind_others() {
    let world = World::new();
    let life = world.furnished().await;
    // Two boots may run; both hang.
    let _held = [world.hypervisor.hold_next(Call::Start), world.hypervisor.hold_next(Call::Start)];
    for _ in 0..2 {
        life.submit(boot(InstanceId::random())).await.unwrap();
    }
    let id = InstanceId::random();
    let waiting = life.submit(boot(id)).await.unwrap();
    life.done(delete(id)).await;
    assert_eq!(life.end_of(&waiting).await.state, State::Cancelled);
    assert_eq!(life.status(id), Status::Deleted);
    assert_eq!(world.traces(id), [""; 0]);
}

#[tokio::test]
async fn a_late_command_is_not_run() {
    let world = World::new();
    let life = world.furnished().await;
    let late = Context { key: None, deadline: Some(Timestamp(1)) };
    let fault = life.compute.submit(boot(InstanceId::random()), late).await.unwrap_err();
    assert_eq!(fault.reason, Reason::Expired);
    let subject = Subject::Instance(InstanceId::random());
    assert!(life.compute.reads().instances(&Default::default()).unwrap().is_empty(), "{subject}");
}

#[tokio::test]
async fn a_guest_that_does_not_comply_is_forced_off_in_time() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    world.hypervisor.set_ignores_shutdown(id, true);
    let stop = json!({"id": id, "timeout": 200});
    life.done(Command::Stop(serde_json::from_value(stop).unwrap())).await;
    assert_eq!(life.status(id), Status::Shutoff);
    assert_eq!(world.hypervisor.called(Call::Destroy, Some(id)), 1);
}

#[tokio::test]
async fn a_cancelled_stop_tells_what_cannot_be_taken_back() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    world.hypervisor.set_ignores_shutdown(id, true);
    let stop = |manner: &str| {
        let stop = json!({"id": id, "manner": manner, "timeout": 60_000});
        Command::Stop(serde_json::from_value(stop).unwrap())
    };
    let operation = life.submit(stop("soft")).await.unwrap();
    world.reached(Call::Shutdown, id).await;
    life.compute.cancel(operation.id).await.unwrap();
    let over = life.end_of(&operation).await;
    let told = over.error.unwrap();
    assert_eq!((over.state, life.status(id)), (State::Cancelled, Status::Active));
    assert!(told.message.contains("asked to shut down already"), "{told:#?}");
    assert_eq!(told.by, [Action::InstanceShow(Some(id))]);

    // libvirt does not answer, and may do it yet.
    let held = world.hypervisor.hold_next(Call::Destroy);
    let operation = life.submit(stop("hard")).await.unwrap();
    world.reached(Call::Destroy, id).await;
    life.compute.cancel(operation.id).await.unwrap();
    let over = life.end_of(&operation).await;
    let told = over.error.unwrap();
    assert_eq!((over.state, life.status(id)), (State::Cancelled, Status::Active));
    assert!(told.message.contains("libvirt was told to switch it off"), "{told:#?}");
    drop(held);

    // It does: then it is off, whatever was asked for meanwhile.
    let _held = world.hypervisor.hold_next(Call::Destroy);
    let operation = life.submit(stop("hard")).await.unwrap();
    while world.hypervisor.called(Call::Destroy, Some(id)) < 2 {
        world.reached(Call::Destroy, id).await;
        tokio::task::yield_now().await;
    }
    world.hypervisor.set_power(id, PowerState::Shutdown, PowerReason::Destroyed);
    life.compute.cancel(operation.id).await.unwrap();
    let over = life.end_of(&operation).await;
    assert_eq!((over.state, life.status(id)), (State::Succeeded, Status::Shutoff), "{over:#?}");
}

#[tokio::test]
async fn an_image_with_two_names_loses_one_while_an_instance_runs_on_it() {
    let world = World::new();
    let life = world.furnished().await;
    let source = world.path().join("disk.raw");
    let import = json!({"name": "twin", "source": source, "format": "raw"});
    life.done(Command::ImageImport(serde_json::from_value(import).unwrap())).await;
    let files = || {
        let entries = std::fs::read_dir(world.path().join("images")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name() != "parts").count()
    };
    let id = InstanceId::random();
    life.done(boot(id)).await;
    let remove = |name: &str| Command::ImageRemove(name.parse().unwrap());
    life.done(remove("disk")).await;
    assert_eq!(files(), 1);
    let refused = life.submit(remove("twin")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InUse, "{refused}");
    life.done(delete(id)).await;
    life.done(remove("twin")).await;
    assert_eq!(files(), 0);
}
