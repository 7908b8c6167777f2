//! What overtakes what, and what becomes of commands that are given up; by a clock that only moves
//! when everybody waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write;

use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::*;
use crate::dispatcher::tests::WAITED;
use crate::settings::Settings;

/// A link whose other side always reads.
#[derive(Default)]
struct Pipe {
    input: RefCell<VecDeque<u8>>,
    output: RefCell<Vec<u8>>,
    closed: Cell<bool>,
    changed: Notify,
    writes: Cell<usize>,
}

impl Link for Pipe {
    async fn edge(&self) -> io::Result<Edge> {
        self.changed.notified().await;
        Ok(Edge { hung_up: false })
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = self.input.borrow_mut();
        let count = input.len().min(buffer.len());
        if count == 0 && !self.closed.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in buffer.iter_mut().zip(input.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.set(self.writes.get() + 1);
        self.output.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// The other side.
struct Client(Rc<Pipe>);

impl Client {
    fn send(&self, text: &str) {
        self.0.input.borrow_mut().extend(text.as_bytes());
        self.0.changed.notify_one();
    }

    fn wait(&self, ms: u64) {
        self.send(&format!("{{'execute': 'guest-wait', 'arguments': {{'ms': {ms}}}}}"));
    }

    fn sync(&self, id: i64) {
        self.send(&format!("{{'execute': 'guest-sync', 'arguments': {{'id': {id}}}}}"));
    }

    fn ping(&self) {
        self.send("{'execute': 'guest-ping'}");
    }

    /// What has come since the last time.
    fn take(&self) -> String {
        String::from_utf8(self.0.output.take()).unwrap()
    }

    fn close(&self) {
        self.0.closed.set(true);
        self.0.changed.notify_one();
    }
}

/// Runs `client` against a session, and gives the agent.
async fn with_session<F: Future<Output = ()>>(kind: Kind, client: impl FnOnce(Client) -> F) {
    WAITED.take();
    let local = LocalSet::new();
    local
        .run_until(async {
            let pipe = Rc::new(Pipe::default());
            let agent = Rc::new(Agent::new(&Settings::for_tests()));
            let (_stop, mut stopped) = watch::channel(false);
            let link = pipe.clone();
            tokio::task::spawn_local(async move {
                Session::new(agent, kind, AtEnd::Finish, &*link).run(false, &mut stopped).await;
            });
            client(Client(pipe)).await;
        })
        .await;
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

const DONE: &str = "{\"return\": {}}\n";

#[tokio::test(start_paused = true)]
async fn what_is_sent_together_is_answered_in_order_however_long_it_takes() {
    with_session(Kind::Standard, async |client| {
        client.wait(5000);
        client.ping();
        client.sync(1);
        pass(20).await;
        client.ping();
        pass(4000).await;
        assert_eq!(client.take(), "");
        pass(1000).await;
        assert_eq!(client.take(), format!("{{\"return\": 5000}}\n{DONE}{{\"return\": 1}}\n{DONE}"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_does_not_wait_for_a_slow_command() {
    with_session(Kind::Standard, async |client| {
        client.wait(5000);
        client.wait(1);
        pass(60).await;
        client.ping();
        client.send("{'execute': 'guest-info', 'id': 1}");
        client.send("{'execute': 'guest-get-host-name', 'id': 2}");
        pass(1).await;
        let answers = client.take();
        assert!(answers.starts_with(DONE) && answers.lines().count() == 2, "{answers}");
        pass(6000).await;
        let answers = client.take();
        let heads: Vec<_> = answers.lines().map(|line| &line[..13]).collect();
        assert_eq!(
            heads,
            ["{\"return\": 500", "{\"return\": 1}", "{\"return\": {\""].map(|h| &h[..13])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_early_ping_that_can_be_told_by_its_id_is_answered_within_100_ms() {
    with_session(Kind::Standard, async |client| {
        client.wait(5000);
        client.send("{'execute': 'guest-ping', 'id': 7}");
        client.sync(8);
        pass(40).await;
        assert_eq!(client.take(), "");
        pass(20).await;
        assert_eq!(client.take(), "{\"return\": {}, \"id\": 7}\n");
        pass(6000).await;
        assert_eq!(client.take(), "{\"return\": 5000}\n{\"return\": 8}\n");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_late_sync_gives_up_all_that_came_before_and_nothing_that_comes_after() {
    with_session(Kind::Standard, async |client| {
        client.wait(5000);
        client.wait(300);
        client.sync(1);
        pass(1000).await;
        client.sync(2);
        client.wait(70);
        client.ping();
        pass(1).await;
        assert_eq!(client.take(), "{\"return\": 2}\n");
        pass(100).await;
        assert_eq!(client.take(), format!("{{\"return\": 70}}\n{DONE}"));
        pass(10_000).await;
        assert_eq!(client.take(), "", "late answers are dropped");
        // and yet what was asked was done
        assert_eq!(WAITED.take(), [70, 5000, 300]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn on_ostlers_channel_a_ping_passes_a_full_house_and_a_sync_gives_nothing_up() {
    with_session(Kind::Ostler, async |client| {
        pass(5000).await;
        for _ in 0..20 {
            client.wait(1000);
        }
        client.ping();
        client.sync(3);
        pass(1).await;
        // events come when they come
        let taken = client.take();
        let answers = taken.split_inclusive('\n').filter(|line| !line.starts_with("{\"event\""));
        assert_eq!(answers.collect::<String>(), format!("{DONE}{{\"return\": 3}}\n"));
        pass(3000).await;
        assert_eq!(client.take().matches("{\"return\": 1000}\n").count(), 20);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stuck_commands_are_bounded_and_others_are_refused_until_they_end() {
    with_session(Kind::Standard, async |client| {
        for id in 0..16 {
            client.wait(100_000);
            pass(60).await;
            client.sync(id);
            pass(1).await;
            assert_eq!(client.take(), format!("{{\"return\": {id}}}\n"));
        }
        client.wait(1);
        client.ping();
        pass(5).await;
        assert_eq!(
            client.take(),
            format!(
                "{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{STUCK}\"}}}}\n{DONE}"
            )
        );
        pass(100_000).await;
        client.wait(1);
        pass(5).await;
        assert_eq!(client.take(), "{\"return\": 1}\n");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_or_asked_is_done_though_the_client_leaves() {
    with_session(Kind::Standard, async |client| {
        client.wait(3000);
        client.wait(200);
        pass(1).await;
        client.close();
        pass(10_000).await;
        // it has only closed its own half
        assert_eq!(client.take(), "{\"return\": 3000}\n{\"return\": 200}\n");
        assert_eq!(WAITED.take(), [3000, 200]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pipelined_requests_are_a_few_writes() {
    with_session(Kind::Standard, async |client| {
        for _ in 0..1000 {
            client.ping();
        }
        pass(1).await;
        assert_eq!(client.take(), DONE.repeat(1000));
        assert!(client.0.writes.get() <= 2, "{} writes", client.0.writes.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_are_bounded_and_none_is_lost() {
    with_session(Kind::Standard, async |client| {
        client.wait(1000);
        for _ in 0..100_000 {
            client.ping();
        }
        pass(10).await;
        assert!(client.0.input.borrow().len() > 1 << 20, "most stay where they are");
        pass(2000).await;
        assert_eq!(client.take().matches(DONE).count(), 100_000);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_gone_altogether_holds_the_next_one_up_no_longer() {
    WAITED.take();
    let local = LocalSet::new();
    local
        .run_until(async {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let link = crate::channel::socket::Socket::new(ours.into()).unwrap();
            let agent = Rc::new(Agent::new(&Settings::for_tests()));
            let (_stop, mut stopped) = watch::channel(false);
            let session = Session::new(agent, Kind::Standard, AtEnd::Finish, &link);
            let mut session = std::pin::pin!(session.run(false, &mut stopped));
            let request = b"{'execute': 'guest-wait', 'arguments': {'ms': 200}}";
            theirs.write_all(request).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            // its answer may still be wanted
            let early = tokio::time::timeout(Duration::from_millis(50), &mut session).await;
            assert!(early.is_err());
            drop(theirs);
            assert!(matches!(session.await, SessionEnd::Closed));
            assert_eq!(WAITED.with_borrow(Vec::len), 0, "it is not done yet");
            while WAITED.with_borrow(Vec::is_empty) {
                tokio::task::yield_now().await;
            }
        })
        .await;
}
