//! A volume that another host keeps, as the bench has one.

use std::sync::OnceLock;

use ostler_tests::process::{Daemon, command};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::volumes_connected::free_port;

/// A volume that a server has, for the whole bench: QEMU reaches it over the loopback, and nothing
/// here knows of it but while an instance has it.
pub(super) fn elsewhere() -> Value {
    static SERVER: OnceLock<(Daemon, TempDir, u16)> = OnceLock::new();
    let (_, _, port) = SERVER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(2 << 20).unwrap();
        let port = free_port();
        let mut server = command("qemu-nbd");
        server.args(["--persistent", "--shared=0", "--format=raw", "--export-name=data"]);
        server.args(["--bind=127.0.0.1", &format!("--port={port}")]).arg(&file);
        let daemon = Daemon::start("qemu-nbd", server, &folder.path().join("log")).unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        (daemon, folder, port)
    });
    json!({"driver_volume_type": "nbd",
           "data": {"host": "127.0.0.1", "port": port, "export": "data"}})
}
