//! Sessions against a hypervisor in memory and a pty that is real.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::pty::{OpenptyResult, openpty};

use super::*;
use crate::hypervisor::fake::{Call, Fake};
use crate::hypervisor::spec::sample;
use crate::hypervisor::{PowerReason, PowerState};

/// A pty as QEMU has it: its end, and the path of the other.
fn pty() -> (File, PathBuf) {
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let path = std::fs::read_link(format!("/proc/self/fd/{}", slave.as_raw_fd())).unwrap();
    (File::from(master), path)
}

async fn node() -> (Arc<Fake>, InstanceId, Consoles<Fake>) {
    let fake = Arc::new(Fake::new());
    let spec = sample();
    fake.define(&spec).await.unwrap();
    let consoles = Consoles::new(Arc::clone(&fake), &CancellationToken::new());
    (fake, spec.id(), consoles)
}

/// Reads on until this was printed; where it ends.
async fn until(consoles: &Consoles<Fake>, session: ConsoleId, mut at: u64, text: &str) -> u64 {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        let read = Read { session, at, wait: Some(10_000), state: None };
        let printed = consoles.read(&read).await.unwrap();
        seen.extend_from_slice(printed.data.bytes());
        at = printed.at;
    }
    at
}

async fn attached(consoles: &Consoles<Fake>, session: ConsoleId, at: u64) {
    while consoles.state(session).unwrap() == State::Waiting {
        let state = Some(State::Waiting);
        consoles.read(&Read { session, at, wait: Some(10_000), state }).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_goes_from_one_pty_to_the_next() {
    let (fake, id, consoles) = node().await;
    let Opened { session, at, state } = consoles.open(id).unwrap();
    assert_eq!((at, state), (0, State::Waiting));
    // Nothing is typed into what is not there.
    let early = Write { session, at: 0, data: Data::new(b"early".to_vec()) };
    assert_eq!(consoles.write(&early).await.unwrap(), Taken { at: 0, state: State::Waiting });

    let (mut qemu, path) = pty();
    fake.set_console(id, Some(path));
    fake.start(id).await.unwrap();
    attached(&consoles, session, at).await;
    qemu.write_all(b"one\r\n").unwrap();
    let at = until(&consoles, session, at, "one\r\n").await;

    // Typed twice is typed once, and what is new of it is typed.
    for (at, text, taken) in [(0, "abc", 3), (0, "abc", 3), (1, "bcd", 4)] {
        let write = Write { session, at, data: Data::new(text.into()) };
        assert_eq!(consoles.write(&write).await.unwrap().at, taken);
    }
    let ahead = Write { session, at: 9, data: Data::default() };
    assert!(matches!(consoles.write(&ahead).await, Err(Error::Ahead { at: 9, end: 4 })));
    let mut typed = [0; 4];
    // on a thread of its own, for it may not be there yet
    let qemu = std::thread::spawn(move || {
        qemu.read_exact(&mut typed).unwrap();
        (qemu, typed)
    });
    while !qemu.is_finished() {
        tokio::task::yield_now().await;
    }
    let (qemu, typed) = qemu.join().unwrap();
    assert_eq!(&typed, b"abcd");

    // QEMU ends; the next one has another pty.
    fake.set_power(id, PowerState::Shutdown, PowerReason::ShutDown);
    drop(qemu);
    let state = Some(State::Attached);
    let read = Read { session, at, wait: Some(10_000), state };
    assert_eq!(consoles.read(&read).await.unwrap().state, State::Waiting);
    let (mut qemu, path) = pty();
    fake.set_console(id, Some(path));
    fake.start(id).await.unwrap();
    attached(&consoles, session, at).await;
    qemu.write_all(b"two\r\n").unwrap();
    until(&consoles, session, at, "two\r\n").await;

    consoles.close(session);
    assert!(matches!(consoles.instance(session), Err(Error::Unknown { .. })));
    consoles.drain().await;
}

#[tokio::test]
async fn a_pty_that_changed_hands_is_left_alone() {
    let (fake, id, consoles) = node().await;
    let (_qemu, path) = pty();
    fake.start(id).await.unwrap();
    fake.set_console(id, Some(path));
    // Between the two looks at where the console is, the domain goes away.
    let first = fake.hold_next(Call::Console);
    let second = fake.hold_next(Call::Console);
    let Opened { session, .. } = consoles.open(id).unwrap();
    drop(first);
    while fake.called(Call::Console, Some(id)) < 2 {
        tokio::task::yield_now().await;
    }
    fake.set_power(id, PowerState::Shutdown, PowerReason::ShutDown);
    drop(second);
    while fake.called(Call::Console, Some(id)) < 3 {
        assert_eq!(consoles.state(session).unwrap(), State::Waiting);
        tokio::task::yield_now().await;
    }
    consoles.drain().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_are_bounded_and_do_not_outlive_their_reader() {
    let (_fake, id, consoles) = node().await;
    let kept: Vec<_> = (0..PER_INSTANCE).map(|_| consoles.open(id).unwrap().session).collect();
    assert!(matches!(consoles.open(id), Err(Error::Full { open: 4, .. })));
    let others = (PER_INSTANCE..IN_ALL).map(|_| consoles.open(InstanceId::random()).unwrap());
    assert_eq!(others.count(), IN_ALL - PER_INSTANCE);
    assert!(matches!(consoles.open(InstanceId::random()), Err(Error::Full { open: 64, .. })));
    // One is read, and stays.
    let read = Read { session: kept[0], at: 0, wait: Some(WAIT_MAX), state: None };
    for _ in 0..4 {
        assert!(consoles.read(&read).await.unwrap().data.bytes().is_empty());
    }
    assert!(consoles.instance(kept[0]).is_ok());
    assert!(kept[1..].iter().all(|session| consoles.instance(*session).is_err()));
    assert_eq!(consoles.0.sessions.lock().len(), 1);
    consoles.drain().await;
}

#[tokio::test]
async fn what_is_not_read_in_time_is_counted() {
    let (fake, id, consoles) = node().await;
    let (mut qemu, path) = pty();
    fake.set_console(id, Some(path));
    fake.start(id).await.unwrap();
    let Opened { session, at, .. } = consoles.open(id).unwrap();
    attached(&consoles, session, at).await;
    let total = 400 << 10;
    let flood = std::thread::spawn(move || {
        qemu.write_all(&vec![b'x'; total]).unwrap();
        qemu
    });
    while consoles.touch(session).unwrap().end_and_state().0 < total as u64 {
        tokio::task::yield_now().await;
    }
    let printed = consoles.read(&Read { session, at, wait: None, state: None }).await.unwrap();
    assert_eq!(printed.lost, (total - (256 << 10)) as u64);
    assert_eq!(printed.data.bytes().len(), READ_MAX);
    drop(flood.join().unwrap());
    consoles.drain().await;
}
