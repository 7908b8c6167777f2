//! Telling the disks of a guest what its file systems do not use.

use ostler_protocol::qga::Command as _;
use ostler_protocol::qga::bounds::ENTRIES;
use ostler_protocol::qga::commands::trim::{GuestFstrim, TrimArguments};
use ostler_protocol::rpc::guest::work::{Trimmed, TrimmedFilesystem};
use ostler_protocol::rpc::values::InstanceId;

use super::Guests;
use super::error::Error;
use super::inquiry::Inquiry;
use super::report::clean;
use crate::hypervisor::Hypervisor;

impl<H: Hypervisor> Guests<H> {
    /// Trims the mounted file systems that can be; what became of each.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `minimum` is beyond what agents count to. After [`Error::Timeout`] the
    /// guest may still be at it.
    pub async fn trim(&self, id: InstanceId, minimum: Option<u64>) -> Result<Trimmed, Error> {
        let minimum = minimum.map(i64::try_from).transpose().map_err(|_| Error::Invalid {
            what: format!("minimum must be at most {} bytes", i64::MAX),
        })?;
        let entry = self.known(id)?;
        // it takes as long as there is to trim
        let inquiry = Inquiry { deadline: self.patience(), ..self.inquiry(&entry)? };
        let report = inquiry.list::<GuestFstrim>(&TrimArguments { minimum }, &[]).await?;
        let truncated = report.truncated || report.value.paths.len() > ENTRIES;
        let told = report.value.paths.into_iter().take(ENTRIES).map(|one| {
            let trimmed = one.trimmed.map(u64::try_from).transpose();
            Ok(TrimmedFilesystem {
                mountpoint: clean(&one.path),
                trimmed: trimmed.map_err(|_| Error::Garbled { command: GuestFstrim::NAME })?,
                error: one.error.as_deref().map(clean),
            })
        });
        Ok(Trimmed { filesystems: told.collect::<Result<_, Error>>()?, truncated })
    }
}
