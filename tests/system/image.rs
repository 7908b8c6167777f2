//! Importing images: from a path and a URL, and what is refused of them.

use ostler_tests::process::Run;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::node::{Node, need_root};

/// Serve these bytes over HTTP on the loopback address, whatever is asked for; the URL.
async fn serve(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/image", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _sent = stream.write_all(head.as_bytes()).await;
            let _sent = stream.write_all(&body).await;
        }
    });
    url
}

async fn sha256(path: &std::path::Path) -> String {
    let line = Run::new("sha256sum").args([path]).stdout().await.unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_by_url_and_is_checked() {
    need_root!();
    let mut node = Node::start().await;
    let root = node.image.root.clone();
    let digest = sha256(&root).await;
    let url = serve(std::fs::read(&root).unwrap()).await;
    let import = json!({"name": "by-url", "source": format!("{url}?sig=hush"), "format": "qcow2", "sha256": digest});
    node.done("image.import", import).await;
    let images = node.ask("image.list", Value::Null).await;
    let image = images.as_array().unwrap().iter().find(|i| i["name"] == "by-url").unwrap();
    assert_eq!((&image["sha256"], &image["state"]), (&json!(digest), &json!("ready")));
    assert!(!std::fs::read_to_string(node.agent.log()).unwrap().contains("hush"));
    assert!(!image.to_string().contains("hush"));

    // Another digest than declared, another format than declared: refused, and nothing is kept.
    let wrong = [
        (
            json!({"name": "w", "source": url, "format": "qcow2", "sha256": "00".repeat(32)}),
            "image_invalid",
        ),
        (json!({"name": "w", "source": node.image.kernel, "format": "qcow2"}), "image_invalid"),
        (
            json!({"name": "w", "source": "/nonexistent/image", "format": "raw"}),
            "image_unavailable",
        ),
        (json!({"name": "w", "source": "/dev/zero", "format": "raw"}), "image_unavailable"),
        (
            json!({"name": "w", "source": "http://127.0.0.1:1/x", "format": "raw"}),
            "image_unavailable",
        ),
    ];
    for (import, reason) in wrong {
        let over = node.tried("image.import", import.clone()).await;
        assert_eq!(over["state"], "undone", "{import}: {over:#}");
        assert_eq!(over["error"]["data"]["reason"], reason, "{import}: {over:#}");
    }
    let images = node.ask("image.list", Value::Null).await;
    assert!(!images.to_string().contains("\"w\""), "{images:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_reads_another_file_is_refused() {
    need_root!();
    let mut node = Node::start().await;
    let trap = node.agent.folder().join("trap.qcow2");
    Run::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"])
        .args([&trap])
        .stdout()
        .await
        .unwrap();
    let over = node
        .tried("image.import", json!({"name": "trap", "source": trap, "format": "qcow2"}))
        .await;
    assert_eq!(over["error"]["data"]["reason"], "image_invalid", "{over:#}");
    assert!(over["error"].to_string().contains("backing"), "{over:#}");
    let cached = std::fs::read_dir(node.agent.state_dir().join("images")).unwrap().flatten();
    let disks = cached.filter(|e| e.file_name().to_string_lossy().ends_with(".qcow2")).count();
    assert_eq!(disks, 0, "only kernel and ramdisk are there");
}
