//! Threads for what may block.
//!
//! A system call on a dead disk or network share cannot be interrupted. So it is made on a thread that
//! can be given up: its caller waits until a deadline and goes on, and the thread ends whenever the
//! kernel lets it. How many may be stuck at a time is limited, for each holds memory. One that is done
//! stays for the next job: to make a thread takes longer than most of what is done on it.

use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

const MOST: usize = 16;
/// Enough for a few system calls and their buffers; only what is touched is resident.
const STACK: usize = 256 << 10;

/// Why work was not done, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It was given up; it may yet be done.
    #[error("{0} did not end in time")]
    Late(&'static str),
    /// Too many that were given up are still there.
    #[error("{0} was not begun: too many earlier calls are stuck")]
    Exhausted(&'static str),
    /// The system has no thread for it.
    #[error("{0} was not begun")]
    Spawn(&'static str, #[source] std::io::Error),
    /// It ended without a result.
    #[error("{0} failed")]
    Lost(&'static str),
}

/// Work, which is to say that it is done before its result is told.
type Job = Box<dyn FnOnce(&dyn Fn()) + Send>;
/// A thread that is done and waits for the next job.
type Idle = Mutex<Option<mpsc::Sender<Job>>>;

/// The threads there may be.
#[derive(Clone, Debug)]
pub struct Workers {
    room: Arc<Semaphore>,
    idle: Arc<Idle>,
}

impl Default for Workers {
    fn default() -> Self {
        Self::new()
    }
}

impl Workers {
    /// No thread yet.
    pub fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(MOST)), idle: Arc::default() }
    }

    /// Begins `job` on a thread of its own, without waiting for it.
    pub fn begin<T: Send + 'static>(
        &self,
        what: &'static str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, WorkerError> {
        let permit =
            self.room.clone().try_acquire_owned().map_err(|_| WorkerError::Exhausted(what))?;
        let (sender, receiver) = oneshot::channel();
        let mut job: Job = Box::new(move |done| {
            let result = job();
            drop(permit);
            done();
            // nobody waits any longer: so be it
            let _ = sender.send(result);
        });
        if let Some(idle) = take(&self.idle) {
            match idle.send(job) {
                Ok(()) => return Ok(receiver),
                Err(refused) => job = refused.0,
            }
        }
        let idle = Arc::downgrade(&self.idle);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || work(job, &idle))
            .map_err(|source| WorkerError::Spawn(what, source))?;
        Ok(receiver)
    }

    /// Does `job` on a thread of its own, and waits until `deadline` at most.
    pub async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let result = self.begin(what, job)?;
        match tokio::time::timeout(deadline, result).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(WorkerError::Lost(what)),
            Err(_) => Err(WorkerError::Late(what)),
        }
    }
}

fn take(idle: &Idle) -> Option<mpsc::Sender<Job>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Does one job after the other, until another thread waits for them already or nobody has any.
fn work(mut job: Job, idle: &Weak<Idle>) {
    loop {
        let (sender, next) = mpsc::channel();
        job(&|| {
            if let Some(idle) = idle.upgrade() {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_or_insert_with(|| sender.clone());
            }
        });
        drop(sender);
        match next.recv() {
            Ok(next) => job = next,
            Err(mpsc::RecvError) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_stuck_job_is_given_up_and_counts_until_it_ends() {
        let workers = Workers::new();
        let mut stuck = Vec::new();
        for _ in 0..MOST {
            let (release, released) = mpsc::channel::<()>();
            let late = workers.run("job", Duration::from_millis(1), move || released.recv()).await;
            assert!(matches!(late, Err(WorkerError::Late("job"))));
            stuck.push(release);
        }
        let refused = workers.run("job", Duration::from_secs(9), || ()).await;
        assert!(matches!(refused, Err(WorkerError::Exhausted("job"))));
        drop(stuck);
        let _all = workers.room.acquire_many(u32::try_from(MOST).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_job_gives_its_result() {
        let workers = Workers::new();
        assert_eq!(workers.run("job", Duration::from_secs(60), || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_thread_does_one_job_after_the_other_and_ends_with_its_owner() {
        let workers = Workers::new();
        let who = || std::thread::current().id();
        let run = || workers.run("job", Duration::from_secs(60), who);
        let first = run().await.unwrap();
        assert_eq!(run().await.unwrap(), first);
        let idle = Arc::downgrade(&workers.idle);
        let held = take(&workers.idle).unwrap();
        // while it is taken another is made
        assert_ne!(run().await.unwrap(), first);
        drop((held, workers));
        assert!(idle.upgrade().is_none());
    }
}
