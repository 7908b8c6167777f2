//! Has `nft` put the rules in place: one run is one transaction, done whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Mutex, watch};

use super::rules;
use super::{Dropped, FilterError, Filters, Guard, InPlace};
use crate::network::LinkName;
use crate::network::changes::Changes;
use crate::program::Programs;

/// How long a run may take: thousands of rules are put in place in a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of what it says goes into an error.
const SAID: usize = 300;

/// The rules in the kernel of this network namespace.
#[derive(Debug)]
pub struct Nft {
    program: PathBuf,
    programs: Programs,
    table: String,
    there: Mutex<There>,
    changes: Changes,
    /// Whether we were told of all guests there are: until then, those of an earlier run of the agent
    /// hold theirs, and are not replaced by one.
    told: watch::Sender<bool>,
}

/// What is in place, as far as we put it there.
#[derive(Debug, Default)]
struct There {
    guards: BTreeMap<LinkName, Guard>,
    /// How the table was listed after the last change, if it was there; not known before the first.
    listed: Option<Option<Vec<u8>>>,
}

impl Nft {
    /// A table of this name, of the bridge family, in the current network namespace.
    ///
    /// # Errors
    /// The kernel has no netfilter.
    pub fn open(table: String) -> Result<Self, FilterError> {
        let changes = Changes::of_rules().map_err(FilterError::Open)?;
        let (programs, there) = (Programs::new(), Mutex::default());
        Ok(Self {
            program: PathBuf::from("nft"),
            programs,
            table,
            there,
            changes,
            told: watch::Sender::new(false),
        })
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, FilterError> {
        let program: &Path = &self.program;
        let ran = self.programs.feed(program, arguments, input.as_bytes().to_vec(), PATIENCE);
        let ran = ran.await.map_err(FilterError::Run)?;
        if ran.status.success() {
            return Ok(ran.said);
        }
        let said = String::from_utf8_lossy(&ran.complained);
        Err(FilterError::Refused { said: said.trim().chars().take(SAID).collect() })
    }

    async fn apply(&self, text: &str) -> Result<(), FilterError> {
        self.run(&["-f", "-"], text).await.map(drop)
    }

    /// The table as it is, without its counters; none if there is none.
    async fn listed(&self) -> Result<Option<Vec<u8>>, FilterError> {
        match self.run(&["-s", "list", "table", "bridge", &self.table], "").await {
            Ok(listed) => Ok(Some(listed)),
            Err(FilterError::Refused { said }) if is_absent(&said) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Put in place what shall be there: by `change`, if what is there is what we left there, else
    /// anew.
    async fn become_so(
        &self,
        there: &mut There,
        guards: BTreeMap<LinkName, Guard>,
        change: &str,
    ) -> Result<(), FilterError> {
        // With the last guest, the table goes.
        let is_there = matches!(there.listed, Some(Some(_))) && !guards.is_empty();
        // Before the change: what fails on the way is not taken for what we know, and is put in place
        // with the next one.
        there.listed = None;
        there.guards = guards;
        let changed = match is_there {
            true => self.apply(change).await,
            false => Err(FilterError::Refused { said: String::new() }),
        };
        match changed {
            Ok(()) => {}
            // There is no table, or somebody has changed it: all of it is put in place.
            Err(FilterError::Refused { .. }) => {
                self.apply(&rules::whole(&self.table, there.guards.values())).await?;
            }
            Err(error) => return Err(error),
        }
        there.listed = Some(self.listed().await?);
        // Our own change is none to look at.
        self.changes.note_of(&self.table);
        Ok(())
    }
}

fn is_absent(said: &str) -> bool {
    said.contains("No such file or directory")
}

impl Filters for Nft {
    async fn put(&self, guards: &[Guard]) -> Result<(), FilterError> {
        // The sender is ours: it is never gone.
        let _ = self.told.subscribe().wait_for(|told| *told).await;
        let mut there = self.there.lock().await;
        let mut wanted = there.guards.clone();
        let mut change = String::new();
        for guard in guards {
            match wanted.insert(guard.tap.clone(), guard.clone()) {
                Some(before) if before == *guard => {}
                Some(_) => change.push_str(&rules::replace(&self.table, guard)),
                None => change.push_str(&rules::add(&self.table, guard)),
            }
        }
        if change.is_empty() && there.listed.is_some() && Some(self.listed().await?) == there.listed
        {
            return Ok(());
        }
        if change.is_empty() {
            there.listed = None;
        }
        self.become_so(&mut there, wanted, &change).await
    }

    async fn remove(&self, taps: &[LinkName]) -> Result<(), FilterError> {
        let mut there = self.there.lock().await;
        let mut wanted = there.guards.clone();
        let mut change = String::new();
        for tap in taps {
            if wanted.remove(tap).is_some() {
                change.push_str(&rules::remove(&self.table, tap));
            }
        }
        match change.is_empty() {
            true => Ok(()),
            false => self.become_so(&mut there, wanted, &change).await,
        }
    }

    async fn sync(
        &self,
        guards: impl FnOnce() -> Vec<Guard> + Send,
    ) -> Result<InPlace, FilterError> {
        let mut there = self.there.lock().await;
        self.told.send_replace(true);
        let wanted: BTreeMap<_, _> = guards().into_iter().map(|g| (g.tap.clone(), g)).collect();
        let known = wanted == there.guards && there.listed.is_some();
        if known && !self.changes.note_of(&self.table) {
            return Ok(InPlace::Found);
        }
        if known && Some(self.listed().await?) == there.listed {
            return Ok(InPlace::Found);
        }
        there.listed = None;
        self.become_so(&mut there, wanted, "").await.map(|()| InPlace::Mended)
    }

    async fn changed(&self) {
        self.changes.wait().await;
    }

    async fn dropped(&self, tap: &LinkName) -> Result<Vec<Dropped>, FilterError> {
        let mut all: Vec<Dropped> = Vec::new();
        for chain in [rules::chain(tap), format!("nd-{tap}")] {
            let listed =
                self.run(&["-j", "list", "chain", "bridge", &self.table, &chain], "").await;
            let listed = match listed {
                Err(FilterError::Refused { said }) if is_absent(&said) => continue,
                listed => listed?,
            };
            let listed: Listed = serde_json::from_slice(&listed).map_err(FilterError::Illegible)?;
            for rule in listed.nftables.into_iter().filter_map(|item| item.rule) {
                let counted = rule.expr.into_iter().find_map(|expression| expression.counter);
                let (Some(reason), Some(counter)) = (rule.comment, counted) else { continue };
                let Counter { packets, bytes } = counter;
                match all.iter_mut().find(|other| other.reason == reason) {
                    Some(other) => {
                        other.packets += packets;
                        other.bytes += bytes;
                    }
                    None => all.push(Dropped { reason, packets, bytes }),
                }
            }
        }
        Ok(all)
    }
}

/// What `nft -j list` says, as far as it is read: libnftables-json(5).
#[derive(Deserialize)]
struct Listed {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    comment: Option<String>,
    expr: Vec<Expression>,
}

#[derive(Deserialize)]
struct Expression {
    #[serde(default)]
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Counter {
    packets: u64,
    bytes: u64,
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// What is sent from the guest's end, told by the listener on the other port: each frame has a
    /// number, and those that come through are printed.
    const FRAMES: &str = include_str!("frames.py");

    const TAP: &str = "tap0f8fad5b-d9";
    const MAC: &str = "52:54:00:01:02:03";

    fn run(line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        #[expect(clippy::disallowed_methods, reason = "links and frames of a test")]
        let ran = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// On the real kernel, in a network namespace that ends with the test: a bridge with two ports,
    /// of which one is called as a port's tap.
    fn in_own_namespace<F: Future<Output = ()>>(test: impl FnOnce(Nft) -> F + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: a network namespace needs root ({errno})");
                return;
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                run("ip link add br0 type bridge forward_delay 0 mcast_snooping 0");
                for (port, end) in [(TAP, "guest"), ("other", "listener")] {
                    run(&format!("ip link add {port} type veth peer name {end}"));
                    run(&format!("ip link set {port} master br0 up"));
                    run(&format!("ip link set {end} up"));
                }
                run("ip link set br0 up");
                let nft = Nft::open("ostler".to_owned()).unwrap();
                nft.sync(Vec::new).await.unwrap();
                test(nft).await;
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn guard(addresses: &[&str]) -> Guard {
        Guard {
            tap: TAP.parse().unwrap(),
            mac: MAC.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            pairs: Vec::new(),
        }
    }

    /// Which of the frames come through.
    fn through() -> Vec<String> {
        #[expect(clippy::disallowed_methods, reason = "frames of a test")]
        let ran = Command::new("/usr/bin/python3").args(["-c", FRAMES]).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let text = String::from_utf8(ran.stdout).unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    }

    async fn reasons(nft: &Nft) -> Vec<String> {
        let dropped = nft.dropped(&TAP.parse().unwrap()).await.unwrap();
        let mut hit: Vec<String> =
            dropped.into_iter().filter(|d| d.packets > 0).map(|d| d.reason).collect();
        hit.sort();
        hit
    }

    const HONEST: [&str; 6] = ["arp", "dhcp", "ipv4", "ipv6", "na", "ns"];

    #[test]
    fn what_a_guest_may_not_send_nobody_gets() {
        in_own_namespace(|nft| async move {
            // Without rules, all of it comes through.
            let all = through();
            assert!(all.len() > 15 && HONEST.iter().all(|honest| all.contains(&(*honest).into())));

            nft.put(&[guard(&["192.0.2.7", "2001:db8::7"])]).await.unwrap();
            assert_eq!(through(), HONEST);
            let why = [
                "arp",
                "bridge",
                "dhcp-server",
                "dhcpv6-server",
                "ipv4",
                "ipv6",
                "mac",
                "nd",
                "protocol",
                "router",
            ];
            assert_eq!(reasons(&nft).await, why);

            // Where no address is known, none is held against it.
            nft.put(&[guard(&[])]).await.unwrap();
            let now = through();
            for more in ["spoofed-ipv4", "spoofed-ipv6", "spoofed-arp-address"] {
                assert!(now.contains(&more.to_owned()), "{now:?}");
            }
            for still in ["spoofed-mac", "dhcp-server", "router", "vlan", "spoofed-arp-mac"] {
                assert!(!now.contains(&still.to_owned()), "{now:?}");
            }
            nft.remove(&[TAP.parse().unwrap()]).await.unwrap();
            assert_eq!(through(), all);
        });
    }

    #[test]
    fn allowed_pairs_pass() {
        in_own_namespace(|nft| async move {
            let pair = |ip: &str, mac: Option<&str>| ostler_protocol::rpc::port::AddressPair {
                ip_address: ip.parse().unwrap(),
                mac_address: mac.map(|mac| mac.parse().unwrap()),
            };
            let mut of = guard(&["192.0.2.7", "2001:db8::7"]);
            // The addresses and the MAC of the frames that are spoofed.
            of.pairs.push(pair("192.0.2.0/24", None));
            of.pairs.push(pair("2001:db8::/64", None));
            of.pairs.push(pair("192.0.2.9", Some("52:54:00:00:00:99")));
            nft.put(&[of]).await.unwrap();
            let now = through();
            for pass in ["spoofed-ipv4", "spoofed-ipv6", "spoofed-arp-address", "spoofed-na-target"]
            {
                assert!(now.contains(&pass.to_owned()), "{now:?}");
            }
            // That MAC sends from its own address only.
            assert!(!now.contains(&"spoofed-mac".to_owned()), "{now:?}");
        });
    }

    #[test]
    fn what_somebody_changed_is_put_back_and_other_tables_are_left_alone() {
        in_own_namespace(|nft| async move {
            run("nft add table bridge theirs");
            let of = [guard(&["192.0.2.7"])];
            assert_eq!(nft.sync(|| of.clone().into()).await.unwrap(), InPlace::Mended);
            assert_eq!(nft.sync(|| of.clone().into()).await.unwrap(), InPlace::Found);
            for harm in [
                "nft flush ruleset bridge".to_owned(),
                "nft delete table bridge ostler".to_owned(),
                format!("nft flush chain bridge ostler from-{TAP}"),
                format!("nft insert rule bridge ostler from-{TAP} accept"),
                "nft flush map bridge ostler from".to_owned(),
            ] {
                run(&harm);
                run("nft add table bridge theirs");
                assert_eq!(
                    nft.sync(|| of.clone().into()).await.unwrap(),
                    InPlace::Mended,
                    "{harm}"
                );
                assert_eq!(nft.sync(|| of.clone().into()).await.unwrap(), InPlace::Found, "{harm}");
            }
            // Another agent knows nothing of what is there, and takes it over.
            let next = Nft::open("ostler".to_owned()).unwrap();
            let (put, synced) = tokio::join!(next.put(&of), next.sync(|| of.clone().into()));
            assert_eq!((put.is_ok(), synced.unwrap()), (true, InPlace::Mended));
            assert_eq!(next.sync(|| of.clone().into()).await.unwrap(), InPlace::Found);
            // A port is put in place though the table is gone.
            run("nft delete table bridge ostler");
            let mut other = guard(&[]);
            other.tap = "tap11111111-11".parse().unwrap();
            next.put(&[other.clone()]).await.unwrap();
            let listed = run("nft list table bridge ostler");
            assert!(listed.contains(&format!("from-{TAP}")) && listed.contains("from-tap1111"));
            next.remove(&[other.tap]).await.unwrap();
            assert!(!run("nft list table bridge ostler").contains("tap1111"));
            next.remove(&[TAP.parse().unwrap()]).await.unwrap();
            assert_eq!(run("nft list tables").trim(), "table bridge theirs");
        });
    }
}
