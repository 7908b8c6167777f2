//! Golden files: the wire form of each type, as schema and stock agents have it.
//!
//! Each `golden/NAME.json` holds messages, one a line. Every one must be read into its type and written
//! back byte for byte. A file that no test reads is a mistake, and so is a command without one.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use ostler_protocol::qga::commands::{
    cpu, disk, filesystem, freeze, info, memory, network, power, sync, time, timezone, trim, user,
    users,
};
use ostler_protocol::qga::envelope::{Event, Message, Request};
use ostler_protocol::qga::events::GuestEvent;
use ostler_protocol::qga::framing::{Frame, Limits, Parser};
use ostler_protocol::qga::{Command, arguments, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn values(text: &str) -> Vec<Value> {
    Parser::new(Limits::host())
        .frames(text.as_bytes())
        .map(|frame| match frame {
            Ok(Frame::Value(value)) => value,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Requests and replies of one command, in turn.
fn check<C: Command>(text: &str)
where
    C::Arguments: Serialize,
    C::Reply: Serialize + DeserializeOwned,
{
    let mut replies = 0;
    for (line, value) in text.lines().zip(values(text)) {
        if value.get("execute").is_some() {
            let request = Request::from_value(value).unwrap();
            assert_eq!(request.execute, C::NAME);
            let arguments: C::Arguments = arguments::read(request.arguments.clone()).unwrap();
            assert_eq!(
                serde_json::to_value(&arguments).unwrap(),
                Value::Object(request.arguments.clone())
            );
            assert_eq!(encode::line(&request).unwrap(), format!("{line}\n").as_bytes());
            continue;
        }
        replies += 1;
        let Message::Response(response) = Message::from_value(value).unwrap() else {
            panic!("{line} is no response")
        };
        let reply: C::Reply = serde_json::from_value(response.outcome.unwrap()).unwrap();
        let written = encode::Reply::new(reply, C::LEAD, C::bulk).unwrap();
        let written = encode::joined(written.line(response.id.as_ref()));
        let written = written.strip_prefix(b"\xFF").unwrap_or(&written);
        assert_eq!(String::from_utf8_lossy(written), format!("{line}\n"));
    }
    assert_eq!(replies > 0, C::SUCCESS_RESPONSE);
}

#[test]
fn commands_have_the_wire_form_of_the_schema() {
    check::<sync::GuestSync>(include_str!("golden/guest-sync.json"));
    check::<sync::GuestSyncDelimited>(include_str!("golden/guest-sync-delimited.json"));
    check::<sync::GuestPing>(include_str!("golden/guest-ping.json"));
    check::<info::GuestInfo>(include_str!("golden/guest-info.json"));
    check::<info::GuestGetOsinfo>(include_str!("golden/guest-get-osinfo.json"));
    check::<info::GuestGetHostName>(include_str!("golden/guest-get-host-name.json"));
    check::<network::GuestNetworkGetInterfaces>(include_str!(
        "golden/guest-network-get-interfaces.json"
    ));
    check::<network::GuestNetworkGetRoute>(include_str!("golden/guest-network-get-route.json"));
    check::<cpu::GuestGetVcpus>(include_str!("golden/guest-get-vcpus.json"));
    check::<cpu::GuestSetVcpus>(include_str!("golden/guest-set-vcpus.json"));
    check::<cpu::GuestGetCpustats>(include_str!("golden/guest-get-cpustats.json"));
    check::<cpu::GuestGetLoad>(include_str!("golden/guest-get-load.json"));
    check::<memory::GuestGetMemoryBlocks>(include_str!("golden/guest-get-memory-blocks.json"));
    check::<memory::GuestSetMemoryBlocks>(include_str!("golden/guest-set-memory-blocks.json"));
    check::<memory::GuestGetMemoryBlockInfo>(include_str!(
        "golden/guest-get-memory-block-info.json"
    ));
    check::<disk::GuestGetDisks>(include_str!("golden/guest-get-disks.json"));
    check::<disk::GuestGetDiskstats>(include_str!("golden/guest-get-diskstats.json"));
    check::<users::GuestGetUsers>(include_str!("golden/guest-get-users.json"));
    check::<timezone::GuestGetTimezone>(include_str!("golden/guest-get-timezone.json"));
    check::<filesystem::GuestGetFsinfo>(include_str!("golden/guest-get-fsinfo.json"));
    check::<user::GuestSetUserPassword>(include_str!("golden/guest-set-user-password.json"));
    check::<power::GuestShutdown>(include_str!("golden/guest-shutdown.json"));
    check::<power::GuestSuspendDisk>(include_str!("golden/guest-suspend-disk.json"));
    check::<power::GuestSuspendHybrid>(include_str!("golden/guest-suspend-hybrid.json"));
    check::<power::GuestSuspendRam>(include_str!("golden/guest-suspend-ram.json"));
    check::<freeze::GuestFsfreezeStatus>(include_str!("golden/guest-fsfreeze-status.json"));
    check::<freeze::GuestFsfreezeFreeze>(include_str!("golden/guest-fsfreeze-freeze.json"));
    check::<freeze::GuestFsfreezeFreezeList>(include_str!(
        "golden/guest-fsfreeze-freeze-list.json"
    ));
    check::<freeze::GuestFsfreezeThaw>(include_str!("golden/guest-fsfreeze-thaw.json"));
    check::<time::GuestGetTime>(include_str!("golden/guest-get-time.json"));
    check::<time::GuestSetTime>(include_str!("golden/guest-set-time.json"));
    check::<trim::GuestFstrim>(include_str!("golden/guest-fstrim.json"));
}

#[test]
fn events_have_their_documented_form() {
    let text = include_str!("golden/events.json");
    for (line, value) in text.lines().zip(values(text)) {
        let event: Event = serde_json::from_value(value).unwrap();
        let timestamp = event.timestamp;
        let written = GuestEvent::from_event(event).unwrap().to_event(timestamp).unwrap();
        let written = encode::line(&written).unwrap();
        assert_eq!(String::from_utf8_lossy(&written), format!("{line}\n"));
    }
}

#[test]
fn a_host_reads_what_a_later_guest_adds() {
    let text = include_str!("golden/later.json");
    let [interfaces, filesystems] = &values(text)[..] else { panic!("two replies") };
    let interfaces: Vec<network::NetworkInterface> =
        serde_json::from_value(interfaces["return"].clone()).unwrap();
    let address = &interfaces[0].ip_addresses.as_ref().unwrap()[0];
    assert_eq!(address.ip_address_type, network::IpAddressType::Unknown);
    let filesystems: Vec<filesystem::FilesystemInfo> =
        serde_json::from_value(filesystems["return"].clone()).unwrap();
    assert_eq!(filesystems[0].disk[0].bus_type, filesystem::DiskBusType::Unknown);
}
