//! Taking up a changed configuration without a restart: at SIGHUP, which `systemctl reload` sends.
//!
//! What is read where it is used is taken over as one piece. A key whose value the agent was put
//! together with keeps its value until a restart, and the log names it; a file that is wrong
//! changes nothing. A reload stops nothing but a session with a broker whose URIs have changed.

use std::path::PathBuf;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;

use crate::config::{Error, Settings};
use crate::notify;

/// Whether a key has the same value in both.
type Same = fn(&Settings, &Settings) -> bool;

/// The keys that a restart is needed for.
const FIXED: [(&str, Same); 10] = [
    ("host", |a, b| a.host == b.host),
    ("state_dir", |a, b| a.state_dir == b.state_dir),
    ("run_dir", |a, b| a.run_dir == b.run_dir),
    ("socket.path", |a, b| a.socket == b.socket),
    ("socket.group", |a, b| a.socket_group == b.socket_group),
    ("hypervisor.uri", |a, b| a.hypervisor_uri == b.hypervisor_uri),
    ("hypervisor.virt_type", |a, b| a.virt_type == b.virt_type),
    ("guest.answer_timeout", |a, b| a.answer_timeout == b.answer_timeout),
    ("log.format", |a, b| a.log_format == b.log_format),
    ("pools", |a, b| a.pools == b.pools),
];

/// The keys that take a restart to change.
pub fn fixed() -> impl Iterator<Item = &'static str> {
    FIXED.iter().map(|(key, _)| *key)
}

/// Changes what is logged to a filter, as in `log.filter`.
type Filter = Box<dyn Fn(&str) + Send + Sync>;

/// Where changed settings come from, and when.
pub struct Source {
    /// The file the agent was started with.
    pub path: Option<PathBuf>,
    /// SIGHUP, listened for since before the agent is ready.
    pub asked: Signal,
    /// What changes the log's filter.
    pub filter: Filter,
}

impl Source {
    /// Wait for the next reload: what the settings are from then on. `take` has them taken up
    /// before systemd is told that it is done.
    pub(crate) async fn next(&mut self, now: &Settings, take: impl FnOnce(Settings)) {
        if self.asked.recv().await.is_none() {
            return std::future::pending().await;
        }
        notify::reloading();
        match Settings::load(self.path.as_deref()) {
            Ok(new) => {
                let (new, kept) = taken(now, new);
                if !kept.is_empty() {
                    let keys = kept.join(", ");
                    tracing::warn!(keys, "these settings changed: restart the agent for them");
                }
                (self.filter)(&new.log_filter);
                take(new);
                tracing::info!("the configuration was read again");
            }
            Err(error) => told(&error),
        }
        notify::tell(NotifyState::Ready);
    }
}

fn told(error: &Error) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(
        %error, cause, next = "correct the file (ostler-host-agent check-config), then reload",
        "the configuration is wrong: all settings are as before"
    );
}

/// What of `new` an agent that was started with `now` takes up, and the keys it does not.
fn taken(now: &Settings, new: Settings) -> (Settings, Vec<&'static str>) {
    let mut kept: Vec<_> =
        FIXED.iter().filter(|(_, same)| !same(now, &new)).map(|(key, _)| *key).collect();
    // Its default is below the state directory.
    let moved = now.state_dir != new.state_dir;
    let image_directories = match moved {
        true => now.image_directories.clone(),
        false => new.image_directories.clone(),
    };
    if image_directories != new.image_directories {
        kept.push("images.directories");
    }
    let settings = Settings {
        host: now.host.clone(),
        state_dir: now.state_dir.clone(),
        run_dir: now.run_dir.clone(),
        socket: now.socket.clone(),
        socket_group: now.socket_group.clone(),
        hypervisor_uri: now.hypervisor_uri.clone(),
        virt_type: now.virt_type,
        answer_timeout: now.answer_timeout,
        log_format: now.log_format,
        pools: now.pools.clone(),
        image_directories,
        ..new
    };
    (settings, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        Settings::load(Some(&file)).unwrap()
    }

    #[test]
    fn what_needs_a_restart_is_kept_and_named() {
        let now = settings("host = \"n1\"");
        let new = settings(
            "host = \"n2\"\nstate_dir = \"/s\"\nrun_dir = \"/r\"\n[socket]\ngroup = \"g\"\n\
             [hypervisor]\nuri = \"test:///default\"\nvirt_type = \"qemu\"\n\
             [guest]\nanswer_timeout = 3\n[log]\nformat = \"json\"\n[limits]\nboots = 9\n",
        );
        let (taken, kept) = taken(&now, new);
        assert!(FIXED.iter().all(|(_, same)| same(&now, &taken)));
        let all: Vec<_> = fixed().chain(["images.directories"]).collect();
        assert_eq!(kept, all);
        assert_eq!(taken.image_directories, now.image_directories);
        assert_eq!(taken.limits.boots, 9);
    }

    #[test]
    fn nothing_is_named_where_nothing_needs_a_restart() {
        let new =
            "host = \"n1\"\n[images]\ndirectories = [\"/x\"]\n[broker]\nuris = [\"amqp://h\"]";
        let (taken, kept) = taken(&settings("host = \"n1\""), settings(new));
        assert!(kept.is_empty(), "{kept:?}");
        assert_eq!(taken.broker.len(), 1);
        assert_eq!(taken.image_directories, [PathBuf::from("/x")]);
    }
}
