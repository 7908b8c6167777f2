//! The options of a boot that make a config drive.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use ostler_protocol::rpc::instance::{Boot, WantedDrive};
use ostler_protocol::rpc::values::Secret;

use crate::commands::keys::read_keys;
use crate::failure::{Cause, Failure};

/// The most bytes of user data or vendor data: what becomes 65535 bytes of base64.
const DATA_MAX: usize = 65_535 / 4 * 3;

/// What cloud-init and its like find at the first boot.
#[derive(Args)]
pub(crate) struct ConfigDriveArgs {
    /// A config drive, in this layout or the node's own; each of the options below makes one, too
    #[arg(long, value_name = "LAYOUT", num_args = 0..=1)]
    config_drive: Option<Option<Layout>>,
    /// User data for cloud-init: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Vendor data for cloud-init: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    vendor_data: Option<PathBuf>,
    /// A file of public SSH keys, for the first account of the guest; repeat for more files
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// The guest's host name; default: the instance's name, in letters, digits and hyphens
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
}

/// How the files of a config drive are laid out.
#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// As OpenStack does
    Openstack,
    /// cloud-init's own
    Nocloud,
}

impl ConfigDriveArgs {
    /// The boot with what they ask for.
    ///
    /// # Errors
    /// A file cannot be read, or is too large.
    pub(super) fn add_to(self, boot: Boot) -> Result<Boot, Failure> {
        let named = [self.user_data.as_deref(), self.vendor_data.as_deref()];
        let named = named.into_iter().flatten().chain(self.ssh_key.iter().map(PathBuf::as_path));
        if named.filter(|file| is_stdin(file)).count() > 1 {
            let message = "standard input (-) can be one of the files only".to_owned();
            return Err(Cause::Usage { message, next: None }.into());
        }
        let data = |file: Option<PathBuf>| file.as_deref().map(read_data).transpose();
        let mut ssh_keys = Vec::new();
        for file in &self.ssh_key {
            let keys = read_keys(file)?;
            if keys.is_empty() {
                let message = format!("there is no key in {}", file.display());
                return Err(Cause::Usage { message, next: None }.into());
            }
            ssh_keys.extend(keys);
        }
        Ok(Boot {
            config_drive: self.config_drive.map(|layout| match layout {
                None => WantedDrive::Default,
                Some(Layout::Openstack) => WantedDrive::Openstack,
                Some(Layout::Nocloud) => WantedDrive::Nocloud,
            }),
            user_data: data(self.user_data)?,
            vendor_data: data(self.vendor_data)?,
            ssh_keys,
            hostname: self.hostname,
            ..boot
        })
    }
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// A file as it is sent.
fn read_data(file: &Path) -> Result<Secret, Failure> {
    let mut data = Vec::new();
    // one more than there may be, to see that there is more
    let most = DATA_MAX as u64 + 1;
    let read = if is_stdin(file) {
        io::stdin().take(most).read_to_end(&mut data)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(&mut data))
    };
    read.map_err(|source| Cause::Local { what: format!("read {}", file.display()), source })?;
    if data.len() > DATA_MAX {
        let message = format!("{} is too large: at most {DATA_MAX} bytes", file.display());
        let next = "gzip it, which cloud-init reads, or have it fetch the rest (#include)";
        return Err(Cause::Usage { message, next: Some(next.to_owned()) }.into());
    }
    Ok(Secret::new(STANDARD.encode(data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_are_too_large_are_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, vec![b'x'; DATA_MAX]).unwrap();
        assert!(read_data(&file).unwrap().expose().len() <= 65_535);
        std::fs::write(&file, vec![b'x'; DATA_MAX + 1]).unwrap();
        let told = read_data(&file).unwrap_err().cause.to_string();
        assert!(told.contains("too large: at most 49149 bytes"), "{told}");
    }
}
