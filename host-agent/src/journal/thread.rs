//! The journal's one thread: it owns the database, takes jobs from a bounded queue, and lets the
//! jobs that wait together share one commit, for a commit costs a flush of the disk.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::reserve::Reserve;
use super::store;

/// How many jobs may wait.
const QUEUE: usize = 1024;
/// How many share one commit at most.
const BATCH: usize = 64;

/// The error of a transaction, told to each job in it.
type Shared = Arc<rusqlite::Error>;

/// A job: does its work inside the transaction (or learns that there is none), and leaves what is
/// to be told once the outcome of the commit is known.
type Job = Box<dyn FnOnce(Result<&Connection, Shared>) -> Tell + Send>;
type Tell = Box<dyn FnOnce(Result<(), Shared>) + Send>;

/// The journal's handle; cheap to clone. The thread ends when the last one is gone.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Job>,
    reserve: Arc<Reserve>,
}

impl Journal {
    /// Open or make the journal at `path`. The receiver ends when all is on disk and the thread,
    /// after the last handle was dropped, has ended.
    ///
    /// # Errors
    /// The file cannot be opened, or was written by a newer agent.
    pub fn open(path: &Path) -> Result<(Self, oneshot::Receiver<()>), Error> {
        let connection = store::open(path)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (running, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                serve(&connection, jobs);
                drop((connection, running));
            })
            .map_err(|e| Error::Open {
                path: path.to_owned(),
                source: rusqlite::Error::ToSqlConversionFailure(Box::new(e)),
            })?;
        Ok((Self { queue, reserve: Arc::new(Reserve::of(path)) }, ended))
    }

    /// Do `work` that frees: if the disk is full, with what the reserve gives.
    pub(super) async fn call_to_free(
        &self,
        action: &'static str,
        work: impl Fn(&Connection) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let work = Arc::new(work);
        loop {
            let (once, reserve) = (Arc::clone(&work), Arc::clone(&self.reserve));
            let done = self.call(action, move |db| once(db)).await;
            if !done.as_ref().is_err_and(Error::is_full) {
                return done;
            }
            let give = move |_: &Connection| Ok(reserve.give());
            if !self.call("use the journal's reserve", give).await? {
                return done;
            }
        }
    }

    /// Make the reserve whole again, as far as there is room.
    pub(super) async fn refill(&self) {
        let reserve = Arc::clone(&self.reserve);
        let fill = move |_: &Connection| {
            reserve.fill();
            Ok(())
        };
        // A journal that is closed needs no reserve.
        let _ = self.call("make the journal's reserve", fill).await;
    }

    /// Do `work` in a transaction and wait until it is on disk.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let failed = move |source: &Shared| Error::Sql { action, source: copy(source) };
        let job: Job = Box::new(move |connection| {
            let outcome = match connection {
                Ok(connection) => in_savepoint(connection, action, work),
                Err(error) => Err(failed(&error)),
            };
            Box::new(move |committed| {
                let told = outcome.and_then(|value| match committed {
                    Ok(()) => Ok(value),
                    Err(error) => Err(failed(&error)),
                });
                // The caller may have gone; what was written stays.
                let _ = answer.send(told);
            })
        });
        self.queue.send(job).await.map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

/// One job's work, all or nothing.
fn in_savepoint<T>(
    connection: &Connection,
    action: &'static str,
    work: impl FnOnce(&Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let sql = |source| Error::Sql { action, source };
    connection.execute_batch("SAVEPOINT job").map_err(sql)?;
    let outcome = work(connection);
    let end = if outcome.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    connection.execute_batch(end).map_err(sql)?;
    outcome
}

/// SQLite's errors cannot be cloned.
fn copy(error: &Shared) -> rusqlite::Error {
    match error.sqlite_error() {
        Some(code) => rusqlite::Error::SqliteFailure(*code, Some(error.to_string())),
        None => rusqlite::Error::ToSqlConversionFailure(error.to_string().into()),
    }
}

fn serve(connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(Arc::new);
        let work = |job: Job| job(begun.as_ref().map(|()| connection).map_err(Arc::clone));
        let told: Vec<Tell> = batch.drain(..).map(work).collect();
        let committed = begun
            .clone()
            .and_then(|()| connection.execute_batch("COMMIT").map_err(Arc::new))
            .inspect_err(|error| {
                tracing::error!(error = %error, "the journal cannot be written");
                // If there is nothing to roll back, that is what is wanted.
                let _ = connection.execute_batch("ROLLBACK");
            });
        for tell in told {
            tell(committed.clone());
        }
    }
}
