//! Own threads for calls that block: each call on a thread of its own, so many at once and no
//! more.
//!
//! Not the runtime's blocking pool: a call that hangs (a dead NFS server) would hold a place there
//! that everybody else needs, and the runtime's shutdown with it. Here it holds one place of its
//! own driver. A thread costs some 50 µs to start, little beside any call that needs one.

use std::io;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::turns::Turns;

/// A bound on how many blocking calls a driver has running.
#[derive(Debug, Clone)]
pub(crate) struct Threads {
    name: &'static str,
    places: Turns,
}

impl Threads {
    /// At most `limit` threads, named `name` (15 bytes are shown).
    pub(crate) fn new(name: &'static str, limit: usize) -> Self {
        Self { name, places: Turns::new(limit) }
    }

    /// So many from now on.
    pub(crate) fn resize(&self, limit: usize) {
        self.places.resize(limit);
    }

    /// As [`run`](Self::run), but wait no longer than `patience` for a place: where all are taken,
    /// what they wait for does not answer. A call that began is waited for, since it may still
    /// change what the next would find.
    pub(crate) async fn run_soon<T: Send + 'static>(
        &self,
        patience: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let place = tokio::time::timeout(patience, self.places.take()).await.map_err(|_| {
            let why = "it does not answer, and as many calls as may be wait for it already";
            io::Error::new(io::ErrorKind::TimedOut, why)
        })?;
        self.start(place, call).await
    }

    /// Run `call` on its own thread, when there is a place for it.
    ///
    /// Dropping the future does not stop a call that began; it keeps its place until it ends. The
    /// error is that of having no thread, or of a thread that panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.start(self.places.take().await, call).await
    }

    async fn start<T: Send + 'static>(
        &self,
        place: Option<OwnedSemaphorePermit>,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            let result = call();
            // Before the answer: who got it may count on the place.
            drop(place);
            // Nobody waits any more: the caller was dropped.
            answer.send(result).ok();
        })?;
        answered.await.map_err(|_| io::Error::other(format!("a {} thread panicked", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn no_more_calls_run_than_there_are_places() {
        let threads = Threads::new("test", 1);
        let (release, gate) = mpsc::channel::<()>();
        let first = threads.clone();
        let held = tokio::spawn(async move { first.run(move || gate.recv()).await });
        while threads.places.free() == 1 {
            tokio::task::yield_now().await;
        }
        let mut second = Box::pin(threads.run(|| 2));
        assert!(futures_util::poll!(&mut second).is_pending());
        release.send(()).unwrap();
        assert_eq!(second.await.unwrap(), 2);
        held.await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_finds_no_place_is_told_why_in_time() {
        let threads = Threads::new("test", 1);
        let (release, gate) = mpsc::channel::<()>();
        let first = threads.clone();
        let held = tokio::spawn(async move { first.run(move || gate.recv()).await });
        while threads.places.free() == 1 {
            tokio::task::yield_now().await;
        }
        let told = threads.run_soon(Duration::from_millis(1), || ()).await.unwrap_err();
        assert!(told.to_string().contains("does not answer"), "{told}");
        release.send(()).unwrap();
        held.await.unwrap().unwrap().unwrap();
        threads.run_soon(Duration::from_secs(60), || ()).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_gives_its_place_back() {
        let threads = Threads::new("test", 1);
        assert!(threads.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(threads.run(|| 1).await.unwrap(), 1);
    }
}
