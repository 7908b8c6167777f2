//! What an agent that nobody asks costs its guest.

use std::time::Duration;

use ostler_tests::guest_image::Mode;

use super::domain::{CLOSED, Domain, Seen, told};

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Resident, after all the checks so far, in KiB.
    pub(super) memory: u64,
    /// A minute, with the host listening.
    pub(super) connected: u64,
    /// A minute, with nobody at the host's end of the port.
    pub(super) closed: u64,
}

/// What the service manager of a guest may make of it: one sign of life in the window.
pub(super) const SIGN_OF_LIFE: u64 = 60 / WINDOW.as_secs();

/// How long it is left alone.
const WINDOW: Duration = Duration::from_secs(20);

/// Measures the agent, and a second one on a port whose host side nobody has open.
pub(super) async fn measure(domain: &mut Domain) -> Seen<Cost> {
    let ours = domain.mode == Mode::Ostler;
    let program = if ours { "ostler-guest-agent" } else { "qemu-ga" };
    let pid = domain.ask(&format!("pidof {program}")).await?.trim().to_owned();
    let memory = domain.ask(&format!("grep VmRSS /proc/{pid}/status")).await?;
    let memory = memory.split_whitespace().nth(1).unwrap_or_default().parse().map_err(told)?;

    let more = if ours { "--ostler-path none" } else { "-f /run/closed/pid" };
    let second = domain
        .ask(&format!(
            "mkdir -p /run/closed; {program} -m virtio-serial -p /dev/virtio-ports/{CLOSED} \
             -t /run/closed {more} >/run/closed/log 2>&1 & echo $!"
        ))
        .await?;
    // it has the port, and so has begun
    let port = format!("readlink -f /dev/virtio-ports/{CLOSED}");
    let opened = format!("ls -l /proc/{second}/fd | grep -c $({port})\\$");
    domain.shows(&opened, "1").await?;

    let switches = format!(
        "for p in {pid} {second}; do cat /proc/$p/task/*/status | \
         awk '/^voluntary/ {{ n += $2 }} END {{ print n }}'; done"
    );
    let wait = format!("{switches}; sleep {}; {switches}", WINDOW.as_secs());
    let counts = domain.ask_for(&wait, super::power::A_WHILE).await?;
    let counts: Vec<u64> = counts.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [connected, closed, connected_then, closed_then] = counts[..] else {
        return Err(format!("{counts:?}"));
    };
    domain.ask(&format!("kill {second}")).await?;
    let windows = 60 / WINDOW.as_secs();
    Ok(Cost {
        memory,
        connected: (connected_then - connected) * windows,
        closed: (closed_then - closed) * windows,
    })
}
