//! A kernel that can be told to fail and to hang.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;

use super::kernel::{Kernel, Opened};
use super::plan::Filesystem;

/// It has file systems at `/1`, `/2` and so on, frozen in this order.
#[derive(Debug, Default)]
pub(super) struct Fake {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    filesystems: usize,
    /// How often each is frozen.
    frozen: BTreeMap<String, u32>,
    /// What was done, in order: `freeze /1`.
    calls: Vec<String>,
    fails: BTreeMap<String, Errno>,
    hangs: BTreeSet<String>,
}

/// Nothing here takes so long.
const LONG: Duration = Duration::from_secs(60);

impl Fake {
    pub(super) fn new(filesystems: usize) -> Self {
        let state = State { filesystems, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets a call, `freeze /1`, fail from now on.
    pub(super) fn fail(&self, call: &str, errno: Errno) {
        self.state().fails.insert(call.to_owned(), errno);
    }

    /// Lets a call hang until it is released.
    pub(super) fn hang(&self, call: &str) {
        self.state().hangs.insert(call.to_owned());
    }

    pub(super) fn release(&self, call: &str) {
        self.state().hangs.remove(call);
        self.changed.notify_all();
    }

    /// As if somebody else did.
    pub(super) fn freeze_behind_its_back(&self, name: &str) {
        *self.state().frozen.entry(name.to_owned()).or_default() += 1;
    }

    /// Those that are frozen.
    pub(super) fn frozen(&self) -> Vec<String> {
        let state = self.state();
        state.frozen.iter().filter(|(_, times)| **times > 0).map(|(name, _)| name.clone()).collect()
    }

    /// What was done with this word, in order.
    pub(super) fn calls(&self, word: &str) -> Vec<String> {
        let state = self.state();
        state
            .calls
            .iter()
            .filter_map(|call| call.strip_prefix(word)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect()
    }

    fn call(&self, word: &str, name: &str) -> nix::Result<MutexGuard<'_, State>> {
        let call = format!("{word} {name}");
        let mut state = self.state();
        state.calls.push(call.clone());
        self.changed.notify_all();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, LONG, |state| state.hangs.contains(&call))
            .unwrap();
        match state.fails.get(&call) {
            Some(errno) => Err(*errno),
            None => Ok(state),
        }
    }
}

impl Kernel for Fake {
    fn filesystems(&self) -> io::Result<Vec<Filesystem>> {
        let all = 1..=self.state().filesystems;
        Ok(all
            .map(|at| Filesystem {
                device: (8, at as u64),
                places: vec![(at as u64, format!("/{at}").into())],
                read_only: false,
            })
            .collect())
    }

    fn open(&self, filesystem: &Filesystem) -> io::Result<Option<Opened>> {
        let name = filesystem.name();
        drop(self.call("open", &name)?);
        Ok(Some(Opened { name, file: File::open("/dev/null")? }))
    }

    fn sync(&self, filesystem: &Opened) -> nix::Result<()> {
        self.call("sync", &filesystem.name).map(drop)
    }

    fn freeze(&self, filesystem: &Opened) -> nix::Result<()> {
        let mut state = self.call("freeze", &filesystem.name)?;
        let times = state.frozen.entry(filesystem.name.clone()).or_default();
        if *times > 0 {
            return Err(Errno::EBUSY);
        }
        *times += 1;
        Ok(())
    }

    fn thaw(&self, filesystem: &Opened) -> nix::Result<()> {
        let mut state = self.call("thaw", &filesystem.name)?;
        let times = state.frozen.entry(filesystem.name.clone()).or_default();
        if *times == 0 {
            return Err(Errno::EINVAL);
        }
        *times -= 1;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}
