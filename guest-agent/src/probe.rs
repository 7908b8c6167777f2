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

use crate::worker::Workers;

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

impl Probes {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, std::time::Instant>) -> T) -> T {
        act(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a question to each of the subjects, which are known by their keys, and gives the answers in
    /// the same order: `None` where there is none, or none in time. The keys of those that hang are in
    /// the second list, if they were not known to.
    pub async fn ask<S: Send + Sync + 'static, T: Send + 'static>(
        &self,
        workers: &Workers,
        what: &'static str,
        subjects: Vec<(String, S)>,
        ask: fn(&S) -> Option<T>,
    ) -> (Vec<Option<T>>, Vec<String>) {
        let mut answers: Vec<Option<T>> = subjects.iter().map(|_| None).collect();
        let mut missing: BTreeSet<usize> = (0..subjects.len()).collect();
        if subjects.is_empty() {
            return (answers, Vec::new());
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let questions = Arc::new(Questions {
            subjects,
            next: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let help = |most| {
            if self.with(|asked| asked.len()) >= most {
                return;
            }
            let (probes, questions, sender) = (self.clone(), questions.clone(), sender.clone());
            // without a thread nothing is answered, and that is told
            let _ = workers.begin(what, move || {
                probes.put(&questions, ask, |at, answer| sender.send((at, answer)).is_ok());
            });
        };
        help(MOST_THREADS);
        let end = Instant::now() + END;
        let mut silent = Duration::ZERO;
        while !missing.is_empty() && silent < PATIENCE && Instant::now() < end {
            match timeout(HELP, receiver.recv()).await {
                Ok(Some((at, answer))) => {
                    silent = Duration::ZERO;
                    missing.remove(&at);
                    if let Some(place) = answers.get_mut(at) {
                        *place = answer;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    silent += HELP;
                    if questions.next.load(Ordering::Relaxed) < questions.subjects.len() {
                        help(THREADS);
                    }
                }
            }
        }
        questions.over.store(true, Ordering::Relaxed);
        let taken = questions.next.load(Ordering::Relaxed);
        let hung = missing
            .range(..taken.min(questions.subjects.len()))
            .filter_map(|at| questions.subjects.get(*at).map(|(key, _)| key.clone()))
            .collect();
        (answers, hung)
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
        let (answers, hung) = probes.ask(&workers, "x", asked, answer).await;
        assert!(began.elapsed() < END + PATIENCE);
        assert_eq!(hung, ["s0", "s3", "s4", "s7"]);
        assert_eq!(answers.iter().flatten().count(), 1996);

        // while they hang they are not asked, and cost nothing
        let (asked, _others) = subjects(&[], 10);
        let began = std::time::Instant::now();
        let (answers, hung) = probes.ask(&workers, "x", asked, answer).await;
        assert!(began.elapsed() < PATIENCE);
        assert_eq!((answers.iter().flatten().count(), hung.len()), (6, 0));

        drop(holds);
        while probes.with(|asked| !asked.is_empty()) {
            tokio::task::yield_now().await;
        }
        let (asked, _others) = subjects(&[], 10);
        let (answers, _) = probes.ask(&workers, "x", asked, answer).await;
        assert_eq!(answers.iter().flatten().count(), 10);
    }

    #[tokio::test]
    async fn however_many_hang_there_are_threads_left() {
        let (probes, workers) = (Probes::default(), Workers::new());
        let (asked, holds) = subjects(&(0..100).collect::<Vec<_>>(), 100);
        let (answers, hung) = probes.ask(&workers, "x", asked, answer).await;
        assert_eq!(answers.iter().flatten().count(), 0);
        assert!((1..=MOST_THREADS).contains(&hung.len()), "{hung:?}");
        assert!(probes.with(|asked| asked.len()) <= MOST_THREADS);
        assert_eq!(workers.run("other", Duration::from_secs(60), || 7).await.unwrap(), 7);
        drop(holds);
    }

    #[tokio::test]
    async fn nothing_to_ask_takes_no_thread() {
        let (answers, hung) = Probes::default()
            .ask(&Workers::new(), "x", Vec::<(String, Subject)>::new(), answer)
            .await;
        assert!(answers.is_empty() && hung.is_empty());
    }
}
