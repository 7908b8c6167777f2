//! The port's semantics, over a stand-in for the device that behaves as the kernel's driver does: a read
//! gives 0 while the host is away, a write would block, what the host left stays, and each change is an
//! edge.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::*;
use crate::settings::Settings;

#[derive(Default)]
struct Device {
    host: Cell<bool>,
    gone: Cell<bool>,
    to_guest: RefCell<VecDeque<u8>>,
    to_host: RefCell<Vec<u8>>,
    /// How much the host takes before it reads.
    room: Cell<usize>,
    edge: Notify,
    pending: Cell<bool>,
    wakes: Cell<usize>,
    reads: Cell<usize>,
}

#[derive(Clone)]
struct Port(Rc<Device>);

impl Port {
    fn new() -> Self {
        let device = Device { room: Cell::new(usize::MAX), ..Device::default() };
        device.pending.set(true);
        Self(Rc::new(device))
    }

    fn wake(&self) {
        self.0.pending.set(true);
        self.0.edge.notify_one();
    }

    fn open(&self) {
        self.0.host.set(true);
        self.0.to_host.borrow_mut().clear();
        self.wake();
    }

    fn close(&self) {
        self.0.host.set(false);
        self.wake();
    }

    fn send(&self, bytes: &[u8]) {
        self.0.to_guest.borrow_mut().extend(bytes);
        self.wake();
    }

    fn sync(&self, id: i64) {
        self.send(format!("{{'execute': 'guest-sync', 'arguments': {{'id': {id}}}}}\n").as_bytes());
    }

    fn received(&self) -> String {
        String::from_utf8_lossy(&self.0.to_host.borrow()).into_owned()
    }

    /// Waits until what the host received ends with `end`.
    async fn until(&self, end: &str) {
        while !self.0.to_host.borrow().ends_with(end.as_bytes()) {
            tokio::task::yield_now().await;
        }
    }

    /// Lets the agent do whatever it can.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

impl Link for Port {
    async fn edge(&self) -> io::Result<Edge> {
        while !self.0.pending.replace(false) {
            self.0.edge.notified().await;
        }
        self.0.wakes.set(self.0.wakes.get() + 1);
        Ok(Edge { hung_up: !self.0.host.get() || self.0.gone.get() })
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.reads.set(self.0.reads.get() + 1);
        if self.0.gone.get() {
            return Err(nix::Error::ENODEV.into());
        }
        let mut waiting = self.0.to_guest.borrow_mut();
        let count = waiting.len().min(buffer.len());
        if count == 0 && self.0.host.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in buffer.iter_mut().zip(waiting.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.gone.get() {
            return Err(nix::Error::ENODEV.into());
        }
        let count = bytes.len().min(self.0.room.get());
        if !self.0.host.get() || count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.room.set(self.0.room.get() - count);
        self.0.to_host.borrow_mut().extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// Runs `host` against an agent at the other end of a port, and gives how the agent's side ended.
async fn with_agent<F: Future>(kind: Kind, port: &Port, host: F) -> (F::Output, SessionEnd) {
    let local = LocalSet::new();
    local
        .run_until(async {
            let agent = Rc::new(Agent::new(&Settings::for_tests()));
            let (stop, mut stopped) = watch::channel(false);
            let other = port.clone();
            let served =
                tokio::task::spawn_local(
                    async move { talk(&agent, kind, &other, &mut stopped).await },
                );
            let outcome = host.await;
            let _ = stop.send(true);
            (outcome, served.await.unwrap())
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_host_is_away_sleeps() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.settle().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
    })
    .await;
    assert_eq!(port.0.wakes.get(), 1);
    assert!(port.0.reads.get() <= 2, "{} reads", port.0.reads.get());
}

#[tokio::test(start_paused = true)]
async fn half_a_request_does_not_outlive_its_host() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.open();
        port.send(b"{'execute': 'guest-pi");
        port.settle().await;
        port.close();
        port.settle().await;
        port.open();
        port.sync(7);
        port.until("\n").await;
    })
    .await;
    assert_eq!(port.received(), "{\"return\": 7}\n");
}

#[tokio::test(start_paused = true)]
async fn an_unsent_answer_does_not_reach_the_next_host() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.open();
        port.0.room.set(5);
        port.sync(1);
        port.settle().await;
        assert_eq!(port.received().len(), 5);
        port.close();
        port.settle().await;
        port.0.room.set(usize::MAX);
        port.open();
        port.sync(2);
        port.until("\n").await;
    })
    .await;
    assert_eq!(port.received(), "{\"return\": 2}\n");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_before_the_news_of_their_host_are_its_own() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.settle().await;
        port.sync(3);
        port.settle().await;
        port.open();
        port.until("\n").await;
    })
    .await;
    assert_eq!(port.received(), "{\"return\": 3}\n");
}

#[tokio::test(start_paused = true)]
async fn what_a_host_left_is_not_the_next_ones() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.send(b"{'execute': 'guest-sync', 'arguments': {'id'");
        port.settle().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        port.open();
        port.sync(4);
        port.until("\n").await;
    })
    .await;
    assert_eq!(port.received(), "{\"return\": 4}\n");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_read_is_not_served_and_costs_nothing() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.open();
        port.0.room.set(0);
        for id in 0..40_000 {
            port.sync(id);
        }
        port.settle().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let left = port.0.to_guest.borrow().len();
        assert!(left > 1 << 20, "all but a bounded part stays in the port, not {left}");
        let wakes = port.0.wakes.get();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(port.0.wakes.get(), wakes);
        // and goes on where it was
        port.0.room.set(usize::MAX);
        port.wake();
        port.until("{\"return\": 39999}\n").await;
    })
    .await;
    assert_eq!(port.received().lines().count(), 40_000);
}

#[tokio::test(start_paused = true)]
async fn an_unplugged_port_ends_the_conversation() {
    let port = Port::new();
    let (_, end) = with_agent(Kind::Standard, &port, async {
        port.open();
        port.sync(1);
        port.until("\n").await;
        port.0.gone.set(true);
        port.wake();
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    assert!(matches!(end, SessionEnd::Failed(error) if error.raw_os_error() == Some(19)));
}

#[tokio::test(start_paused = true)]
async fn answers_on_the_standard_port_are_in_order_and_there_are_no_events() {
    let port = Port::new();
    with_agent(Kind::Standard, &port, async {
        port.open();
        port.send(b"{'execute': 'guest-network-get-interfaces', 'id': 1}");
        port.send(b"x\xFF{'execute': 'guest-ping', 'id': 2}");
        port.send(b"{'execute': 'guest-sync-delimited', 'arguments': {'id': 3}}\n");
        port.until("{\"return\": 3}\n").await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
    })
    .await;
    let ids: Vec<_> = port.received().lines().map(|line| line.chars().last()).collect();
    assert_eq!(ids.len(), 3);
    let first: Value = serde_json::from_str(port.received().lines().next().unwrap()).unwrap();
    assert_eq!(first["id"], 1);
    assert!(!port.received().contains("event"));
    assert!(port.0.to_host.borrow().ends_with(b"\xFF{\"return\": 3}\n"));
}

#[tokio::test]
async fn ostlers_port_greets_each_host_and_beats() {
    let port = Port::new();
    with_agent(Kind::Ostler, &port, async {
        for _ in 0..2 {
            port.open();
            port.send(b"{'execute': 'guest-ping', 'id': 'mine'}");
            for wanted in [
                "\"event\": \"OSTLER_READY\"",
                "\"event\": \"OSTLER_NETWORK_CHANGED\"",
                "\"event\": \"OSTLER_FILESYSTEMS_CHANGED\"",
                "\"event\": \"OSTLER_HEARTBEAT\"",
                "{\"return\": {}, \"id\": \"mine\"}",
            ] {
                while !port.received().contains(wanted) {
                    tokio::task::yield_now().await;
                }
            }
            let first = port.received();
            let first = first.lines().find(|line| line.contains("event")).unwrap();
            let first: Value = serde_json::from_str(first).unwrap();
            assert_eq!(first["event"], json!("OSTLER_READY"));
            assert_eq!(first["data"]["version"], json!(env!("CARGO_PKG_VERSION")));
            port.close();
            port.settle().await;
        }
    })
    .await;
}

#[test]
fn a_port_is_found_by_its_name_where_there_is_no_udev() {
    let ports = tempfile::tempdir().unwrap();
    for (device, name) in [("vport0p1", "org.other.0\n"), ("vport1p2", "org.qemu.guest_agent.0\n")]
    {
        std::fs::create_dir(ports.path().join(device)).unwrap();
        std::fs::write(ports.path().join(device).join("name"), name).unwrap();
    }
    std::fs::create_dir(ports.path().join("vport0p0")).unwrap();
    let path = Path::new("/dev/virtio-ports/org.qemu.guest_agent.0");
    assert_eq!(find(path, ports.path()).unwrap(), Path::new("/dev/vport1p2"));
    let other = Path::new("/dev/virtio-ports/org.qemu.guest_agent.1");
    assert_eq!(find(other, ports.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
}
