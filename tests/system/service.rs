//! What systemd sees of the host agent, and its configuration.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::place::Place;
use ostler_tests::process::Run;
use ostler_tests::{poll, programs};

use crate::node::need_root;

/// The next message to systemd.
async fn told(socket: &UnixDatagram) -> String {
    poll::until("a word to systemd", Duration::from_secs(30), async || {
        let mut text = [0; 1024];
        let length = socket.recv(&mut text).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_the_agent_is_ready_alive_and_stopping() {
    need_root!();
    let place = Place::new("notify").unwrap();
    let socket = UnixDatagram::bind(place.join("socket")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let path = place.join("socket").to_string_lossy().into_owned();
    let env =
        vec![("NOTIFY_SOCKET".to_owned(), path), ("WATCHDOG_USEC".to_owned(), "500000".to_owned())];
    let mut agent = HostAgent::start(Setup { env, ..Setup::default() }).await.unwrap();
    let mut heard = Vec::new();
    while !(heard.contains(&"READY=1".to_owned()) && heard.contains(&"WATCHDOG=1".to_owned())) {
        heard.push(told(&socket).await.trim().to_owned());
    }
    assert_eq!(agent.stop().await.unwrap(), 0);
    while heard.last().map(String::as_str) != Some("STOPPING=1") {
        heard.push(told(&socket).await.trim().to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_state_is_refused() {
    need_root!();
    let agent = HostAgent::start(Setup::default()).await.unwrap();
    let config = agent.folder().join("host-agent.toml");
    let second = Run::new(programs::host_agent().unwrap())
        .args(["--config".as_ref(), config.as_os_str()])
        .output()
        .await
        .unwrap();
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("another agent works on"), "{}", second.stderr);
    let mut client = agent.client().await.unwrap();
    client.call("host.ping", serde_json::Value::Null).await.unwrap();
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_its_line() {
    let place = Place::new("config").unwrap();
    for (text, complaint) in [
        ("host = \"n\"\n[limits]\nbots = 4\n", "line 3: unknown field `bots`"),
        ("host = \"../n\"\n", "is not a name"),
        ("host = \"n\"\n[limits]\nboots = 0\n", "limits.boots"),
        ("host = \"n\"\n[broker]\nuris = [\"http://u:hunter2@h\"]\n", "line 3: a broker's URI"),
    ] {
        let file = place.write("config.toml", text).unwrap();
        let checked = Run::new(programs::host_agent().unwrap())
            .args(["--config".as_ref(), file.as_os_str(), "check-config".as_ref()])
            .output()
            .await
            .unwrap();
        assert_eq!(checked.code, 2, "{text}");
        assert!(checked.stderr.contains(complaint), "{}", checked.stderr);
        assert!(!checked.stderr.contains("hunter2"), "{}", checked.stderr);
    }
}
