//! Images and volumes beside what people use for the same: curl and sha256sum, qemu-img, virsh.
//!
//! Each goal is a ratio of 1.1, and for an import less than 1: it hashes while it receives, as the
//! peer does, and has the image checked and in its place at the end.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use ostler_tests::guest_image::Mode;
use ostler_tests::process::Run;
use ostler_tests::services::SYSTEM;
use serde_json::{Value, json};

use crate::boot::open_libvirt;
use crate::by_hand::Template;
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, PATIENCE, Stand, virsh};

/// What is received, converted and snapshotted.
const SIZE: u64 = 256 << 20;

/// What ours may take of the peer's time.
const GOAL: f64 = 1.1;

/// Do all of it, in turn.
///
/// # Errors
/// If something is refused.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut stand = Stand::open(lab, &[Mode::Ostler]).await?;
    let disk = Disk::make().await?;
    let mut section = Section::new("Images and volumes");
    imports(lab, &mut stand, &disk, &mut section).await?;
    conversions(lab, &mut stand, &disk, &mut section).await?;
    snapshots(lab, &mut stand, &disk, &mut section).await?;
    plugs(lab, &mut stand, &mut section).await?;
    stand.close(lab).await?;
    section.note(format!(
        "images and snapshotted volumes hold {} MiB that do not compress",
        SIZE >> 20
    ));
    section.note("ours: from the request on the socket to the end of operation.wait");
    Ok(section)
}

/// A disk of random bytes, as it is and as another hypervisor has it.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    async fn make() -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Error::io("making a folder"))?;
        let this = Self { folder };
        let random = File::open("/dev/urandom").map_err(Error::io("reading random bytes"))?;
        let mut raw = File::create(this.raw()).map_err(Error::io("writing a disk"))?;
        std::io::copy(&mut random.take(SIZE), &mut raw).map_err(Error::io("writing a disk"))?;
        raw.sync_all().map_err(Error::io("writing a disk"))?;
        let stream = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
        let paths = [this.raw(), this.vmdk()];
        Run::new("qemu-img").args(stream).args(paths).patience(PATIENCE).stdout().await?;
        Ok(this)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn raw(&self) -> PathBuf {
        self.path("disk.raw")
    }

    fn vmdk(&self) -> PathBuf {
        self.path("disk.vmdk")
    }
}

/// A server of one file, to whoever asks for whatever.
fn serve(path: &Path) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::io("listening"))?;
    let address = listener.local_addr().map_err(Error::io("listening"))?;
    let path = path.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // who goes away before the end was told enough
            let _ = answer(stream, &path);
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, path: &Path) -> std::io::Result<()> {
    let mut asked = Vec::new();
    let mut piece = [0; 4096];
    while !asked.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => asked.extend_from_slice(&piece[..n]),
        }
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    std::io::copy(&mut file, &mut stream).map(drop)
}

async fn imports(lab: &Lab, stand: &mut Stand, disk: &Disk, section: &mut Section) -> Result<()> {
    let url = format!("http://{}/disk", serve(&disk.raw())?);
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for turn in 0..lab.settings.cycles {
        crate::tell(&format!("imports, {} of {}", turn + 1, lab.settings.cycles));
        let import = json!({"name": "new", "source": url, "format": "raw"});
        ours.took(timed(stand, "image.import", import).await?);
        stand.change("image.remove", json!({"name": "new"})).await?;
        let line = format!("curl -sf {url} | sha256sum");
        let begun = Instant::now();
        Run::new("sh").args(["-c", &line]).patience(PATIENCE).stdout().await?;
        theirs.took(begun.elapsed());
    }
    let line = Line::new("import by http", Unit::Milliseconds, &ours);
    section.line(line.against("curl | sha256sum, which keeps nothing", &theirs).goal(1.0));
    Ok(())
}

async fn conversions(
    lab: &Lab,
    stand: &mut Stand,
    disk: &Disk,
    section: &mut Section,
) -> Result<()> {
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for turn in 0..lab.settings.cycles {
        crate::tell(&format!("conversions, {} of {}", turn + 1, lab.settings.cycles));
        let import = json!({"name": "new", "source": disk.vmdk(), "format": "vmdk"});
        ours.took(timed(stand, "image.import", import).await?);
        stand.change("image.remove", json!({"name": "new"})).await?;
        let to = disk.path("converted.qcow2");
        let begun = Instant::now();
        // as ours: read once for its hash, and on the disk in the end
        let line =
            "sha256sum \"$0\" && qemu-img convert -f vmdk -O qcow2 \"$0\" \"$1\" && sync \"$1\"";
        let words = ["-c".into(), line.into(), disk.vmdk(), to.clone()];
        Run::new("sh").args(words).patience(PATIENCE).stdout().await?;
        theirs.took(begun.elapsed());
        fs::remove_file(to).map_err(Error::io("removing a disk"))?;
    }
    let line = Line::new("import of a vmdk", Unit::Milliseconds, &ours);
    section.line(line.against("sha256sum, qemu-img convert, sync", &theirs).goal(GOAL));
    Ok(())
}

async fn snapshots(lab: &Lab, stand: &mut Stand, disk: &Disk, section: &mut Section) -> Result<()> {
    let import = json!({"name": "full", "source": disk.raw(), "format": "raw"});
    stand.change("image.import", import).await?;
    let create = json!({"name": "full", "source": {"image": "full"}});
    let made = stand.change("volume.create", create).await?;
    let volume = made["subject"]["volume"].clone();
    let peer = disk.path("peer.qcow2");
    let words = ["convert", "-f", "raw", "-O", "qcow2"];
    let paths = [disk.raw(), peer.clone()];
    Run::new("qemu-img").args(words).args(paths).patience(PATIENCE).stdout().await?;
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for turn in 0..lab.settings.cycles {
        crate::tell(&format!("snapshots, {} of {}", turn + 1, lab.settings.cycles));
        let name = format!("s{turn}");
        let snapshot = json!({"id": volume, "name": name});
        ours.took(timed(stand, "volume.snapshot", snapshot).await?);
        let begun = Instant::now();
        let words = ["snapshot".into(), "-c".into(), name.into(), peer.clone()];
        Run::new("qemu-img").args(words).patience(PATIENCE).stdout().await?;
        theirs.took(begun.elapsed());
    }
    stand.change("volume.delete", json!({"id": volume})).await?;
    stand.change("image.remove", json!({"name": "full"})).await?;
    let line = Line::new("snapshot of a volume", Unit::Milliseconds, &ours);
    section.line(line.against("qemu-img snapshot", &theirs).goal(GOAL));
    Ok(())
}

/// Volumes given to a running guest and taken from it; virsh does the same with a twin of it.
async fn plugs(lab: &Lab, stand: &mut Stand, section: &mut Section) -> Result<()> {
    let libvirt = open_libvirt(SYSTEM)?;
    let first = stand.boot(Mode::Ostler).await?;
    stand.ready(first.id).await?;
    let template = Template::of(stand, &first).await?;
    // a twin has its tap, too
    stand.delete(first.id).await?;
    let machine = template.machine().await?;
    let xml = machine.xml();
    let _gone = machine.domain();
    tokio::task::block_in_place(|| {
        libvirt.define_domain_xml(&xml).and_then(|domain| domain.create())
    })
    .map_err(Error::libvirt("starting a twin"))?;
    machine.ready().await?;
    let guest = stand.boot(Mode::Ostler).await?;
    stand.ready(guest.id).await?;
    let name = format!("ostler-{}", machine.id());
    let file = machine.folder().join("volume.qcow2");
    let words = ["create", "-q", "-f", "qcow2"].map(PathBuf::from);
    let words = words.into_iter().chain([file.clone(), "16M".into()]);
    Run::new("qemu-img").args(words).stdout().await?;
    let device = machine.folder().join("volume.xml");
    let text = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' \
         discard='unmap'/><source file='{}'/><target dev='vdb' bus='virtio'/></disk>",
        file.display()
    );
    fs::write(&device, text).map_err(Error::io("writing a disk's XML"))?;
    let create = json!({"name": "plugged", "size": 16 << 20});
    let volume = stand.change("volume.create", create).await?["subject"]["volume"].clone();
    let it = json!({"id": guest.id, "volume": volume});
    let device = device.to_string_lossy();
    let (mut attach, mut attach_peer) = (Series::default(), Series::default());
    let (mut detach, mut detach_peer) = (Series::default(), Series::default());
    // short, and few would tell little
    let turns = lab.settings.cycles * 4;
    crate::tell(&format!("a volume attached and detached, {turns} times"));
    for turn in 0..turns {
        // nobody always comes after the other
        for kind in 0..2 {
            if (turn + kind) % 2 == 0 {
                attach.took(timed(stand, "instance.attach_volume", it.clone()).await?);
                detach.took(timed(stand, "instance.detach_volume", it.clone()).await?);
            } else {
                for (verb, series) in
                    [("attach-device", &mut attach_peer), ("detach-device", &mut detach_peer)]
                {
                    let begun = Instant::now();
                    virsh(&[verb, &name, &device, "--live", "--config"]).await?;
                    series.took(begun.elapsed());
                }
            }
        }
    }
    stand.change("volume.delete", json!({"id": volume})).await?;
    stand.delete(guest.id).await?;
    let line = Line::new("attach to a running guest", Unit::Milliseconds, &attach);
    section.line(line.against("virsh attach-device --live --config", &attach_peer).goal(GOAL));
    let line = Line::new("detach from it", Unit::Milliseconds, &detach);
    section.line(line.against("virsh detach-device --live --config", &detach_peer).goal(GOAL));
    Ok(())
}

async fn timed(stand: &mut Stand, method: &str, params: Value) -> Result<std::time::Duration> {
    let begun = Instant::now();
    stand.change(method, params).await?;
    Ok(begun.elapsed())
}
