//! Secrets that the hypervisor keeps for disks on servers that ask for one.
//!
//! They are kept on the node, so that a domain starts again after a reboot, and are private: the
//! hypervisor gives them to its QEMUs and to nobody who asks for them.

use ostler_protocol::rpc::values::Secret;

use super::spec::SecretKind;
use super::{Change, Error};

/// Keeping secrets; part of what a [`Hypervisor`](super::Hypervisor) does.
pub trait Secrets: Send + Sync + 'static {
    /// Keeps a secret under a name, in the place of the one that is there.
    fn keep_secret(
        &self,
        kind: SecretKind,
        name: &str,
        value: Secret,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Forgets a secret; one that is not there is as wanted.
    fn forget_secret(
        &self,
        kind: SecretKind,
        name: &str,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// The Ceph key in a secret of this UUID, which somebody else keeps; none if it is private.
    fn ceph_key(&self, uuid: &str) -> impl Future<Output = Result<Option<Secret>, Error>> + Send;
}
