//! The programs that are known, and what they wrote: bounded in number and bytes, for each instance and
//! for all, so that one guest does not use up what others have.
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
/// How many of them may be one instance's.
const OWN_PROGRAMS: usize = PROGRAMS / 4;
/// Bytes of one stream.
pub(super) const STREAM: usize = 16 << 20;
/// Bytes of all streams.
const OUTPUT: usize = 128 << 20;
/// How many of them may be one instance's.
const OWN_OUTPUT: usize = OUTPUT / 4;
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
    all: Use,
    own: HashMap<InstanceId, Use>,
}

/// What programs take.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    programs: usize,
    bytes: usize,
}

impl Table {
    /// What the programs of this instance take.
    fn own(&self, instance: InstanceId) -> Use {
        self.own.get(&instance).copied().unwrap_or_default()
    }

    /// Bytes there are for it still.
    fn room(&self, instance: InstanceId) -> usize {
        let own = OWN_OUTPUT.saturating_sub(self.own(instance).bytes);
        OUTPUT.saturating_sub(self.all.bytes).min(own)
    }

    /// Refuses what there is no room for.
    fn admit(&self, request: &Exec) -> Result<(), Error> {
        let busy = |why| Err(Error::Busy { why });
        let (all, own) = (self.all, self.own(request.id));
        if own.programs >= OWN_PROGRAMS {
            return busy(format!(
                "{OWN_PROGRAMS} programs run in this guest or ended in the last 10 minutes, which is the most"
            ));
        }
        if all.programs >= PROGRAMS {
            return busy(format!(
                "{PROGRAMS} programs run in guests or ended in the last 10 minutes, which is the most"
            ));
        }
        if request.capture != Capture::Both || self.room(request.id) >= ROOM {
            return Ok(());
        }
        if own.bytes + ROOM > OWN_OUTPUT {
            return busy(format!(
                "what programs in this guest wrote in the last 10 minutes takes all of the {} MiB it has",
                OWN_OUTPUT >> 20
            ));
        }
        busy(format!(
            "what programs in guests wrote in the last 10 minutes takes all of the {} MiB there are",
            OUTPUT >> 20
        ))
    }

    fn add(&mut self, record: Arc<Record>) {
        self.all.programs += 1;
        self.own.entry(record.instance).or_default().programs += 1;
        if let Some(key) = &record.key {
            self.keys.insert(key.clone(), record.id);
        }
        self.records.insert(record.id, record);
    }

    fn add_bytes(&mut self, instance: InstanceId, bytes: usize) {
        self.all.bytes += bytes;
        self.own.entry(instance).or_default().bytes += bytes;
    }

    fn remove(&mut self, record: &Record) {
        if self.records.remove(&record.id).is_none() {
            return;
        }
        if let Some(key) = &record.key {
            self.keys.remove(key);
        }
        let output = std::mem::take(&mut *record.output());
        let bytes = output.iter().map(Vec::len).sum::<usize>();
        self.all.programs -= 1;
        self.all.bytes -= bytes;
        let Some(own) = self.own.get_mut(&record.instance) else { return };
        own.programs -= 1;
        own.bytes -= bytes;
        if own.programs == 0 {
            self.own.remove(&record.instance);
        }
    }
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
        table.admit(request)?;
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
        table.add(Arc::clone(&record));
        Ok(Begun::New(record))
    }

    /// A program of this instance.
    pub(super) fn find(&self, instance: InstanceId, exec: ExecId) -> Result<Arc<Record>, Error> {
        let found = self.table().records.get(&exec).cloned();
        found
            .filter(|record| record.instance == instance)
            .ok_or(Error::UnknownExec { instance, exec })
    }

    /// Keeps more of a stream, as much as there is room for; whether that was all.
    pub(super) fn keep(&self, record: &Record, stream: usize, data: &[u8]) -> bool {
        let mut table = self.table();
        // forgotten meanwhile: its bytes would never be given back
        if !table.records.contains_key(&record.id) {
            return false;
        }
        let mut output = record.output();
        let kept = &mut output[stream];
        let room = (STREAM - kept.len()).min(table.room(record.instance));
        let taken = &data[..data.len().min(room)];
        kept.extend_from_slice(taken);
        table.add_bytes(record.instance, taken.len());
        let size = kept.len() as u64;
        drop((output, table));
        record.status.send_modify(|status| {
            status.sizes[stream] = size;
            status.truncated[stream] |= taken.len() < data.len();
        });
        taken.len() == data.len()
    }

    /// Forgets a program, and its key.
    pub(super) fn forget(&self, record: &Record) {
        self.table().remove(record);
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

    fn of(instance: u128, args: &[&str]) -> Exec {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let helper = super::super::helper(InstanceId(uuid::Uuid::from_u128(instance)), "p", args);
        Exec { capture: Capture::Both, ..helper }
    }

    fn request(args: &[&str]) -> Exec {
        of(1, args)
    }

    fn begin(execs: &Execs, instance: u128) -> Result<Arc<Record>, Error> {
        match execs.begin(&of(instance, &[]), None)? {
            Begun::New(record) => Ok(record),
            Begun::Known(_) => panic!("it is known"),
        }
    }

    fn busy(execs: &Execs, instance: u128) -> String {
        match begin(execs, instance) {
            Err(Error::Busy { why }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_stands_for_one_request_until_it_is_forgotten() {
        let (execs, key) = (Execs::default(), "k".parse().unwrap());
        let first = |execs: &Execs| match execs.begin(&request(&[]), Some(&key)).unwrap() {
            Begun::New(record) | Begun::Known(record) => record,
        };
        let new = first(&execs);
        assert_eq!(first(&execs).id, new.id);
        let other = execs.begin(&request(&["x"]), Some(&key));
        assert!(matches!(other, Err(Error::KeyReused)));
        execs.forget(&new);
        assert_ne!(first(&execs).id, new.id);
    }

    #[test]
    fn one_guest_does_not_use_up_what_others_have() {
        let execs = Execs::default();
        let data = vec![0; STREAM + 1];
        let chatty = begin(&execs, 1).unwrap();
        assert!(!execs.keep(&chatty, 0, &data));
        let status = chatty.now();
        assert_eq!((status.sizes, status.truncated), ([STREAM as u64, 0], [true, false]));
        assert_eq!(chatty.piece(0, STREAM as u64 - 1, 10), [0]);
        assert!(chatty.piece(1, u64::MAX, 10).is_empty());
        assert!(!execs.keep(&begin(&execs, 1).unwrap(), 1, &data));
        assert!(busy(&execs, 1).contains("this guest"));
        // its neighbour has as much
        let other = begin(&execs, 2).unwrap();
        assert!(execs.keep(&other, 0, &data[..STREAM]));
        execs.forget(&chatty);
        execs.forget(&chatty);
        let mut own: Vec<_> = (1..OWN_PROGRAMS).map(|_| begin(&execs, 1).unwrap()).collect();
        assert!(busy(&execs, 1).contains("this guest"));
        begin(&execs, 2).unwrap();
        execs.forget(&own.remove(0));
        begin(&execs, 1).unwrap();
    }

    #[test]
    fn there_is_an_end_to_all_programs_and_to_all_they_write() {
        let execs = Execs::default();
        let data = vec![0; STREAM];
        let chatty: Vec<_> = (0..OUTPUT / STREAM)
            .map(|n| {
                let record = begin(&execs, n as u128 / 2).unwrap();
                assert!(execs.keep(&record, 0, &data));
                record
            })
            .collect();
        assert!(busy(&execs, 100).contains("in guests"));
        for record in &chatty {
            execs.forget(record);
        }
        for n in 0..PROGRAMS {
            begin(&execs, n as u128).unwrap();
        }
        assert!(busy(&execs, 1000).contains("in guests"));
    }
}
