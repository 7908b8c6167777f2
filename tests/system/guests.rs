//! The agent inside: ours over its own port, and the stock one over libvirt's.

use ostler_tests::console::Login;
use ostler_tests::guest_image::{Account, Mode, ROOT};
use serde_json::{Value, json};

use crate::node::{Node, need_root, virsh};

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_agent_gives_the_same_report_and_takes_the_password() {
    need_root!();
    let mut node = Node::start().await;
    let ours = node.boot("ours", Mode::Ostler).await;
    let stock = node.boot("stock", Mode::QemuGa).await;
    let our_report = node.report(&ours).await;
    let report = node.report(&stock).await;
    assert_eq!(report["transport"], "libvirt");
    assert_eq!(report["state"], "ready");
    for part in ["host_name", "os"] {
        assert_eq!(report[part], our_report[part], "{part}");
    }
    let mounts = |report: &Value| {
        let mounts = report["filesystems"].as_array().unwrap().iter();
        mounts.map(|f| (f["mountpoint"].clone(), f["kind"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(mounts(&report), mounts(&our_report));
    let names = |report: &Value| {
        let nics = report["interfaces"].as_array().unwrap().iter();
        nics.map(|i| i["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&report), names(&our_report));
    assert!(report["missing"].as_array().is_none_or(Vec::is_empty), "{report:#}");

    let word = json!({"plain": "over libvirt"});
    node.done("instance.password", json!({"id": stock, "user": "root", "password": word})).await;
    let session = node.login(&stock, Account { user: "root", password: "over libvirt" }).await;
    let console = session.logout().await.unwrap();
    assert!(matches!(console.login(ROOT.user, ROOT.password).await.unwrap(), Login::Refused(_)));

    // An account that is not there is refused by the guest, and the instance is none the worse.
    for id in [&ours, &stock] {
        let params = json!({"id": id, "user": "nobody-here", "password": {"plain": "x-x-x"}});
        let over = node.tried("instance.password", params).await;
        assert_eq!(over["state"], "failed");
        assert_eq!(over["error"]["data"]["reason"], "guest_failed", "{over:#}");
        assert_eq!(node.show(id).await["status"], "ACTIVE");
    }
    for id in [ours, stock] {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_serves_libvirt_on_the_standard_port() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("drop-in", Mode::Ostler).await;
    node.report(&id).await;
    let domain = format!("ostler-{id}");
    let info = virsh(&["guestinfo", &domain, "--os", "--hostname", "--filesystem"]).await;
    assert!(info.contains("os.id") && info.contains("fs.0.mountpoint"), "{info}");
    let addresses = virsh(&["domifaddr", &domain, "--source", "agent"]).await;
    assert!(addresses.contains("169.254."), "{addresses}");
    virsh(&["set-user-password", &domain, "root", "by-virsh"]).await;
    node.login(&id, Account { user: "root", password: "by-virsh" }).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_is_small() {
    need_root!();
    let program = ostler_tests::programs::guest_agent().unwrap();
    assert!(std::fs::metadata(program).unwrap().len() < 3 << 20, "the program on disk");
    let mut node = Node::start().await;
    let id = node.boot("small", Mode::Ostler).await;
    // Reports have been made: it is resident with all it needs.
    for _ in 0..10 {
        node.report(&id).await;
    }
    let mut session = node.login(&id, ROOT).await;
    let line = "grep VmRSS /proc/$(pidof ostler-guest-agent)/status";
    let resident = session.ask(line).await.unwrap();
    let kib: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 3 << 10, "{resident}");
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_in_the_guest_is_known_without_asking() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("telling", Mode::Ostler).await;
    node.report(&id).await;
    let mut session = node.login(&id, ROOT).await;
    session.ask("ip address add 192.0.2.7/24 dev eth0").await.unwrap();
    let client = &mut node.client;
    ostler_tests::poll::until("the new address", crate::node::BOOT, async || {
        let params = json!({"id": id, "cached": true});
        let report = client.call("guest.report", params).await.map_err(|e| e.to_string())?;
        if report.to_string().contains("192.0.2.7/24") { Ok(()) } else { Err(report.to_string()) }
    })
    .await
    .unwrap();
    node.delete(&id).await;
}
