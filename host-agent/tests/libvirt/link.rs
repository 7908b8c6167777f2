//! What the driver does when libvirtd goes away, comes back, or hangs. A relay between the two
//! plays libvirtd, so that the node's own is left alone.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// A socket that leads to libvirtd, until it is cut or frozen.
struct Relay {
    folder: TempDir,
    upstream: PathBuf,
    frozen: watch::Sender<bool>,
    listening: Option<JoinHandle<()>>,
    pipes: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Relay {
    async fn start() -> Option<Self> {
        let upstream = std::env::var("OSTLER_TEST_LIBVIRT_URI")
            .ok()
            .and_then(|uri| uri.split_once("socket=").map(|(_, path)| PathBuf::from(path)))
            .unwrap_or_else(|| PathBuf::from("/run/libvirt/libvirt-sock"));
        if let Err(error) = UnixStream::connect(&upstream).await {
            println!("skipped: no libvirtd at {}: {error}", upstream.display());
            return None;
        }
        let mut relay = Self {
            folder: TempDir::new().unwrap(),
            upstream,
            frozen: watch::Sender::new(false),
            listening: None,
            pipes: Arc::default(),
        };
        relay.listen();
        Some(relay)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    fn listen(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (upstream, pipes) = (self.upstream.clone(), Arc::clone(&self.pipes));
        let frozen = self.frozen.subscribe();
        self.listening = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&upstream).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let mut pipes = pipes.lock().unwrap();
                pipes.push(tokio::spawn(pump(from_client, to_server, frozen.clone())));
                pipes.push(tokio::spawn(pump(from_server, to_client, frozen.clone())));
            }
        }));
    }

    /// As when libvirtd is killed.
    async fn cut(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            drop(listening.await);
        }
        std::fs::remove_file(self.socket()).unwrap();
        for pipe in self.pipes.lock().unwrap().drain(..) {
            pipe.abort();
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if frozen.wait_for(|frozen| !frozen).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}

async fn link_is(driver: &Libvirt, wanted: Link) {
    let mut link = driver.link();
    let seen = tokio::time::timeout(PATIENCE, link.wait_for(|link| *link == wanted)).await;
    seen.expect("the link changed").unwrap();
}

#[tokio::test]
async fn a_restart_of_libvirtd_is_survived() {
    let Some(mut relay) = Relay::start().await else { return };
    let driver = connected(&relay.uri()).await.unwrap();
    let mut events = driver.events();
    let spec = spec("survivor");
    let id = spec.id();
    driver.define(&spec).await.unwrap();
    driver.start(id).await.unwrap();

    for _ in 0..2 {
        relay.cut().await;
        link_is(&driver, Link::Down).await;
        wait_for(&mut events, |event| *event == HypervisorEvent::LinkDown).await;
        let error = driver.state(id).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");

        relay.listen();
        link_is(&driver, Link::Up).await;
        wait_for(&mut events, |event| *event == HypervisorEvent::LinkUp).await;
        assert_eq!(driver.state(id).await.unwrap().power, PowerState::Running);
    }

    // events are subscribed to again, each once
    assert_eq!(driver.destroy(id).await, Ok(Change::Made));
    let destroyed = lifecycle(id, PowerState::Shutdown, PowerReason::Destroyed);
    wait_for(&mut events, |event| *event == destroyed).await;
    driver.undefine(id).await.unwrap();
    wait_for(&mut events, |event| {
        assert_ne!(*event, destroyed, "told twice");
        *event == HypervisorEvent::Removed { id }
    })
    .await;
    driver.close(PATIENCE).await;
}

#[tokio::test]
async fn a_hung_libvirtd_is_noticed_and_its_calls_end() {
    let Some(relay) = Relay::start().await else { return };
    let driver = connected(&relay.uri()).await.unwrap();
    relay.frozen.send_replace(true);
    let before = tokio::time::Instant::now();
    let calls = (0..32).map(|_| driver.state(InstanceId::random()));
    for outcome in futures_util::future::join_all(calls).await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. } | Error::Unreachable { .. }), "{error}");
        assert!(error.may_have_happened());
    }
    assert!(before.elapsed() < Duration::from_secs(15), "a deadline ends the wait");
    link_is(&driver, Link::Down).await;
    relay.frozen.send_replace(false);
    link_is(&driver, Link::Up).await;
    let id = InstanceId::random();
    assert_eq!(driver.state(id).await, Err(Error::NotFound { domain: id }));
}

/// The QEMU of a domain.
fn qemu(spec: &DomainSpec) -> nix::unistd::Pid {
    let guest = format!("guest={},", spec.domain_name());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pid = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&guest)
        })
        .expect("the domain runs");
    nix::unistd::Pid::from_raw(pid)
}

#[tokio::test]
async fn stuck_guests_stop_only_themselves() {
    if nix::unistd::Uid::effective().is_root() {
        let Some(driver) = system().await else { return };
        let stuck = [spec("stuck-0"), spec("stuck-1"), spec("stuck-2"), spec("stuck-3")];
        for spec in &stuck {
            driver.define(spec).await.unwrap();
            driver.start(spec.id()).await.unwrap();
            nix::sys::signal::kill(qemu(spec), nix::sys::signal::Signal::SIGSTOP).unwrap();
        }
        // each hangs in QEMU's monitor; a lane's worth of them
        let hanging: Vec<_> = stuck
            .iter()
            .map(|spec| {
                let (driver, id) = (driver.clone(), spec.id());
                tokio::spawn(async move { driver.shutdown(id).await })
            })
            .collect();
        let other = spec("unconcerned");
        driver.define(&other).await.unwrap();
        assert_eq!(driver.start(other.id()).await, Ok(Change::Made));
        driver.destroy(other.id()).await.unwrap();
        driver.undefine(other.id()).await.unwrap();
        assert!(hanging.iter().all(|call| !call.is_finished()), "nothing hung, nothing is shown");
        assert_eq!(driver.state(stuck[0].id()).await.unwrap().power, PowerState::Running);

        // the plug is not behind the call that hangs
        let plugs = stuck.iter().map(|spec| driver.destroy(spec.id()));
        for outcome in futures_util::future::join_all(plugs).await {
            assert_eq!(outcome, Ok(Change::Made));
        }
        for call in hanging {
            println!("{:?}", call.await.unwrap());
        }
        for spec in &stuck {
            driver.undefine(spec.id()).await.unwrap();
        }
    } else {
        println!("skipped: stopping a QEMU takes root");
    }
}
