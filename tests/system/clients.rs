//! The programs in `docs/clients.md`, run as they stand there: against a real broker, by a user with
//! the rights of a client and no more.

use std::time::Duration;

use ostler_tests::guest_image::Mode;
use ostler_tests::place::Place;
use ostler_tests::process::{Output, Run};
use ostler_tests::rpc::Client;
use ostler_tests::services::Broker;
use serde_json::json;

use crate::broker_limits::up;
use crate::node::{BOOT, Node, need_root};

/// The page with the programs.
const PAGE: &str = include_str!("../../docs/clients.md");
/// The password of the programs' user.
const PASSWORD: &str = "s3cret";

/// The program of the page in this language.
fn program(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("\n```{language}\n")).unwrap();
    rest.split_once("\n```\n").unwrap().0
}

/// Run a program of the page, from a new broker and a node on it to the end of what it booted; then
/// with what does not exist.
async fn it_boots_and_deletes(run: impl Fn() -> Run) {
    let mut broker = Broker::private().await.unwrap();
    broker.control(&["add_user", "control", PASSWORD]).await.unwrap();
    broker.control(&["set_permissions", "control", "^$", r"^ostler\.rpc$", "^$"]).await.unwrap();
    let uri = broker.uri().replace("guest:guest", &format!("control:{PASSWORD}"));
    let mut node = Node::on(&broker).await;
    up(&node.agent).await;
    let (image, host) = (node.image(Mode::Ostler).await, node.agent.host().to_owned());
    let Client::Amqp(listener) = node.agent.amqp_client().await.unwrap() else {
        panic!("not AMQP");
    };
    let mut events = listener.events(&format!("instance.{host}.*")).await.unwrap();
    let go = async |host: &str, image: &str| -> Output {
        let run = run().args([host, image, "tiny", "lan"]).env("OSTLER_BROKER", &uri);
        let ran = run.patience(BOOT).output().await.unwrap();
        assert!(!format!("{ran:?}").contains(PASSWORD), "{ran:?}");
        ran
    };

    let ran = go(&host, &image).await;
    let operations = node.ask("operation.list", json!({})).await;
    let of_instances = operations.as_array().unwrap().iter().filter_map(|operation| {
        let id = operation["subject"]["instance"].as_str()?;
        Some((id, operation["kind"].as_str()?, operation["state"].as_str()?))
    });
    let of_instances: Vec<_> = of_instances.collect();
    of_instances.iter().for_each(|(id, ..)| node.adopt(id));
    assert_eq!(ran.code, 0, "{ran:?}");
    let runs = |event: &serde_json::Value| event["news"]["instance"]["power_state"] == "running";
    let event = events.next(Duration::from_secs(30), runs).await.unwrap();
    let id = event["news"]["instance"]["id"].as_str().unwrap();
    let expected = [(id, "instance.delete", "succeeded"), (id, "instance.boot", "succeeded")];
    assert_eq!(of_instances, expected, "newest first");
    assert_eq!(ran.stdout, format!("runs: {id}\ndeleted: {id}\n"));
    node.nothing_left(id).await;

    for (host, image, told) in [(&*host, "no-such-image", "no-such-image"), ("no-host", &image, "")]
    {
        let failed = go(host, image).await;
        assert_eq!(failed.code, 1, "{host} {image}: {failed:?}");
        assert!(failed.stderr.contains(told) && failed.stdout.is_empty(), "{failed:?}");
        assert!(!failed.stderr.is_empty());
    }
    assert_eq!(node.ask("instance.list", json!({})).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_program_of_the_manual_boots_and_deletes_and_says_why_it_cannot() {
    need_root!();
    // Debian's own: another python3 does not find Debian's pika.
    it_boots_and_deletes(|| Run::new("/usr/bin/python3").args(["-"]).stdin(program("python")))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Go compiler, which only make long installs"]
async fn the_go_program_of_the_manual_boots_and_deletes_and_says_why_it_cannot() {
    need_root!();
    let place = Place::new("go").unwrap();
    let source = place.write("boot.go", program("go")).unwrap();
    let built = place.join("boot");
    Run::new("/usr/bin/go")
        .args(["build".as_ref(), "-o".as_ref(), built.as_os_str(), source.as_os_str()])
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", place.join("cache"))
        .patience(Duration::from_secs(600))
        .stdout()
        .await
        .unwrap();
    it_boots_and_deletes(|| Run::new(&built)).await;
}
