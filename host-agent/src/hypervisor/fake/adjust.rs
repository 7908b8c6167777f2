//! What is changed in the fake's domains; to be read back by [`Fake::spec`] and [`Fake::screen`].

use ostler_protocol::rpc::values::{Bytes, InstanceId, Secret, Timestamp};

use super::{Call, Fake, refused};
use crate::hypervisor::adjust::VNC_PASSWORD_MAX;
use crate::hypervisor::{Adjust, Error, Metadata};

impl Fake {
    /// The password of a domain's screen and until when it lets in; none while it is locked.
    pub fn screen(&self, id: InstanceId) -> Option<(Secret, Timestamp)> {
        self.world().domains.get(&id).and_then(|domain| domain.screen.clone())
    }
}

impl Adjust for Fake {
    async fn set_metadata(&self, metadata: &Metadata) -> Result<(), Error> {
        let id = metadata.id;
        self.call(Call::SetMetadata, Some(id), |world| {
            world.domain(id)?.spec.metadata = metadata.clone();
            Ok(())
        })
        .await
    }

    async fn set_vcpus(&self, id: InstanceId, count: u32) -> Result<(), Error> {
        self.call(Call::SetVcpus, Some(id), |world| {
            let spec = &mut world.domain(id)?.spec;
            if count == 0 || count > spec.max_vcpus {
                return Err(refused(Call::SetVcpus, id, "more than its maximum, or none"));
            }
            spec.vcpus = count;
            Ok(())
        })
        .await
    }

    async fn set_memory(&self, id: InstanceId, memory: Bytes) -> Result<(), Error> {
        self.call(Call::SetMemory, Some(id), |world| {
            let spec = &mut world.domain(id)?.spec;
            if memory > spec.max_memory {
                return Err(refused(Call::SetMemory, id, "more than its maximum"));
            }
            spec.memory = memory;
            Ok(())
        })
        .await
    }

    async fn set_vnc_password(
        &self,
        id: InstanceId,
        password: &Secret,
        until: Timestamp,
    ) -> Result<(), Error> {
        self.call(Call::SetVncPassword, Some(id), |world| {
            let domain = world.domain(id)?;
            let refuse = |reason: &str| Err(refused(Call::SetVncPassword, id, reason));
            if !(1..=VNC_PASSWORD_MAX).contains(&password.expose().len()) {
                return refuse("a VNC password has 1 to 8 bytes");
            }
            if !domain.is_on() {
                return refuse("the domain is not running");
            }
            if domain.spec.vnc.is_none() {
                return refuse("the domain has no screen");
            }
            let open = until > Timestamp::now();
            domain.screen = open.then(|| (password.clone(), until));
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Hypervisor;
    use crate::hypervisor::spec::{Vnc, sample};

    #[tokio::test]
    async fn changes_hold_to_what_was_defined() {
        let fake = Fake::new();
        let mut spec = sample();
        (spec.max_vcpus, spec.max_memory) = (2, Bytes::mib(128));
        let id = spec.id();
        fake.define(&spec).await.unwrap();
        fake.set_vcpus(id, 2).await.unwrap();
        fake.set_memory(id, Bytes::mib(128)).await.unwrap();
        for count in [0, 3] {
            assert!(matches!(fake.set_vcpus(id, count).await, Err(Error::Refused { .. })));
        }
        assert!(matches!(fake.set_memory(id, Bytes::mib(129)).await, Err(Error::Refused { .. })));
        let metadata = Metadata { name: "renamed".to_owned(), ..spec.metadata.clone() };
        fake.set_metadata(&metadata).await.unwrap();
        let now = fake.spec(id).unwrap();
        assert_eq!((now.vcpus, now.memory, now.metadata), (2, Bytes::mib(128), metadata));
    }

    #[tokio::test]
    async fn a_screen_is_locked_until_it_has_a_password() {
        let fake = Fake::new();
        let mut spec = sample();
        spec.vnc = Some(Vnc { listen: [127, 0, 0, 1].into() });
        let id = spec.id();
        fake.define(&spec).await.unwrap();
        let word = Secret::new("open".to_owned());
        let later = Timestamp(u64::MAX);
        assert!(fake.set_vnc_password(id, &word, later).await.is_err(), "it is off");
        fake.start(id).await.unwrap();
        assert!(fake.screen(id).is_none());
        fake.set_vnc_password(id, &word, later).await.unwrap();
        assert_eq!(fake.screen(id), Some((word.clone(), later)));
        let long = Secret::new("nine byte".to_owned());
        assert!(fake.set_vnc_password(id, &long, later).await.is_err());
        fake.set_vnc_password(id, &word, Timestamp(0)).await.unwrap();
        assert!(fake.screen(id).is_none());
    }
}
