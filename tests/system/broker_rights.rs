//! The broker's users: the rights the manual names are enough, for the agent and for who asks it;
//! and one URI, as people write it, means the same broker to both.

use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::cli::Cli;
use ostler_tests::services::{Broker, Libvirt};
use serde_json::json;

use crate::broker_limits::up;
use crate::node::need_root;

/// The manual.
const PAGE: &str = include_str!("../../docs/rpc.md");
/// Who, and what he may configure, write and read.
const USERS: [(&str, [&str; 3]); 2] = [
    ("agent", [r"^ostler\.", r"^(ostler\.|amq\.default$)", r"^ostler\."]),
    ("client", ["^$", r"^ostler\.rpc$", "^$"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_in_the_manual_are_enough_and_a_uri_may_end_at_the_slash() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let mut broker = Broker::private().await.unwrap();
    for (user, rights) in USERS {
        broker.control(&["add_user", user, "w#rd%"]).await.unwrap();
        let [configure, write, read] = rights;
        broker.control(&["set_permissions", user, configure, write, read]).await.unwrap();
        let line = format!("| {user} | `{configure}` | `{write}` | `{read}` |");
        // A bar in a table is escaped.
        assert!(PAGE.contains(&line.replace("(ostler\\.|", "(ostler\\.\\|")), "no line {line}");
    }
    let place = broker.uri().rsplit_once('@').unwrap().1.trim_end_matches("%2f").to_owned();
    let uri = |user: &str| format!("amqp://{user}:w%23rd%25@{place}");
    assert!(uri("agent").ends_with('/'));
    let agent = HostAgent::start(Setup::with_broker(&uri("agent"))).await.unwrap();
    up(&agent).await;
    let cli = Cli::over_broker(&uri("client"), agent.host()).unwrap();
    let ping = cli.patience(Duration::from_secs(30)).json(&["host", "ping"]).await.unwrap();
    assert_eq!(ping["host"], json!(agent.host()), "{ping:#}");
}
