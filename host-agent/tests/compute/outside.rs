//! What is outside of compute is behind traits: another who decides, other ports, other images.

use std::path::PathBuf;
use std::sync::Mutex;

use ostler_host_agent::compute::{Authority, Claims, Legal, Port, Shares, Wires};
use ostler_host_agent::hypervisor::spec::Nic;
use ostler_host_agent::image::{
    Cached, Destination, Export, ExportError, Exported, ImageError, Images, ImportSpec, Imported,
    Progress, Removed, Source, Stored,
};
use ostler_host_agent::journal::records::{InstanceRecord, InterfaceRecord};
use ostler_host_agent::network::filter::Dropped;
use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::Size;
use ostler_protocol::rpc::values::{Name, PortId, Sha256, UploadId};
use tokio::sync::watch;

use super::*;

/// Says the same of everything.
struct Always(bool);

impl Authority for Always {
    fn allows(&self, _: &Legal, _: &InstanceRecord, _: Timestamp) -> Result<(), Refusal> {
        self.verdict()
    }
}

impl Claims for Always {
    fn admit(&self, _: &Size, _: &Shares) -> Result<(), Refusal> {
        self.verdict()
    }
}

impl Always {
    fn verdict(&self) -> Result<(), Refusal> {
        let no = || Refusal::new(Reason::Busy, "somebody else decides").next("ask them");
        if self.0 { Ok(()) } else { Err(no()) }
    }
}

/// Ports that lead nowhere, and are known while they are bound.
#[derive(Clone, Default)]
struct Sockets {
    bound: Arc<Mutex<Vec<PortId>>>,
    fails: Arc<Mutex<bool>>,
}

impl Wires for Sockets {
    async fn bind(&self, ports: &[Port]) -> Result<(), Refusal> {
        if std::mem::take(&mut *self.fails.lock().unwrap()) {
            return Err(Refusal::new(Reason::NetworkFailed, "told to fail"));
        }
        self.bound.lock().unwrap().extend(ports.iter().map(|port| port.interface.id));
        Ok(())
    }

    fn describe(&self, ports: &[Port]) -> Result<Vec<Nic>, Refusal> {
        let nic = |port: &Port| Nic {
            mac: port.interface.mac,
            bridge: "br-elsewhere".to_owned(),
            tap: "tap-elsewhere".to_owned(),
            mtu: Some(1450),
            alias: port.interface.alias(),
        };
        Ok(ports.iter().map(nic).collect())
    }

    async fn guard(&self, _: &[Port]) -> Result<(), Refusal> {
        Ok(())
    }

    async fn mend(&self, _: impl Fn() -> Vec<Port> + Send + Sync) -> Result<Vec<String>, Refusal> {
        Ok(Vec::new())
    }

    async fn changed(&self) {
        std::future::pending().await
    }

    async fn dropped(&self, _: PortId) -> Result<Vec<Dropped>, Refusal> {
        Ok(Vec::new())
    }

    async fn release(&self, ports: &[InterfaceRecord]) -> Result<(), Refusal> {
        self.bound.lock().unwrap().retain(|bound| ports.iter().all(|port| port.id != *bound));
        Ok(())
    }
}

/// Images that are there as soon as somebody asks, unless told otherwise.
#[derive(Default)]
struct Shelf {
    folder: PathBuf,
    there: Mutex<Vec<Sha256>>,
    fails: Mutex<bool>,
}

impl Shelf {
    fn put(&self, format: Format, bytes: &[u8]) -> Imported {
        let sha256: Sha256 = format!("{:064x}", bytes.len()).parse().unwrap();
        let path = self.path(&sha256, format);
        std::fs::write(&path, bytes).unwrap();
        self.there.lock().unwrap().push(sha256.clone());
        let size = Bytes(bytes.len() as u64);
        Imported { sha256, path, format, size, virtual_size: size, stored: Stored::New }
    }
}

impl Images for Shelf {
    async fn import(
        &self,
        spec: &ImportSpec,
        _: &watch::Sender<Progress>,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        if std::mem::take(&mut *self.fails.lock().unwrap()) {
            return Err(ImageError::Gone { path: self.folder.clone() });
        }
        let imported = self.put(spec.format, &[7; 1 << 20]);
        claim(&imported);
        Ok(imported)
    }

    async fn forget(&self, _: &Source) -> Result<(), ImageError> {
        Ok(())
    }

    async fn forget_image(&self, _: &Name) -> Result<(), ImageError> {
        Ok(())
    }

    async fn upload(&self, _: UploadId, offset: u64, data: Vec<u8>) -> Result<Bytes, ImageError> {
        Ok(Bytes(offset + data.len() as u64))
    }

    async fn drop_upload(&self, _: UploadId) -> Result<(), ImageError> {
        Ok(())
    }

    async fn sweep_uploads(
        &self,
        _: impl Fn(UploadId) -> bool + Send + 'static,
    ) -> Result<usize, ImageError> {
        Ok(0)
    }

    async fn adopt(
        &self,
        file: &Path,
        _: &Name,
        _: &watch::Sender<(Bytes, Bytes)>,
        _: &CancellationToken,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        let imported = self.put(Format::Qcow2, &std::fs::read(file).unwrap());
        claim(&imported);
        Ok(imported)
    }

    async fn export(
        &self,
        sha256: &Sha256,
        format: Format,
        export: &Export,
        _: &watch::Sender<(Bytes, Bytes)>,
        _: &CancellationToken,
    ) -> Result<(), ExportError> {
        if let Destination::File(path) = &export.to {
            std::fs::copy(self.path(sha256, format), path).unwrap();
        }
        Ok(())
    }

    async fn end_export(&self, _: &Export, _: Exported) -> Result<(), ExportError> {
        Ok(())
    }

    async fn remove(
        &self,
        sha256: &Sha256,
        format: Format,
        is_needed: impl FnOnce() -> bool + Send,
    ) -> Result<Removed, ImageError> {
        if is_needed() {
            return Ok(Removed::Needed);
        }
        self.there.lock().unwrap().retain(|there| there != sha256);
        let _ = std::fs::remove_file(self.path(sha256, format));
        Ok(Removed::Removed)
    }

    async fn note_use(&self, _: &Sha256, _: Format) -> Result<(), ImageError> {
        Ok(())
    }

    fn path(&self, sha256: &Sha256, format: Format) -> PathBuf {
        self.folder.join(format!("{sha256}.{}", format.as_str()))
    }

    async fn list(&self) -> Result<Vec<Cached>, ImageError> {
        Ok(Vec::new())
    }
}

/// Ports and images from elsewhere.
struct Elsewhere;

impl Outside for Elsewhere {
    type Hypervisor = Fake;
    type Network = FakeNetwork;
    type Wires = Sockets;
    type Disks = Directory;
    type Images = Shelf;
    type Volumes = Pools;
}

fn elsewhere(node: Node<Faked>, wires: Sockets, images: Arc<Shelf>) -> Node<Elsewhere> {
    let Node { hypervisor, network, disks, volumes, guests, host, authority, claims, .. } = node;
    Node { hypervisor, network, wires, disks, images, volumes, guests, host, authority, claims }
}

fn lock(id: InstanceId) -> Command {
    Command::Lock(serde_json::from_value(json!({"id": id, "reason": "audit"})).unwrap())
}

fn off(id: InstanceId) -> Command {
    Command::Stop(serde_json::from_value(json!({"id": id, "manner": "hard"})).unwrap())
}

#[tokio::test]
async fn who_decides_what_is_legal_can_be_another_and_their_no_reserves_nothing() {
    let world = World::new();
    let life = world.furnished().await;
    let id = InstanceId::random();
    life.done(boot(id)).await;
    life.done(lock(id)).await;
    assert_eq!(life.submit(off(id)).await.unwrap_err().reason, Reason::Conflict);
    life.crash().await;

    let no = world.live_with(|node| Node { authority: Box::new(Always(false)), ..node }).await;
    let refusal = no.submit(off(id)).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.next.as_deref()), (Reason::Busy, Some("ask them")));
    assert_eq!(no.compute.reads().instance(id).unwrap().instance.task_state, None);
    no.crash().await;

    // The lock is this node's word, and somebody else has the say.
    let yes = world.live_with(|node| Node { authority: Box::new(Always(true)), ..node }).await;
    yes.done(off(id)).await;
    assert_eq!(yes.status(id), Status::Shutoff);
}

#[tokio::test]
async fn who_decides_about_room_can_be_another() {
    let world = World::new();
    let life = world.live_with(|node| Node { claims: Box::new(Always(false)), ..node }).await;
    world.furnish(&life).await;
    let id = InstanceId::random();
    assert_eq!(life.submit(boot(id)).await.unwrap_err().message, "somebody else decides");
    assert!(life.compute.reads().instance(id).is_err());
    life.crash().await;

    world.configure("[limits]", "[admission]\nmemory_ratio = 0.000001\n[limits]");
    let life = world.live_with(|node| Node { claims: Box::new(Always(true)), ..node }).await;
    life.done(boot(id)).await;
}

#[tokio::test]
async fn ports_and_images_can_come_from_elsewhere() {
    let world = World::new();
    let (wires, folder) = (Sockets::default(), world.path().join("shelf"));
    std::fs::create_dir(&folder).unwrap();
    let shelf = Arc::new(Shelf { folder, ..Shelf::default() });
    let life = {
        let (wires, shelf) = (wires.clone(), Arc::clone(&shelf));
        world.live_with(|node| elsewhere(node, wires, shelf)).await
    };
    *shelf.fails.lock().unwrap() = true;
    let import = json!({"name": "disk", "source": "/elsewhere", "format": "raw"});
    let import = || Command::ImageImport(serde_json::from_value(import.clone()).unwrap());
    let over = life.tried(import()).await;
    assert_eq!(over.error.unwrap().reason, Reason::ImageUnavailable);
    life.done(import()).await;
    life.done(Command::NetworkEnsure(serde_json::from_value(json!({"name": "lan"})).unwrap()))
        .await;

    let id = InstanceId::random();
    *wires.fails.lock().unwrap() = true;
    let over = life.tried(boot(id)).await;
    assert_eq!(
        (over.state, over.error.unwrap().step.as_deref()),
        (State::Undone, Some("ensure bridges"))
    );
    assert!(wires.bound.lock().unwrap().is_empty());
    life.done(delete(id)).await;

    let id = InstanceId::random();
    life.done(boot(id)).await;
    let nic = world.hypervisor.spec(id).unwrap().nics.remove(0);
    assert_eq!((nic.bridge.as_str(), nic.mtu), ("br-elsewhere", Some(1450)));
    assert_eq!(wires.bound.lock().unwrap().len(), 1);
    life.done(delete(id)).await;
    assert!(wires.bound.lock().unwrap().is_empty());
    life.done(Command::ImageRemove("disk".parse().unwrap())).await;
    assert!(shelf.there.lock().unwrap().is_empty());
}
