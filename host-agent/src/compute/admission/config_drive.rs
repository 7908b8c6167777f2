//! Whether a boot has a config drive, and what it is made from.

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::instance::{Boot, DriveLayout, WantedDrive};
use ostler_protocol::rpc::values::InstanceId;

use crate::config_drive::{Wrong, check_data, check_hostname, check_keys, fit_hostname};
use crate::guest::key_problem;
use crate::journal::records::ConfigDriveRecord;

/// What the config drive of the instance a boot asks for is made from; none if it has none.
///
/// # Errors
/// `invalid_params`.
pub(super) fn admit(
    boot: &Boot,
    id: InstanceId,
    default: DriveLayout,
) -> Result<Option<ConfigDriveRecord>, Refusal> {
    let Boot { config_drive, user_data, vendor_data, ssh_keys, hostname, .. } = boot;
    let wanted = config_drive.is_some()
        || user_data.is_some()
        || vendor_data.is_some()
        || !ssh_keys.is_empty()
        || hostname.is_some();
    if !wanted {
        return Ok(None);
    }
    check_data(user_data.as_ref(), vendor_data.as_ref())
        .and_then(|()| check_keys(ssh_keys, key_problem))
        .and_then(|()| hostname.as_deref().map_or(Ok(()), check_hostname))
        .map_err(|Wrong { parameter, why }| {
            Refusal::new(Reason::InvalidParams, why).about(format!("parameter {parameter}"))
        })?;
    Ok(Some(ConfigDriveRecord {
        layout: match config_drive.unwrap_or_default() {
            WantedDrive::Default => default,
            WantedDrive::Openstack => DriveLayout::Openstack,
            WantedDrive::Nocloud => DriveLayout::Nocloud,
        },
        hostname: match hostname {
            Some(hostname) => hostname.clone(),
            None => fit_hostname(boot.name.as_str(), id),
        },
        ssh_keys: ssh_keys.clone(),
        user_data: user_data.clone(),
        vendor_data: vendor_data.clone(),
    }))
}
