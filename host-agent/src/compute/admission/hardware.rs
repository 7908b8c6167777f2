//! Hardware: what an instance is made with, from what its image wants and what its boot asks for,
//! and whether the node can make it. Pure.
//!
//! An option of the boot goes before the image's property, and stays with the instance: a rebuild
//! takes the properties of the new image, and the same options.

use ostler_protocol::rpc::hardware::{
    FirmwareType, Hardware, MachineType, SecureBoot, TpmModel, TpmVersion, YesNo,
};
use ostler_protocol::rpc::image::Properties;

use super::Admission;
use crate::journal::records::BoardOptions;
use crate::refusal::{Action, Reason, Refusal};

fn invalid(parameter: &str, text: &str) -> Refusal {
    Refusal::new(Reason::InvalidParams, text).about(format!("parameter {parameter}"))
}

/// Whether an image's properties go together.
///
/// # Errors
/// `invalid_params`, about the one that does not.
pub(in crate::compute) fn check(properties: &Properties) -> Result<(), Refusal> {
    if properties.hw_tpm_model.is_some() && properties.hw_tpm_version.is_none() {
        let text = "hw_tpm_model is of no use without a TPM";
        return Err(invalid("properties.hw_tpm_model", text).next("give hw_tpm_version: 2.0"));
    }
    // What is optional depends on the node; all else does not.
    wanted(properties, &BoardOptions::default(), true, "properties.os_secure_boot").map(drop)
}

/// What an instance is made with.
///
/// # Errors
/// `invalid_params` if it does not go together, `no_capacity` if the node cannot make it.
pub(in crate::compute) fn admit(
    properties: &Properties,
    options: &BoardOptions,
    gate: &Admission<'_>,
) -> Result<Hardware, Refusal> {
    let signed = gate.boards.and_then(|all| all.q35).is_some_and(|board| board.secure_boot);
    let wanted = wanted(properties, options, signed, "secure_boot")?;
    let usual = Hardware::default();
    if wanted.machine == usual.machine
        && wanted.firmware == usual.firmware
        && wanted.tpm == usual.tpm
    {
        return Ok(wanted);
    }
    let cannot = |text: String, next: &str| {
        let next = format!("{next}, or choose another node");
        Err(Refusal::new(Reason::NoCapacity, text).next(next).by(Action::HostShow))
    };
    let Some(boards) = gate.boards else {
        gate.lacks_boards.set(true);
        let text = "what the node can make instances with is not known";
        return Err(Refusal::new(Reason::HypervisorUnavailable, text).next("ask again"));
    };
    let machine = wanted.machine.as_str();
    let Some(board) = boards.of(wanted.machine) else {
        let text = format!("the node's QEMU has no machine {machine}");
        return cannot(text, "choose another machine");
    };
    if wanted.firmware == FirmwareType::Uefi && !board.uefi {
        let text = format!("the node has no UEFI firmware for machine {machine}");
        return cannot(text, "install ovmf (edk2-ovmf) on it");
    }
    if wanted.secure_boot && !board.secure_boot {
        let text = format!("the node has no UEFI firmware with secure boot for machine {machine}");
        return cannot(text, "install ovmf (edk2-ovmf) on it");
    }
    if wanted.tpm.is_some() && !boards.tpm {
        let text = "the node has no software TPM".to_owned();
        return cannot(text, "install swtpm and swtpm-tools on it");
    }
    Ok(wanted)
}

/// What an instance is to be made with, where secure boot that is optional is taken if `signed`.
fn wanted(
    properties: &Properties,
    options: &BoardOptions,
    signed: bool,
    secure_boot: &str,
) -> Result<Hardware, Refusal> {
    let usual = Hardware::default();
    let machine = options.machine.or(properties.hw_machine_type).unwrap_or(usual.machine);
    let firmware = options.firmware.or(properties.hw_firmware_type).unwrap_or(usual.firmware);
    let secure = match options.secure_boot {
        Some(true) => SecureBoot::Required,
        Some(false) => SecureBoot::Disabled,
        None => properties.os_secure_boot.unwrap_or(SecureBoot::Disabled),
    };
    let possible = firmware == FirmwareType::Uefi && machine == MachineType::Q35;
    let secure = match secure {
        SecureBoot::Disabled => false,
        SecureBoot::Optional => possible && signed,
        SecureBoot::Required if possible => true,
        SecureBoot::Required => {
            let text = "secure boot needs firmware uefi and machine q35";
            return Err(invalid(secure_boot, text)
                .next("choose these (hw_firmware_type=uefi), or do without secure boot"));
        }
    };
    let model = properties.hw_tpm_model.unwrap_or(TpmModel::Crb);
    let has_tpm = options.tpm.unwrap_or(properties.hw_tpm_version.is_some());
    Ok(Hardware {
        machine,
        firmware,
        secure_boot: secure,
        tpm: has_tpm.then_some(model),
        disk_bus: properties.hw_disk_bus.unwrap_or(usual.disk_bus),
        vif_model: properties.hw_vif_model.unwrap_or(usual.vif_model),
        watchdog: properties.hw_watchdog_action.unwrap_or(usual.watchdog),
        guest_agent: properties.hw_qemu_guest_agent != Some(YesNo::No),
        require_quiesce: properties.os_require_quiesce == Some(YesNo::Yes),
    })
}

/// The properties of an image made of an instance: those of the image it was made from, with what
/// its boot had asked for, so that another instance made from it boots too.
pub(in crate::compute) fn carried(properties: &Properties, options: &BoardOptions) -> Properties {
    let mut carried = properties.clone();
    let BoardOptions { machine, firmware, secure_boot, tpm } = *options;
    carried.hw_machine_type = machine.or(carried.hw_machine_type);
    carried.hw_firmware_type = firmware.or(carried.hw_firmware_type);
    match secure_boot {
        Some(true) => carried.os_secure_boot = Some(SecureBoot::Required),
        Some(false) => carried.os_secure_boot = Some(SecureBoot::Disabled),
        None => {}
    }
    match tpm {
        Some(true) => carried.hw_tpm_version = Some(TpmVersion::Two),
        Some(false) => (carried.hw_tpm_version, carried.hw_tpm_model) = (None, None),
        None => {}
    }
    carried
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn any<T: Copy + std::fmt::Debug + 'static>(
        of: &'static [T],
    ) -> impl Strategy<Value = Option<T>> {
        option::of(select(of))
    }

    prop_compose! {
        fn properties()(
            hw_machine_type in any(MachineType::ALL),
            hw_firmware_type in any(FirmwareType::ALL),
            os_secure_boot in any(SecureBoot::ALL),
            hw_tpm_version in any(TpmVersion::ALL),
            hw_tpm_model in any(TpmModel::ALL),
        ) -> Properties {
            Properties {
                hw_machine_type, hw_firmware_type, os_secure_boot, hw_tpm_version, hw_tpm_model,
                ..Properties::default()
            }
        }
    }

    prop_compose! {
        fn options()(
            machine in any(MachineType::ALL),
            firmware in any(FirmwareType::ALL),
            secure_boot in option::of(proptest::bool::ANY),
            tpm in option::of(proptest::bool::ANY),
        ) -> BoardOptions {
            BoardOptions { machine, firmware, secure_boot, tpm }
        }
    }

    proptest! {
        /// Secure boot without the board and the firmware that do it would be none.
        #[test]
        fn secure_boot_is_never_promised_without_what_does_it(
            properties in properties(), options in options(), signed: bool,
        ) {
            if let Ok(hardware) = wanted(&properties, &options, signed, "secure_boot")
                && hardware.secure_boot
            {
                prop_assert_eq!(hardware.firmware, FirmwareType::Uefi);
                prop_assert_eq!(hardware.machine, MachineType::Q35);
            }
        }

        /// And what is required is never left out.
        #[test]
        fn secure_boot_that_is_required_is_there_or_refused(
            properties in properties(), options in options(),
        ) {
            let required = options.secure_boot.map_or(
                properties.os_secure_boot == Some(SecureBoot::Required), |asked| asked);
            if required && let Ok(hardware) = wanted(&properties, &options, false, "secure_boot") {
                prop_assert!(hardware.secure_boot);
            }
        }

        #[test]
        fn an_image_of_an_instance_makes_one_with_the_same_board(
            properties in properties(), options in options(), signed: bool,
        ) {
            let first = wanted(&properties, &options, signed, "secure_boot");
            let carried = carried(&properties, &options);
            let again = wanted(&carried, &BoardOptions::default(), signed, "secure_boot");
            prop_assert_eq!(first.ok(), again.ok());
        }
    }

    #[test]
    fn an_image_that_says_nothing_makes_what_there_always_was() {
        let made = wanted(&Properties::default(), &BoardOptions::default(), true, "").unwrap();
        assert_eq!(made, Hardware::default());
    }

    #[test]
    fn properties_that_do_not_go_together_are_refused_by_name() {
        let required =
            Properties { os_secure_boot: Some(SecureBoot::Required), ..Properties::default() };
        let model = Properties { hw_tpm_model: Some(TpmModel::Tis), ..Properties::default() };
        for (wrong, name) in [(required, "os_secure_boot"), (model, "hw_tpm_model")] {
            let refusal = check(&wrong).unwrap_err();
            assert_eq!(refusal.reason, Reason::InvalidParams);
            assert_eq!(refusal.subject, Some(format!("parameter properties.{name}")));
        }
    }
}
