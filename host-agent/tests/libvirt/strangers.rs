//! Somebody else's domains under ids we are told: whatever is asked, nothing is done to them.

use std::path::Path;

use ostler_host_agent::hypervisor::{Adjust, Jobs};
use ostler_protocol::rpc::values::{Secret, Timestamp};
use virt::connect::Connect;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a second opinion")]
fn second_opinion() -> Connect {
    Connect::open(Some("qemu:///system")).unwrap()
}

/// Ask `driver` for everything there is, of the domain `spec` would define.
async fn ask_for_everything(driver: &Libvirt, spec: &DomainSpec) {
    let id = spec.id();
    let minute = Timestamp(Timestamp::now().0 + 60_000);
    let word = Secret::new("word".to_owned());
    let aside = Path::new("/nowhere/copy.qcow2");
    let short = Duration::from_secs(5);
    let told = [
        ("define", driver.define(spec).await),
        ("start", driver.start(id).await.map(drop)),
        ("pause", driver.pause(id).await.map(drop)),
        ("unpause", driver.unpause(id).await.map(drop)),
        ("save", driver.save(id).await.map(drop)),
        ("copy", driver.begin_copy(id, "vda", aside).await),
        ("abort job", driver.abort_job(id).await.map(drop)),
        ("job", driver.job(id).await.map(drop)),
        ("discard save", driver.discard_save(id).await.map(drop)),
        ("reboot", driver.reboot(id).await),
        ("shutdown", driver.shutdown(id).await.map(drop)),
        ("agent", driver.guest_command(id, "{}", short).await.map(drop)),
        ("metadata", driver.set_metadata(&spec.metadata).await),
        ("vCPUs", driver.set_vcpus(id, 1).await),
        ("memory", driver.set_memory(id, Bytes::mib(32)).await),
        ("VNC", driver.set_vnc_password(id, &word, minute).await),
        ("state", driver.state(id).await.map(drop)),
        ("stats", driver.stats(id).await.map(drop)),
        ("console", driver.console(id).await.map(drop)),
        ("destroy", driver.destroy(id).await.map(drop)),
        ("undefine", driver.undefine(id).await.map(drop)),
    ];
    for (what, told) in told {
        let error = told.expect_err(what);
        assert!(matches!(error, Error::NotOurs { domain, .. } if domain == id), "{what}: {error}");
    }
}

/// What somebody would see of their domain.
fn seen(connect: &Connect, id: InstanceId) -> (bool, Option<u32>, String) {
    let domain = connect.lookup_domain_by_uuid(id.0).unwrap();
    (domain.is_active().unwrap(), domain.id(), domain.xml_desc(0).unwrap())
}

#[tokio::test]
async fn somebody_elses_domain_is_left_alone() {
    let Some(driver) = system().await else { return };
    let connect = second_opinion();
    for runs in [false, true] {
        let spec = spec("stranger");
        let id = spec.id();
        let xml = format!(
            "<domain type='qemu'><name>stranger-{id}</name><uuid>{id}</uuid><memory>16384</memory>\
             <os><type arch='x86_64'>hvm</type></os></domain>"
        );
        let domain = connect.define_domain_xml(&xml).unwrap();
        if runs {
            domain.create().unwrap();
        }
        let before = seen(&connect, id);
        ask_for_everything(&driver, &spec).await;
        let after = seen(&connect, id);
        let listed = driver.list().await.unwrap();
        if runs {
            domain.destroy().unwrap();
        }
        domain.undefine().unwrap();
        assert_eq!(after, before);
        assert_eq!(listed.iter().find(|d| d.id == id).unwrap().ours, None);
    }
}

#[tokio::test]
async fn another_nodes_domain_is_left_alone() {
    let Some(driver) = system().await else { return };
    let Some(other) = connected_as("another", "qemu:///system").await else { return };
    let mut spec = spec("elsewhere");
    let id = spec.id();
    spec.metadata.node = "another".to_owned();
    other.define(&spec).await.unwrap();
    other.start(id).await.unwrap();
    let connect = second_opinion();
    let before = seen(&connect, id);
    ask_for_everything(&driver, &spec).await;
    let after = seen(&connect, id);
    other.destroy(id).await.unwrap();
    other.undefine(id).await.unwrap();
    assert_eq!(after, before);
}
