//! What the operator's command says of a life it can end and take back: sentences, tables, exits.

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use ostler_tests::process::Output;
use serde_json::json;

use crate::node::{Node, need_root, virsh};

/// The exit code and what was said where.
fn parts(output: &Output) -> (i32, &str, &str) {
    (output.code, &output.stdout, &output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_tells_what_can_be_taken_back() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("short", Mode::None).await;
    let cli = Cli::on(&node.agent).unwrap();
    let said = async |words: &[&str]| {
        let words: Vec<&str> = ["instance"].into_iter().chain(words.iter().copied()).collect();
        cli.output(&words, "").await.unwrap()
    };

    let output = said(&["snapshot", "short", "--name", "shot"]).await;
    let (code, told, _) = parts(&output);
    assert!(
        code == 0 && told.contains("image shot is made; the guest was not quiesced: "),
        "{told}"
    );
    let output = said(&["snapshot", "short", "--name", "shot-2", "--quiesce", "require"]).await;
    let (code, _, error) = parts(&output);
    assert!(code == 1 && error.contains("reason: guest_unavailable"), "{code}: {error}");

    let output = said(&["delete", "short"]).await;
    let (code, told, _) = parts(&output);
    assert!(code == 0 && told.contains(&format!("ostler instance restore {id}")), "{told}");
    let output = said(&["list", "--name", "sho*"]).await;
    assert_eq!(parts(&output), (0, "no instances\n", ""));
    let output = said(&["start", "short"]).await;
    let (code, _, error) = parts(&output);
    assert!(code == 3 && error.contains("--status SOFT_DELETED"), "{code}: {error}");
    let output = said(&["show", "short"]).await;
    let (code, told, _) = parts(&output);
    assert!(code == 0 && told.contains("SOFT_DELETED"), "{told}");
    let output = said(&["restore", "short"]).await;
    let (code, told, _) = parts(&output);
    assert!(code == 0 && told.contains("ACTIVE"), "{told}");

    let output = said(&["delete", "short", "--hard"]).await;
    let gone = format!("instance {id} is deleted for good\n");
    assert_eq!((output.code, output.stdout.as_str()), (0, gone.as_str()), "{}", output.stderr);
    node.nothing_left(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_shown_to_its_ground_and_deleted_only_if_it_is_known() {
    need_root!();
    let mut node = Node::start().await;
    let params = node.boot_params("ill", Mode::None, &[]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    // Somebody else's domain has the name.
    let stranger = format!(
        "<domain type='qemu'><name>ostler-{id}</name><memory>65536</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    );
    let file = node.agent.folder().join("stranger.xml");
    std::fs::write(&file, stranger).unwrap();
    virsh(&["define", file.to_str().unwrap()]).await;
    let over = node.tried("instance.boot", params).await;
    assert_ne!(over["state"], "succeeded", "{over:#}");
    virsh(&["undefine", &format!("ostler-{id}")]).await;
    let fault = &over["error"];

    let cli = Cli::on(&node.agent).unwrap();
    let shown = cli.text(&["instance", "show", &id]).await.unwrap();
    let reason = format!("{} ({})", fault["data"]["reason"].as_str().unwrap(), fault["code"]);
    for part in ["ERROR", &reason, fault["message"].as_str().unwrap(), "at step", "next"] {
        assert!(shown.contains(part), "{shown} lacks {part}");
    }
    let output = cli.output(&["instance", "delete", "ill"], "").await.unwrap();
    let (code, _, error) = parts(&output);
    assert!(code == 3 && error.contains("--ignore"), "{code}: {error}");
    let output = cli.output(&["instance", "delete", "ill", "--ignore"], "").await.unwrap();
    let gone = format!("instance {id} is deleted for good\n");
    assert_eq!((output.code, output.stdout.as_str()), (0, gone.as_str()), "{}", output.stderr);
    assert_eq!(node.ask("instance.show", json!({"id": id})).await["status"], "DELETED");
}
