//! Commands through a broker that is killed, paused, cut off and silenced while they go, to agents
//! that are killed, too: each is done once, and each caller learns it.
//!
//! Each caller imports and removes an image by turns, under a new key each time, and waits for
//! the end. A command that was lost is never answered; one that was done twice makes the next one
//! fail, for an image that is there cannot be imported, nor one that is not be removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::rpc::{Call, CallError, Client};
use ostler_tests::services::{Broker, Libvirt, Wire};
use serde_json::{Value, json};

use crate::node::need_root;

/// Callers of each node, and commands of each caller: even, so that no image is left.
const CALLERS: usize = 4;
const COMMANDS: usize = 130;
/// How long one caller tries to have one command answered.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it waits before it gives up a connection.
const ANSWER: Duration = Duration::from_secs(4);

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    BrokerKilled,
    BrokerPaused,
    AgentCut,
    AgentSilenced,
    CallersCut,
    CallersSilenced,
    AgentKilled,
    AgentRestarted,
}

/// How often each does; the order is random.
const TROUBLES: [(Trouble, usize); 8] = [
    (Trouble::BrokerKilled, 3),
    (Trouble::BrokerPaused, 3),
    (Trouble::AgentCut, 3),
    (Trouble::AgentSilenced, 3),
    (Trouble::CallersCut, 2),
    (Trouble::CallersSilenced, 2),
    (Trouble::AgentKilled, 4),
    (Trouble::AgentRestarted, 2),
];

/// Randomness that can be had again: splitmix64.
struct Chance(u64);

impl Chance {
    /// From `OSTLER_SEED`, or a new one, which is printed.
    fn new() -> Self {
        let named = std::env::var("OSTLER_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = named.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
        eprintln!("OSTLER_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n + 1));
        }
    }
}

/// Whoever asks a node through brokers, and asks again until there is an answer.
struct Caller {
    uris: Vec<String>,
    host: String,
    client: Option<Client>,
    /// How often it had to ask again.
    again: usize,
}

impl Caller {
    fn new(uris: &[String], host: &str) -> Self {
        Self { uris: uris.to_vec(), host: host.to_owned(), client: None, again: 0 }
    }

    async fn ask(&mut self, call: Call) -> Value {
        let call = call.patience(ANSWER);
        let until = Instant::now() + PATIENCE;
        let mut trouble = String::new();
        while Instant::now() < until {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => {
                    let uri = &self.uris[self.again % self.uris.len()];
                    let connecting = Client::amqp(uri, &self.host);
                    match tokio::time::timeout(ANSWER, connecting).await {
                        Ok(Ok(client)) => client,
                        Ok(Err(error)) => {
                            trouble = self.again(error.to_string()).await;
                            continue;
                        }
                        Err(_) => {
                            trouble = self.again("no connection in time".to_owned()).await;
                            continue;
                        }
                    }
                }
            };
            match client.send(&call).await {
                Ok(answer) => {
                    self.client = Some(client);
                    return answer;
                }
                Err(error @ CallError::Fault { .. }) => {
                    let passes = matches!(error.reason(), Some("draining" | "busy"))
                        // Over, but not yet out of the way.
                        || error.to_string().contains("under way");
                    assert!(passes, "{}: {call:?}: {error}", self.host);
                    self.client = Some(client);
                    trouble = self.again(error.to_string()).await;
                }
                Err(error) => trouble = self.again(error.to_string()).await,
            }
        }
        panic!("{}: {call:?} has no answer; last: {trouble}", self.host);
    }

    async fn again(&mut self, why: String) -> String {
        self.again += 1;
        // Not as fast as it can: there are as many of these as callers.
        tokio::time::sleep(Duration::from_millis(300)).await;
        why
    }

    /// Import and remove, by turns; the keys.
    async fn work(
        &mut self,
        name: &str,
        source: &str,
        count: usize,
        done: &AtomicUsize,
    ) -> Vec<String> {
        let mut known: Vec<(String, Call, Value)> = Vec::new();
        for n in 0..count {
            let key = format!("{name}-{n}");
            let call = if n % 2 == 0 {
                json!({"name": name, "source": source, "format": "raw"})
            } else {
                json!({"name": name})
            };
            let method = if n % 2 == 0 { "image.import" } else { "image.remove" };
            let call = Call::new(method, call).key(key.as_str());
            let accepted = self.ask(call.clone()).await;
            assert_eq!(accepted["key"], key.as_str());
            let mut now = accepted.clone();
            while matches!(now["state"].as_str(), Some("queued" | "running")) {
                let wait = json!({"id": accepted["id"], "timeout": 2000});
                now = self.ask(Call::new("operation.wait", wait)).await;
            }
            assert_eq!(now["state"], "succeeded", "{key}: {now:#}");
            known.push((key, call, accepted["id"].clone()));
            if n % 10 == 9 {
                // An old one comes again, as from a queue that had it still.
                let (key, call, id) = &known[n / 2];
                let same = self.ask(call.clone()).await;
                assert_eq!(same["id"], *id, "{key}");
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        known.into_iter().map(|(key, ..)| key).collect()
    }
}

/// What the node did is exactly what was asked.
async fn settled(agent: &HostAgent, keys: &BTreeSet<String>) {
    let mut client = agent.client().await.unwrap();
    let operations = client.call("operation.list", json!({"limit": 1000})).await.unwrap();
    let operations = operations.as_array().unwrap();
    let done: Vec<&str> = operations.iter().map(|o| o["key"].as_str().unwrap()).collect();
    assert_eq!(done.len(), keys.len(), "as many operations as commands");
    let distinct: BTreeSet<String> = done.iter().map(ToString::to_string).collect();
    assert_eq!(distinct, *keys, "one for each");
    assert!(operations.iter().all(|operation| operation["state"] == "succeeded"));
    let images = client.call("image.list", Value::Null).await.unwrap();
    assert_eq!(images, json!([]), "each import was followed by its removal");
}

/// No command became a dead letter, and none is left in a queue.
async fn nothing_waits(broker: &mut Broker) {
    poll::until("the queues are empty", Duration::from_secs(30), async || {
        let listed = broker.control(&["list_queues", "name", "messages"]).await;
        let listed = listed.map_err(|error| error.to_string())?;
        let full = |line: &&str| !line.trim().is_empty() && !line.trim_end().ends_with("\t0");
        match listed.lines().filter(|line| line.starts_with("ostler.")).find(full) {
            None => Ok(()),
            Some(line) => Err(line.to_owned()),
        }
    })
    .await
    .unwrap();
}

async fn agent_on(uris: Vec<String>) -> HostAgent {
    // Images of nobody's size: the limit of operations is not what is tried here.
    HostAgent::start(Setup { broker: uris, ..Setup::default() }).await.unwrap()
}

fn source(place: &Place) -> String {
    place.write("tiny.img", vec![7; 4096]).unwrap().to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make long"]
async fn a_thousand_commands_through_a_broker_in_trouble_are_each_done_once() {
    need_root!();
    let begun = Instant::now();
    let mut chance = Chance::new();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let mut broker = Broker::private().await.unwrap();
    let place = Place::new("images").unwrap();
    let source = source(&place);
    let front = Wire::to(&broker).await.unwrap();
    let mut wires = Vec::new();
    let mut agents = Vec::new();
    for _ in 0..2 {
        let wire = Wire::to(&broker).await.unwrap();
        // A lost connection is seen soon, on both sides.
        agents.push(agent_on(vec![format!("{}?heartbeat=2", wire.uri())]).await);
        wires.push(wire);
    }
    let done = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for (h, agent) in agents.iter().enumerate() {
        for n in 0..CALLERS {
            let mut caller = Caller::new(&[front.uri().to_owned()], agent.host());
            let (name, source, done) = (format!("c{h}{n}"), source.clone(), Arc::clone(&done));
            callers.push((
                h,
                tokio::spawn(async move {
                    let keys = caller.work(&name, &source, COMMANDS, &done).await;
                    (keys, caller.again)
                }),
            ));
        }
    }
    let mut troubles: Vec<Trouble> =
        TROUBLES.iter().flat_map(|(trouble, count)| vec![*trouble; *count]).collect();
    chance.shuffle(&mut troubles);
    let all = 2 * CALLERS * COMMANDS;
    for (n, trouble) in troubles.iter().enumerate() {
        // Spread over the work, and never before the last one is got over.
        let from = done.load(Ordering::Relaxed).max(n * all / (troubles.len() + 1));
        let from = (from + 1 + chance.below(16)).min(all);
        poll::until("commands are done", PATIENCE, async || {
            let now = done.load(Ordering::Relaxed);
            // A caller that failed says why below.
            let failed = callers.iter().any(|(_, caller)| caller.is_finished());
            if now >= from || failed { Ok(()) } else { Err(format!("{now} of {all}, not {from}")) }
        })
        .await
        .unwrap();
        let one = chance.below(agents.len());
        let outage = Duration::from_millis(500 + chance.below(3000) as u64);
        match trouble {
            Trouble::BrokerKilled => {
                broker.kill().await.unwrap();
                broker.start().await.unwrap();
            }
            Trouble::BrokerPaused => {
                broker.pause().unwrap();
                tokio::time::sleep(outage).await;
                broker.resume().unwrap();
            }
            Trouble::AgentCut => {
                wires[one].cut();
                tokio::time::sleep(outage / 4).await;
                wires[one].open();
            }
            Trouble::AgentSilenced => {
                wires[one].silence();
                tokio::time::sleep(outage * 2).await;
                wires[one].open();
            }
            Trouble::CallersCut => {
                front.cut();
                front.open();
            }
            Trouble::CallersSilenced => {
                front.silence();
                tokio::time::sleep(outage).await;
                front.open();
            }
            Trouble::AgentKilled => {
                agents[one].kill().await.unwrap();
                agents[one].launch().unwrap();
                agents[one].ready().await.unwrap();
            }
            Trouble::AgentRestarted => agents[one].restart().await.unwrap(),
        }
        let seen = done.load(Ordering::Relaxed);
        eprintln!("{:6.1} s: {seen} commands; {trouble:?}", begun.elapsed().as_secs_f32());
    }
    let mut keys = vec![BTreeSet::new(); agents.len()];
    let mut again = 0;
    for (h, caller) in callers {
        let (own, asked_again) = caller.await.unwrap();
        keys[h].extend(own);
        again += asked_again;
    }
    for (agent, keys) in agents.iter().zip(&keys) {
        assert_eq!(keys.len(), CALLERS * COMMANDS);
        settled(agent, keys).await;
    }
    nothing_waits(&mut broker).await;
    eprintln!(
        "{all} commands in {:.0} s; asked again {again} times",
        begun.elapsed().as_secs_f32()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make long"]
async fn commands_outlive_each_member_of_a_cluster_in_turn() {
    need_root!();
    let begun = Instant::now();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let mut brokers = Broker::cluster(3).await.unwrap();
    let uris: Vec<String> =
        brokers.iter().map(|broker| format!("{}?heartbeat=2", broker.uri())).collect();
    let place = Place::new("images").unwrap();
    let source = source(&place);
    let agent = agent_on(uris.clone()).await;
    let done = Arc::new(AtomicUsize::new(0));
    let count = 120;
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let mut caller = Caller::new(&uris, agent.host());
            let (source, done) = (source.clone(), Arc::clone(&done));
            tokio::spawn(async move { caller.work(&format!("m{n}"), &source, count, &done).await })
        })
        .collect();
    // The first is the agent's, the others may be what it went to.
    for (n, broker) in brokers.iter_mut().enumerate() {
        let from = (n * 2 + 1) * count * CALLERS / 8;
        poll::until("commands are done", PATIENCE, async || {
            let now = done.load(Ordering::Relaxed);
            let failed = callers.iter().any(tokio::task::JoinHandle::is_finished);
            if now >= from || failed { Ok(()) } else { Err(format!("{now}, not {from}")) }
        })
        .await
        .unwrap();
        broker.kill().await.unwrap();
        let at = done.load(Ordering::Relaxed);
        // Two are enough: work goes on while the third is down.
        poll::until("commands are done without it", PATIENCE, async || {
            let now = done.load(Ordering::Relaxed);
            let failed = callers.iter().any(tokio::task::JoinHandle::is_finished);
            if now >= at + 10 || failed { Ok(()) } else { Err(format!("{now}, not {at} + 10")) }
        })
        .await
        .unwrap();
        eprintln!("{:6.1} s: {at} commands; went on", begun.elapsed().as_secs_f32());
        broker.start().await.unwrap();
    }
    let mut keys = BTreeSet::new();
    for caller in callers {
        keys.extend(caller.await.unwrap());
    }
    settled(&agent, &keys).await;
    nothing_waits(&mut brokers[0]).await;
}
