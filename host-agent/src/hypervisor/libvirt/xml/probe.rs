//! A domain that proves a guest's instructions are executed: nothing but a board and its firmware.
//!
//! SeaBIOS finds nothing to boot from and is told to reboot at once; the domain is told to go
//! when it reboots. So it ends by itself, in a fraction of a second, exactly if the firmware ran
//! from its first instruction to its last. A broken KVM leaves it standing instead, and one that
//! cannot give it its processor does not start it: so it has an instance's board and processor.

use ostler_protocol::rpc::values::InstanceId;

use super::XmlError;
use super::domain::{cpu, virt_type};
use super::write::Document;
use crate::hypervisor::VirtType;
use crate::hypervisor::spec::CpuMode;

/// The domain's XML.
pub fn write(id: InstanceId, on: VirtType, processor: &CpuMode) -> Result<String, XmlError> {
    let mut document = Document::new();
    document.within("domain", &[("type", virt_type(on))], |domain| {
        domain.text("name", &[], &format!("ostler-probe-{id}"));
        domain.text("uuid", &[], &id.to_string());
        domain.text("memory", &[("unit", "MiB")], "64");
        domain.text("vcpu", &[], "1");
        domain.within("os", &[], |os| {
            os.text("type", &[("machine", "q35")], "hvm");
            os.leaf("bios", &[("rebootTimeout", "0")]);
        });
        cpu(domain, processor);
        domain.text("on_reboot", &[], "destroy");
        domain.text("on_crash", &[], "destroy");
        domain.within("devices", &[], |devices| {
            devices.leaf("controller", &[("type", "usb"), ("model", "none")]);
            devices.leaf("memballoon", &[("model", "none")]);
        });
    });
    document.finish()
}
