//! Secrets the fake keeps: under which names.

use ostler_protocol::rpc::values::Secret;

use super::{Call, Fake};
use crate::hypervisor::secrets::Secrets;
use crate::hypervisor::spec::SecretKind;
use crate::hypervisor::{Change, Error};

impl Fake {
    /// The names of the secrets it keeps.
    pub fn secrets(&self) -> Vec<String> {
        self.world().secrets.keys().map(|(_, name)| name.clone()).collect()
    }
}

impl Secrets for Fake {
    async fn keep_secret(&self, kind: SecretKind, name: &str, value: Secret) -> Result<(), Error> {
        self.call(Call::KeepSecret, None, |world| {
            world.secrets.insert((kind, name.to_owned()), value);
            Ok(())
        })
        .await
    }

    async fn forget_secret(&self, kind: SecretKind, name: &str) -> Result<Change, Error> {
        self.call(Call::ForgetSecret, None, |world| {
            let gone = world.secrets.remove(&(kind, name.to_owned()));
            Ok(gone.map_or(Change::AlreadySo, |_| Change::Made))
        })
        .await
    }

    async fn ceph_key(&self, _: &str) -> Result<Option<Secret>, Error> {
        Ok(None)
    }
}
