//! What can be changed in a domain that is defined, running or not, without starting it anew.
//!
//! Each holds now, if the domain runs, and from now on: the definition is changed with it, so the
//! next start has it as well. Each can be repeated.

use ostler_protocol::rpc::values::{Bytes, InstanceId, Secret, Timestamp};

use super::{Error, Metadata};

/// The longest password of a screen, in bytes: VNC looks at no more.
pub const VNC_PASSWORD_MAX: usize = 8;

/// Changes to a domain that goes on.
pub trait Adjust: Send + Sync + 'static {
    /// Replaces the metadata and the title; nothing else is touched.
    fn set_metadata(&self, metadata: &Metadata) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives the domain so many vCPUs, at most the maximum it was defined with.
    ///
    /// Fewer than a running guest has needs its consent: [`Error::Refused`] if it does not let go
    /// of one in time, and the definition is as before. More are plugged in when this returns; a
    /// Linux guest without a udev rule for it does not use them until they are set online.
    fn set_vcpus(
        &self,
        id: InstanceId,
        count: u32,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sets what the balloon leaves the domain, at most the maximum it was defined with. A running
    /// guest is asked and follows by and by, if it has a driver for the balloon.
    fn set_memory(
        &self,
        id: InstanceId,
        memory: Bytes,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Opens the running domain's screen to those who know `password`, of 1 to
    /// [`VNC_PASSWORD_MAX`] bytes, until then; a time in the past closes it. Who is connected stays
    /// connected. The next start closes it too.
    fn set_vnc_password(
        &self,
        id: InstanceId,
        password: &Secret,
        until: Timestamp,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}
