//! The state machine, over a kernel that fails and hangs when told to.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tokio::task::{JoinHandle, LocalSet};

use super::fake::Fake;
use super::*;

/// No test takes so long, unless it fails.
const LONG: Duration = Duration::from_secs(60);
/// So long something may hang where it is to be given up; nothing else takes that long.
const SHORT: Duration = Duration::from_millis(500);
const USUAL: Limits = Limits { open: LONG, freeze: LONG, thaw: LONG, retry: SHORT };

struct Guest {
    agent: Rc<Agent>,
    kernel: Arc<Fake>,
    folder: tempfile::TempDir,
}

impl Guest {
    fn new(filesystems: usize) -> Self {
        Self::with(filesystems, None, USUAL)
    }

    /// With a hook that notes what it is told, then does this; and limits for a file system.
    fn with(filesystems: usize, hook: Option<&str>, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::for_tests();
        settings.state_directory = folder.path().to_owned();
        settings.hook_timeout = LONG;
        if let Some(script) = hook {
            let path = folder.path().join("hook");
            let told = folder.path().join("told");
            let script = format!("#!/bin/sh\necho $1 >> {}\n{script}\n", told.display());
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            settings.hook = Some(path);
        }
        let kernel = Arc::new(Fake::new(filesystems));
        let mut agent = Agent::new(&settings);
        agent.freezer = Freezer::with(&settings, kernel.clone(), limits);
        Self { agent: Rc::new(agent), kernel, folder }
    }

    /// Another agent in the same guest.
    fn restarted(self) -> Self {
        let Self { folder, kernel, agent } = self;
        let mut settings = Settings::for_tests();
        settings.state_directory = folder.path().to_owned();
        let mut next = Agent::new(&settings);
        next.freezer = Freezer::with(&settings, kernel.clone(), USUAL);
        // as if it had been killed
        if let Some(held) = agent.freezer.held.borrow_mut().take()
            && let Some(timer) = held.timer
        {
            timer.abort();
        }
        let agent = Rc::new(next);
        take_over(&agent);
        Self { agent, kernel, folder }
    }

    fn note(&self) -> PathBuf {
        self.folder.path().join("qga.state.isfrozen")
    }

    /// What the hook was told.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn freeze(&self) -> Result<i64, String> {
        self.freeze_for(600).await
    }

    async fn freeze_for(&self, lease: i64) -> Result<i64, String> {
        let arguments = FreezeArguments { lease: Some(lease) };
        text(GuestFsfreezeFreeze::handle(self.agent.clone(), arguments).await)
    }

    async fn freeze_list(&self, places: &[&str]) -> Result<i64, String> {
        let mountpoints = Some(places.iter().map(|place| (*place).to_owned()).collect());
        let arguments = FreezeListArguments { lease: None, mountpoints };
        text(GuestFsfreezeFreezeList::handle(self.agent.clone(), arguments).await)
    }

    fn begin_freeze(&self) -> JoinHandle<Result<i64, String>> {
        let (agent, arguments) = (self.agent.clone(), FreezeArguments::default());
        tokio::task::spawn_local(async move {
            text(GuestFsfreezeFreeze::handle(agent, arguments).await)
        })
    }

    async fn thaw(&self) -> Result<i64, String> {
        text(GuestFsfreezeThaw::handle(self.agent.clone(), Nothing {}).await)
    }

    async fn status(&self) -> FreezeStatus {
        GuestFsfreezeStatus::handle(self.agent.clone(), Nothing {}).await.unwrap()
    }

    async fn assert_thawed(&self) {
        assert_eq!(self.kernel.frozen(), Vec::<String>::new());
        assert_eq!(self.status().await, FreezeStatus::Thawed);
        assert!(!self.note().exists());
    }
}

fn text(outcome: Result<i64, CommandError>) -> Result<i64, String> {
    outcome.map_err(|error| chain(&error))
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap();
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn all_is_opened_and_written_out_before_anything_is_frozen_and_thawed_in_reverse() {
    run(async {
        let guest = Guest::new(3);
        assert_eq!(guest.freeze().await, Ok(3));
        assert_eq!(guest.status().await, FreezeStatus::Frozen);
        assert!(guest.note().exists());
        let names = ["/1", "/2", "/3"].map(str::to_owned);
        for word in ["open", "sync", "freeze"] {
            assert_eq!(guest.kernel.calls(word), names, "{word}");
        }
        assert_eq!(guest.thaw().await, Ok(3));
        // once to thaw it, and once to see that it is
        assert_eq!(guest.kernel.calls("thaw"), ["/3", "/3", "/2", "/2", "/1", "/1"]);
        assert_eq!(guest.kernel.calls("open").len(), 3, "thawing opens nothing");
        guest.assert_thawed().await;
        assert_eq!(guest.thaw().await, Ok(0));
    });
}

#[test]
fn only_what_is_listed_is_frozen_and_what_is_not_there_is_passed_over() {
    run(async {
        let guest = Guest::new(3);
        assert_eq!(guest.freeze_list(&["/2", "/nowhere"]).await, Ok(1));
        assert_eq!(guest.kernel.frozen(), ["/2"]);
        assert_eq!(guest.thaw().await, Ok(1));
        assert_eq!(guest.freeze_list(&["/nowhere"]).await, Ok(0));
        assert_eq!(guest.freeze_list(&[]).await, Ok(0));
        guest.assert_thawed().await;
    });
}

#[test]
fn a_second_freeze_is_refused() {
    run(async {
        let guest = Guest::new(1);
        assert_eq!(guest.freeze().await, Ok(1));
        assert!(guest.freeze().await.unwrap_err().contains("already"));
        assert_eq!(guest.thaw().await, Ok(1));
    });
}

#[test]
fn what_cannot_be_frozen_or_is_already_is_left_out() {
    run(async {
        let guest = Guest::new(3);
        guest.kernel.fail("freeze /1", nix::errno::Errno::EOPNOTSUPP);
        guest.kernel.freeze_behind_its_back("/2");
        assert_eq!(guest.freeze().await, Ok(1));
        assert_eq!(guest.thaw().await, Ok(2), "what others froze is thawed too");
        guest.assert_thawed().await;
    });
}

#[test]
fn when_nothing_can_be_frozen_the_agent_is_not_frozen_and_the_hook_is_told() {
    run(async {
        let guest = Guest::with(1, Some(""), USUAL);
        guest.kernel.fail("freeze /1", nix::errno::Errno::EOPNOTSUPP);
        assert_eq!(guest.freeze().await, Ok(0));
        guest.assert_thawed().await;
        assert_eq!(guest.told(), ["freeze", "thaw"]);
    });
}

#[test]
fn a_freeze_that_fails_leaves_alone_what_others_froze() {
    run(async {
        let guest = Guest::new(3);
        guest.kernel.freeze_behind_its_back("/1");
        guest.kernel.fail("freeze /3", nix::errno::Errno::EIO);
        assert!(guest.freeze().await.is_err());
        assert_eq!(guest.kernel.frozen(), ["/1"]);
        assert_eq!(guest.thaw().await, Ok(1));
    });
}

#[test]
fn a_failure_thaws_all_and_names_its_file_system() {
    run(async {
        let guest = Guest::with(3, Some(""), USUAL);
        guest.kernel.fail("freeze /2", nix::errno::Errno::EIO);
        let error = guest.freeze().await.unwrap_err();
        assert_eq!(error, "failed to freeze /2: EIO: I/O error");
        guest.assert_thawed().await;
        assert_eq!(guest.kernel.calls("freeze"), ["/1", "/2"]);
        assert_eq!(guest.told(), ["freeze", "thaw"]);
    });
}

#[test]
fn one_that_cannot_be_opened_matters_only_if_it_is_wanted() {
    run(async {
        let guest = Guest::with(2, Some(""), USUAL);
        guest.kernel.fail("open /2", nix::errno::Errno::EIO);
        assert!(guest.freeze().await.unwrap_err().starts_with("failed to open /2: "));
        assert_eq!(guest.told(), ["freeze", "thaw"], "the hook that ran is told");
        assert_eq!(guest.freeze_list(&["/1"]).await, Ok(1));
        assert_eq!(guest.thaw().await, Ok(1));
    });
}

#[test]
fn one_that_hangs_in_freezing_is_named_and_all_others_are_thawed() {
    run(async {
        let guest = Guest::with(3, None, Limits { freeze: SHORT, ..USUAL });
        guest.kernel.hang("freeze /2");
        let error = guest.freeze().await.unwrap_err();
        assert!(error.starts_with("failed to freeze /2: it did not end within"), "{error}");
        assert_eq!(guest.kernel.frozen(), Vec::<String>::new());
        // the kernel is still at it, and so the agent does not say that all is well
        assert_eq!(guest.status().await, FreezeStatus::Frozen);
        guest.kernel.release("freeze /2");
        until(|| !guest.agent.is_frozen()).await;
        guest.assert_thawed().await;
        assert_eq!(guest.freeze().await, Ok(3));
        assert_eq!(guest.thaw().await, Ok(3));
    });
}

#[test]
fn one_that_hangs_before_is_named_and_nothing_is_frozen() {
    run(async {
        for call in ["open /2", "sync /2"] {
            let guest = Guest::with(3, Some(""), Limits { open: SHORT, freeze: SHORT, ..USUAL });
            guest.kernel.hang(call);
            let error = guest.freeze().await.unwrap_err();
            assert!(error.starts_with("failed to freeze /2: "), "{error}");
            guest.assert_thawed().await;
            assert!(guest.kernel.calls("freeze").is_empty());
            assert_eq!(guest.told(), ["freeze", "thaw"]);
            guest.kernel.release(call);
        }
    });
}

#[test]
fn one_that_hangs_in_thawing_is_gone_around_and_tried_again() {
    run(async {
        let guest = Guest::with(3, None, Limits { thaw: SHORT, ..USUAL });
        assert_eq!(guest.freeze().await, Ok(3));
        guest.kernel.hang("thaw /2");
        let error = guest.thaw().await.unwrap_err();
        assert!(error.starts_with("failed to thaw /2: "), "{error}");
        assert_eq!(guest.kernel.frozen(), ["/2"]);
        assert_eq!(guest.status().await, FreezeStatus::Frozen);
        guest.kernel.release("thaw /2");
        until(|| !guest.agent.is_frozen()).await;
        guest.assert_thawed().await;
    });
}

#[test]
fn a_thaw_calls_off_a_freeze_under_way() {
    run(async {
        let guest = Guest::with(3, Some(""), USUAL);
        guest.kernel.hang("freeze /2");
        let freeze = guest.begin_freeze();
        until(|| guest.kernel.calls("freeze").len() == 2).await;
        let agent = guest.agent.clone();
        let thaw = tokio::task::spawn_local(async move {
            text(GuestFsfreezeThaw::handle(agent, Nothing {}).await)
        });
        // it comes back within the grace it is given
        until(|| *guest.agent.freezer.called_off.borrow()).await;
        guest.kernel.release("freeze /2");
        assert!(freeze.await.unwrap().unwrap_err().contains("called off"));
        assert_eq!(thaw.await.unwrap(), Ok(1), "the second has thawed itself");
        guest.assert_thawed().await;
        assert_eq!(guest.told(), ["freeze", "thaw"]);
        assert_eq!(guest.kernel.calls("freeze").len(), 2);
    });
}

#[test]
fn a_thaw_does_not_wait_for_a_hook_that_hangs() {
    run(async {
        let guest = Guest::with(1, Some("test $1 = thaw || exec sleep 600"), USUAL);
        let freeze = guest.begin_freeze();
        until(|| guest.told() == ["freeze"]).await;
        assert_eq!(guest.thaw().await, Ok(0));
        assert!(freeze.await.unwrap().unwrap_err().contains("called off"));
        guest.assert_thawed().await;
        assert_eq!(guest.told(), ["freeze", "thaw"]);
    });
}

#[test]
fn a_hook_that_fails_prevents_the_freeze_and_is_told_to_thaw() {
    run(async {
        let guest = Guest::with(2, Some("echo busy; test $1 = thaw"), USUAL);
        let error = guest.freeze().await.unwrap_err();
        assert!(error.contains("fsfreeze hook has failed") && error.contains("busy"), "{error}");
        assert!(guest.kernel.calls("open").is_empty());
        guest.assert_thawed().await;
        assert_eq!(guest.told(), ["freeze", "thaw"]);
    });
}

#[test]
fn a_hook_that_fails_to_thaw_is_an_error_though_all_is_thawed() {
    run(async {
        let guest = Guest::with(2, Some("test $1 = freeze"), USUAL);
        assert_eq!(guest.freeze().await, Ok(2));
        assert!(guest.thaw().await.unwrap_err().contains("fsfreeze hook has failed"));
        guest.assert_thawed().await;
    });
}

#[test]
fn a_lease_that_lapses_thaws_all_and_says_so_once() {
    run(async {
        let guest = Guest::with(2, Some(""), USUAL);
        let mut lapses = guest.agent.freezer.lapses();
        assert_eq!(guest.freeze_for(1).await, Ok(2));
        tokio::time::timeout(LONG, lapses.wait_for(Option::is_some)).await.unwrap().unwrap();
        assert_eq!(*lapses.borrow(), Some(Thawed { filesystems: 2, lease: 1 }));
        guest.assert_thawed().await;
        assert_eq!(guest.told(), ["freeze", "thaw"]);
        // whoever listens from now on is told too
        assert!(guest.agent.freezer.lapses().has_changed().unwrap());
        let error = guest.thaw().await.unwrap_err();
        assert!(error.starts_with("the freeze had lapsed") && error.contains("1 s"), "{error}");
        assert_eq!(guest.thaw().await, Ok(0));
        assert_eq!(*guest.agent.freezer.lapses().borrow(), None);
    });
}

#[test]
fn a_lease_is_a_number_of_seconds_of_a_day_at_most() {
    run(async {
        let guest = Guest::new(1);
        for lease in [0, -1, LONGEST_LEASE + 1, i64::MAX, i64::MIN] {
            let error = guest.freeze_for(lease).await.unwrap_err();
            assert!(error.starts_with("Parameter 'lease' expects"), "{error}");
        }
        assert_eq!(guest.freeze_for(LONGEST_LEASE).await, Ok(1));
        assert_eq!(guest.thaw().await, Ok(1));
    });
}

#[test]
fn a_client_that_leaves_does_not_stop_a_freeze_half_way() {
    run(async {
        let guest = Guest::new(2);
        guest.kernel.hang("freeze /2");
        let freeze = guest.begin_freeze();
        until(|| guest.kernel.calls("freeze").len() == 2).await;
        freeze.abort();
        assert!(freeze.await.unwrap_err().is_cancelled());
        guest.kernel.release("freeze /2");
        until(|| guest.kernel.frozen().len() == 2).await;
        // the lease is kept: whoever comes next can thaw, or nobody need
        until(|| {
            guest.agent.freezer.held.borrow().as_ref().is_some_and(|held| held.timer.is_some())
        })
        .await;
        assert_eq!(guest.thaw().await, Ok(2));
        guest.assert_thawed().await;
    });
}

#[test]
fn the_next_agent_thaws_what_this_one_froze() {
    run(async {
        let guest = Guest::new(2);
        assert_eq!(guest.freeze().await, Ok(2));
        let guest = guest.restarted();
        assert_eq!(guest.status().await, FreezeStatus::Frozen);
        assert_eq!(guest.thaw().await, Ok(2));
        guest.assert_thawed().await;
    });
}

#[test]
fn the_next_agent_keeps_the_lease_of_this_one() {
    run(async {
        let guest = Guest::new(2);
        assert_eq!(guest.freeze_for(1).await, Ok(2));
        let guest = guest.restarted();
        until(|| !guest.agent.is_frozen()).await;
        guest.assert_thawed().await;
        let error = guest.thaw().await.unwrap_err();
        assert!(error.starts_with("the freeze had lapsed") && error.contains("1 s"), "{error}");
    });
}
