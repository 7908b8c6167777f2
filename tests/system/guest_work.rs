//! Work in guests that run: programs, files, the clock, keys, trimming and freezing, over both ports
//! (our agent's own, and libvirt's with the stock agent) and by both doors (socket and broker).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_host_agent::guest::{Error, GuestSettings, Guests};
use ostler_host_agent::hypervisor::libvirt::{Libvirt, Settings};
use ostler_protocol::rpc::guest::work::Data;
use ostler_protocol::rpc::values::{InstanceId, Timestamp};
use ostler_tests::cli::Cli;
use ostler_tests::guest_image::{Mode, ROOT};
use ostler_tests::poll;
use ostler_tests::process::Run;
use ostler_tests::rpc::{Call, CallError, Client};
use ostler_tests::services::Broker;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::node::{BOOT, Node, need_root};

/// In no log and no journal may this be found.
const SECRET: &str = "hunter2-never-told";

fn decoded(value: &Value) -> Vec<u8> {
    serde_json::from_value::<Data>(value.clone()).unwrap().0
}

fn encoded(data: &[u8]) -> Value {
    serde_json::to_value(Data(data.to_vec())).unwrap()
}

/// A guest of each kind, and the port each is reached by.
async fn two_guests(node: &mut Node) -> [(String, &'static str); 2] {
    let ours = node.boot("ours", Mode::Ostler).await;
    let stock = node.boot("stock", Mode::QemuGa).await;
    for (id, transport) in [(&ours, "ostler"), (&stock, "libvirt")] {
        node.until(id, "the guest is reached", |shown| shown["guest"]["transport"] == transport)
            .await;
    }
    [(ours, "ostler"), (stock, "libvirt")]
}

/// Follow a program to its end: how it ended, and what it wrote.
async fn ended(client: &mut Client, id: &str, exec: &Value) -> (Value, Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let wait = json!({"id": id, "exec": exec, "timeout": 20_000,
                          "stdout_from": out.len(), "stderr_from": err.len()});
        let now = client.send(&Call::new("guest.exec_wait", wait)).await.unwrap();
        out.extend(decoded(&now["stdout"]));
        err.extend(decoded(&now["stderr"]));
        let all = now["stdout_size"] == out.len() && now["stderr_size"] == err.len();
        if all && now["state"] != "running" {
            return (now, out, err);
        }
    }
}

/// Run a shell's line to its end.
async fn sh(client: &mut Client, id: &str, line: &str) -> (Value, Vec<u8>, Vec<u8>) {
    let params = json!({"id": id, "path": "/bin/sh", "args": ["-c", line]});
    let started = client.send(&Call::new("guest.exec", params)).await.unwrap();
    ended(client, id, &started["exec"]).await
}

fn reason(answer: Result<Value, CallError>) -> String {
    answer.unwrap_err().reason().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_in_guests_over_both_ports_by_both_doors() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let guests = two_guests(&mut node).await;
    let mut doors = [node.agent.client().await.unwrap(), node.agent.amqp_client().await.unwrap()];
    for (id, transport) in &guests {
        for client in &mut doors {
            let (now, out, err) = sh(client, id, "echo out; echo err >&2; exit 42").await;
            assert_eq!((&*out, &*err), (&b"out\n"[..], &b"err\n"[..]), "{transport}: {now}");
            assert_eq!((&now["state"], &now["exit_code"]), (&json!("exited"), &json!(42)));
            let (now, ..) = sh(client, id, "kill -9 $$").await;
            assert_eq!(now["signal"], 9, "{now}");
            let params = json!({
                "id": id, "path": "/bin/sh", "args": ["-c", "cat; echo $WORD", SECRET],
                "env": [format!("WORD={SECRET}"), "PATH=/usr/bin:/bin"],
                "input": encoded(SECRET.as_bytes()),
            });
            let started = client.call("guest.exec", params).await.unwrap();
            let (_, out, _) = ended(client, id, &started["exec"]).await;
            assert_eq!(String::from_utf8(out).unwrap(), format!("{SECRET}{SECRET}\n"));
            // 2 MiB: many answers, and still one message of a stock agent
            let (now, out, _) = sh(client, id, "dd if=/dev/zero bs=64k count=32 2>/dev/null").await;
            assert_eq!(out.len(), 2 << 20, "{transport}: {now}");
        }
        // The same key, by whichever door: once.
        let once = json!({"id": id, "path": "/bin/sh",
                          "args": ["-c", "echo ran >>/root/count; echo $0", SECRET]});
        let key = format!("once-{id}");
        let mut execs = Vec::new();
        for round in 0..4 {
            let call = Call::new("guest.exec", once.clone()).key(&key);
            let started = doors[round % 2].send(&call).await.unwrap();
            let (now, ..) = ended(&mut doors[round % 2], id, &started["exec"]).await;
            assert_eq!(now["exit_code"], 0);
            execs.push(started);
        }
        assert!(execs.iter().all(|started| *started == execs[0]), "{execs:?}");
        let read = json!({"id": id, "path": "/root/count", "count": 1000});
        let piece = node.ask("guest.file_read", read).await;
        assert_eq!(decoded(&piece["data"]), b"ran\n", "{transport}");
        let other = json!({"id": id, "path": "/bin/true"});
        let answer = doors[0].send(&Call::new("guest.exec", other).key(&key)).await;
        assert_eq!(reason(answer), "key_reused");
        // It is not for another run of the agent.
        let ping = node.ask("host.ping", json!({})).await;
        let started = ping["started"].as_u64().unwrap();
        let this = json!({"id": id, "path": "/bin/true", "agent": started});
        node.ask("guest.exec", this).await;
        let another = json!({"id": id, "path": "/bin/true", "agent": started - 1});
        assert_eq!(node.refused("guest.exec", another).await.0, "conflict");
        // A time limit, which a stock agent does not have.
        let params = json!({"id": id, "path": "/bin/sleep", "args": ["600"], "timeout_ms": 1000});
        let started = node.ask("guest.exec", params).await;
        let begun = Instant::now();
        let (now, ..) = ended(&mut doors[0], id, &started["exec"]).await;
        assert_eq!((&now["timed_out"], &now["signal"]), (&json!(true), &json!(15)), "{now}");
        assert!(begun.elapsed() < Duration::from_secs(60));
        // What cannot be.
        let missing = json!({"id": id, "path": "/no/such/program", "args": [SECRET]});
        let (word, text) = node.refused("guest.exec", missing).await;
        assert_eq!(word, "guest_failed", "{text}");
        assert!(text.contains("/no/such/program") && !text.contains(SECRET), "{text}");
    }
    // Output comes while the program runs, from our agent.
    let (ours, _) = &guests[0];
    let line = "echo first; while [ ! -e /run/go ]; do usleep 50000; done; echo last";
    let params = json!({"id": ours, "path": "/bin/sh", "args": ["-c", line]});
    let started = node.ask("guest.exec", params).await;
    let wait = json!({"id": ours, "exec": started["exec"], "timeout": 60_000});
    let now = node.client.send(&Call::new("guest.exec_wait", wait)).await.unwrap();
    assert_eq!((&now["state"], decoded(&now["stdout"])), (&json!("running"), b"first\n".to_vec()));
    sh(&mut doors[0], ours, "touch /run/go").await;
    let (_, out, _) = ended(&mut doors[0], ours, &started["exec"]).await;
    assert_eq!(out, b"first\nlast\n");
    // As much as is kept of a stream, and a word on what was not.
    let (now, out, _) =
        sh(&mut doors[0], ours, "dd if=/dev/zero bs=64k count=260 2>/dev/null").await;
    assert_eq!((out.len(), &now["stdout_truncated"]), (16 << 20, &json!(true)));
    // An account and a folder of its own.
    let params = json!({"id": ours, "path": "/bin/sh", "args": ["-c", "id -un; pwd"],
                        "user": "demo", "cwd": "/tmp"});
    let started = node.ask("guest.exec", params).await;
    let (_, out, _) = ended(&mut doors[0], ours, &started["exec"]).await;
    assert_eq!(out, b"demo\n/tmp\n");
    // An instance that is off, and one that is not there.
    node.done("instance.stop", json!({"id": ours, "manner": "hard"})).await;
    let params = json!({"id": ours, "path": "/bin/true"});
    assert_eq!(node.refused("guest.exec", params).await.0, "conflict");
    let nobody = json!({"id": uuid::Uuid::new_v4().to_string()});
    assert_eq!(node.refused("guest.time", nobody).await.0, "not_found");

    no_secret_in(&node.agent.log());
    for entry in std::fs::read_dir(node.agent.state_dir()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("journal.db") {
            no_secret_in(&entry.path());
        }
    }
    for (id, _) in guests {
        node.delete(&id).await;
    }
}

fn no_secret_in(path: &Path) {
    let content = std::fs::read(path).unwrap();
    assert!(!content.is_empty() || path.extension().is_some_and(|e| e == "db-wal"), "{path:?}");
    let found = content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(!found, "a secret is in {}", path.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_runs_programs_as_if_they_were_here() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let guests = two_guests(&mut node).await;
    let doors =
        [Cli::on(&node.agent).unwrap(), Cli::over_broker(broker.uri(), node.agent.host()).unwrap()];
    for (name, cli) in [("ours", &doors[0]), ("stock", &doors[1]), ("ours", &doors[1])] {
        let exec = ["guest", "exec", name, "--", "/bin/sh", "-c"];
        let run = async |line: &str, stdin: &str| {
            cli.output(&[&exec[..], &[line]].concat(), stdin).await.unwrap()
        };
        let output = run("cat; echo err >&2; exit 7", "typed").await;
        assert_eq!(
            (output.code, &*output.stdout, &*output.stderr),
            (7, "typed", "err\n"),
            "{name}"
        );
        assert_eq!(run("kill -15 $$", "").await.code, 128 + 15);
        assert_eq!(run("exit 0", "").await.code, 0);
        let limited = ["guest", "exec", name, "--timeout", "1", "--", "/bin/sleep", "600"];
        let output = cli.output(&limited, "").await.unwrap();
        assert_eq!(output.code, 124, "{}", output.stderr);
        let told = cli.json(&["guest", "exec", name, "--", "/bin/echo", "hi"]).await.unwrap();
        assert_eq!((&told["exit"], decoded(&told["stdout"])), (&json!(0), b"hi\n".to_vec()));
        let output = cli.output(&["guest", "exec", name, "--", "/nothing"], "").await.unwrap();
        assert_eq!(output.code, 3, "{}", output.stderr);
        assert!(output.stderr.starts_with("error:"), "{}", output.stderr);
    }
    for (id, _) in guests {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes where there is no KVM: make long"]
async fn files_go_in_and_out_of_guests_unharmed() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let guests = two_guests(&mut node).await;
    let doors =
        [Cli::on(&node.agent).unwrap(), Cli::over_broker(broker.uri(), node.agent.host()).unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let local = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    // 20 MiB and a little, of no pattern
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take((20 << 20) + 17)
    .collect();
    std::fs::write(local("there"), &data).unwrap();
    let digest = Run::new("sha256sum").args([local("there")]).stdout().await.unwrap();
    let digest = digest.split_whitespace().next().unwrap().to_owned();
    let mut client = node.agent.client().await.unwrap();
    for ((name, cli), (id, transport)) in
        [("ours", &doors[0]), ("stock", &doors[1])].into_iter().zip(&guests)
    {
        let place = format!("{name}:/root/big");
        let begun = Instant::now();
        cli.text(&["guest", "push", "--mode", "0640", &local("there"), &place]).await.unwrap();
        println!("{transport}: pushed 20 MiB in {:?}", begun.elapsed());
        let (_, out, _) = sh(&mut client, id, "sha256sum /root/big; stat -c %a /root/big").await;
        let told = String::from_utf8(out).unwrap();
        assert!(told.contains(&digest) && told.ends_with("640\n"), "{transport}: {told}");
        let begun = Instant::now();
        cli.text(&["guest", "pull", &place, &local("back")]).await.unwrap();
        println!("{transport}: pulled 20 MiB in {:?}", begun.elapsed());
        assert!(std::fs::read(local("back")).unwrap() == data, "{transport}");

        // Small ones, and empty ones, by pipe; what was longer is shorter then.
        for content in ["hello\n", ""] {
            let output = cli.output(&["guest", "push", "-", &place], content).await.unwrap();
            assert_eq!(output.code, 0, "{}", output.stderr);
            assert_eq!(cli.text(&["guest", "pull", &place, "-"]).await.unwrap(), content);
        }
        // A piece in the middle, twice: the same as once.
        let path = "/root/pieces";
        for (offset, piece) in [(0, "abcdef"), (2, "XY"), (2, "XY")] {
            let write = json!({"id": id, "path": path, "offset": offset,
                               "data": encoded(piece.as_bytes())});
            node.ask("guest.file_write", write).await;
        }
        let piece = node
            .ask("guest.file_read", json!({"id": id, "path": path, "offset": 1, "count": 4}))
            .await;
        assert_eq!(decoded(&piece["data"]), b"bXYe");

        // What cannot be is said in the guest's words, and nothing is left here.
        let absent = format!("{name}:/root/absent");
        let output = cli.output(&["guest", "pull", &absent, &local("none")], "").await.unwrap();
        assert_eq!(output.code, 3, "{}", output.stderr);
        assert!(output.stderr.contains("No such file"), "{}", output.stderr);
        let to = format!("{name}:/proc/version");
        let output = cli.output(&["guest", "push", &local("there"), &to], "").await.unwrap();
        assert_eq!(output.code, 3, "{}", output.stderr);
        let denied = ["Permission denied", "Input/output error", "I/O error"];
        assert!(denied.iter().any(|words| output.stderr.contains(words)), "{}", output.stderr);
        sh(&mut client, id, "dd of=/root/huge bs=1 count=0 seek=1024M").await;
        let endless = format!("{name}:/root/huge");
        let limited = ["guest", "pull", "--max-size", "3M", &endless, &local("none")];
        let output = cli.output(&limited, "").await.unwrap();
        assert_eq!(output.code, 3, "{}", output.stderr);
        assert!(output.stderr.contains("--max-size"), "{}", output.stderr);
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["back", "there"]);

        // No agent has a file left open.
        let (_, out, _) =
            sh(&mut client, id, "ls -l /proc/$(pidof ostler-guest-agent qemu-ga)/fd").await;
        let open = String::from_utf8_lossy(&out).into_owned();
        assert!(open.contains("virtio") || open.contains("/dev/vport"), "{open}");
        assert!(!open.contains("/root/"), "{open}");
    }
    for (id, _) in guests {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_keys_and_disks_of_guests_are_put_in_order() {
    need_root!();
    let mut node = Node::start().await;
    let guests = two_guests(&mut node).await;
    let cli = Cli::on(&node.agent).unwrap();
    let mut client = node.agent.client().await.unwrap();
    for ((id, transport), name) in guests.iter().zip(["ours", "stock"]) {
        // 2001, and back
        sh(&mut client, id, "date -s @1000000000").await;
        let clock = node.ask("guest.time", json!({"id": id})).await;
        assert!(clock["offset"].as_i64().unwrap() < -700_000_000_000, "{clock}");
        let clock = cli.json(&["guest", "sync-time", name]).await.unwrap();
        let near = clock["offset"].as_i64().unwrap().unsigned_abs();
        assert!(near < 1500 + clock["uncertainty"].as_u64().unwrap(), "{transport}: {clock}");
        let text = cli.text(&["guest", "time", name]).await.unwrap();
        assert!(text.contains("offset"), "{text}");

        let key = "ssh-ed25519 \
            AAAAC3NzaC1lZDI1NTE5AAAAIJ1FRhGlGE9uGKYhQ7YTeWl0b8yy4xJWvQJb8n0GxQJZ one@test";
        let keys = |action: &str, keys: Value| json!({"id": id, "user": "demo", "action": action, "keys": keys});
        node.ask("guest.ssh_keys", keys("add", json!([key]))).await;
        let added = node.ask("guest.ssh_keys", keys("list", json!([]))).await;
        assert_eq!(added["keys"], json!([key]), "{transport}");
        let (_, out, _) = sh(&mut client, id, "cat /home/demo/.ssh/authorized_keys").await;
        assert_eq!(String::from_utf8(out).unwrap().trim(), key);
        assert_eq!(
            cli.text(&["guest", "ssh-keys", "list", name, "--user", "demo"]).await.unwrap().trim(),
            key
        );
        let second = key.replace("one@test", "two@test");
        node.ask("guest.ssh_keys", keys("replace", json!([second]))).await;
        let output = cli
            .output(&["guest", "ssh-keys", "remove", name, "--user", "demo", "-"], &second)
            .await
            .unwrap();
        assert_eq!(output.code, 0, "{}", output.stderr);
        let left = node.ask("guest.ssh_keys", keys("list", json!([]))).await;
        assert_eq!(left["keys"], json!([]), "{transport}");
        let two_lines = format!("{key}\n{key}");
        let (word, text) = node.refused("guest.ssh_keys", keys("add", json!([two_lines]))).await;
        assert_eq!(word, "invalid_params", "{text}");

        let trimmed = cli.json(&["guest", "trim", name]).await.unwrap();
        let root = trimmed["filesystems"].as_array().unwrap().iter();
        let root = root.clone().find(|one| one["mountpoint"] == "/");
        assert!(root.is_some_and(|root| root["error"].is_null()), "{transport}: {trimmed}");
    }
    for (id, _) in guests {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_guest_is_thawed_and_a_lapsed_lease_is_known() {
    need_root!();
    let mut node = Node::start().await;
    let booted = two_guests(&mut node).await;
    let sockets = node.agent.run_dir().join("guest");
    // a port has one host at a time: this test, as the agent's own code
    node.agent.stop().await.unwrap();
    let as_the_node = Settings { node: node.agent.host().to_owned(), ..Settings::default() };
    let hypervisor = Arc::new(Libvirt::start(&as_the_node).unwrap());
    let stop = CancellationToken::new();
    let guests = Guests::new(hypervisor, GuestSettings::default(), stop);
    for (id, transport) in &booted {
        let id: InstanceId = id.parse().unwrap();
        guests.running(id, sockets.join(format!("{id}.sock")));
        poll::until("the guest is reached", BOOT, async || {
            let seen = serde_json::to_value(guests.summary(id)).unwrap();
            if seen["transport"] == *transport { Ok(()) } else { Err(seen.to_string()) }
        })
        .await
        .unwrap();
        let begun = Timestamp::now();
        let frozen = guests.freeze(id, Duration::from_secs(120)).await.unwrap();
        assert!(frozen >= 1, "{transport}");
        assert_eq!(guests.thaw(id).await, Ok(frozen), "{transport}");
        assert!(!guests.thawed_since(id, begun));
        assert_eq!(guests.thaw(id).await, Ok(0), "nothing is frozen any more");
    }
    // Ours thaws by itself, and that is known.
    let ours: InstanceId = booted[0].0.parse().unwrap();
    let begun = Timestamp::now();
    guests.freeze(ours, Duration::from_secs(1)).await.unwrap();
    poll::until("the lease lapses", Duration::from_secs(60), async || {
        // Its word may be lost while its port is opened anew; what it does then tells.
        let told = guests.thawed_since(ours, begun);
        let works = told || guests.trim(ours, None).await.is_ok();
        if works { Ok(()) } else { Err("frozen".to_owned()) }
    })
    .await
    .unwrap();
    let late = guests.thaw(ours).await;
    assert!(matches!(late, Err(Error::Refused { .. })), "{late:?}");
    assert_eq!(guests.thaw(ours).await, Ok(0));
    // A freeze nobody waits for is undone.
    let given_up = tokio::time::timeout(
        Duration::from_millis(1),
        guests.freeze(ours, Duration::from_secs(600)),
    );
    assert!(given_up.await.is_err(), "a freeze takes longer than that");
    poll::until("the guest is thawed", Duration::from_secs(60), async || {
        // frozen, it refuses this
        guests.trim(ours, None).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    guests.drain().await;
    node.agent.restart().await.unwrap();
    node.reconnect().await;
    for (id, _) in booted {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_guest_costs_whoever_asks_the_time_and_nobody_else() {
    need_root!();
    let mut node = Node::start().await;
    let good = node.boot("good", Mode::Ostler).await;
    node.report(&good).await;
    let mute = node.boot("mute", Mode::Mute).await;
    node.login(&mute, ROOT).await;
    for (method, params) in [
        ("guest.exec", json!({"id": mute, "path": "/bin/true"})),
        ("guest.file_read", json!({"id": mute, "path": "/etc/motd", "count": 10})),
        ("guest.file_write", json!({"id": mute, "path": "/x", "data": ""})),
        ("guest.time", json!({"id": mute})),
        ("guest.sync_time", json!({"id": mute})),
        ("guest.trim", json!({"id": mute})),
        ("guest.ssh_keys", json!({"id": mute, "user": "root", "action": "list"})),
    ] {
        let begun = Instant::now();
        let (word, text) = node.refused(method, params).await;
        assert_eq!(word, "guest_unavailable", "{method}: {text}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{method}: {:?}", begun.elapsed());
    }
    let mut client = node.agent.client().await.unwrap();
    let (now, ..) = sh(&mut client, &good, "true").await;
    assert_eq!(now["exit_code"], 0);
    for id in [mute, good] {
        node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
        node.delete(&id).await;
    }
}
