//! The serial console through the agent: an operator's work at it, what survives what, and a guest
//! that prints without end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::cli::Cli;
use ostler_tests::console::Console;
use ostler_tests::guest_image::{Mode, ROOT};
use ostler_tests::poll;
use ostler_tests::services::Broker;
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root};

/// What leaves.
const LEAVE: &str = "\u{1d}";
/// How long the command may take to end.
const END: Duration = Duration::from_secs(20);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// Log in, reboot from within, log in again, be there when it is switched off and on, leave.
async fn work(node: &mut Node, cli: &Cli, id: &str) {
    let (mut seat, mut console) = cli.seat(&["console", id]).unwrap();
    let before = seat.settings().unwrap();
    console.expect(&["Ctrl-] leaves it"], ANSWER).await.unwrap();
    let mut session = console.login(ROOT.user, ROOT.password).await.unwrap().session().unwrap();
    assert_eq!(session.ask("echo $((6 * 7))").await.unwrap(), "42");
    assert!(!seat.is_cooked().unwrap());

    let uptime = session.ask("cut -d. -f1 /proc/uptime").await.unwrap();
    let mut console = session.abandon();
    console.send("reboot\n").await.unwrap();
    console.expect(&["Restarting system"], ANSWER).await.unwrap();
    let mut session = console.login(ROOT.user, ROOT.password).await.unwrap().session().unwrap();
    let now = session.ask("cut -d. -f1 /proc/uptime").await.unwrap();
    let (uptime, now): (u64, u64) = (uptime.parse().unwrap(), now.parse().unwrap());
    assert!(now < uptime + 60, "it has run for {uptime} s, and then for {now} s");

    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    let mut console = session.abandon();
    console.expect(&["the instance is off"], ANSWER).await.unwrap();
    node.done("instance.start", json!({"id": id})).await;
    console.expect(&["the instance runs"], ANSWER).await.unwrap();
    let session = console.login(ROOT.user, ROOT.password).await.unwrap().session().unwrap();

    let mut console = session.logout().await.unwrap();
    console.send(LEAVE).await.unwrap();
    console.expect(&["left the console"], END).await.unwrap();
    assert_eq!(seat.ended(END).await.unwrap(), 0);
    assert_eq!(seat.settings().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_works_at_the_console_over_the_socket() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("desk", Mode::Ostler).await;
    let cli = Cli::on(&node.agent).unwrap();
    work(&mut node, &cli, &id).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_works_at_the_console_through_the_broker() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let id = node.boot("far", Mode::Ostler).await;
    let cli = Cli::over_broker(broker.uri(), node.agent.host()).unwrap();
    work(&mut node, &cli, &id).await;
    node.delete(&id).await;
}

/// Wait until the agent has attached to the console: what is typed before that is not typed.
async fn attached(console: &mut Console) {
    console.expect(&["leaves it"], ANSWER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_share_a_console_and_outlive_the_agent() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("shared", Mode::Ostler).await;
    let cli = Cli::on(&node.agent).unwrap();
    let (mut one, mut first) = cli.seat(&["console", "shared"]).unwrap();
    let (mut two, mut second) = cli.seat(&["console", "shared", "--escape", "^A"]).unwrap();
    attached(&mut first).await;
    attached(&mut second).await;
    let mut session = first.login(ROOT.user, ROOT.password).await.unwrap().session().unwrap();
    session.ask("echo seen by both").await.unwrap();
    second.expect(&["seen by both"], ANSWER).await.unwrap();
    // Two more, and that is enough.
    for _ in 0..2 {
        node.ask("console.open", json!({"id": id})).await;
    }
    let full = cli.output(&["console", "shared"], "").await.unwrap();
    assert_eq!(full.code, 3);
    assert!(full.stderr.contains("4 console sessions are open"), "{}", full.stderr);

    node.agent.restart().await.unwrap();
    node.reconnect().await;
    let mut first = session.abandon();
    first.expect(&["this is a new one"], ANSWER).await.unwrap();
    second.expect(&["this is a new one"], ANSWER).await.unwrap();
    // The guest's shell is where it was.
    first.send("echo after $((40 + 2))\n").await.unwrap();
    first.expect(&["after 42"], ANSWER).await.unwrap();
    second.expect(&["after 42"], ANSWER).await.unwrap();

    // The key that leaves one is any other key to the other.
    second.send("\u{1}").await.unwrap();
    assert_eq!(two.ended(END).await.unwrap(), 0);
    one.signal(Signal::SIGTERM).unwrap();
    assert_eq!(one.ended(END).await.unwrap(), 130);
    assert!(one.is_cooked().unwrap() && two.is_cooked().unwrap());

    // Deleted under a session, the session ends and says why.
    let (mut last, mut console) = cli.seat(&["console", "shared"]).unwrap();
    attached(&mut console).await;
    node.delete(&id).await;
    console.expect(&["there is no instance"], ANSWER).await.unwrap();
    assert_eq!(last.ended(END).await.unwrap(), 3);
    assert!(last.is_cooked().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_talks_to_the_console_and_reads_its_log() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("script", Mode::Ostler).await;
    node.report(&id).await;
    let cli = Cli::on(&node.agent).unwrap();
    let log = poll::until("the login prompt is in the log", BOOT, async || {
        let log = cli.text(&["instance", "console-log", "script"]).await;
        log.map_err(|error| error.to_string())
            .and_then(|log| if log.contains("login:") { Ok(log) } else { Err(log) })
    })
    .await
    .unwrap();
    assert!(log.contains("Ostler Demo Guest"), "{log}");
    let last = cli.text(&["instance", "console-log", "script", "--lines", "2"]).await.unwrap();
    assert_eq!(last.lines().count(), 2, "{last}");
    assert!(log.ends_with(&last), "{last}");
    let told = cli.json(&["instance", "console-log", "script"]).await.unwrap();
    let size =
        std::fs::metadata(node.agent.state_dir().join(format!("instances/{id}/console.log")));
    assert_eq!(told["size"].as_u64().unwrap(), size.unwrap().len());

    // Without an end of its input it would stay; with one it waits for the guest to be silent.
    let input = "\n\nroot\n";
    let said = cli.output(&["console", "script", "--linger", "5"], input).await.unwrap();
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("assword:"), "{}", said.stdout);
    node.delete(&id).await;
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_prints_without_end_takes_no_memory() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("flood", Mode::Ostler).await;
    let pid = node.agent.pid().unwrap();
    let mut session = node.login(&id, ROOT).await;
    let memory = resident(pid);
    // It begins when this login has let go of the console: two readers share what comes.
    let flood = "(sleep 2; yes flooding > /dev/ttyS0) </dev/null >/dev/null 2>&1 &";
    session.ask(flood).await.unwrap();
    drop(session);
    // One reads slowly, one not at all, and the guest does not stop.
    let slow = node.ask("console.open", json!({"id": id})).await;
    node.ask("console.open", json!({"id": id})).await;
    let began = Instant::now();
    let mut at = slow["at"].as_u64().unwrap();
    let mut lost = 0;
    // What is not read in time is lost, and counted; what is read goes on at once.
    while lost == 0 {
        let printed = node.ask("console.read", json!({"session": slow["session"], "at": at})).await;
        lost = printed["lost"].as_u64().unwrap();
        if lost > 0 {
            at = printed["at"].as_u64().unwrap();
        }
        assert!(began.elapsed() < BOOT, "nothing is lost yet at {at}");
        // others are answered meanwhile
        node.ask("host.ping", json!({})).await;
    }
    let goal = at + (256 << 10);
    while at < goal {
        let params = json!({"session": slow["session"], "at": at, "wait": 1000});
        at = node.ask("console.read", params).await["at"].as_u64().unwrap();
        assert!(began.elapsed() < BOOT, "read up to {at} of {goal}");
    }
    let now = resident(pid);
    assert!(now < memory + (8 << 10), "{memory} KiB before, {now} KiB after");
    // Typed bytes get through, or are given back: nothing hangs.
    let params = json!({"session": slow["session"], "at": 0, "data": "Aw=="});
    let taken = node.ask("console.write", params.clone()).await;
    let again = node.ask("console.write", params).await;
    assert_eq!((&taken["at"], &again["at"]), (&json!(1), &json!(1)), "typed once");
    let wrong = json!({"session": slow["session"], "at": 9, "data": "Aw=="});
    let refused = node.client.call("console.write", wrong).await.unwrap_err();
    assert_eq!(refused.reason(), Some("invalid_params"));
    node.ask("console.close", json!({"session": slow["session"]})).await;
    let closed = json!({"session": slow["session"], "at": at});
    let gone: Value = match node.client.call("console.read", closed).await {
        Err(error) => json!(error.reason()),
        Ok(printed) => printed,
    };
    assert_eq!(gone, "not_found");
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    node.delete(&id).await;
}
