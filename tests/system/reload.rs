//! A changed configuration, taken up at SIGHUP.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::rpc::Client;
use ostler_tests::services::Broker;
use serde_json::{Value, json};

use crate::node::need_root;

const PATIENCE: Duration = Duration::from_secs(30);

/// What the node says of itself, once `wanted` is true of it.
async fn shows(agent: &HostAgent, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    poll::until(what, PATIENCE, async || {
        let mut client = agent.client().await.map_err(|error| error.to_string())?;
        let host = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        if wanted(&host) { Ok(host) } else { Err(host.to_string()) }
    })
    .await
    .unwrap()
}

/// The first line of its log with this in it.
async fn logs(agent: &HostAgent, words: &str) -> String {
    poll::until(words, PATIENCE, async || {
        let log = std::fs::read_to_string(agent.log()).map_err(|error| error.to_string())?;
        let line = log.lines().find(|line| line.contains(words)).map(str::to_owned);
        line.ok_or_else(|| "nothing".to_owned())
    })
    .await
    .unwrap()
}

/// How an operation ends.
async fn end(client: &mut Client, mut operation: Value) -> String {
    while matches!(operation["state"].as_str(), Some("queued" | "running")) {
        let wait = json!({"id": operation["id"], "timeout": 5000});
        operation = client.call("operation.wait", wait).await.unwrap();
    }
    operation["state"].as_str().unwrap().to_owned()
}

fn has_flavor(host: &Value, name: &str) -> bool {
    host["flavors"].get(name).is_some()
}

/// Of admission and a flavor, which `host.show` shows, and of what an image may be.
fn more(ratio: u32, flavor: &str, max_size: &str) -> String {
    format!(
        "[admission]\ncpu_ratio = {ratio}.0\n[images]\nmax_size = \"{max_size}\"\n\
         [flavors]\n{flavor} = {{ vcpus = 1, memory = \"64MiB\" }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_flavors_admission_and_images_and_says_what_it_does_not() {
    need_root!();
    let place = Place::new("reload").unwrap();
    let setup = Setup { image_defaults: true, more: more(1, "old", "1MiB"), ..Setup::default() };
    let mut agent = HostAgent::start(setup).await.unwrap();
    let pid = agent.pid();
    let before = shows(&agent, "the old flavor", |host| has_flavor(host, "old")).await;
    let source = agent.state_dir().join("incoming/image");
    std::fs::write(&source, vec![0; 2 << 20]).unwrap();
    let import = json!({"name": "large", "source": source, "format": "raw"});
    let mut client = agent.client().await.unwrap();
    let refused = client.call("image.import", import.clone()).await.unwrap();
    assert_ne!(end(&mut client, refused).await, "succeeded");

    agent.setup().more = format!(
        "{}[hypervisor]\nvirt_type = \"qemu\"\n[socket]\npath = \"{}\"\n",
        more(2, "new", "4MiB"),
        place.join("elsewhere").display()
    );
    agent.reload().unwrap();
    let after = shows(&agent, "the new flavor", |host| has_flavor(host, "new")).await;
    assert!(!has_flavor(&after, "old"), "{after}");
    let limit = |host: &Value| host["vcpus_share"]["limit"].as_u64().unwrap();
    assert_eq!(limit(&after), 2 * limit(&before));
    let warning = logs(&agent, "restart the agent for them").await;
    assert!(warning.contains("socket.path, hypervisor.virt_type"), "{warning}");
    let taken = client.call("image.import", import).await.unwrap();
    assert_eq!(end(&mut client, taken).await, "succeeded");
    assert_eq!(agent.pid(), pid);
    assert_eq!(agent.stop().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_changes_nothing_and_systemd_is_told_of_each_reload() {
    need_root!();
    let place = Place::new("notify").unwrap();
    let socket = UnixDatagram::bind(place.join("socket")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let path = place.join("socket").to_string_lossy().into_owned();
    let env = vec![("NOTIFY_SOCKET".to_owned(), path)];
    let more = more(1, "old", "1MiB");
    let setup = Setup { env, more: more.clone(), image_defaults: true, ..Setup::default() };
    let mut agent = HostAgent::start(setup).await.unwrap();
    let told = async |word: &str| {
        poll::until(word, PATIENCE, async || {
            let mut text = [0; 1024];
            let length = socket.recv(&mut text).map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            if text.contains(word) { Ok(text) } else { Err(text) }
        })
        .await
        .unwrap()
    };
    told("READY=1").await;
    agent.setup().more = format!("{more}wrong = {{ vcpus = 1, memory = \"5 bananas\" }}\n");
    agent.reload().unwrap();
    let reloading = told("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    told("READY=1").await;
    let error = logs(&agent, "all settings are as before").await;
    assert!(error.contains("ERROR") && error.contains("5 bananas"), "{error}");
    shows(&agent, "the old flavor", |host| has_flavor(host, "old")).await;
    agent.setup().more = more;
    agent.reload().unwrap();
    told("RELOADING=1").await;
    told("READY=1").await;
    logs(&agent, "the configuration was read again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_a_node_to_a_broker_and_away_from_it() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut agent = HostAgent::start(Setup::default()).await.unwrap();
    shows(&agent, "no broker", |host| host["broker"] == "none").await;
    agent.setup().broker = vec!["amqp://localhost:1".to_owned()];
    agent.reload().unwrap();
    shows(&agent, "a broker that is not there", |host| host["broker"] == "down").await;
    agent.setup().broker = vec![broker.uri().to_owned()];
    agent.reload().unwrap();
    shows(&agent, "the broker", |host| host["broker"] == "up").await;
    let mut client = agent.amqp_client().await.unwrap();
    client.call("host.ping", Value::Null).await.unwrap();
    agent.setup().broker = Vec::new();
    agent.reload().unwrap();
    shows(&agent, "no broker again", |host| host["broker"] == "none").await;
    assert_eq!(agent.stop().await.unwrap(), 0);
}
