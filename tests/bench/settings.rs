//! How much is measured. Every number has a variable, so that a quick look and a long night run the
//! same program.

use std::path::PathBuf;

use ostler_tests::programs;

use crate::error::{Error, Result};

/// What is asked of this run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Starts of a domain of each kind.
    pub(crate) runs: usize,
    /// Boots of a guest of each kind.
    pub(crate) boots: usize,
    /// Calls of each kind to the host agent and its peers.
    pub(crate) calls: usize,
    /// Questions of each kind to a guest.
    pub(crate) questions: usize,
    /// Starts of each program.
    pub(crate) starts: usize,
    /// Instances on the node when its memory is looked at.
    pub(crate) instances: usize,
    /// Memory of each of those, MiB.
    pub(crate) memory: u64,
    /// Boots at once.
    pub(crate) crowd: usize,
    /// Times that every operation is done.
    pub(crate) cycles: usize,
    /// Rounds with and without each trouble.
    pub(crate) rounds: usize,
    /// Commits to a journal.
    pub(crate) commits: usize,
    /// Instances that are defined and do not run, on a node that has many.
    pub(crate) defined: usize,
    /// The sections to measure; all if empty.
    only: Vec<String>,
    /// The folder the numbers are kept in.
    pub(crate) folder: PathBuf,
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// If a variable is no number.
    pub(crate) fn from_env() -> Result<Self> {
        let only = std::env::var("OSTLER_BENCH_ONLY").unwrap_or_default();
        Ok(Self {
            runs: number("OSTLER_BENCH_RUNS", 21)?,
            boots: number("OSTLER_BENCH_BOOTS", 7)?,
            calls: number("OSTLER_BENCH_CALLS", 2000)?,
            questions: number("OSTLER_BENCH_QUESTIONS", 500)?,
            starts: number("OSTLER_BENCH_STARTS", 20)?,
            instances: number("OSTLER_BENCH_INSTANCES", 20)?,
            memory: number("OSTLER_BENCH_MEMORY", 128)? as u64,
            crowd: number("OSTLER_BENCH_CROWD", 8)?,
            cycles: number("OSTLER_BENCH_CYCLES", 5)?,
            rounds: number("OSTLER_BENCH_ROUNDS", 5)?,
            commits: number("OSTLER_BENCH_COMMITS", 300)?,
            defined: number("OSTLER_BENCH_DEFINED", 1000)?,
            only: only
                .split(',')
                .map(str::trim)
                .filter(|w| !w.is_empty())
                .map(Into::into)
                .collect(),
            folder: programs::build_folder().join("bench"),
        })
    }

    /// Whether this section is wanted.
    pub(crate) fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == section)
    }

    /// As it is kept with the numbers.
    pub(crate) fn document(&self) -> serde_json::Value {
        serde_json::json!({
            "runs": self.runs, "boots": self.boots, "calls": self.calls, "questions": self.questions,
            "starts": self.starts, "instances": self.instances, "instance_memory_mib": self.memory,
            "crowd": self.crowd, "cycles": self.cycles, "rounds": self.rounds,
            "commits": self.commits, "defined": self.defined, "only": self.only,
            // the agent's, as the harness takes it
            "log": std::env::var("OSTLER_LOG").ok(),
        })
    }
}

fn number(name: &'static str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => {
            text.parse().ok().filter(|n| *n > 0).ok_or(Error::Setting { name, given: text })
        }
    }
}
