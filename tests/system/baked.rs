//! Systems without an agent that `ostler-bake` put ours into: booted by the host agent, they report.

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::{Account, Baked, GuestImage, Mode};
use serde_json::{Value, json};

use crate::node::{MEMORY, Node, need_root};

/// The guest's report by the command, once its agent answers.
async fn report(cli: &Cli, id: &str) -> Value {
    let report = cli.json(&["guest", "report", "--wait", "180", id]).await.unwrap();
    assert_eq!(report["state"], "ready", "{report:#}");
    report
}

/// Boots the system; it reports, takes a password, and reports again after a reboot. `started` is a
/// line of shell that prints by whom the agent was started, and what it is to print.
async fn reports(system: Baked, memory: u64, started: (&str, &str)) {
    let mut node = Node::start().await;
    node.image = GuestImage::baked(system).await.unwrap();
    let cli = Cli::on(&node.agent).unwrap();
    let network = node.network.clone();
    let mut params = node.boot_params("baked", Mode::Ostler, &[&network]).await;
    params["memory"] = json!(memory);
    let id = params["id"].as_str().unwrap().to_owned();
    node.done("instance.boot", params).await;

    let said = report(&cli, &id).await;
    assert_eq!(said["agent"]["version"], env!("CARGO_PKG_VERSION"), "{said:#}");
    assert!(said["missing"].as_array().is_none_or(Vec::is_empty), "{said:#}");
    let filesystems = said["filesystems"].as_array().unwrap();
    let root = filesystems.iter().find(|f| f["mountpoint"] == "/").expect("a root file system");
    assert_eq!(root["kind"], "ext4", "{root}");
    assert!(root["total"].as_u64().unwrap() > 32 << 20, "{root}");
    let mac = node.show(&id).await["ports"][0]["mac"].clone();
    let interfaces = said["interfaces"].as_array().unwrap();
    assert!(mac.is_string() && interfaces.iter().any(|i| i["mac"] == mac), "{said:#}");
    assert_eq!(node.shell(&id, started.0).await, started.1);

    let password = ["instance", "password", "--password-stdin", &id];
    let told = cli.output(&password, "baked in").await.unwrap();
    assert_eq!(told.code, 0, "{}", told.stderr);
    // the login is by the guest's own program, which reads its own files
    let mut session = node.login(&id, Account { user: "root", password: "baked in" }).await;
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = session.ask(boot).await.unwrap();
    session.logout().await.unwrap();

    let over = node.done("instance.reboot", json!({"id": id, "timeout": 120_000})).await;
    assert_eq!(over["steps"].as_array().unwrap().len(), 1, "the guest complied: {over:#}");
    report(&cli, &id).await;
    assert_ne!(node.shell(&id, boot).await, before);
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes where there is no KVM: make long"]
async fn a_debian_without_an_agent_reports_when_it_is_baked() {
    need_root!();
    // by the udev rule, for a port: nothing enables the unit
    let line = "systemctl show ostler-guest-agent -p ActiveState -p UnitFileState; \
                systemctl show ostler-guest-agent -p WantedBy --value | tr ' ' '\\n' | \
                sed 's/.*-vport.*device.*/vport.device/' | sort -u; \
                [ $(systemctl show ostler-guest-agent -p MainPID --value) = $PPID ]";
    let says = "ActiveState=active\nUnitFileState=disabled\nvport.device";
    reports(Baked::Debian, 512 << 20, (line, says)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_alpines_layout_reports_when_it_is_baked() {
    need_root!();
    let line = "rc-status default | awk '/ostler-guest-agent/ { print $1, $3 }'; \
                cat /proc/$(awk '/^PPid/ { print $2 }' /proc/$PPID/status)/comm";
    reports(Baked::Alpine, MEMORY, (line, "ostler-guest-agent started\nsupervise-daemo")).await;
}
