//! What is changed in a real domain that goes on, and what its next start makes of it.

use des::Des;
use des::cipher::{BlockEncrypt, KeyInit};
use ostler_host_agent::hypervisor::Adjust;
use ostler_protocol::rpc::values::{Secret, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::domain::{guest, on_running, overlay, place, run, says};
use super::*;

/// What libvirt says of a domain, as it runs and as it is defined.
#[expect(clippy::disallowed_methods, reason = "a second opinion, by libvirt's own XML")]
fn described(id: InstanceId) -> (String, String) {
    let connect = virt::connect::Connect::open(Some("qemu:///system")).unwrap();
    let domain = connect.lookup_domain_by_uuid(id.0).unwrap();
    let defined = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    (domain.xml_desc(0).unwrap(), defined)
}

fn between(xml: &str, before: &str, after: &str) -> String {
    let (_, rest) = xml.split_once(before).unwrap_or_else(|| panic!("no {before} in {xml}"));
    rest.split_once(after).unwrap().0.to_owned()
}

#[tokio::test]
async fn a_rename_touches_nothing_else() {
    on_running(spec("before"), |driver, spec| async move {
        let id = spec.id();
        for (name, running) in [("</title> & \"co\"\nnext", true), ("", true), ("while off", false)]
        {
            let (_, before) = described(id);
            if !running {
                driver.destroy(id).await.unwrap();
            }
            let renamed =
                Metadata { name: name.to_owned(), generation: 9, ..spec.metadata.clone() };
            driver.set_metadata(&renamed).await.unwrap();
            driver.set_metadata(&renamed).await.unwrap();
            let listed = driver.list().await.unwrap();
            let record = listed.iter().find(|record| record.id == id).unwrap();
            assert_eq!(record.ours.as_ref(), Some(&renamed));
            let (_, after) = described(id);
            let (before, after) =
                (between(&before, "<memory", "</domain>"), between(&after, "<memory", "</domain>"));
            assert_eq!(before, after);
        }
        let absent = Metadata { id: InstanceId::random(), ..spec.metadata };
        assert_eq!(driver.set_metadata(&absent).await, Err(Error::NotFound { domain: absent.id }));
    })
    .await;
}

#[tokio::test]
async fn vcpus_and_memory_change_now_and_from_now_on() {
    let mut spec = spec("adjusted");
    (spec.vcpus, spec.max_vcpus) = (2, 4);
    (spec.memory, spec.max_memory) = (Bytes::mib(64), Bytes::mib(128));
    on_running(spec, |driver, spec| async move {
        let id = spec.id();
        let vcpus = |xml: &str| between(xml, "<vcpu placement='static'", "</vcpu>");
        let memory = |xml: &str| between(xml, "<currentMemory unit='KiB'>", "<");
        let (live, defined) = described(id);
        assert_eq!(
            (vcpus(&live), vcpus(&defined)),
            (" current='2'>4".into(), " current='2'>4".into())
        );
        assert_eq!(memory(&defined), "65536");

        driver.set_vcpus(id, 3).await.unwrap();
        driver.set_vcpus(id, 3).await.unwrap();
        driver.set_memory(id, Bytes::mib(96)).await.unwrap();
        let (live, defined) = described(id);
        assert_eq!(
            (vcpus(&live), vcpus(&defined)),
            (" current='3'>4".into(), " current='3'>4".into())
        );
        assert_eq!(memory(&defined), "98304");

        for refused in [
            driver.set_vcpus(id, 5).await,
            driver.set_vcpus(id, 0).await,
            driver.set_memory(id, Bytes::mib(129)).await,
            // its firmware does not know how to let go
            driver.set_vcpus(id, 1).await,
        ] {
            let error = refused.unwrap_err();
            println!("{error}");
            assert!(matches!(error, Error::Refused { .. }), "{error}");
        }
        assert_eq!(vcpus(&described(id).1), " current='3'>4", "refused is as before");

        driver.destroy(id).await.unwrap();
        driver.set_vcpus(id, 1).await.unwrap();
        driver.set_memory(id, Bytes::mib(80)).await.unwrap();
        assert_eq!(driver.start(id).await, Ok(Change::Made));
        let (live, defined) = described(id);
        assert_eq!(
            (vcpus(&live), vcpus(&defined)),
            (" current='1'>4".into(), " current='1'>4".into())
        );
        assert_eq!(memory(&defined), "81920");
        let absent = InstanceId::random();
        assert_eq!(driver.set_vcpus(absent, 1).await, Err(Error::NotFound { domain: absent }));
    })
    .await;
}

/// A Linux finds what is plugged in; setting it online is up to whoever is in there.
#[tokio::test]
async fn a_booted_guest_finds_the_vcpus_it_is_given() {
    let Some(baked) = guest() else { return };
    let place = place();
    let path = |name: &str| place.path().join(name);
    for file in ["vmlinuz", "initramfs"] {
        std::fs::copy(baked.join(file), path(file)).unwrap();
    }
    let mut disk = overlay(place.path(), 1);
    let root = path("system.qcow2");
    let system = baked.join("root.qcow2");
    run("qemu-img", &["convert", "-O", "qcow2", system.to_str().unwrap(), root.to_str().unwrap()]);
    disk.source = ostler_host_agent::hypervisor::spec::DiskSource::File(root);
    let mut spec = spec("booted");
    spec.machine = Machine::Q35 { spare_slots: 2 };
    spec.cpu = CpuMode::Maximum;
    (spec.vcpus, spec.max_vcpus) = (2, 4);
    (spec.memory, spec.max_memory) = (Bytes::mib(256), Bytes::mib(256));
    spec.disks = vec![disk];
    spec.serial_log = Some(path("console.log"));
    spec.boot = Boot::Kernel {
        kernel: path("vmlinuz"),
        initrd: Some(path("initramfs")),
        cmdline: "console=ttyS0 ignore_loglevel ostler.agent=none".to_owned(),
    };
    let log = path("console.log");
    on_running(spec, |driver, spec| async move {
        let id = spec.id();
        says(&log, "smp: Brought up 1 node, 2 CPUs").await;
        says(&log, "login:").await;
        driver.set_vcpus(id, 4).await.unwrap();
        for cpu in ["CPU2", "CPU3"] {
            says(&log, &format!("{cpu} has been hot-added")).await;
        }
        let (live, defined) = described(id);
        for xml in [live, defined] {
            assert_eq!(between(&xml, "<vcpu placement='static'", "</vcpu>"), ">4");
        }
        drop(place);
    })
    .await;
}

/// Whether a VNC client with this password gets in (RFC 6143, 7.1 and 7.2.2).
async fn gets_in(id: InstanceId, password: &str) -> bool {
    let port: u16 = between(&described(id).0, "<graphics type='vnc' port='", "'").parse().unwrap();
    let mut screen = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut version = [0; 12];
    screen.read_exact(&mut version).await.unwrap();
    screen.write_all(&version).await.unwrap();
    let mut offered = vec![0; usize::from(screen.read_u8().await.unwrap())];
    screen.read_exact(&mut offered).await.unwrap();
    assert_eq!(offered, [2], "a password is asked for, and nothing else will do");
    screen.write_u8(2).await.unwrap();
    let mut challenge = [0; 16];
    if screen.read_exact(&mut challenge).await.is_err() {
        return false;
    }
    let mut key = [0; 8];
    for (at, byte) in key.iter_mut().zip(password.bytes()) {
        *at = byte.reverse_bits();
    }
    let cipher = Des::new_from_slice(&key).unwrap();
    for block in challenge.chunks_exact_mut(8) {
        cipher.encrypt_block(block.into());
    }
    screen.write_all(&challenge).await.unwrap();
    screen.read_u32().await.is_ok_and(|refused| refused == 0)
}

#[tokio::test]
async fn a_screen_lets_in_who_has_the_password_until_then() {
    let mut spec = spec("screen");
    spec.vnc = Some(Vnc { listen: [127, 0, 0, 1].into() });
    on_running(spec, |driver, spec| async move {
        let id = spec.id();
        let secret = |word: &str| Secret::new(word.to_owned());
        let from_now = |seconds: u64| Timestamp(Timestamp::now().0 + seconds * 1000);
        // the word it was defined with is known to libvirt alone, and past
        let word = {
            #[expect(clippy::disallowed_methods, reason = "as root, who may ask for it")]
            let connect = virt::connect::Connect::open(Some("qemu:///system")).unwrap();
            let domain = connect.lookup_domain_by_uuid(id.0).unwrap();
            let xml = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_SECURE).unwrap();
            between(&xml, " passwd='", "'")
        };
        for guess in [word.as_str(), ""] {
            assert!(!gets_in(id, guess).await);
        }

        driver.set_vnc_password(id, &secret("8 bytes!"), from_now(3600)).await.unwrap();
        assert!(gets_in(id, "8 bytes!").await);
        for wrong in ["8 bytes?", &word, ""] {
            assert!(!gets_in(id, wrong).await, "{wrong}");
        }
        driver.set_vnc_password(id, &secret("<&'\">"), from_now(3600)).await.unwrap();
        assert!(gets_in(id, "<&'\">").await);
        assert!(!gets_in(id, "8 bytes!").await, "another password takes its place");
        driver.set_vnc_password(id, &secret("<&'\">"), Timestamp(0)).await.unwrap();
        assert!(!gets_in(id, "<&'\">").await, "a time in the past closes it");

        driver.set_vnc_password(id, &secret("brief"), from_now(3)).await.unwrap();
        assert!(gets_in(id, "brief").await);
        let expired = async { while gets_in(id, "brief").await {} };
        tokio::time::timeout(PATIENCE, expired).await.expect("it expired");

        for word in ["", "nine byte", "nül", "a\nb"] {
            let error = driver.set_vnc_password(id, &secret(word), from_now(60)).await.unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            assert!(word.is_empty() || !error.to_string().contains(word), "{error}");
        }
        driver.set_vnc_password(id, &secret("open"), from_now(3600)).await.unwrap();
        driver.destroy(id).await.unwrap();
        let off = driver.set_vnc_password(id, &secret("open"), from_now(60)).await;
        assert!(matches!(off, Err(Error::Refused { .. })), "{off:?}");
        driver.start(id).await.unwrap();
        assert!(!gets_in(id, "open").await, "the next start is locked");
    })
    .await;
}
