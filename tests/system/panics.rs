//! A mistake of the agent's own: it costs the operation it happens in, or the agent starts again;
//! nothing is stuck.

use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::services::Broker;
use serde_json::{Value, json};

use crate::drain::Rule;
use crate::node::{Node, need_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_step_is_the_operations_failure_and_what_comes_next_is_done() {
    need_root!();
    let rules = "before|instance.boot|start domain|panic";
    let (_rule, setup) = Rule::of(Setup { may_panic: true, ..Setup::default() }, rules);
    let mut node = Node::with(setup).await;
    let params = node.boot_params("mistaken", Mode::None, &["lan"]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let over = node.tried("instance.boot", params).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    assert_eq!(over["error"]["data"]["reason"], "internal", "{over:#}");
    assert_eq!(over["error"]["data"]["step"], "start domain");
    // Its queue goes on.
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_between_the_steps_ends_the_agent_and_the_next_one_goes_on() {
    need_root!();
    let rule = "settling|instance.stop|*|panic";
    let (rule, setup) = Rule::of(Setup { may_panic: true, ..Setup::default() }, rule);
    let mut node = Node::with(setup).await;
    let id = node.boot("mistaken", Mode::None).await;
    let stop = node.ask("instance.stop", json!({"id": id, "manner": "hard"})).await;
    let code = node.agent.ended(Duration::from_secs(60)).await.unwrap();
    assert_eq!(code, 1);
    rule.lift();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let over = node.end_of(&stop).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_parts_from_its_broker_at_once() {
    let broker = Broker::ensure().await.unwrap();
    let mut agent = HostAgent::start(Setup::with_broker(broker.uri())).await.unwrap();
    for _ in 0..3 {
        let mut client = agent.client().await.unwrap();
        poll::until("it is on the broker", Duration::from_secs(30), async || {
            let shown = client.call("host.show", Value::Null).await;
            let shown = shown.map_err(|error| error.to_string())?;
            if shown["broker"] == "up" { Ok(()) } else { Err(shown.to_string()) }
        })
        .await
        .unwrap();
        // A panic in its log fails the test.
        assert_eq!(agent.stop().await.unwrap(), 0);
        agent.launch().unwrap();
        agent.ready().await.unwrap();
    }
}
