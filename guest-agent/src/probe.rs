//! Questions that may never be answered.
//!
//! A file system on a dead disk, or the disk itself, hangs whoever asks it. So many are asked by a few
//! threads that take one after the other; one that hangs keeps its thread, and another goes on behind
//! it. What did not answer in time is known and not asked again until it does, so each costs one
//! thread at most, however often somebody wants to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::worker::{WorkerError, Workers};

/// Nearly always all have answered after so long.
const AT_ONCE: Duration = Duration::from_millis(10);
/// After so long without an answer one more thread helps.
const HELP: Duration = Duration::from_millis(100);
/// After so long without an answer none is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// However many answer slowly, this is the end.
const END: Duration = Duration::from_secs(5);
/// So many threads may hang here before no more help comes.
const THREADS: usize = 8;
/// So many before nothing is asked at all: others have work too.
const MOST_THREADS: usize = 12;

/// What is being asked now, and since when.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    asked: Arc<Mutex<BTreeMap<String, std::time::Instant>>>,
}

/// What there is to ask, taken by several threads.
struct Questions<S> {
    subjects: Vec<(String, S)>,
    next: AtomicUsize,
    over: AtomicBool,
}

/// What was found, and what came of asking it.
#[derive(Debug)]
pub struct Survey<F, T> {
    /// What was found.
    pub found: F,
    /// The answers, in the order of the subjects: `None` where there is none, or none in time.
    pub answers: Vec<Option<T>>,
    /// The keys of those that hang, if they were not known to.
    pub hung: Vec<String>,
}

/// What a thread tells.
enum ProbeMessage<F, S, T, E> {
    Found(Result<(F, Arc<Questions<S>>), E>),
    Answer(usize, Option<T>),
}

impl Probes {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, std::time::Instant>) -> T) -> T {
        act(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds something out, within a deadline, and with it subjects, which are known by their keys; then
    /// puts a question to each of them.
    pub async fn survey<F, S, T, E>(
        &self,
        workers: &Workers,
        what: &'static str,
        deadline: Duration,
        find: impl FnOnce() -> Result<(F, Vec<(String, S)>), E> + Send + 'static,
        ask: fn(&S) -> Option<T>,
    ) -> Result<Survey<F, T>, E>
    where
        F: Send + 'static,
        S: Send + Sync + 'static,
        T: Send + 'static,
        E: From<WorkerError> + Send + 'static,
    {
        let (told, mut receiver) = mpsc::unbounded_channel();
        // the threads hold the channel: without them there is nothing to wait for
        let (probes, sender) = (self.clone(), told.downgrade());
        let has_room = self.with(|asked| asked.len()) < MOST_THREADS;
        let first = workers.begin(what, move || {
            let (found, subjects) = match find() {
                Ok(found) => found,
                Err(error) => return drop(told.send(ProbeMessage::Found(Err(error)))),
            };
            let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
            let questions = Arc::new(Questions { subjects, next, over });
            if told.send(ProbeMessage::Found(Ok((found, questions.clone())))).is_ok() && has_room {
                probes.put(&questions, ask, |at, answer| {
                    told.send(ProbeMessage::Answer(at, answer)).is_ok()
                });
            }
        })?;
        // ordinarily all is over at once: what was told until then waits, and this thread wakes once
        let _ = timeout(AT_ONCE, first).await;
        let (found, questions) = match timeout(deadline, receiver.recv()).await {
            Ok(Some(ProbeMessage::Found(found))) => found?,
            Ok(Some(ProbeMessage::Answer(..)) | None) => return Err(WorkerError::Lost(what).into()),
            Err(_) => return Err(WorkerError::Late(what).into()),
        };
        let help = || {
            if self.with(|asked| asked.len()) >= THREADS {
                return;
            }
            let Some(told) = sender.upgrade() else { return };
            let (probes, questions) = (self.clone(), questions.clone());
            // without a thread nothing more is answered, and that is told
            let _ = workers.begin(what, move || {
                probes.put(&questions, ask, |at, answer| {
                    told.send(ProbeMessage::Answer(at, answer)).is_ok()
                });
            });
        };
        let mut answers: Vec<Option<T>> = questions.subjects.iter().map(|_| None).collect();
        let mut missing: BTreeSet<usize> = (0..answers.len()).collect();
        let end = Instant::now() + END;
        let mut silent = Duration::ZERO;
        while !missing.is_empty() && silent < PATIENCE && Instant::now() < end {
            match timeout(HELP, receiver.recv()).await {
                Ok(Some(ProbeMessage::Answer(at, answer))) => {
                    silent = Duration::ZERO;
                    missing.remove(&at);
                    if let Some(place) = answers.get_mut(at) {
                        *place = answer;
                    }
                }
                Ok(Some(ProbeMessage::Found(..)) | None) => break,
                Err(_) => {
                    silent += HELP;
                    if questions.next.load(Ordering::Relaxed) < answers.len() {
                        help();
                    }
                }
            }
        }
        questions.over.store(true, Ordering::Relaxed);
        let taken = questions.next.load(Ordering::Relaxed).min(answers.len());
        let hung = missing
            .range(..taken)
            .filter_map(|at| questions.subjects.get(*at).map(|(key, _)| key.clone()))
            .collect();
        Ok(Survey { found, answers, hung })
    }

    /// Takes one question after the other, until there is none or nobody waits.
    fn put<S, T>(
        &self,
        questions: &Questions<S>,
        ask: fn(&S) -> Option<T>,
        tell: impl Fn(usize, Option<T>) -> bool,
    ) {
        while !questions.over.load(Ordering::Relaxed) {
            let at = questions.next.fetch_add(1, Ordering::Relaxed);
            let Some((key, subject)) = questions.subjects.get(at) else { return };
            if !tell(at, self.put_one(key, subject, ask)) {
                return;
            }
        }
    }

    fn put_one<S, T>(&self, key: &str, subject: &S, ask: fn(&S) -> Option<T>) -> Option<T> {
        // `None`: another call asks it too, but has not waited long
        let first = self.with(|asked| match asked.get(key) {
            Some(since) if since.elapsed() >= HELP => Some(false),
            Some(_) => None,
            None => {
                asked.insert(key.to_owned(), std::time::Instant::now());
                Some(true)
            }
        });
        if first == Some(false) {
            return None;
        }
        let answer = ask(subject);
        if first == Some(true) {
            self.with(|asked| asked.remove(key));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc as std_mpsc;

    /// One that hangs, until its sender is dropped, or answers.
    type Subject = Option<Mutex<std_mpsc::Receiver<()>>>;

    async fn ask(
        probes: &Probes,
        workers: &Workers,
        subjects: Vec<(String, Subject)>,
    ) -> (Vec<Option<u8>>, Vec<String>) {
        let find = || Ok::<_, WorkerError>(((), subjects));
        let survey = probes.survey(workers, "x", Duration::from_secs(60), find, answer);
        let Survey { answers, hung, .. } = survey.await.unwrap();
        (answers, hung)
    }

    fn answer(subject: &Subject) -> Option<u8> {
        if let Some(hold) = subject {
            let _ = hold.lock().unwrap().recv();
        }
        Some(1)
    }

    fn subjects(
        hanging: &[usize],
        total: usize,
    ) -> (Vec<(String, Subject)>, Vec<std_mpsc::Sender<()>>) {
        let mut holds = Vec::new();
        let subjects = (0..total).map(|at| {
            let hold = hanging.contains(&at).then(|| {
                let (hold, held) = std_mpsc::channel();
                holds.push(hold);
                Mutex::new(held)
            });
            (format!("s{at}"), hold)
        });
        (subjects.collect(), holds)
    }

    #[tokio::test]
    async fn those_that_hang_are_left_out_and_the_others_answer() {
        let (probes, workers) = (Probes::default(), Workers::new());
        let (asked, holds) = subjects(&[0, 3, 4, 7], 2000);
        let began = std::time::Instant::now();
        let (answers, hung) = ask(&probes, &workers, asked).await;
        assert!(began.elapsed() < END + PATIENCE);
        assert_eq!(hung, ["s0", "s3", "s4", "s7"]);
        assert_eq!(answers.iter().flatten().count(), 1996);

        // while they hang they are not asked, and cost nothing
        let (asked, _others) = subjects(&[], 10);
        let began = std::time::Instant::now();
        let (answers, hung) = ask(&probes, &workers, asked).await;
        assert!(began.elapsed() < PATIENCE);
        assert_eq!((answers.iter().flatten().count(), hung.len()), (6, 0));

        drop(holds);
        while probes.with(|asked| !asked.is_empty()) {
            tokio::task::yield_now().await;
        }
        let (asked, _others) = subjects(&[], 10);
        let (answers, _) = ask(&probes, &workers, asked).await;
        assert_eq!(answers.iter().flatten().count(), 10);
    }

    #[tokio::test]
    async fn however_many_hang_there_are_threads_left() {
        let (probes, workers) = (Probes::default(), Workers::new());
        let (asked, holds) = subjects(&(0..100).collect::<Vec<_>>(), 100);
        let (answers, hung) = ask(&probes, &workers, asked).await;
        assert_eq!(answers.iter().flatten().count(), 0);
        assert!((1..=MOST_THREADS).contains(&hung.len()), "{hung:?}");
        assert!(probes.with(|asked| asked.len()) <= MOST_THREADS);
        assert_eq!(workers.run("other", Duration::from_secs(60), || 7).await.unwrap(), 7);
        drop(holds);
    }

    #[tokio::test]
    async fn what_cannot_be_found_or_not_in_time_is_an_error() {
        let (probes, workers) = (Probes::default(), Workers::new());
        let failed = |_: &u8| -> Option<u8> { None };
        let find = || Err::<((), Vec<(String, u8)>), _>(WorkerError::Exhausted("mine"));
        let told = probes.survey(&workers, "x", Duration::from_secs(60), find, failed).await;
        assert!(matches!(told, Err(WorkerError::Exhausted("mine"))));
        let (hold, held) = std_mpsc::channel::<()>();
        let find = move || {
            let _ = held.recv();
            Ok(((), Vec::new()))
        };
        let told: Result<Survey<(), u8>, WorkerError> =
            probes.survey(&workers, "x", Duration::from_millis(1), find, failed).await;
        assert!(matches!(told, Err(WorkerError::Late("x"))));
        drop(hold);
        let (hold, held) = std_mpsc::channel::<()>();
        let find = move || {
            let _ = held.recv();
            Err::<((), _), _>(WorkerError::Exhausted("mine"))
        };
        let survey = probes.survey(&workers, "x", Duration::from_secs(60), find, failed);
        let later = async {
            tokio::time::sleep(AT_ONCE * 2).await;
            drop(hold);
        };
        let (told, ()) = tokio::join!(survey, later);
        assert!(matches!(told, Err(WorkerError::Exhausted("mine"))), "an error that comes late");
        let find = || -> Result<((), _), WorkerError> { panic!("as it should in this test") };
        let told = probes.survey(&workers, "x", Duration::from_secs(60), find, failed).await;
        assert!(matches!(told, Err(WorkerError::Lost("x"))));
        let find = || Ok::<_, WorkerError>((7, Vec::new()));
        let told =
            probes.survey(&workers, "x", Duration::from_secs(60), find, failed).await.unwrap();
        assert_eq!((told.found, told.answers.len(), told.hung.len()), (7, 0, 0));
    }
}
