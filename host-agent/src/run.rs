//! The life of an agent: put together, serve, stop.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use ostler_protocol::rpc::host::Link;
use sd_notify::NotifyState;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::allocator;
use crate::compute::{Bridges, ByCapacity, ByState, Compute, Node, Outside};
use crate::config::{self, Driver, INCOMING, Settings};
use crate::disk::{Directory, DiskError};
use crate::durable;
use crate::guest::{GuestSettings, Guests};
use crate::host::{Host, HostError};
use crate::hypervisor::libvirt::{self, Libvirt};
use crate::image::{Cache, ImageError, Limits};
use crate::journal::{self, Journal};
use crate::network::filter::{FilterError, Nft};
use crate::network::{Netlink, NetworkError};
use crate::notify;
use crate::reload;
use crate::rpc::socket::{self, Listener};
use crate::rpc::{Service, amqp};
use crate::volume::{self, Lvm, Mounter, Nfs, Pools, VolumeError};

/// A node by itself: libvirt, bridges, and files.
pub(crate) struct Local;

impl Outside for Local {
    type Hypervisor = Libvirt;
    type Network = Netlink;
    type Wires = Bridges<Netlink, Nft>;
    type Disks = Directory;
    type Images = Cache;
    type Volumes = Pools;
}

/// How long operations under way may take to come to a safe point when the agent stops.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory cannot be made.
    #[error("cannot make the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent works on the same state.
    #[error("another agent works on {path}: stop it, or set another state_dir")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The journal cannot be used.
    #[error("the journal cannot be used")]
    Journal(#[from] journal::Error),
    /// The socket cannot be served.
    #[error("the socket cannot be served")]
    Socket(#[from] socket::Error),
    /// The node's own size cannot be read.
    #[error("the node cannot be examined")]
    Host(#[from] HostError),
    /// The image cache cannot be used.
    #[error("the image cache cannot be used")]
    Images(#[from] ImageError),
    /// The instances' directory cannot be used.
    #[error("the instances' directory cannot be used")]
    Disks(#[from] DiskError),
    /// A pool of volumes cannot be used.
    #[error("a pool of volumes cannot be used")]
    Volumes(#[from] VolumeError),
    /// Netlink cannot be used.
    #[error("the network cannot be managed")]
    Network(#[from] NetworkError),
    /// nftables cannot be used.
    #[error("what guests send cannot be filtered")]
    Filters(#[from] FilterError),
    /// Something has ended while it ran, without which it serves nobody.
    #[error("{what} ended by itself, which is a fault of the agent's; see its log")]
    Broken {
        /// What.
        what: &'static str,
    },
    /// Signals cannot be listened for.
    #[error("signals cannot be listened for")]
    Signals(#[source] io::Error),
    /// The libvirt driver cannot be started.
    #[error("the libvirt driver cannot be started")]
    Hypervisor(#[from] crate::hypervisor::Error),
}

/// Run an agent until `shutdown`, taking up what `reloads` brings, on the `sockets` that systemd
/// passed ([`socket::passed`]). Guests go on running after it.
///
/// # Errors
/// Why it could not start. Once it runs, it goes on whatever happens to libvirt and the broker;
/// only a fault of its own ends it ([`Error::Broken`]).
pub async fn run(
    settings: Settings,
    sockets: Vec<UnixListener>,
    mut reloads: reload::Source,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let settings = Arc::new(settings);
    // QEMU's user passes through to its own files, and cannot look around.
    directory(&settings.state_dir, 0o711)?;
    directory(&settings.state_dir.join(INCOMING), 0o700)?;
    directory(&settings.run_dir, 0o711)?;
    directory(&settings.run_dir.join("guest"), 0o711)?;
    let _lock = lock(&settings.state_dir.join("lock"))?;
    let (journal, journal_ended) = Journal::open(&settings.state_dir.join("journal.db"))?;
    // The socket is bound before anything is taken up, so that a second agent does no harm.
    let listener = Listener::open(&settings.socket, settings.socket_group.as_deref(), sockets)?;

    let libvirt_settings = libvirt::Settings {
        uri: settings.hypervisor_uri.clone(),
        node: settings.host.to_string(),
        ..libvirt::Settings::default()
    };
    let hypervisor = Arc::new(Libvirt::start(&libvirt_settings)?);
    let guest_settings = GuestSettings::new(settings.answer_timeout);
    let disks = Directory::open(&settings.state_dir).await?;
    disks.copies(settings.limits.copies);
    disks.keep_free(settings.admission.disk_reserve);
    let network = Arc::new(Netlink::open()?);
    let cache = Cache::open(&settings.state_dir.join("images"), image_limits(&settings)).await?;
    let images = Arc::new(cache);
    let node = Node::<Local> {
        guests: Guests::new(Arc::clone(&hypervisor), guest_settings, shutdown.clone()),
        hypervisor,
        wires: Bridges {
            network: Arc::clone(&network),
            filters: Nft::open(table(&settings.state_dir))?,
        },
        network,
        disks: disks.clone(),
        images: Arc::clone(&images),
        volumes: pools(&settings).await?,
        host: Host::open(&settings.state_dir).await?,
        authority: Box::new(ByState),
        claims: Box::new(ByCapacity),
    };
    let compute = Compute::start(Arc::clone(&settings), journal, node, shutdown.clone()).await?;

    let broker = watch::Sender::new(match settings.broker.is_empty() {
        true => Link::None,
        false => Link::Down,
    });
    let service = Service::new(Arc::clone(&compute), broker.subscribe());
    let mut doors = tokio::task::JoinSet::new();
    let telling = CancellationToken::new();
    // Who asks while it stops is told that, and can see how what is under way goes.
    doors.spawn(listener.serve(service.clone(), telling.clone()));
    let endpoints = watch::Sender::new(settings.broker.clone());
    let stopping = amqp::Stopping { taking: shutdown.clone(), telling: telling.clone() };
    doors.spawn(amqp::serve(
        endpoints.subscribe(),
        settings.host.to_string(),
        service.clone(),
        broker,
        stopping,
    ));
    let watchdog = tokio::spawn(notify::watchdog(shutdown.clone()));
    notify::tell(NotifyState::Ready);
    allocator::trim();
    tracing::info!(
        host = %settings.host, socket = %settings.socket.display(),
        version = env!("CARGO_PKG_VERSION"), "ready"
    );

    let mut journal_ended = journal_ended;
    let reloading = async {
        loop {
            let take = |settings: Settings| {
                endpoints.send_if_modified(|known| {
                    let changed = *known != settings.broker;
                    known.clone_from(&settings.broker);
                    changed
                });
                disks.copies(settings.limits.copies);
                disks.keep_free(settings.admission.disk_reserve);
                images.put_up_with(image_limits(&settings));
                compute.reload(settings);
            };
            reloads.next(&compute.settings(), take).await;
        }
    };
    // What ends because the agent stops is not broken: whether it stops is asked first.
    let broken = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        () = compute.is_broken() => Some("a part of the agent"),
        _ = doors.join_next() => Some("a door of the agent"),
        _ = &mut journal_ended => Some("the journal"),
        () = reloading => None,
    };
    if let Some(what) = broken {
        tracing::error!(
            what,
            "ended unexpectedly: the agent stops, and resumes when it is started again"
        );
        shutdown.cancel();
    }
    notify::tell(NotifyState::Stopping);
    tracing::info!("stopping; guests go on running");
    compute.drain(PATIENCE).await;
    telling.cancel();
    while doors.join_next().await.is_some() {}
    let _ = watchdog.await;
    service.drain().await;
    drop((service, compute));
    // It ends with its last handle. Operations left behind keep theirs; what they have not written
    // by then is what the next start finds undone.
    let gone = matches!(broken, Some("the journal"));
    if !gone && tokio::time::timeout(Duration::from_secs(2), journal_ended).await.is_err() {
        tracing::warn!("the journal is still in use");
    }
    broken.map_or(Ok(()), |what| Err(Error::Broken { what }))
}

/// The pools of the configuration.
async fn pools(settings: &Settings) -> Result<Pools, VolumeError> {
    let mut pools = Vec::new();
    let keep_free = settings.admission.disk_reserve;
    for config::Pool { name, driver, format, is_shared } in settings.pools.clone() {
        pools.push(match driver {
            Driver::Directory { path } => {
                let pool = volume::Directory::open(name, &path, format, is_shared, keep_free);
                volume::Pool::Directory(pool.await?)
            }
            Driver::Nfs { source, options, at } => {
                let source = (source, options.as_deref());
                let mounter = Mounter::of_this_node();
                let pool = Nfs::open((name, at), source, format, keep_free, mounter);
                volume::Pool::Nfs(pool.await?)
            }
            Driver::Lvm { volume_group, thin_pool } => {
                volume::Pool::Lvm(Lvm::open(name, volume_group, thin_pool))
            }
        });
    }
    Ok(Pools(pools))
}

fn image_limits(settings: &Settings) -> Limits {
    Limits {
        concurrent: settings.limits.downloads,
        size: settings.image_max,
        virtual_size: settings.image_max,
        keep_free: settings.admission.disk_reserve,
        directories: settings.image_directories.clone(),
        export_directories: settings.image_export_directories.clone(),
        bandwidth: settings.image_bandwidth,
        proxy: settings.image_proxy.clone(),
        ..Limits::default()
    }
}

fn directory(path: &Path, mode: u32) -> Result<(), Error> {
    let above = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    above
        .and_then(|()| durable::folder(path, mode).map(drop))
        .map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// One agent for one state directory, as long as the lock is held.
fn lock(path: &Path) -> Result<Flock<File>, Error> {
    let failed = |source| Error::Directory { path: path.to_owned(), source };
    let file =
        File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| Error::Locked { path: path.to_owned() })
}

/// The table of nftables of an agent with this state: two beside each other, as for a test, do not know
/// each other's guests.
fn table(state_dir: &Path) -> String {
    if state_dir == Path::new(config::STATE_DIR) {
        return "ostler".to_owned();
    }
    let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    digest.iter().take(4).fold("ostler-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::values::Bytes;

    use super::*;

    #[test]
    fn max_size_holds_for_the_file_and_for_the_disk_inside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "host = \"n\"\n[images]\nmax_size = \"5GiB\"\n").unwrap();
        let limits = image_limits(&Settings::load(Some(&file)).unwrap());
        assert_eq!((limits.size, limits.virtual_size), (Bytes::gib(5), Bytes::gib(5)));
    }
}
