//! The numbers of handles.
//!
//! An agent that was restarted must not give a number again that a client of the one before still
//! holds. So what was given is noted, in the file and form stock agents use; not one by one, as they do,
//! but a block ahead: opening a file costs no write, and a restart skips what is left of the block.
//! Where nothing can be noted the agent goes on without: the next one begins anew.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::log::Log;
use crate::worker::Workers;

const FIRST: i64 = 1000;
const BLOCK: i64 = 1000;
const DEADLINE: Duration = Duration::from_secs(5);

/// Numbers that are given once.
#[derive(Debug)]
pub(super) struct Numbers {
    path: PathBuf,
    /// The next one; unknown until one is needed.
    next: Option<i64>,
    /// Up to here they are noted as given.
    noted: i64,
}

impl Numbers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, next: None, noted: 0 }
    }

    pub(super) async fn next(&mut self, workers: &Workers, log: &Log) -> i64 {
        if self.next.is_none_or(|next| next >= self.noted) {
            let (path, known) = (self.path.clone(), self.next);
            let reserved =
                workers.run("noting handles", DEADLINE, move || reserve(&path, known)).await;
            let start = match reserved.map_err(io::Error::other).flatten() {
                Ok(start) => start,
                Err(error) => {
                    log.error(format_args!(
                        "handles are not noted in {}, a restart may give them again: {error}",
                        self.path.display()
                    ));
                    known.unwrap_or(FIRST)
                }
            };
            self.next = Some(start);
            self.noted = start.saturating_add(BLOCK);
        }
        let number = self.next.unwrap_or(FIRST);
        self.next = Some(number.saturating_add(1));
        number
    }
}

/// Notes a block as given, and says where it begins.
fn reserve(path: &Path, known: Option<i64>) -> io::Result<i64> {
    let start = match known {
        Some(next) => next,
        None => match fs::read_to_string(path) {
            Ok(text) => counter(&text).unwrap_or(FIRST),
            Err(error) if error.kind() == io::ErrorKind::NotFound => FIRST,
            Err(error) => return Err(error),
        },
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".ostler");
    let beside = path.with_file_name(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // it need not outlive the system: no handle does, so it is not made durable
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    writeln!(file, "[global]\nfd_counter={}", start.saturating_add(BLOCK))?;
    fs::rename(&beside, path)?;
    Ok(start)
}

fn counter(text: &str) -> Option<i64> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[global]").skip(1);
    let entry = lines.by_ref().take_while(|line| !line.starts_with('[')).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "fd_counter").then(|| value.trim().parse::<i64>().ok())?
    })?;
    Some(entry).filter(|counter| *counter >= FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    async fn take(numbers: &mut Numbers, count: usize) -> Vec<i64> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(numbers.next(&Workers::new(), &Settings::for_tests().log).await);
        }
        taken
    }

    #[tokio::test]
    async fn no_number_is_given_twice_whenever_the_agent_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qga.state");
        let mut all = Vec::new();
        for count in [1, 3, 1001, 1] {
            all.extend(take(&mut Numbers::new(path.clone()), count).await);
        }
        assert_eq!(all[0], FIRST);
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    }

    #[tokio::test]
    async fn what_a_stock_agent_noted_is_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qga.state");
        fs::write(&path, "[global]\nfd_counter=1036\n").unwrap();
        assert_eq!(take(&mut Numbers::new(path.clone()), 2).await, [1036, 1037]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "[global]\nfd_counter=2036\n");
    }

    #[tokio::test]
    async fn where_nothing_can_be_noted_numbers_are_given_all_the_same() {
        let mut numbers = Numbers::new("/nonexistent/qga.state".into());
        let taken = take(&mut numbers, 1002).await;
        assert_eq!(taken, Vec::from_iter(FIRST..FIRST + 1002));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_begun_anew() {
        for text in ["", "fd_counter=5000", "[x]\nfd_counter=5000", "[global]\nfd_counter=x"] {
            assert_eq!(counter(text), None, "{text}");
        }
        assert_eq!(counter("[global]\nfd_counter=-5"), None);
        assert_eq!(counter("[a]\n[global]\nx=1\n fd_counter = 1001\n[z]"), Some(1001));
    }
}
