//! Importing and exporting images: from and to a path and a URL, and what is refused of them.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::Run;
use ostler_tests::services::Broker;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::drain::Rule;
use crate::node::{Node, end_of, need_root};

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
async fn by_default_only_files_where_images_lie_are_read() {
    need_root!();
    let setup = Setup { image_defaults: true, ..Setup::default() };
    let agent = HostAgent::start(setup).await.unwrap();
    let mut client = agent.client().await.unwrap();
    let incoming = agent.state_dir().join("incoming");
    std::os::unix::fs::symlink("/etc/shadow", incoming.join("link")).unwrap();
    std::fs::write(incoming.join("good"), [7; 4096]).unwrap();
    let mut tried = async |name: &str, source: &std::path::Path| {
        let import = json!({"name": name, "source": source, "format": "raw"});
        let operation = client.call("image.import", import).await.unwrap();
        let wait = json!({"id": operation["id"], "timeout": 60_000});
        client.call("operation.wait", wait).await.unwrap()
    };
    let journal = agent.state_dir().join("journal.db");
    for source in ["/etc/shadow".as_ref(), journal.as_path(), &incoming.join("link")] {
        let over = tried("stolen", source).await;
        assert_eq!(over["state"], "undone", "{over:#}");
        assert_eq!(over["error"]["data"]["reason"], "image_unavailable", "{over:#}");
        assert!(over["error"].to_string().contains("images.directories"), "{over:#}");
    }
    let over = tried("good", &incoming.join("good")).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_whole_or_too_large_inside_is_refused() {
    need_root!();
    let mut node = Node::start().await;
    let cut = node.agent.folder().join("cut.qcow2");
    let root = std::fs::read(&node.image.root).unwrap();
    std::fs::write(&cut, &root[..root.len() - (128 << 10)]).unwrap();
    let vast = node.agent.folder().join("vast.qcow2");
    let create = ["create", "-q", "-f", "qcow2"].map(std::ffi::OsStr::new);
    let create = create.into_iter().chain([vast.as_os_str(), "2T".as_ref()]);
    Run::new("qemu-img").args(create).stdout().await.unwrap();
    for (source, says) in [(cut, "cut short"), (vast, "more than the 256 GiB allowed")] {
        let import = json!({"name": "bad", "source": source, "format": "qcow2"});
        let over = node.tried("image.import", import).await;
        assert_eq!(over["error"]["data"]["reason"], "image_invalid", "{over:#}");
        assert!(over["error"].to_string().contains(says), "{over:#}");
    }
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

/// A file as a program compresses it to its output.
async fn packed_by(program: &str, file: &std::path::Path) -> Vec<u8> {
    let output = file.with_extension(program);
    let line = format!("{program} -q -c \"$1\" > \"$2\"");
    let arguments = ["-c".as_ref(), line.as_ref(), "sh".as_ref(), file.as_os_str()];
    Run::new("sh").args(arguments).args([&output]).stdout().await.unwrap();
    std::fs::read(output).unwrap()
}

/// What there is in the agent's cache, parts included.
fn cached(agent: &HostAgent) -> Vec<std::ffi::OsString> {
    let folder = agent.state_dir().join("images");
    let names = |folder: std::path::PathBuf| {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name())
    };
    let mut all: Vec<_> = names(folder.clone()).chain(names(folder.join("parts"))).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_image_is_unpacked_on_the_node_and_boots() {
    need_root!();
    let mut node = Node::start().await;
    let root = node.agent.folder().join("root.qcow2");
    std::fs::copy(&node.image.root, &root).unwrap();
    let digest = sha256(&root).await;
    let properties = json!({"kernel": "kernel", "ramdisk": "ramdisk",
                            "command_line": node.image.cmdline(Mode::Ostler)});
    for program in ["gzip", "xz", "zstd"] {
        let url = serve(packed_by(program, &root).await).await;
        let received = sha256(&root.with_extension(program)).await;
        let import = json!({"name": program, "source": url, "format": "qcow2",
                            "compression": program, "sha256": received, "properties": properties});
        node.done("image.import", import).await;
        let images = node.ask("image.list", Value::Null).await;
        let image = images.as_array().unwrap().iter().find(|i| i["name"] == program).unwrap();
        assert_eq!(image["sha256"], json!(digest), "kept as it is unpacked");
    }
    // By the command, which goes by the file's name.
    let raw = node.agent.folder().join("disk.raw");
    let convert = ["convert", "-f", "qcow2", "-O", "raw"].map(std::ffi::OsStr::new);
    let convert = convert.into_iter().chain([root.as_os_str(), raw.as_os_str()]);
    Run::new("qemu-img").args(convert).stdout().await.unwrap();
    let compressed = node.agent.folder().join("disk.raw.zst");
    std::fs::write(&compressed, packed_by("zstd", &raw).await).unwrap();
    let sums = Run::new("sha512sum").args([&compressed]).stdout().await.unwrap();
    let list = node.agent.folder().join("SHA512SUMS");
    let line = node.image.cmdline(Mode::Ostler);
    let mut words = vec!["image", "import", "raw", "--format", "raw", "--checksum-file"];
    words.push(list.to_str().unwrap());
    words.extend(["--source", compressed.to_str().unwrap(), "--kernel", "kernel"]);
    words.extend(["--ramdisk", "ramdisk", "--command-line", &line]);
    let cli = Cli::on(&node.agent).unwrap();
    // Another file's digest first, which only the node can tell.
    std::fs::write(&list, format!("{}  {}\n", "00".repeat(64), compressed.display())).unwrap();
    let refused = cli.output(&words, "").await.unwrap();
    assert!(refused.stderr.contains("has SHA-512"), "{}", refused.stderr);
    std::fs::write(&list, sums).unwrap();
    cli.json(&words).await.unwrap();
    for image in ["xz", "raw"] {
        let mut boot = node.boot_params(image, Mode::Ostler, &[]).await;
        boot["image"] = json!(image);
        let id = boot["id"].as_str().unwrap().to_owned();
        node.done("instance.boot", boot).await;
        node.report(&id).await;
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_and_a_stream_that_is_not_whole_leave_nothing_in_the_cache() {
    need_root!();
    let more = "[images]\nmax_size = \"64MiB\"\n".to_owned();
    let setup = Setup { image_defaults: true, more, ..Setup::default() };
    let agent = HostAgent::start(setup).await.unwrap();
    let mut client = agent.client().await.unwrap();
    let zeros = agent.folder().join("zeros");
    for program in ["gzip", "xz", "zstd"] {
        let packed = async |length: u64| {
            std::fs::File::create(&zeros).unwrap().set_len(length).unwrap();
            packed_by(program, &zeros).await
        };
        let bomb = packed((64 << 20) + 1).await;
        assert!(bomb.len() < 1 << 20, "{program}");
        let whole = packed(32 << 20).await;
        let cut = whole[..whole.len() - 9].to_vec();
        let trailed = [&whole[..], &[7; 100]].concat();
        for (bytes, says) in [
            (bomb, "larger than the 64 MiB allowed when it is unpacked"),
            (cut, "stream is cut short"),
            (trailed, "something else follows it"),
        ] {
            let source = serve(bytes).await;
            let import = json!({"name": "bad", "source": source, "format": "raw",
                                "compression": program});
            let operation = client.call("image.import", import).await.unwrap();
            let wait = json!({"id": operation["id"], "timeout": 60_000});
            let over = client.call("operation.wait", wait).await.unwrap();
            assert_eq!(over["state"], "undone", "{over:#}");
            assert_eq!(over["error"]["data"]["reason"], "image_invalid", "{over:#}");
            assert!(over["error"].to_string().contains(says), "{program}: {over:#}");
            assert_eq!(cached(&agent), ["parts"], "{program}: {says}");
        }
    }
}

/// A disk as qemu-img makes another of it.
async fn converted(from: &std::path::Path, format: &str, options: &str) -> std::path::PathBuf {
    let to = from.with_extension(format);
    let words = ["convert", "-f", "qcow2", "-O", format, "-o", options].map(std::ffi::OsStr::new);
    let words = words.into_iter().chain([from.as_os_str(), to.as_os_str()]);
    Run::new("qemu-img").args(words).stdout().await.unwrap();
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_hypervisor_becomes_qcow2_and_boots() {
    need_root!();
    let mut node = Node::start().await;
    let root = node.agent.folder().join("root.qcow2");
    std::fs::copy(&node.image.root, &root).unwrap();
    let properties = json!({"kernel": "kernel", "ramdisk": "ramdisk",
                            "command_line": node.image.cmdline(Mode::Ostler)});
    for (format, options) in [
        ("vmdk", "subformat=streamOptimized"),
        ("vhdx", "subformat=dynamic"),
        ("vdi", "static=off"),
    ] {
        let disk = converted(&root, format, options).await;
        let digest = sha256(&disk).await;
        let url = serve(std::fs::read(&disk).unwrap()).await;
        let import = json!({"name": format, "source": url, "format": format, "sha256": digest,
                            "properties": properties});
        node.done("image.import", import).await;
        let images = node.ask("image.list", Value::Null).await;
        let image = images.as_array().unwrap().iter().find(|i| i["name"] == format).unwrap();
        assert_eq!(image["format"], "qcow2", "{image:#}");
        let mut boot = node.boot_params(format, Mode::Ostler, &[]).await;
        boot["image"] = json!(format);
        let id = boot["id"].as_str().unwrap().to_owned();
        node.done("instance.boot", boot).await;
        node.report(&id).await;
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_hypervisor_that_names_other_files_is_refused() {
    need_root!();
    let mut node = Node::start().await;
    let before = cached(&node.agent);
    let folder = node.agent.folder().to_owned();
    let root = folder.join("root.qcow2");
    std::fs::copy(&node.image.root, &root).unwrap();
    let stream =
        std::fs::read(converted(&root, "vmdk", "subformat=streamOptimized").await).unwrap();
    let flat = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
                createType=\"monolithicFlat\"\nRW 4 FLAT \"/etc/passwd\" 0\n";
    let end = stream[512..].iter().position(|byte| *byte == 0).unwrap() + 512;
    // What is written over the end of its descriptor, which qemu-img would follow.
    let with = |text: &str| {
        let mut bytes = stream.clone();
        bytes[end..end + text.len()].copy_from_slice(text.as_bytes());
        bytes
    };
    let mut no_size = stream.clone();
    no_size[12..20].fill(0);
    no_size[512..512 + flat.len()].copy_from_slice(flat.as_bytes());
    no_size[512 + flat.len()..end.max(512 + flat.len())].fill(0);
    let vast = folder.join("vast.vdi");
    let create = ["create", "-q", "-f", "vdi"].map(std::ffi::OsStr::new);
    let create = create.into_iter().chain([vast.as_os_str(), "1T".as_ref()]);
    Run::new("qemu-img").args(create).stdout().await.unwrap();
    for (format, bytes, says) in [
        ("vmdk", format!("{flat}{}", " ".repeat(512)).into_bytes(), "in other files"),
        ("vmdk", no_size, "not streamOptimized"),
        ("vmdk", with("\nRW 4 FLAT \"/etc/passwd\" 0\n"), "in other files"),
        ("vmdk", with("\nparentFileNameHint=\"/etc/passwd\"\n"), "difference to another disk"),
        ("vmdk", stream[..stream.len() / 2].to_vec(), "qemu-img cannot read it"),
        ("vhdx", stream.clone(), "does not begin like that"),
        ("vdi", std::fs::read(&vast).unwrap(), "more than the 256 GiB allowed"),
    ] {
        let url = serve(bytes).await;
        let import = json!({"name": "bad", "source": url, "format": format});
        let over = node.tried("image.import", import).await;
        assert_eq!(over["state"], "undone", "{over:#}");
        assert_eq!(over["error"]["data"]["reason"], "image_invalid", "{says}: {over:#}");
        assert!(over["error"].to_string().contains(says), "{says}: {over:#}");
        assert_eq!(cached(&node.agent), before, "{says}");
    }
}

/// Serve the beginning of an image of 1 MiB over HTTP, and never the rest; the URL.
async fn dribble() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/image", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: 1048576\r\n\r\n";
            let _sent = stream.write_all(head.as_bytes()).await;
            let _sent = stream.write_all(&[7; 64 << 10]).await;
            hanging.push(stream);
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_leaves_no_part_also_after_a_crash() {
    need_root!();
    let (rule, setup) = Rule::of(Setup::default(), "undo-before|image.import|*|kill");
    let mut node = Node::with(setup).await;
    let url = dribble().await;
    let folder = node.agent.state_dir().join("images/parts");
    let parts = || -> Vec<_> {
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    // The first is cut off by a crash before its part is removed; a query is not written down.
    for source in [format!("{url}?sig=hush"), url.clone()] {
        let import = json!({"name": "half", "source": source, "format": "raw"});
        let operation = node.ask("image.import", import).await;
        poll::until("a part and its note are there", Duration::from_secs(60), async || {
            if parts().len() == 2 { Ok(()) } else { Err(format!("{:?}", parts())) }
        })
        .await
        .unwrap();
        let crashes = source.contains('?');
        let asked = node.client.call("operation.cancel", json!({"id": operation["id"]})).await;
        if crashes {
            let _killed = node.agent.ended(Duration::from_secs(30)).await.unwrap();
            drop(asked);
            assert_eq!(parts().len(), 2, "the crash came first: {:?}", parts());
            rule.lift();
            node.agent.launch().unwrap();
            node.agent.ready().await.unwrap();
            node.reconnect().await;
        }
        let over = node.end_of(&operation).await;
        assert_eq!(over["state"], "cancelled", "{over:#}");
        assert!(parts().is_empty(), "left of {source}: {:?}", parts());
    }
    let images = node.ask("image.list", Value::Null).await;
    assert!(!images.to_string().contains("half"), "{images:#}");
}

/// What is left of uploads on a node.
fn uploads(agent: &HostAgent) -> Vec<std::ffi::OsString> {
    let folder = std::fs::read_dir(agent.state_dir().join("images/uploads")).unwrap();
    folder.map(|entry| entry.unwrap().file_name()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_sent_to_the_node_by_either_door() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let agent = HostAgent::start(Setup::with_broker(broker.uri())).await.unwrap();
    let doors = [
        ("socket", Cli::on(&agent).unwrap()),
        ("broker", Cli::over_broker(broker.uri(), agent.host()).unwrap()),
    ];
    for (door, cli) in doors {
        // More than two pieces, and not a whole number of them.
        let text = format!("{door} 0123456789").repeat(90_000);
        let file = agent.folder().join(door);
        std::fs::write(&file, &text).unwrap();
        let digest = sha256(&file).await;
        let import = ["image", "import", door, "--source", "-", "--format", "raw", "--sha256"];
        let image = cli.json_with(&[&import[..], &[&digest]].concat(), &text).await.unwrap();
        assert_eq!((&image["sha256"], &image["state"]), (&json!(digest), &json!("ready")));
        assert_eq!(image["size"], json!(text.len()));
        let import = ["image", "import", "bad", "--source", "-", "--format", "qcow2"];
        let refused = cli.output(&import, &text).await.unwrap();
        assert!(refused.stderr.contains("cannot be used"), "{}", refused.stderr);
        assert!(uploads(&agent).is_empty(), "left: {:?}", uploads(&agent));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_refused_by_name_and_outlives_the_agent() {
    need_root!();
    let mut node = Node::start().await;
    let id = uuid::Uuid::new_v4();
    let piece = |offset: u64, data: &str| json!({"id": id, "offset": offset, "data": data});
    let large = "A".repeat((512 << 10) / 3 * 4 + 8);
    for (params, reason) in [
        (piece(0, "?"), "invalid_params"),
        (piece(0, &large), "invalid_params"),
        (json!({"id": "../../etc/passwd", "offset": 0, "data": ""}), "invalid_params"),
        (piece(1, "aaaa"), "conflict"),
        (piece(u64::MAX, "aaaa"), "conflict"),
    ] {
        let (refused, text) = node.refused("image.upload", params).await;
        assert_eq!(refused, reason, "{text}");
    }
    assert_eq!(node.ask("image.upload", piece(0, "aaaa")).await["size"], 3);
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    assert_eq!(node.ask("image.upload", piece(3, "aaaa")).await["size"], 6);
    let source = format!("upload:{id}");
    node.done("image.import", json!({"name": "sent", "source": source, "format": "raw"})).await;
    assert!(uploads(&node.agent).is_empty());
    let again = json!({"name": "again", "source": source, "format": "raw"});
    let over = node.tried("image.import", again).await;
    assert_eq!(over["error"]["data"]["reason"], "image_unavailable", "{over:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bandwidth_holds_downloads_up_until_a_reload_lifts_it() {
    need_root!();
    let setup = |bandwidth: &str| format!("[images]\n{bandwidth}");
    let more = setup("bandwidth = \"64KiB\"\n");
    let setup_slow = Setup { image_defaults: true, more, ..Setup::default() };
    let mut agent = HostAgent::start(setup_slow).await.unwrap();
    let mut client = agent.client().await.unwrap();
    // At this pace it takes some seventeen minutes.
    let source = serve(vec![7; 64 << 20]).await;
    let import = json!({"name": "slow", "source": source, "format": "raw"});
    let began = std::time::Instant::now();
    let operation = client.call("image.import", import).await.unwrap();
    poll::until("a quarter of a mebibyte is there", Duration::from_secs(60), async || {
        let now = client.call("operation.get", json!({"id": operation["id"]})).await;
        let now = now.map_err(|error| error.to_string())?;
        let done = now["steps"][0]["progress"]["done"].as_u64().unwrap_or(0);
        if done >= 256 << 10 { Ok(()) } else { Err(now.to_string()) }
    })
    .await
    .unwrap();
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    agent.setup().more = setup("");
    agent.reload().unwrap();
    let wait = json!({"id": operation["id"], "timeout": 60_000});
    let over = client.call("operation.wait", wait).await.unwrap();
    assert_eq!(over["state"], "succeeded", "{over:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_through_a_proxy_whose_password_is_in_no_log() {
    need_root!();
    let proxy = serve(vec![7; 4096]).await;
    let address = proxy.strip_prefix("http://").unwrap().strip_suffix("/image").unwrap();
    let through = |address: &str| format!("[images]\nproxy = \"http://me:hunter2@{address}\"\n");
    let setup = Setup { image_defaults: true, more: through(address), ..Setup::default() };
    let mut agent = HostAgent::start(setup).await.unwrap();
    let mut client = agent.client().await.unwrap();
    let mut tried = async |name: &str, source: &str| {
        let import = json!({"name": name, "source": source, "format": "raw"});
        let operation = client.call("image.import", import).await.unwrap();
        let wait = json!({"id": operation["id"], "timeout": 60_000});
        client.call("operation.wait", wait).await.unwrap()
    };
    let over = tried("through", "http://images.invalid/disk").await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    agent.setup().more = through("127.0.0.1:1");
    agent.reload().unwrap();
    let log = agent.log();
    poll::until("the proxy is another", Duration::from_secs(30), async || {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("was read again") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
    .unwrap();
    for source in ["http://images.invalid/disk", "https://images.invalid/disk"] {
        let over = tried("dead", source).await;
        assert_eq!(over["error"]["data"]["reason"], "image_unavailable", "{over:#}");
        assert!(!over.to_string().contains("hunter2"), "{over:#}");
    }
    assert!(!std::fs::read_to_string(&log).unwrap().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_removes_what_nobody_needs_oldest_use_first_and_tells_it_before() {
    need_root!();
    let mut node = Node::start().await;
    // Kernel and ramdisk are needed by this one, and that by an instance.
    let boot = node.boot_params("needed", Mode::Ostler, &[]).await;
    node.done("instance.boot", boot.clone()).await;
    let before = node.ask("image.list", Value::Null).await.as_array().unwrap().len();
    for (name, byte) in [("older", 1), ("newer", 2), ("twin", 2)] {
        let file = node.agent.folder().join(name);
        std::fs::write(&file, [byte; 8192]).unwrap();
        node.done("image.import", json!({"name": name, "source": file, "format": "raw"})).await;
    }
    let cli = Cli::on(&node.agent).unwrap();
    let told = cli.json(&["image", "prune", "--dry-run"]).await.unwrap();
    let removed = json!([{"name": "older", "frees": 8192}, {"name": "newer", "frees": 0},
                         {"name": "twin", "frees": 8192}]);
    assert_eq!(told, json!({"removed": removed, "frees": 16384, "dry_run": true}));
    let recent = cli.json(&["image", "prune", "--unused-for", "1d"]).await.unwrap();
    let free = cli.json(&["image", "prune", "--until-free", "1B"]).await.unwrap();
    for nothing in [recent, free] {
        assert_eq!(nothing["removed"], json!([]));
    }
    // What was given up last goes last.
    let mut again = boot.clone();
    let id = uuid::Uuid::new_v4().to_string();
    node.adopt(&id);
    (again["id"], again["name"], again["image"]) = (json!(id), json!("again"), json!("older"));
    node.done("instance.boot", again).await;
    node.delete(&id).await;
    let pruned = cli.json(&["image", "prune"]).await.unwrap();
    let names: Vec<_> = pruned["removed"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["newer", "twin", "older"], "{pruned:#}");
    let left = node.ask("image.list", Value::Null).await.as_array().unwrap().len();
    assert_eq!(left, before);
    // The kernel of an image that is needed was needed, too.
    node.delete(boot["id"].as_str().unwrap()).await;
    cli.text(&["image", "prune"]).await.unwrap();
    assert_eq!(node.ask("image.list", Value::Null).await, json!([]));
}

/// Take one PUT after another, with this answer or none; the URL, and what came: each request's
/// head and body, and, where there was no answer, that the other side hung up.
async fn take(
    answer: Option<&'static str>,
) -> (String, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/image", listener.local_addr().unwrap());
    let (came, taken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
            }
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").unwrap().1;
            let mut body = vec![0; length.split_once("\r\n").unwrap().0.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            came.send((head, body)).unwrap();
            match answer {
                Some(answer) => {
                    let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                None => {
                    let _hung_up = stream.read(&mut [0]).await;
                    came.send(("hung up".to_owned(), Vec::new())).unwrap();
                }
            }
        }
    });
    (url, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_exported_to_a_file_and_to_a_server_by_either_door() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let agent = HostAgent::start(Setup::with_broker(broker.uri())).await.unwrap();
    let socket = Cli::on(&agent).unwrap();
    let over_broker = Cli::over_broker(broker.uri(), agent.host()).unwrap();
    let source = agent.folder().join("source.raw");
    std::fs::write(&source, b"0123456789".repeat(50_000)).unwrap();
    let length = 16 << 20;
    std::fs::File::options().write(true).open(&source).unwrap().set_len(length).unwrap();
    let import = ["image", "import", "disk", "--format", "raw", "--source"];
    socket.json(&[&import[..], &[source.to_str().unwrap()]].concat()).await.unwrap();
    let bytes = std::fs::read(&source).unwrap();
    let folder = agent.folder().join("exports");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("disk.raw");
    let to = |to: &str| ["image", "export", "disk", "--to", to].map(str::to_owned);
    let tried = async |cli: &Cli, place: &str| {
        let words = to(place);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cli.output(&words, "").await.unwrap()
    };

    let done = tried(&socket, path.to_str().unwrap()).await;
    assert!(done.stdout.contains("image disk is exported to"), "{} {}", done.stdout, done.stderr);
    assert!(std::fs::read(&path).unwrap() == bytes);
    let blocks = std::fs::metadata(&path).unwrap().blocks();
    assert!(blocks * 512 < 2 << 20, "{blocks} blocks of 512 bytes: its hole is kept");
    let (url, mut taken) = take(Some("201 Created")).await;
    let done = tried(&over_broker, &format!("{url}?sig=hush")).await;
    assert!(done.stdout.contains("image disk is exported to"), "{} {}", done.stdout, done.stderr);
    let (head, body) = taken.recv().await.unwrap();
    assert!(head.starts_with("put /image?sig=hush "), "{head}");
    assert!(body == bytes);

    // Not over a file, nor where that is not allowed; and only a yes is one.
    let link = folder.join("link");
    std::os::unix::fs::symlink("/var/lib", &link).unwrap();
    let (away, mut never) = take(Some("200 OK")).await;
    let moved = format!("302 Found\r\nLocation: {away}").leak();
    let (redirecting, _moved) = take(Some(moved)).await;
    let (refusing, _refused) = take(Some("403 Forbidden")).await;
    for (cli, place, says) in [
        (&socket, path.to_str().unwrap(), "already"),
        (&over_broker, "/var/lib/stolen.raw", "images.export_directories"),
        (&socket, link.join("stolen.raw").to_str().unwrap(), "images.export_directories"),
        (&over_broker, &redirecting, "answered 302"),
        (&socket, &refusing, "answered 403"),
        (&over_broker, "http://me:hush@127.0.0.1/x", "credentials"),
    ] {
        let refused = tried(cli, place).await;
        assert!(refused.stderr.contains(says), "{place}: {} {}", refused.stdout, refused.stderr);
    }
    assert!(never.try_recv().is_err(), "a redirect is not followed");
    assert!(std::fs::read(&path).unwrap() == bytes);
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["disk.raw", "link"]);
    assert!(!std::fs::read_to_string(agent.log()).unwrap().contains("hush"));
    for file in ["journal.db", "journal.db-wal"] {
        let journal = std::fs::read(agent.state_dir().join(file)).unwrap_or_default();
        assert!(!journal.windows(4).any(|window| window == b"hush"), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_stays_while_it_is_exported_and_an_export_can_be_called_off() {
    need_root!();
    let setup = Setup { image_defaults: true, ..Setup::default() };
    let agent = HostAgent::start(setup).await.unwrap();
    let mut client = agent.client().await.unwrap();
    let source = agent.state_dir().join("incoming/source.raw");
    std::fs::write(&source, [7; 4096]).unwrap();
    let import = json!({"name": "disk", "source": source, "format": "raw"});
    let import = client.call("image.import", import).await.unwrap();
    assert_eq!(end_of(&mut client, &import).await["state"], "succeeded");
    // Without the setting, into no folder.
    let stolen = agent.state_dir().join("incoming/stolen.raw");
    let export = client.call("image.export", json!({"name": "disk", "to": stolen})).await.unwrap();
    let over = end_of(&mut client, &export).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    assert_eq!(over["error"]["data"]["reason"], "image_unavailable", "{over:#}");
    assert!(over["error"].to_string().contains("images.export_directories"), "{over:#}");
    assert!(!stolen.exists());

    let (url, mut taken) = take(None).await;
    let to = format!("{url}?sig=hush");
    let export = client.call("image.export", json!({"name": "disk", "to": to})).await.unwrap();
    assert_eq!(taken.recv().await.unwrap().1, [7; 4096]);
    let refused = client.call("image.remove", json!({"name": "disk"})).await.unwrap_err();
    assert!(refused.to_string().contains("image.export of image disk is under way"), "{refused}");
    client.call("operation.cancel", json!({"id": export["id"]})).await.unwrap();
    assert_eq!(end_of(&mut client, &export).await["state"], "cancelled");
    assert_eq!(taken.recv().await.unwrap().0, "hung up");

    // A query is not written down: after a crash it ends.
    let mut agent = agent;
    let export = client.call("image.export", json!({"name": "disk", "to": to})).await.unwrap();
    taken.recv().await.unwrap();
    agent.kill().await.unwrap();
    agent.launch().unwrap();
    agent.ready().await.unwrap();
    let mut client = agent.client().await.unwrap();
    let over = end_of(&mut client, &export).await;
    assert_eq!(over["state"], "failed", "{over:#}");
    assert_eq!(over["error"]["data"]["reason"], "interrupted", "{over:#}");
    let remove = client.call("image.remove", json!({"name": "disk"})).await.unwrap();
    assert_eq!(end_of(&mut client, &remove).await["state"], "succeeded");
}
