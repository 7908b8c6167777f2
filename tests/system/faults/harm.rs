//! What else can happen at a step: done to the world while the agent stands still before it
//! (SIGSTOP), so that the agent cannot have seen it coming; and what somebody else may ask for
//! meanwhile.

use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_tests::poll;
use serde_json::{Value, json};

use super::lane::{Asked, Lane, Wrong};
use super::points::{Leave, names_of};
use super::scenarios::{ASKS_THE_GUEST, About, Scenario};
use super::tally::{Ended, Tally};

/// How long a fault lasts at most when nobody seems to mind it.
const LASTS: Duration = Duration::from_secs(3);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// Not a byte more fits where disks, images and the journal are.
    DiskFull,
    /// The instance's QEMU is killed.
    QemuDies,
    /// The broker's connections break, and it takes no new ones.
    BrokerGone,
    /// The file the instance's disk is based on is not there.
    ImageGone,
    /// The guest reads what it is told, and does not answer.
    GuestHangs,
    /// libvirtd ends, and comes back.
    LibvirtdGone,
    /// libvirtd stands still: what is asked of it waits.
    LibvirtdHangs,
    /// The agent's clock goes forward by a day, and back by two.
    ClockJumps,
    /// Somebody cancels the operation.
    Cancel,
    /// Somebody deletes the instance.
    Delete,
}

impl Harm {
    /// In words.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DiskFull => "disk full",
            Self::QemuDies => "qemu dies",
            Self::BrokerGone => "broker gone",
            Self::ImageGone => "image file vanishes",
            Self::GuestHangs => "guest hangs",
            Self::LibvirtdGone => "libvirtd gone",
            Self::LibvirtdHangs => "libvirtd hangs",
            Self::ClockJumps => "clock jumps",
            Self::Cancel => "cancelled",
            Self::Delete => "deleted meanwhile",
        }
    }

    /// Whether it can happen to this scenario at all.
    pub(super) fn concerns(self, scenario: &Scenario) -> bool {
        let instance = matches!(scenario.about, About::Instance);
        match self {
            Self::DiskFull | Self::BrokerGone | Self::ClockJumps | Self::Cancel => true,
            Self::LibvirtdGone | Self::LibvirtdHangs => {
                instance || scenario.about == About::NewInstance
            }
            Self::QemuDies | Self::GuestHangs => instance,
            Self::ImageGone | Self::Delete => instance || scenario.about == About::NewInstance,
        }
    }

    /// Whether it can happen at this step.
    fn concerns_step(self, step: &str) -> bool {
        match self {
            Self::GuestHangs => ASKS_THE_GUEST.contains(&step),
            Self::DiskFull
            | Self::QemuDies
            | Self::BrokerGone
            | Self::ImageGone
            | Self::LibvirtdGone
            | Self::LibvirtdHangs
            | Self::ClockJumps
            | Self::Cancel
            | Self::Delete => true,
        }
    }

    /// What may be otherwise than after a crash.
    const fn leave(self) -> Leave {
        match self {
            Self::QemuDies => Leave { fail: true, off: true },
            Self::DiskFull | Self::ImageGone | Self::GuestHangs => Leave { fail: true, off: false },
            Self::Cancel => Leave { fail: true, off: false },
            Self::BrokerGone
            | Self::ClockJumps
            | Self::Delete
            | Self::LibvirtdGone
            | Self::LibvirtdHangs => Leave { fail: false, off: false },
        }
    }

    /// Do it.
    async fn apply(self, lane: &mut Lane, asked: &Asked) -> Result<Lifted, Wrong> {
        match self {
            Self::DiskFull => fill(&lane.node.agent.state_dir()).map(Lifted::File),
            Self::QemuDies => {
                if let Some(pid) = lane.node.qemu(&asked.subject) {
                    let killed = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                    killed.map_err(|error| error.to_string())?;
                }
                Ok(Lifted::ByItself)
            }
            Self::BrokerGone => {
                lane.frailty()?.wire.cut();
                Ok(Lifted::ByItself)
            }
            Self::ImageGone => {
                let base = lane.base(&asked.subject).await?;
                match base {
                    None => Ok(Lifted::ByItself),
                    Some(base) => {
                        let away = base.with_extension("away");
                        std::fs::rename(&base, &away).map_err(|error| error.to_string())?;
                        Ok(Lifted::Renamed { from: away, to: base })
                    }
                }
            }
            Self::LibvirtdGone => {
                lane.node.own().kill().await.map_err(|error| error.to_string())?;
                Ok(Lifted::ByItself)
            }
            Self::LibvirtdHangs => {
                let hung = lane.node.own().signal(Signal::SIGSTOP);
                hung.map_err(|error| error.to_string())?;
                Ok(Lifted::ByItself)
            }
            Self::ClockJumps => {
                set_clock(&lane.frailty()?.clock, "+1d");
                Ok(Lifted::ByItself)
            }
            Self::GuestHangs | Self::Cancel | Self::Delete => Ok(Lifted::ByItself),
        }
    }

    /// Take it back.
    async fn lift(self, lane: &mut Lane, lifted: Lifted) -> Result<(), Wrong> {
        match self {
            Self::BrokerGone => lane.frailty()?.wire.mend(),
            Self::LibvirtdGone => {
                lane.node.own().start_again().await.map_err(|error| error.to_string())?;
            }
            Self::LibvirtdHangs => {
                let goes_on = lane.node.own().signal(Signal::SIGCONT);
                goes_on.map_err(|error| error.to_string())?;
            }
            Self::ClockJumps => set_clock(&lane.frailty()?.clock, "-1d"),
            Self::DiskFull
            | Self::QemuDies
            | Self::ImageGone
            | Self::GuestHangs
            | Self::Cancel
            | Self::Delete => {}
        }
        match lifted {
            Lifted::ByItself => Ok(()),
            Lifted::File(file) => std::fs::remove_file(file).map_err(|error| error.to_string()),
            Lifted::Renamed { from, to } => {
                // Files of images are named by what is in them: an image of a disk that is still as
                // its base is the very same one, stored again.
                if to.exists() && std::fs::read(&to).ok() != std::fs::read(&from).ok() {
                    return Err(format!("left: a file {} in the place of another", to.display()));
                }
                std::fs::rename(from, to).map_err(|error| error.to_string())
            }
        }
    }
}

/// How a fault is taken back.
enum Lifted {
    ByItself,
    File(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
}

impl Lane {
    /// Have this happen before each step of a scenario's plan.
    pub(super) async fn harmed(&mut self, harm: Harm, scenario: &Scenario, tally: &mut Tally) {
        let steps = match self.steps(scenario).await {
            Ok(steps) => steps,
            Err(wrong) => {
                let came = Err(vec![wrong]);
                self.note(harm.name(), scenario, "as it is", came, tally).await;
                return;
            }
        };
        for step in steps.iter().filter(|step| harm.concerns_step(step)) {
            let came = match harm {
                Harm::Cancel => self.cancelled(scenario, step).await,
                Harm::Delete => self.deleted(scenario, step).await,
                Harm::DiskFull
                | Harm::QemuDies
                | Harm::BrokerGone
                | Harm::ImageGone
                | Harm::GuestHangs
                | Harm::LibvirtdGone
                | Harm::LibvirtdHangs
                | Harm::ClockJumps => self.struck(harm, scenario, step).await,
            };
            self.note(harm.name(), scenario, step, came, tally).await;
        }
    }

    /// The steps of a scenario: it is held before its first, and then goes on.
    async fn steps(&mut self, scenario: &Scenario) -> Result<Vec<String>, Wrong> {
        let asked = self.prepare(scenario).await?;
        let operation = self.ask(&asked).await.map_err(|error| error.to_string())?;
        self.over(&operation, scenario.patience()).await?;
        if scenario.about == About::NewInstance {
            self.remove(&asked.subject).await?;
        }
        if scenario.once {
            self.drop_instance().await?;
        }
        Ok(names_of(&operation))
    }

    async fn struck(
        &mut self,
        harm: Harm,
        scenario: &Scenario,
        step: &str,
    ) -> Result<Ended, Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        let asked = self.prepare(scenario).await.map_err(one)?;
        let log = self.node.agent.log();
        let written = std::fs::metadata(&log).map_or(0, |log| log.len());
        self.rules(&[format!("before|{}|{step}|stop", scenario.kind)]);
        let connected = self.node.agent.client().await;
        let mut client = connected.map_err(|error| vec![error.to_string()])?;
        let call = asked.call();
        // Whether the answer comes before the agent stands still is left open.
        let (operation, lifted) = tokio::join!(client.send(&call), async {
            self.agent_is(&['T']).await?;
            let lifted = harm.apply(self, &asked).await;
            self.rules(&[]);
            self.node.agent.signal(Signal::SIGCONT).map_err(|error| error.to_string())?;
            lifted
        });
        let lifted = lifted.map_err(one)?;
        let minded = match &operation {
            Ok(operation) => self.minds(operation, &log, written).await,
            Err(error) => Err(error.to_string()),
        };
        harm.lift(self, lifted).await.map_err(one)?;
        minded.map_err(one)?;
        let operation = operation.map_err(|error| vec![error.to_string()])?;
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        match harm {
            Harm::BrokerGone => self.linked("broker").await.map_err(one)?,
            // The operation may have had no need of it.
            Harm::LibvirtdGone => self.linked("hypervisor").await.map_err(one)?,
            Harm::DiskFull
            | Harm::QemuDies
            | Harm::ImageGone
            | Harm::GuestHangs
            | Harm::LibvirtdHangs
            | Harm::ClockJumps
            | Harm::Cancel
            | Harm::Delete => {}
        }
        self.judge(scenario, &asked, &over, harm.leave()).await
    }

    /// Wait until the operation is over, or the agent has complained, or nobody minds.
    async fn minds(
        &mut self,
        operation: &Value,
        log: &std::path::Path,
        written: u64,
    ) -> Result<(), Wrong> {
        let select = json!({"id": operation["id"]});
        let client = &mut self.node.client;
        let minded = poll::until("somebody minds", LASTS, async || {
            let now = client.call("operation.get", select.clone()).await;
            let now = now.map_err(|error| error.to_string())?;
            let mut text = String::new();
            if let Ok(mut file) = std::fs::File::open(log) {
                let _ = file.seek(SeekFrom::Start(written));
                let _ = file.read_to_string(&mut text);
            }
            let complained = [" ERROR ", " WARN "].iter().any(|level| {
                text.lines().any(|line| line.contains(level) && !line.contains("asked for"))
            });
            if complained || !matches!(now["state"].as_str(), Some("queued" | "running")) {
                return Ok(());
            }
            Err(now.to_string())
        });
        // That nobody minds is well.
        let _nobody = minded.await;
        Ok(())
    }

    async fn cancelled(&mut self, scenario: &Scenario, step: &str) -> Result<Ended, Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        let (asked, operation) = self.hold(scenario, step).await.map_err(one)?;
        let cancel = self.call("operation.cancel", json!({"id": operation["id"]})).await;
        self.rules(&[]);
        let refused = match cancel {
            Ok(_) => false,
            Err(wrong) if wrong.contains("cannot be cancelled") => true,
            Err(wrong) => return Err(vec![wrong]),
        };
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        let ended = self.judge(scenario, &asked, &over, Harm::Cancel.leave()).await?;
        if refused && !matches!(ended, Ended::Finished) {
            return Err(vec![format!("a cancel was refused, and it ended {ended:?}")]);
        }
        Ok(ended)
    }

    async fn deleted(&mut self, scenario: &Scenario, step: &str) -> Result<Ended, Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        let (asked, operation) = self.hold(scenario, step).await.map_err(one)?;
        let gone = json!({"id": asked.subject, "mode": "hard", "ignore_error": true});
        let delete = self.call("instance.delete", gone).await;
        self.rules(&[]);
        let delete = match delete {
            // A lock holds it off, and one that was asked for under the lock was not.
            Err(wrong) if wrong.contains("locked") => {
                self.over(&operation, scenario.patience()).await.map_err(one)?;
                return Ok(Ended::Finished);
            }
            delete => delete.map_err(one)?,
        };
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        let deleted = self.over(&delete, scenario.patience()).await.map_err(one)?;
        let shown = self.show(&asked.subject).await.map_err(one)?;
        let mut wrongs = self.audit().await.map_err(one)?;
        if deleted["state"] != "succeeded" || shown["vm_state"] != "deleted" {
            wrongs.push(format!("the delete ended as {}: {}", deleted["state"], deleted["error"]));
        }
        if !wrongs.is_empty() {
            return Err(wrongs);
        }
        Ok(match over["state"].as_str().unwrap_or_default() {
            "succeeded" => Ended::Finished,
            "undone" => Ended::Undone,
            "cancelled" => Ended::Cancelled,
            _ => Ended::Told,
        })
    }

    /// Ask for an operation that is held before a step.
    async fn hold(&mut self, scenario: &Scenario, step: &str) -> Result<(Asked, Value), Wrong> {
        let asked = self.prepare(scenario).await?;
        self.rules(&[format!("before|{}|{step}|hold", scenario.kind)]);
        let operation = self.ask(&asked).await.map_err(|error| error.to_string())?;
        let client = &mut self.node.client;
        let select = json!({"id": operation["id"]});
        let held = poll::until("it is held", scenario.patience(), async || {
            let now = client.call("operation.get", select.clone()).await;
            let now = now.map_err(|error| error.to_string())?;
            let steps = now["steps"].as_array().into_iter().flatten();
            let mut at = steps.filter(|at| at["name"] == *step && at["state"] == "running");
            if at.next().is_some() { Ok(()) } else { Err(now.to_string()) }
        });
        held.await.map_err(|error| error.to_string())?;
        Ok((asked, operation))
    }

    /// Wait until the node reaches this again: its `broker` or its `hypervisor`.
    async fn linked(&mut self, what: &str) -> Result<(), Wrong> {
        let client = &mut self.node.client;
        let linked = poll::until("it is reached again", super::AFRESH, async || {
            let host = client.call("host.show", Value::Null).await;
            let host = host.map_err(|error| error.to_string())?;
            if host[what] == "up" { Ok(()) } else { Err(format!("{what}: {}", host[what])) }
        });
        linked.await.map_err(|error| error.to_string())
    }
}

/// Leave no room in a file system; the file that takes it.
fn fill(folder: &std::path::Path) -> Result<PathBuf, Wrong> {
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).map_err(|error| error.to_string())?;
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0u8; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(path)
}

/// Tell the agent's clock how far it is off.
pub(super) fn set_clock(file: &std::path::Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, offset).unwrap();
    std::fs::rename(new, file).unwrap();
}
