//! Many at once: as many boots as there are messages, on as few processors as there are. They wait
//! their turn, none runs out of time, the node goes on answering, and nothing is left at the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::rpc::{Amqp, Call, Events};
use ostler_tests::services::Broker;
use ostler_tests::world::leftovers;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::node::{Node, end_of, gone, need_root};

/// What the test's guest needs to come up.
const SMALL: u64 = 128 << 20;
/// `limits.boots`, as it is by default: what may be at work at a time.
const AT_A_TIME: usize = 4;
/// Between two pings.
const PING: Duration = Duration::from_millis(10);
/// Until each of so many guests is up: their processors are emulated, and share ours.
const EACH: Duration = Duration::from_secs(30);

/// What pings took, while something else went on.
struct Pings {
    stop: Arc<AtomicBool>,
    asking: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Pings {
    /// Ask again and again, on a connection of its own. Each has to be answered.
    async fn begin(broker: &Broker, node: &Node) -> Self {
        let mut client = Amqp::connect(broker.uri(), node.agent.host()).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let asking = tokio::spawn(async move {
            let mut due = tokio::time::interval(PING);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut times = Vec::new();
            while !until.load(Ordering::Relaxed) {
                due.tick().await;
                let begun = Instant::now();
                let ping = [Call::new("host.ping", Value::Null)];
                let answers = client.send_all(&ping).await.expect("a ping is answered");
                assert!(answers[0].as_ref().unwrap()["host"].is_string(), "{answers:?}");
                times.push(begun.elapsed());
            }
            times
        });
        Self { stop, asking }
    }

    /// What they took until now. Said, not judged: what else the machine does is in it.
    async fn end(self, while_what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.asking.await.unwrap();
        times.sort();
        assert!(!times.is_empty());
        let part = |part: usize| times[(times.len() - 1) * part / 100];
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        eprintln!(
            "{while_what}: {} pings answered; median {:?}, p99 {:?}, longest {:?}; load {}",
            times.len(),
            part(50),
            part(99),
            part(100),
            load.trim(),
        );
    }
}

/// How many operations were at work at once, by their own events.
async fn most_at_work(mut events: Events, ids: BTreeSet<String>) -> usize {
    let mut left = ids;
    let mut working = BTreeSet::new();
    let mut most = 0;
    while !left.is_empty() {
        let event = events.next(EACH * 10, |_| true).await.unwrap();
        let operation = &event["news"]["operation"];
        let Some(id) = operation["id"].as_str().filter(|id| left.contains(*id)) else { continue };
        let steps = operation["steps"].as_array().unwrap();
        if steps.iter().any(|step| step["state"] == "running") {
            working.insert(id.to_owned());
        } else {
            working.remove(id);
        }
        most = most.max(working.len());
        if !matches!(operation["state"].as_str(), Some("queued" | "running")) {
            left.remove(id);
        }
    }
    most
}

/// Boot so many by as many messages at once, see all of them ready, and delete them the same way.
async fn crowd(count: usize) {
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let network = node.network.clone();
    let mut params = Vec::with_capacity(count);
    for n in 0..count {
        let mut boot = node.boot_params(&format!("crowd-{n}"), Mode::Ostler, &[&network]).await;
        boot["memory"] = json!(SMALL);
        params.push(boot);
    }
    let ids: Vec<String> = params.iter().map(|p| p["id"].as_str().unwrap().to_owned()).collect();
    let mut sender = Amqp::connect(broker.uri(), node.agent.host()).await.unwrap();
    let pattern = format!("operation.{}.#", node.agent.host());
    let events = sender.events(&pattern).await.unwrap();

    let pings = Pings::begin(&broker, &node).await;
    let begun = Instant::now();
    let boots: Vec<Call> = params.into_iter().map(|p| Call::new("instance.boot", p)).collect();
    let accepted = sender.send_all(&boots).await.unwrap();
    let accepted: Vec<Value> = accepted.into_iter().map(Result::unwrap).collect();
    eprintln!("{count} boots accepted after {:?}", begun.elapsed());
    let operations = accepted.iter().map(|o| o["id"].as_str().unwrap().to_owned()).collect();
    let most = most_at_work(events, operations).await;
    eprintln!("{count} domains run after {:?}, {most} at work at a time", begun.elapsed());
    assert!((1..=AT_A_TIME).contains(&most), "{most} boots at work at a time");
    for operation in &accepted {
        let over = end_of(&mut node.client, operation).await;
        assert_eq!(over["state"], "succeeded", "{over:#}");
    }
    pings.end("while they were started").await;

    let pings = Pings::begin(&broker, &node).await;
    let client = &mut node.client;
    let patience = EACH * u32::try_from(count).unwrap();
    let shown = poll::until("all guests are ready", patience, async || {
        let list = client.call("instance.list", Value::Null).await;
        let list = list.map_err(|error| error.to_string())?;
        let instances = list.as_array().cloned().unwrap_or_default();
        let ready = instances.iter().filter(|i| i["guest"]["state"] == "ready").count();
        if ready == count { Ok(instances) } else { Err(format!("{ready} are ready")) }
    })
    .await
    .unwrap();
    eprintln!("{count} guests ready after {:?}", begun.elapsed());
    pings.end("while they came up").await;
    for instance in &shown {
        assert_eq!(instance["status"], "ACTIVE", "{instance:#}");
        assert_eq!(instance["power_state"], "running", "{instance:#}");
        assert_eq!(instance["fault"], Value::Null, "{instance:#}");
    }

    let mut names = ids.clone();
    for id in &ids {
        let shown = node.show(id).await;
        let ports = shown["ports"].as_array().unwrap();
        names.extend(ports.iter().map(|port| port["tap"].as_str().unwrap().to_owned()));
    }
    let pings = Pings::begin(&broker, &node).await;
    let begun = Instant::now();
    let deletes: Vec<Call> = ids.iter().map(|id| Call::new("instance.delete", gone(id))).collect();
    for operation in sender.send_all(&deletes).await.unwrap() {
        let over = end_of(&mut node.client, &operation.unwrap()).await;
        assert_eq!(over["state"], "succeeded", "{over:#}");
    }
    eprintln!("{count} deleted after {:?}", begun.elapsed());
    pings.end("while they were deleted").await;
    let left = leftovers(&names, &[node.agent.folder()]).await.unwrap();
    assert!(left.is_empty(), "left of {count} instances:\n{left}");
    let log = std::fs::read_to_string(node.agent.log()).unwrap();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert!(complaints.is_empty(), "the agent complained:\n{}", complaints.join("\n"));
    broker.forget_host(node.agent.host()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_boots_at_once_wait_their_turn_and_leave_nothing() {
    need_root!();
    crowd(8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make long"]
async fn fifty_boots_at_once_wait_their_turn_and_leave_nothing() {
    need_root!();
    crowd(50).await;
}
