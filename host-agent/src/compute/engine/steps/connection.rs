//! Volumes that are kept elsewhere: their secrets, whether they can be reached, and where QEMU
//! finds them.

use std::path::Path;

use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{Bytes, Secret, VolumeId};
use ostler_protocol::rpc::volume::Format;

use super::{Engine, StepError};
use crate::compute::causes::journal_fault;
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::Secrets;
use crate::hypervisor::spec::{
    DiskAuth, DiskFormat, DiskHost, DiskProtocol, DiskSource, NetworkDisk, SecretKind, SecretName,
};
use crate::journal::records::{
    ConnectionRecord, DeviceIdentity, Host, InstanceRecord, NbdServer, VolumeRecord,
};
use crate::journal::{Entry, Write};
use crate::refusal::{Action, Reason, Refusal};
use crate::volume::elsewhere::{self, Device};
use crate::volume::{VolumeError, Volumes};

/// Where NFS clients ask for a server's other ports.
const PORT_MAPPER: u16 = 111;

impl<O: Outside> Engine<O> {
    /// See that a volume can be reached, and have the hypervisor keep its secret.
    pub(super) async fn connect_elsewhere(
        &self,
        operation: &LiveOperation,
        record: &VolumeRecord,
        connection: &ConnectionRecord,
    ) -> Result<(), StepError> {
        // Who has it already has its secrets too.
        let is_kept = {
            let known = self.registry.lock();
            let users = known.users_of(record.id);
            users.iter().any(|(user, _)| Subject::Instance(user.id) != operation.subject)
        };
        if record.format == Some(Format::Luks) && !is_kept {
            self.keep_passphrase(operation, record.id).await?;
        }
        if let Some(kind) = own_secret(connection).filter(|_| !is_kept) {
            let secret = operation.volatile.secret.clone().ok_or_else(|| {
                lost()
                    .next("attach the volume again, with its connection")
                    .by(Action::InstanceAttachVolume)
            });
            let secret = secret.map_err(StepError::failed)?;
            self.node.hypervisor.keep_secret(kind, &secret_name(record.id), secret).await?;
        }
        let tcp = |host: &Host| (host.name.clone(), host.port);
        match connection {
            ConnectionRecord::Nbd { server: NbdServer::Unix(socket), .. } => {
                elsewhere::reach_socket(socket).await?;
            }
            ConnectionRecord::Nbd { server: NbdServer::Tcp(host), .. }
            | ConnectionRecord::Iscsi { portal: host, .. } => {
                elsewhere::reach(&[tcp(host)]).await?;
            }
            ConnectionRecord::Nfs { host, .. } => {
                elsewhere::reach(&[(host.clone(), PORT_MAPPER)]).await?;
            }
            ConnectionRecord::Rbd { image, monitors, user, secret } => {
                let monitors = monitors.iter().map(tcp).collect::<Vec<_>>();
                elsewhere::reach(&monitors).await?;
                let key = match secret {
                    Some(uuid) => self.node.hypervisor.ceph_key(uuid).await?,
                    None => operation.volatile.secret.clone(),
                };
                let auth = user.as_deref().zip(key.as_ref());
                // A private key is for QEMU alone.
                if user.is_none() || auth.is_some() {
                    elsewhere::open_rbd(Path::new("qemu-img"), image, &monitors, auth).await?;
                }
            }
            ConnectionRecord::Local { .. } => {
                let Device { wwid, size, .. } = self.same_device(record).await?.unwrap_or_default();
                let identity = Some(DeviceIdentity { wwid, size });
                self.note_volume(record.id, |volume| {
                    volume.size = size;
                    if let Some(ConnectionRecord::Local { identity: known, .. }) =
                        &mut volume.connection
                    {
                        known.clone_from(&identity);
                    }
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Leave nothing of a volume that is kept elsewhere, if nobody else has it: of one that is not
    /// known any more, no secret that it may have had. Of several that let go of it at once, the last
    /// to say so sees to that.
    pub(super) async fn disconnect_elsewhere(
        &self,
        operation: &LiveOperation,
        volume: VolumeId,
        known: Option<&VolumeRecord>,
    ) -> Result<(), StepError> {
        {
            let mut known = self.registry.lock();
            known.leaving.insert((volume, operation.subject.clone()));
            if known.is_needed(volume, &operation.subject) {
                return Ok(());
            }
        }
        let kinds = match known {
            Some(record) => {
                let server = record.connection.as_ref().and_then(own_secret);
                server.into_iter().chain(key_of(record).map(|_| SecretKind::Volume)).collect()
            }
            None => vec![SecretKind::Iscsi, SecretKind::Ceph, SecretKind::Volume],
        };
        for kind in kinds {
            self.node.hypervisor.forget_secret(kind, &secret_name(volume)).await?;
        }
        Ok(())
    }

    /// Have the hypervisor keep what opens an encrypted volume.
    pub(super) async fn keep_passphrase(
        &self,
        operation: &LiveOperation,
        volume: VolumeId,
    ) -> Result<Secret, StepError> {
        let passphrase = operation.volatile.passphrase.clone();
        let passphrase = passphrase
            .ok_or_else(|| StepError::failed(lost().next("ask again, with the passphrase")))?;
        let name = secret_name(volume);
        self.node.hypervisor.keep_secret(SecretKind::Volume, &name, passphrase.clone()).await?;
        Ok(passphrase)
    }

    /// Have nobody keep what opened a volume that is gone.
    pub(super) async fn forget_passphrase(&self, record: &VolumeRecord) -> Result<(), StepError> {
        if key_of(record).is_some() {
            let name = secret_name(record.id);
            self.node.hypervisor.forget_secret(SecretKind::Volume, &name).await?;
        }
        Ok(())
    }

    /// See that a device of the node is the one that was attached; none if the volume is not one.
    pub(super) async fn same_device(
        &self,
        record: &VolumeRecord,
    ) -> Result<Option<Device>, StepError> {
        let Some(ConnectionRecord::Local { device, identity }) = &record.connection else {
            return Ok(None);
        };
        let found = elsewhere::device(device).await?;
        if let Some(pool) = self.node.volumes.pool_of(&found.path).await? {
            let (path, by) = (device.clone(), format!("pool {pool}"));
            return Err(VolumeError::Used { path, by }.into());
        }
        let Some(DeviceIdentity { wwid, size }) = identity else { return Ok(Some(found)) };
        if (wwid, size) == (&found.wwid, &found.size) {
            return Ok(Some(found));
        }
        let of = |wwid: &Option<String>, size: Bytes| {
            format!("{} of {size}", wwid.as_deref().unwrap_or("a device without a WWID"))
        };
        let text = format!(
            "{} is not what was attached: it is {}, and was {}",
            device.display(),
            of(&found.wwid, found.size),
            of(wwid, *size)
        );
        let next = "see what it is (lsblk -o NAME,SIZE,WWN); detach the volume, and attach it again \
                    if it is the right one";
        Err(StepError::Refused(Box::new(Refusal::new(Reason::VolumeFailed, text).next(next))))
    }

    /// The same of all devices that an instance has.
    pub(super) async fn same_devices(&self, instance: &InstanceRecord) -> Result<(), StepError> {
        for attachment in &instance.volumes {
            let volume = self.registry.lock().volumes.get(&attachment.volume).cloned();
            if let Some(volume) = volume {
                self.same_device(&volume).await?;
            }
        }
        Ok(())
    }

    /// Write down what a step found out about a volume.
    pub(super) async fn note_volume(
        &self,
        id: VolumeId,
        change: impl FnOnce(&mut VolumeRecord),
    ) -> Result<(), StepError> {
        let entry = {
            let mut known = self.registry.lock();
            let Some(volume) = known.volumes.get_mut(&id) else { return Ok(()) };
            change(volume);
            Entry::Put(volume.clone())
        };
        let write = Write { volumes: vec![entry], ..Write::default() };
        let written = self.registry.journal.write(write).await;
        written.map_err(|error| StepError::failed(journal_fault(&error)))
    }
}

/// A secret that was in memory, and that nothing else has.
fn lost() -> Refusal {
    let text = "the agent was stopped before libvirt had the volume's secret, and does not keep it";
    Refusal::new(Reason::Interrupted, text)
}

/// The secret that opens a volume, if it is encrypted.
pub(super) fn key_of(volume: &VolumeRecord) -> Option<SecretName> {
    (volume.format == Some(Format::Luks)).then(|| SecretName::Usage(secret_name(volume.id)))
}

/// What our secret for a volume is for, if it needs one.
fn own_secret(connection: &ConnectionRecord) -> Option<SecretKind> {
    match connection {
        ConnectionRecord::Iscsi { user: Some(_), .. } => Some(SecretKind::Iscsi),
        ConnectionRecord::Rbd { user: Some(_), secret: None, .. } => Some(SecretKind::Ceph),
        ConnectionRecord::Nbd { .. }
        | ConnectionRecord::Iscsi { .. }
        | ConnectionRecord::Rbd { .. }
        | ConnectionRecord::Nfs { .. }
        | ConnectionRecord::Local { .. } => None,
    }
}

fn secret_name(volume: VolumeId) -> String {
    format!("ostler-{volume}")
}

/// Where QEMU finds a volume that is kept elsewhere, and how it is laid out.
pub(super) fn source(volume: VolumeId, connection: &ConnectionRecord) -> (DiskSource, DiskFormat) {
    let tcp = |host: &Host| DiskHost::Tcp { name: host.name.clone(), port: Some(host.port) };
    let auth = |user: &Option<String>, kind, secret: Option<&String>| {
        let own = || SecretName::Usage(secret_name(volume));
        let secret = secret.map_or_else(own, |uuid| SecretName::Uuid(uuid.clone()));
        user.clone().map(|user| DiskAuth { user, kind, secret })
    };
    let (protocol, name, hosts, auth, format) = match connection {
        ConnectionRecord::Nbd { server, export } => {
            let host = match server {
                NbdServer::Tcp(host) => tcp(host),
                NbdServer::Unix(socket) => DiskHost::Unix(socket.clone()),
            };
            (DiskProtocol::Nbd, export.clone(), vec![host], None, DiskFormat::Raw)
        }
        ConnectionRecord::Iscsi { portal, target, lun, user } => (
            DiskProtocol::Iscsi,
            format!("{target}/{lun}"),
            vec![tcp(portal)],
            auth(user, SecretKind::Iscsi, None),
            DiskFormat::Raw,
        ),
        ConnectionRecord::Rbd { image, monitors, user, secret } => (
            DiskProtocol::Rbd,
            image.clone(),
            monitors.iter().map(tcp).collect(),
            auth(user, SecretKind::Ceph, secret.as_ref()),
            DiskFormat::Raw,
        ),
        ConnectionRecord::Nfs { host, path } => {
            let host = DiskHost::Tcp { name: host.clone(), port: None };
            (DiskProtocol::Nfs, path.clone(), vec![host], None, DiskFormat::Raw)
        }
        ConnectionRecord::Local { device, .. } => {
            return (DiskSource::Block(device.clone()), DiskFormat::Raw);
        }
    };
    (DiskSource::Network(NetworkDisk { protocol, name, hosts, auth }), format)
}
