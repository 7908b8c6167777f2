//! Saves, restores and copies of disks under a real QEMU.

use std::path::Path;

use ostler_host_agent::hypervisor::{Job, Jobs, RESTORE};

use super::domain::{guest, job_is, on_running, overlay, place, run, save_file, says};
use super::*;

fn with_disk(name: &str, place: &Path, random_mib: usize) -> DomainSpec {
    DomainSpec { disks: vec![overlay(place, random_mib)], ..spec(name) }
}

#[tokio::test]
async fn a_pause_holds_the_guest_and_is_told() {
    on_running(spec("paused"), |driver, spec| async move {
        let (id, mut events) = (spec.id(), driver.events());
        assert_eq!(driver.unpause(id).await, Ok(Change::AlreadySo));
        assert_eq!(driver.pause(id).await, Ok(Change::Made));
        let paused = lifecycle(id, PowerState::Paused, PowerReason::PauseRequested);
        wait_for(&mut events, |event| *event == paused).await;
        assert_eq!(driver.pause(id).await, Ok(Change::AlreadySo));
        assert_eq!(driver.state(id).await.unwrap().power, PowerState::Paused);
        assert_eq!(driver.unpause(id).await, Ok(Change::Made));
        let resumed = lifecycle(id, PowerState::Running, PowerReason::Resumed);
        wait_for(&mut events, |event| *event == resumed).await;
        driver.destroy(id).await.unwrap();
        for refused in [driver.pause(id).await, driver.unpause(id).await] {
            assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn saved_memory_is_gone_on_from_or_thrown_away() {
    on_running(spec("saved"), |driver, spec| async move {
        let (id, mut events) = (spec.id(), driver.events());
        assert_eq!(driver.discard_save(id).await, Ok(Change::AlreadySo));
        assert_eq!(driver.save(id).await, Ok(Change::Made));
        let saved = lifecycle(id, PowerState::Shutdown, PowerReason::Saved);
        wait_for(&mut events, |event| *event == saved).await;
        assert_eq!(driver.job(id).await, Ok(Job::Completed));
        assert_eq!(driver.save(id).await, Ok(Change::AlreadySo));
        assert_eq!(driver.abort_job(id).await, Ok(Change::AlreadySo));

        assert_eq!(driver.start(id).await, Ok(Change::Made));
        let restored = lifecycle(id, PowerState::Running, PowerReason::Restored);
        wait_for(&mut events, |event| *event == restored).await;
        assert_eq!(driver.start(id).await, Ok(Change::AlreadySo));
        assert!(!save_file(&spec).exists());

        // what was paused comes back paused
        driver.pause(id).await.unwrap();
        assert_eq!(driver.save(id).await, Ok(Change::Made));
        wait_for(&mut events, |event| *event == saved).await;
        assert_eq!(driver.start(id).await, Ok(Change::Made));
        let held = lifecycle(id, PowerState::Paused, PowerReason::Restored);
        wait_for(&mut events, |event| *event == held).await;
        assert_eq!(driver.state(id).await.unwrap().power, PowerState::Paused);
        driver.unpause(id).await.unwrap();

        driver.save(id).await.unwrap();
        assert_eq!(driver.discard_save(id).await, Ok(Change::Made));
        assert_eq!(driver.discard_save(id).await, Ok(Change::AlreadySo));
        let off = driver.save(id).await;
        assert!(matches!(off, Err(Error::Refused { .. })), "{off:?}");
        assert_eq!(driver.start(id).await, Ok(Change::Made));
        let booted = lifecycle(id, PowerState::Running, PowerReason::Booted);
        wait_for(&mut events, |event| *event == booted).await;
    })
    .await;
}

#[tokio::test]
async fn a_damaged_save_is_said_to_be_and_kept() {
    on_running(spec("damaged"), |driver, spec| async move {
        let id = spec.id();
        driver.save(id).await.unwrap();
        let whole = std::fs::read(save_file(&spec)).unwrap();
        let mut partial = whole.clone();
        partial[..16].copy_from_slice(b"LibvirtQemudPart");
        let middle = whole.len() / 2;
        let mut garbled = whole.clone();
        garbled[middle..].fill(0xff);
        for damaged in [&whole[..0], &whole[..8], b"garbage", &partial, &whole[..middle], &garbled]
        {
            std::fs::write(save_file(&spec), damaged).unwrap();
            let error = driver.start(id).await.unwrap_err();
            println!("{error}");
            assert!(matches!(error, Error::Failed { step: RESTORE, .. }), "{error}");
            assert_eq!(std::fs::read(save_file(&spec)).unwrap(), damaged, "it is kept");
            assert_eq!(driver.state(id).await.unwrap().power, PowerState::Shutdown);
        }
        std::fs::write(save_file(&spec), &whole).unwrap();
        assert_eq!(driver.start(id).await, Ok(Change::Made), "nothing was lost");
    })
    .await;
}

/// The helper that writes a domain's saved memory, and holds it up while it is stopped.
async fn writer(spec: &DomainSpec) -> nix::unistd::Pid {
    let file = save_file(spec).display().to_string();
    let found = async {
        loop {
            let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
            let pid = processes
                .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
                .find(|pid| {
                    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line);
                    line.contains("iohelper") && line.contains(&file)
                });
            if let Some(pid) = pid {
                return nix::unistd::Pid::from_raw(pid);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the save was begun")
}

/// A guest whose memory is too much for a pipe: a kernel that finds no system, beside an initial
/// RAM disk that is none.
fn laden(name: &str, place: &Path) -> Option<DomainSpec> {
    let guest = guest()?;
    overlay(place, 64);
    std::fs::copy(guest.join("vmlinuz"), place.join("kernel")).unwrap();
    let mut spec = spec(name);
    spec.memory = Bytes::mib(256);
    spec.max_memory = spec.memory;
    spec.serial_log = Some(place.join("console.log"));
    spec.boot = Boot::Kernel {
        kernel: place.join("kernel"),
        initrd: Some(place.join("base.raw")),
        cmdline: "console=ttyS0".to_owned(),
    };
    Some(spec)
}

fn signal(pid: nix::unistd::Pid, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[tokio::test]
async fn a_save_can_be_aborted_and_is_waited_for() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let place = place();
    let Some(spec) = laden("aborted", place.path()) else { return };
    let log = place.path().join("console.log");
    on_running(spec, |driver, spec| async move {
        let id = spec.id();
        says(&log, "Linux version").await;
        let save = |driver: Libvirt| tokio::spawn(async move { driver.save(id).await });

        let saving = save(driver.clone());
        let held = writer(&spec).await;
        signal(held, SIGSTOP);
        let seen = job_is(&driver, id, |job| matches!(job, Job::Running { .. })).await;
        println!("{seen:?}");
        let busy = driver.begin_copy(id, "vda", &place.path().join("x")).await;
        assert!(matches!(busy, Err(Error::Refused { .. })), "{busy:?}");
        let aborting = tokio::spawn({
            let driver = driver.clone();
            async move { driver.abort_job(id).await }
        });
        // QEMU lets go when it is through with what it was writing
        job_is(&driver, id, |_| true).await;
        signal(held, SIGCONT);
        assert_eq!(aborting.await.unwrap(), Ok(Change::Made));
        let aborted = saving.await.unwrap().unwrap_err();
        assert!(matches!(aborted, Error::Failed { .. }), "{aborted}");
        assert_eq!(driver.state(id).await.unwrap().power, PowerState::Running);
        assert!(!save_file(&spec).exists());

        // another driver, as after a restart of the agent, finds the save under way
        let saving = save(driver.clone());
        let held = writer(&spec).await;
        signal(held, SIGSTOP);
        job_is(&driver, id, |job| matches!(job, Job::Running { .. })).await;
        let again = system().await.unwrap();
        let mut waiting = Box::pin(again.save(id));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        signal(held, SIGCONT);
        assert_eq!(waiting.await, Ok(Change::AlreadySo));
        assert_eq!(saving.await.unwrap(), Ok(Change::Made));

        // and one in the middle of it can be pulled the plug
        assert_eq!(driver.start(id).await, Ok(Change::Made));
        let saving = save(driver.clone());
        let held = writer(&spec).await;
        signal(held, SIGSTOP);
        job_is(&driver, id, |job| matches!(job, Job::Running { .. })).await;
        let destroyed = driver.destroy(id).await;
        signal(held, SIGCONT);
        assert_eq!(destroyed, Ok(Change::Made));
        assert!(saving.await.unwrap().is_err());
        let off = driver.job(id).await.unwrap();
        assert!(matches!(off, Job::Failed { .. }), "{off:?}");
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_the_disk_and_needs_no_other() {
    let place = place();
    on_running(with_disk("copied", place.path(), 64), |driver, spec| async move {
        let id = spec.id();
        assert_eq!(driver.job(id).await, Ok(Job::None));
        for (copy, paused) in [("running.qcow2", false), ("paused.qcow2", true)] {
            if paused {
                driver.pause(id).await.unwrap();
            }
            let to = place.path().join(copy);
            driver.begin_copy(id, "vda", &to).await.unwrap();
            job_is(&driver, id, |job| !matches!(job, Job::Running { .. })).await;
            assert_eq!(driver.job(id).await, Ok(Job::Completed));

            let (root, to) = (place.path().join("root.qcow2"), to.to_str().unwrap());
            let described = run("qemu-img", &["info", "--output=json", to]);
            assert!(!described.contains("backing"), "{described}");
            run("qemu-img", &["check", "-q", to]);
            run("qemu-img", &["compare", "-q", "-U", root.to_str().unwrap(), to]);
            // the base below and the overlay above are both in it
            run("qemu-io", &["-r", "-f", "qcow2", "-c", "read -P 0x5a 1M 2M", to]);
        }
        driver.destroy(id).await.unwrap();
        assert_eq!(driver.job(id).await, Ok(Job::Completed), "it ended before");
        driver.start(id).await.unwrap();
        for taken in ["running.qcow2", "root.qcow2"] {
            let again = driver.begin_copy(id, "vda", &place.path().join(taken)).await;
            assert!(matches!(again, Err(Error::Refused { .. })), "the file is there: {again:?}");
        }
        assert_eq!(driver.job(id).await, Ok(Job::None), "none was begun");
        driver.destroy(id).await.unwrap();
        let off = driver.begin_copy(id, "vda", &place.path().join("off")).await;
        assert!(matches!(off, Err(Error::Refused { .. })), "{off:?}");
    })
    .await;
}

/// Begins a copy that is so slow that it does not end.
async fn begin_slow(driver: &Libvirt, id: InstanceId, to: &Path) {
    #[expect(clippy::disallowed_methods, reason = "a slow disk, played by QEMU's own monitor")]
    let connect = virt::connect::Connect::open(Some("qemu:///system")).unwrap();
    driver.begin_copy(id, "vda", to).await.unwrap();
    let domain = connect.lookup_domain_by_uuid(id.0).unwrap();
    let jobs = domain.qemu_monitor_command(r#"{"execute":"query-jobs"}"#, 0).unwrap();
    let jobs: serde_json::Value = serde_json::from_str(&jobs).unwrap();
    let job = jobs["return"][0]["id"].as_str().expect("the copy is over already");
    let slow = serde_json::json!({
        "execute": "block-job-set-speed",
        "arguments": { "device": job, "speed": 65536 },
    });
    domain.qemu_monitor_command(&slow.to_string(), 0).unwrap();
}

#[tokio::test]
async fn a_copy_can_be_aborted_and_ends_with_its_domain() {
    let place = place();
    let domain = with_disk("uncopied", place.path(), 1);
    // enough that it does not end before it is slow
    let root = place.path().join("root.qcow2").display().to_string();
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0xa5 0 1G", &root]);
    on_running(domain, |driver, spec| async move {
        let id = spec.id();
        let to = place.path().join("copy.qcow2");
        begin_slow(&driver, id, &to).await;
        let seen = driver.job(id).await.unwrap();
        assert!(matches!(seen, Job::Running { total: Some(_), .. }), "{seen:?}");
        let second = driver.begin_copy(id, "vda", &place.path().join("second")).await;
        assert!(matches!(second, Err(Error::Refused { .. })), "{second:?}");
        let save = driver.save(id).await;
        assert!(matches!(save, Err(Error::Busy { .. })), "{save:?}");
        // the domain itself is not held up
        assert_eq!(driver.pause(id).await, Ok(Change::Made));
        assert_eq!(driver.unpause(id).await, Ok(Change::Made));

        // another driver, as after a restart of the agent, aborts and begins anew
        let again = system().await.unwrap();
        assert!(matches!(again.job(id).await, Ok(Job::Running { .. })));
        assert_eq!(again.abort_job(id).await, Ok(Change::Made));
        assert_eq!(again.job(id).await, Ok(Job::None));
        assert_eq!(again.abort_job(id).await, Ok(Change::AlreadySo));
        assert!(matches!(driver.job(id).await, Ok(Job::Failed { .. })), "it was watched here");
        drop(std::fs::remove_file(&to));

        begin_slow(&again, id, &to).await;
        assert_eq!(again.destroy(id).await, Ok(Change::Made));
        let ended = job_is(&again, id, |job| !matches!(job, Job::Running { .. })).await;
        assert!(matches!(ended, Job::Failed { .. }), "{ended:?}");
        assert_eq!(again.abort_job(id).await, Ok(Change::AlreadySo));
    })
    .await;
}
