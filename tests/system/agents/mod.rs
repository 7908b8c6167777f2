//! Our guest agent beside the stock one, in a small guest and in a full one, as libvirt's users see
//! them: one list of checks, run on two guests at a time that differ in the agent only.
//!
//! A check tells what it saw. Both agents have to be seen doing the same and right, but for what
//! [`differences`] lists with its reason.

mod account;
mod channel;
mod cost;
mod differences;
mod domain;
mod early;
mod file;
mod freeze;
mod power;
mod report;
mod sandbox;

use std::collections::BTreeMap;

use ostler_tests::guest_image::{GuestImage, Mode};
use ostler_tests::services::OwnLibvirt;

use crate::node::need_root;
use domain::{Domain, Seen};

/// What runs in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    /// busybox, its init, and nothing else.
    Busybox,
    /// A Debian with systemd.
    Debian,
}

impl System {
    fn memory_mib(self) -> u64 {
        match self {
            Self::Busybox => 192,
            Self::Debian => 512,
        }
    }
}

/// What was seen, by check.
type List = BTreeMap<&'static str, Seen>;

/// Notes each check's outcome under its name.
macro_rules! note {
    ($list:ident, $domain:ident: $($name:literal => $check:path),+ $(,)?) => {
        $(
            let began = std::time::Instant::now();
            let seen = $check($domain).await;
            eprintln!("{:?} {} {} ({:.1} s): {seen:?}", $domain.system, $domain.mode.word(), $name,
                began.elapsed().as_secs_f32());
            $list.insert($name, seen);
        )+
    };
}

/// The checks before libvirtd is restarted.
async fn before(domain: &mut Domain) -> List {
    let mut list = List::new();
    note!(list, domain:
        "guestinfo" => report::guestinfo,
        "domfsinfo" => report::domfsinfo,
        "domifaddr" => report::domifaddr,
        "domhostname" => report::domhostname,
        "commands" => report::commands,
        "plain reports" => report::reports,
        "file" => file::file,
        "exec" => file::exec,
        "password" => account::password,
        "encrypted password" => account::encrypted_password,
        "wrong accounts" => account::wrong_accounts,
        "ssh keys of root" => account::keys_of_root,
        "ssh keys of a user" => account::keys_of_user,
        "freeze" => freeze::freeze,
        "quiesced snapshot" => freeze::snapshot,
        "fstrim" => freeze::trim,
        "domtime" => power::time,
        "setvcpus" => power::vcpus,
    );
    list
}

/// Those after it; the guest is off then.
async fn after(domain: &mut Domain, mut list: List) -> List {
    note!(list, domain:
        "libvirtd's restart" => channel::restart,
        "unplug and replug" => channel::replug,
        "save and restore" => channel::restore,
        "dompmsuspend mem" => power::suspend_to_memory,
        "dompmsuspend disk" => power::suspend_to_disk,
        "reboot" => power::reboot,
        "domifaddr after all that" => report::domifaddr,
        "shutdown" => power::shutdown,
    );
    list
}

/// Runs the list on both agents side by side, and compares.
async fn compare(image: &GuestImage, system: System) {
    let mut libvirt = OwnLibvirt::start().await.unwrap();
    let uri = libvirt.uri().to_owned();
    let (mut ours, mut stock) = tokio::join!(
        Domain::boot(&uri, image, system, Mode::Ostler),
        Domain::boot(&uri, image, system, Mode::QemuGa)
    );
    let (our_list, stock_list) = tokio::join!(before(&mut ours), before(&mut stock));
    let (our_cost, stock_cost) = tokio::join!(cost::measure(&mut ours), cost::measure(&mut stock));
    libvirt.restart().await.unwrap();
    let (our_list, stock_list) =
        tokio::join!(after(&mut ours, our_list), after(&mut stock, stock_list));

    let mut wrong: Vec<String> = our_list
        .iter()
        .filter_map(|(check, ours)| differences::wrong(system, check, ours, &stock_list[check]))
        .collect();
    eprintln!("{system:?}: ours {our_cost:?}, stock {stock_cost:?}");
    match (our_cost, stock_cost) {
        (Ok(ours), Ok(stock)) => {
            if ours.memory >= stock.memory
                || ours.connected > stock.connected + cost::SIGN_OF_LIFE
                || ours.closed >= stock.closed
            {
                wrong.push(format!("ours costs {ours:?}, the stock agent {stock:?}"));
            }
        }
        costs => wrong.push(format!("not measured: {costs:?}")),
    }
    assert!(wrong.is_empty(), "{system:?}: not as expected:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busybox_guest_cannot_tell_our_agent_from_the_stock_one() {
    need_root!();
    let image = GuestImage::bake().await.unwrap();
    compare(&image, System::Busybox).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes where there is no KVM: make long"]
async fn a_debian_guest_cannot_tell_our_agent_from_the_stock_one() {
    need_root!();
    let image = GuestImage::bake_debian().await.unwrap();
    compare(&image, System::Debian).await;
}
