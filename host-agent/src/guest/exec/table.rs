//! The programs that are known, and what they wrote: bounded in number and bytes.
//!
//! A program has a record from the moment it is asked for, under its idempotency key, so that the
//! same request finds it whatever became of it. Records go ten minutes after the end.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::guest::work::{Capture, Exec};
use ostler_protocol::rpc::values::{ExecId, IdempotencyKey, InstanceId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::guest::error::Error;

/// Programs at a time, those that are over and still kept included.
const PROGRAMS: usize = 256;
/// Bytes of one stream.
pub(super) const STREAM: usize = 16 << 20;
/// Bytes of all streams.
const OUTPUT: usize = 64 << 20;
/// So much must be free for another program whose output is kept.
const ROOM: usize = 1 << 20;

/// The programs of all guests.
#[derive(Debug, Default)]
pub(in crate::guest) struct Execs {
    table: Mutex<Table>,
    /// Requests are compared by a hash nobody can compute elsewhere: they hold secrets.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<ExecId, Arc<Record>>,
    keys: HashMap<IdempotencyKey, ExecId>,
    bytes: usize,
}

/// A program that was asked for.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: ExecId,
    pub(super) instance: InstanceId,
    pub(super) asked: Instant,
    pub(super) status: watch::Sender<Status>,
    key: Option<IdempotencyKey>,
    request: u64,
    output: Mutex<[Vec<u8>; 2]>,
}

/// How a program is doing, without what it wrote.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) phase: Phase,
    /// Its process id, once there is one.
    pub(super) pid: i64,
    /// How much there is of standard output and standard error.
    pub(super) sizes: [u64; 2],
    /// Whether there was more.
    pub(super) truncated: [bool; 2],
    /// When it was over, or given up.
    pub(super) ended: Option<Instant>,
}

/// Where a program is in its life.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// The guest was asked to run it.
    Starting,
    /// It was not run, or nobody knows.
    NotStarted(Error),
    /// It runs.
    Running,
    /// It is over.
    Exited {
        /// What it returned.
        code: Option<i32>,
        /// What ended it.
        signal: Option<i32>,
        /// Whether that was its time limit.
        timed_out: bool,
    },
    /// Nobody will ever know, and why.
    Lost(String),
}

/// A request's record: made for it, or found.
pub(super) enum Begun {
    New(Arc<Record>),
    Known(Arc<Record>),
}

impl Execs {
    /// The record for a request.
    ///
    /// # Errors
    /// [`Error::KeyReused`], or [`Error::Busy`] with what there is too much of.
    pub(super) fn begin(
        &self,
        request: &Exec,
        key: Option<&IdempotencyKey>,
    ) -> Result<Begun, Error> {
        let digest = self.digest(request);
        let mut table = self.table();
        let known = key.and_then(|key| table.keys.get(key)).and_then(|id| table.records.get(id));
        if let Some(known) = known {
            return if known.request == digest {
                Ok(Begun::Known(Arc::clone(known)))
            } else {
                Err(Error::KeyReused)
            };
        }
        if table.records.len() >= PROGRAMS {
            let why = format!(
                "{PROGRAMS} programs run in guests or ended in the last 10 minutes, which is the most"
            );
            return Err(Error::Busy { why });
        }
        if request.capture == Capture::Both && table.bytes + ROOM > OUTPUT {
            let why = format!(
                "what programs in guests wrote in the last 10 minutes takes all of the {} MiB there are",
                OUTPUT >> 20
            );
            return Err(Error::Busy { why });
        }
        let status = Status {
            phase: Phase::Starting,
            pid: 0,
            sizes: [0; 2],
            truncated: [false; 2],
            ended: None,
        };
        let record = Arc::new(Record {
            id: ExecId::random(),
            instance: request.id,
            asked: Instant::now(),
            status: watch::Sender::new(status),
            key: key.cloned(),
            request: digest,
            output: Mutex::default(),
        });
        if let Some(key) = key {
            table.keys.insert(key.clone(), record.id);
        }
        table.records.insert(record.id, Arc::clone(&record));
        Ok(Begun::New(record))
    }

    /// A program of this instance.
    pub(super) fn find(&self, instance: InstanceId, exec: ExecId) -> Result<Arc<Record>, Error> {
        let found = self.table().records.get(&exec).cloned();
        found
            .filter(|record| record.instance == instance)
            .ok_or(Error::UnknownExec { instance, exec })
    }

    /// Keeps more of a stream, as much as there is room for.
    pub(super) fn keep(&self, record: &Record, stream: usize, data: &[u8]) {
        let mut table = self.table();
        // forgotten meanwhile: its bytes would never be given back
        if !table.records.contains_key(&record.id) {
            return;
        }
        let mut output = record.output();
        let kept = &mut output[stream];
        let room = (STREAM - kept.len()).min(OUTPUT.saturating_sub(table.bytes));
        let taken = &data[..data.len().min(room)];
        kept.extend_from_slice(taken);
        table.bytes += taken.len();
        let size = kept.len() as u64;
        drop((output, table));
        record.status.send_modify(|status| {
            status.sizes[stream] = size;
            status.truncated[stream] |= taken.len() < data.len();
        });
    }

    /// Forgets a program, and its key.
    pub(super) fn forget(&self, record: &Record) {
        let mut table = self.table();
        if table.records.remove(&record.id).is_none() {
            return;
        }
        if let Some(key) = &record.key {
            table.keys.remove(key);
        }
        let output = std::mem::take(&mut *record.output());
        table.bytes -= output.iter().map(Vec::len).sum::<usize>();
    }

    fn digest(&self, request: &Exec) -> u64 {
        let Exec { id, path, args, env, input, capture, timeout_ms, user, cwd, agent: _ } = request;
        let input = input.as_ref().map(|data| &data.0);
        self.hasher.hash_one((id, path, args, env, input, capture, timeout_ms, user, cwd))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// How it is doing.
    pub(super) fn now(&self) -> Status {
        self.status.borrow().clone()
    }

    /// A piece of a stream, from a place on.
    pub(super) fn piece(&self, stream: usize, from: u64, most: usize) -> Vec<u8> {
        let output = self.output();
        let kept = &output[stream];
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(kept.len());
        kept[from..].iter().take(most).copied().collect()
    }

    fn output(&self) -> MutexGuard<'_, [Vec<u8>; 2]> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[&str]) -> Exec {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let helper = super::super::helper(InstanceId(uuid::Uuid::from_u128(1)), "p", args);
        Exec { capture: Capture::Both, ..helper }
    }

    fn new(execs: &Execs, key: Option<&str>) -> Arc<Record> {
        let key = key.map(|key| key.parse().unwrap());
        match execs.begin(&request(&[]), key.as_ref()).unwrap() {
            Begun::New(record) => record,
            Begun::Known(_) => panic!("it is known"),
        }
    }

    #[test]
    fn a_key_stands_for_one_request_until_it_is_forgotten() {
        let (execs, key) = (Execs::default(), "k".parse().unwrap());
        let first = new(&execs, Some("k"));
        let again = execs.begin(&request(&[]), Some(&key)).unwrap();
        assert!(matches!(again, Begun::Known(known) if known.id == first.id));
        let other = execs.begin(&request(&["x"]), Some(&key));
        assert!(matches!(other, Err(Error::KeyReused)));
        execs.forget(&first);
        assert_ne!(new(&execs, Some("k")).id, first.id);
    }

    #[test]
    fn there_is_an_end_to_programs_and_to_what_they_write() {
        let execs = Execs::default();
        let chatty = new(&execs, None);
        let data = vec![0; STREAM + 1];
        execs.keep(&chatty, 0, &data);
        let status = chatty.now();
        assert_eq!((status.sizes, status.truncated), ([STREAM as u64, 0], [true, false]));
        assert_eq!(chatty.piece(0, STREAM as u64 - 1, 10), [0]);
        assert!(chatty.piece(1, u64::MAX, 10).is_empty());
        for _ in 0..3 {
            execs.keep(&new(&execs, None), 0, &data);
        }
        assert!(matches!(execs.begin(&request(&[]), None), Err(Error::Busy { .. })));
        execs.forget(&chatty);
        execs.forget(&chatty);
        let mut rest: Vec<_> = (3..PROGRAMS).map(|_| new(&execs, None)).collect();
        assert!(matches!(execs.begin(&request(&[]), None), Err(Error::Busy { .. })));
        execs.forget(&rest.remove(0));
        new(&execs, None);
    }
}
