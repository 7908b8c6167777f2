//! Own threads for calls that block: each call on a thread of its own, so many at once and no
//! more.
//!
//! Not the runtime's blocking pool: a call that hangs (a dead NFS server) would hold a place there
//! that everybody else needs, and the runtime's shutdown with it. Here it holds one place of its
//! own driver. A thread costs some 50 µs to start, little beside any call that needs one.

use std::io;

use tokio::sync::oneshot;

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

    /// Run `call` on its own thread, when there is a place for it.
    ///
    /// Dropping the future does not stop a call that began; it keeps its place until it ends. The
    /// error is that of having no thread, or of a thread that panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let place = self.places.take().await;
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
    async fn a_panic_is_an_error_and_gives_its_place_back() {
        let threads = Threads::new("test", 1);
        assert!(threads.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(threads.run(|| 1).await.unwrap(), 1);
    }
}
