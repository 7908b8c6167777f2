//! Secrets, as libvirt calls; see [`Secrets`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_protocol::rpc::values::Secret;
use virt::sys;
use zeroize::Zeroizing;

use super::domain::{CHANGE, QUERY};
use super::driver::{Libvirt, Traffic};
use super::error::{from_libvirt, from_xml};
use super::xml;
use crate::hypervisor::secrets::Secrets;
use crate::hypervisor::spec::SecretKind;
use crate::hypervisor::{Change, Error};

impl Secrets for Libvirt {
    async fn keep_secret(&self, kind: SecretKind, name: &str, value: Secret) -> Result<(), Error> {
        const STEP: &str = "keep a secret";
        let definition =
            xml::network::secret(kind, name).map_err(|error| from_xml(STEP, None, &error))?;
        // libvirt hands QEMU a Ceph key as base64 of the bytes it was given: it wants those.
        let bytes = Zeroizing::new(match kind {
            SecretKind::Iscsi | SecretKind::Volume => value.expose().as_bytes().to_vec(),
            SecretKind::Ceph => STANDARD.decode(value.expose()).map_err(|_| Error::Refused {
                step: STEP,
                domain: None,
                reason: "the key is not base64".to_owned(),
            })?,
        });
        let name = name.to_owned();
        self.call(Traffic::Control, None, STEP, CHANGE, move |connect| {
            let told = |error| from_libvirt(STEP, None, &error);
            let secret = match connect.lookup_secret_by_usage(usage(kind), &name) {
                Ok(there) => there,
                Err(error) if is_absent(&error) => {
                    connect.define_secret_xml(&definition, 0).map_err(told)?
                }
                Err(error) => return Err(told(error)),
            };
            secret.set_value(&bytes, 0).map_err(told)
        })
        .await
    }

    async fn forget_secret(&self, kind: SecretKind, name: &str) -> Result<Change, Error> {
        const STEP: &str = "forget a secret";
        let name = name.to_owned();
        self.call(Traffic::Control, None, STEP, CHANGE, move |connect| {
            let gone = connect
                .lookup_secret_by_usage(usage(kind), &name)
                .and_then(|secret| secret.undefine());
            match gone {
                Ok(()) => Ok(Change::Made),
                Err(error) if is_absent(&error) => Ok(Change::AlreadySo),
                Err(error) => Err(from_libvirt(STEP, None, &error)),
            }
        })
        .await
    }

    async fn ceph_key(&self, uuid: &str) -> Result<Option<Secret>, Error> {
        const STEP: &str = "see a Ceph key";
        let uuid = uuid.to_owned();
        self.call(Traffic::Control, None, STEP, QUERY, move |connect| {
            let value =
                connect.lookup_secret_by_uuid_string(&uuid).and_then(|secret| secret.value(0));
            match value.map(Zeroizing::new) {
                Ok(bytes) => Ok(Some(Secret::new(STANDARD.encode(&*bytes)))),
                Err(error) if error.code().to_raw() == sys::VIR_ERR_INVALID_SECRET => Ok(None),
                Err(error) => Err(from_libvirt(STEP, None, &error)),
            }
        })
        .await
    }
}

const fn usage(kind: SecretKind) -> i32 {
    match kind {
        SecretKind::Iscsi => sys::VIR_SECRET_USAGE_TYPE_ISCSI as i32,
        SecretKind::Ceph => sys::VIR_SECRET_USAGE_TYPE_CEPH as i32,
        SecretKind::Volume => sys::VIR_SECRET_USAGE_TYPE_VOLUME as i32,
    }
}

fn is_absent(error: &virt::error::Error) -> bool {
    error.code().to_raw() == sys::VIR_ERR_NO_SECRET
}
