//! Volumes that are kept elsewhere: whether their server answers, and whether a device of the node
//! is still the one it was. QEMU does the rest.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::values::Bytes;
use tokio::fs;
use tokio::net::{TcpStream, UnixStream};

use super::VolumeError;

/// How long a server may take to answer. QEMU waits minutes for one that says nothing, and the
/// guest's disks with it: so it is asked here first.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where block devices are.
const DEVICES: &str = "/dev";

/// A block device of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// What its maker, or the device mapper, calls it; none if it says nothing.
    pub wwid: Option<String>,
    /// Its size.
    pub size: Bytes,
}

/// See whether one of these hosts answers at its port.
///
/// # Errors
/// None does; what the last one said.
pub async fn reach(hosts: &[(String, u16)]) -> Result<(), VolumeError> {
    let mut last = None;
    for (host, port) in hosts {
        let server = format!("{host}:{port}");
        match within(TcpStream::connect((host.as_str(), *port))).await {
            Ok(_) => return Ok(()),
            Err(source) => last = Some(VolumeError::Unreachable { server, source }),
        }
    }
    last.map_or(Ok(()), Err)
}

/// See whether somebody answers at a socket.
///
/// # Errors
/// Nobody does.
pub async fn reach_socket(socket: &Path) -> Result<(), VolumeError> {
    within(UnixStream::connect(socket))
        .await
        .map(drop)
        .map_err(|source| VolumeError::Unreachable { server: socket.display().to_string(), source })
}

async fn within<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(late)
}

/// What is at this path, which has to be a block device below `/dev`, wherever links lead.
///
/// # Errors
/// It is something else, or cannot be seen.
pub async fn device(path: &Path) -> Result<Device, VolumeError> {
    let io = |step| VolumeError::io(step, path);
    let real = fs::canonicalize(path).await.map_err(io("find"))?;
    let meta = fs::metadata(&real).await.map_err(io("examine"))?;
    if !real.starts_with(DEVICES) || !meta.file_type().is_block_device() {
        return Err(VolumeError::NotADevice { path: path.to_owned() });
    }
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    let about = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let sectors = fs::read_to_string(about.join("size")).await.map_err(io("see the size of"))?;
    let sectors = sectors.trim().parse::<u64>().map_err(io::Error::other);
    let size = Bytes(sectors.map_err(io("see the size of"))?.saturating_mul(512));
    let mut wwid = None;
    for file in ["wwid", "device/wwid", "dm/uuid", "serial", "device/serial"] {
        if let Ok(text) = fs::read_to_string(about.join(file)).await
            && !text.trim().is_empty()
        {
            wwid = Some(text.trim().to_owned());
            break;
        }
    }
    Ok(Device { wwid, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_of_by_its_name() {
        let there = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = there.local_addr().unwrap().port();
        let server = [("127.0.0.1".to_owned(), port)];
        reach(&server).await.unwrap();
        drop(there);
        let told = reach(&server).await.unwrap_err().to_string();
        assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd");
        assert!(reach_socket(&socket).await.is_err());
        let _there = tokio::net::UnixListener::bind(&socket).unwrap();
        reach_socket(&socket).await.unwrap();
    }

    #[tokio::test]
    async fn only_a_block_device_below_dev_is_one_wherever_links_lead() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::write(&file, [0; 512]).unwrap();
        for path in [file.as_path(), Path::new("/dev/null")] {
            let told = device(path).await.unwrap_err();
            assert!(matches!(told, VolumeError::NotADevice { .. }), "{told}");
        }
        assert!(device(Path::new("/dev/nonexistent")).await.is_err());
    }
}
