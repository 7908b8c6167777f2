//! Imports from end to end: a real cache in a temporary folder, real files, a real qemu-img where
//! one is installed, and a small HTTP server on loopback that misbehaves as told.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::stat::Mode;
use sha2::Digest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::qcow2;

struct Bench {
    folder: tempfile::TempDir,
    cache: Cache,
}

fn limits() -> Limits {
    Limits {
        size: Bytes::mib(64),
        virtual_size: Bytes::gib(100),
        keep_free: Bytes(0),
        idle: Duration::from_secs(10),
        total: Duration::from_secs(60),
        ..Limits::default()
    }
}

async fn bench_with(change: impl FnOnce(&mut Limits)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let mut limits = Limits { directories: vec![folder.path().to_owned()], ..limits() };
    change(&mut limits);
    let cache = Cache::open(&folder.path().join("cache"), limits).await.unwrap();
    Bench { folder, cache }
}

async fn bench() -> Bench {
    bench_with(|_| {}).await
}

impl Bench {
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn import(&self, spec: &ImportSpec) -> Result<Imported, ImageError> {
        let mut claimed = None;
        let claim = |imported: &Imported| claimed = Some(imported.clone());
        let progress = watch::Sender::new(Progress::default());
        let imported = self.cache.import(spec, &progress, claim).await;
        assert_eq!(imported.as_ref().ok(), claimed.as_ref());
        imported
    }

    /// What is in the workshop.
    fn parts(&self) -> usize {
        fs::read_dir(self.folder.path().join("cache/parts")).unwrap().count()
    }

    /// Nothing in the cache, nothing in the workshop.
    async fn assert_clean(&self) {
        assert_eq!(self.parts(), 0);
        assert_eq!(self.cache.list().await.unwrap(), []);
    }
}

fn spec(source: &str, format: Format) -> ImportSpec {
    let name = "image".parse().unwrap();
    let source = source.parse().unwrap();
    let (compression, sha256, sha512, size_cap) = (None, None, None, None);
    ImportSpec { name, source, format, compression, sha256, sha512, size_cap }
}

fn sha256(bytes: &[u8]) -> Sha256 {
    format!("{:x}", sha2::Sha256::digest(bytes)).parse().unwrap()
}

/// Bytes that differ everywhere, so that a part in the wrong place shows.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u64 / 8)
        .flat_map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
        .collect()
}

/// A qcow2 file without backing file: an overlay's bytes with that field cleared.
fn qcow2_file(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let overlay = qcow2::overlay(Bytes::gib(1), "/b", "raw").unwrap();
    let mut bytes = vec![0; overlay.length as usize];
    for (at, piece) in overlay.pieces {
        bytes[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
    }
    bytes[8..20].fill(0);
    // The format of a backing file that is none would be an error to qemu-img.
    bytes[112..160].fill(0);
    change(&mut bytes);
    bytes
}

/// The same with one cluster of data, in the file's last.
fn filled_qcow2() -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut bytes = qcow2_file(|_| {});
    let copied = 1u64 << 63;
    for (table, target) in [(3 * CLUSTER, 4 * CLUSTER), (4 * CLUSTER, 5 * CLUSTER)] {
        bytes.resize(target, 0);
        bytes[table..table + 8].copy_from_slice(&(copied | target as u64).to_be_bytes());
    }
    bytes.resize(6 * CLUSTER, 7);
    // All six are in use.
    for n in 0..6 {
        bytes[2 * CLUSTER + 2 * n + 1] = 1;
    }
    bytes
}

fn has_qemu_img() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("qemu-img").exists());
    if !found {
        println!("skipped: qemu-img is not installed");
    }
    found
}

// From files of the node.

#[tokio::test]
async fn a_raw_file_becomes_a_read_only_image_named_by_its_content() {
    let bench = bench().await;
    let mut bytes = noise(3 << 20);
    bytes[1 << 20..2 << 20].fill(0);
    bytes.truncate((3 << 20) - 100);
    let source = bench.file("a.raw", &bytes);
    let imported = bench.import(&spec(&source, Format::Raw)).await.unwrap();
    assert_eq!(imported.sha256, sha256(&bytes));
    assert_eq!(imported.size, Bytes(bytes.len() as u64));
    assert_eq!(imported.virtual_size, Bytes(3 << 20));
    assert_eq!(imported.stored, Stored::New);
    assert_eq!(fs::read(&imported.path).unwrap(), bytes);
    assert_eq!(fs::metadata(&imported.path).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(
        imported.path.file_name().unwrap().to_str().unwrap(),
        format!("{}.raw", sha256(&bytes))
    );
    assert_eq!(bench.parts(), 0);
}

#[tokio::test]
async fn the_same_bytes_share_one_file_and_removing_is_idempotent() {
    let bench = bench().await;
    let (a, b) = (bench.file("a", b"kernel"), bench.file("b", b"kernel"));
    let first = bench.import(&spec(&a, Format::Kernel)).await.unwrap();
    let second = bench.import(&spec(&b, Format::Kernel)).await.unwrap();
    assert_eq!((first.path.clone(), second.stored), (second.path, Stored::AlreadyThere));
    assert_eq!(bench.cache.list().await.unwrap().len(), 1);
    assert_eq!(bench.cache.path(&first.sha256, Format::Kernel), first.path);
    for (needed, wanted) in
        [(true, Removed::Needed), (false, Removed::Removed), (false, Removed::AlreadyGone)]
    {
        let removed = bench.cache.remove(&first.sha256, Format::Kernel, || needed).await;
        assert_eq!(removed.unwrap(), wanted);
    }
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_known_digest_in_the_cache_needs_no_source() {
    let bench = bench().await;
    let source = bench.file("a", b"kernel");
    bench.import(&spec(&source, Format::Kernel)).await.unwrap();
    fs::remove_file(&source).unwrap();
    let again = ImportSpec { sha256: Some(sha256(b"kernel")), ..spec(&source, Format::Kernel) };
    assert_eq!(bench.import(&again).await.unwrap().stored, Stored::AlreadyThere);
}

#[tokio::test]
async fn another_digest_is_refused_and_leaves_nothing() {
    let bench = bench().await;
    let source = bench.file("a", b"kernel");
    let wanted = sha256(b"other");
    let spec = ImportSpec { sha256: Some(wanted.clone()), ..spec(&source, Format::Kernel) };
    let refused = bench.import(&spec).await.unwrap_err().to_string();
    assert!(refused.contains(wanted.as_str()) && refused.contains(sha256(b"kernel").as_str()));
    bench.assert_clean().await;
}

#[tokio::test]
async fn only_regular_files_within_the_cap_are_read() {
    let bench = bench().await;
    let fifo = bench.folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR).unwrap();
    let socket = bench.folder.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let folder = bench.folder.path().to_str().unwrap().to_owned();
    let large = ImportSpec {
        size_cap: Some(Bytes(5)),
        ..spec(&bench.file("large", b"kernel"), Format::Kernel)
    };
    let cases = [
        (spec(&format!("{folder}/missing"), Format::Raw), "cannot read image"),
        (spec(&folder, Format::Raw), "is a directory"),
        (spec(fifo.to_str().unwrap(), Format::Raw), "is a FIFO"),
        (spec(socket.to_str().unwrap(), Format::Raw), "is a special file"),
        (spec(&bench.file("empty", b""), Format::Raw), "is empty"),
        (large, "larger than the 5 B allowed"),
    ];
    for (spec, wanted) in cases {
        let refused = bench.import(&spec).await.unwrap_err();
        assert!(refused.to_string().contains(wanted), "{refused}");
        assert!(!refused.is_transient());
    }
    bench.assert_clean().await;
}

#[tokio::test]
async fn links_do_not_lead_out_of_the_allowed_directories() {
    let allowed = tempfile::tempdir().unwrap();
    let below = vec!["/does/not/exist".into(), allowed.path().to_owned()];
    let bench = bench_with(|limits| limits.directories = below).await;
    let secret = bench.file("secret", b"secret");
    let link = allowed.path().join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let up = allowed.path().join("../missing");
    for path in
        [secret.as_str(), link.to_str().unwrap(), up.to_str().unwrap(), "/missing", "/dev/zero"]
    {
        let refused = bench.import(&spec(path, Format::Raw)).await.unwrap_err();
        assert!(matches!(refused, ImageError::NotAllowed { .. }), "{path}: {refused:?}");
        assert!(refused.to_string().contains("images.directories"), "{refused}");
    }
    let good = allowed.path().join("good");
    fs::write(&good, "good").unwrap();
    let latest = allowed.path().join("latest");
    std::os::unix::fs::symlink(&good, &latest).unwrap();
    bench.import(&spec(latest.to_str().unwrap(), Format::Raw)).await.unwrap();
}

#[tokio::test]
async fn a_node_short_of_space_keeps_its_reserve() {
    let bench = bench_with(|limits| limits.keep_free = Bytes(1 << 60)).await;
    let source = bench.file("a", b"kernel");
    let refused = bench.import(&spec(&source, Format::Kernel)).await.unwrap_err();
    assert!(matches!(refused, ImageError::NoSpace { .. }), "{refused:?}");
    bench.assert_clean().await;
}

// What is in the file.

#[tokio::test]
async fn a_qcow2_is_taken_with_the_size_of_its_disk() {
    if !has_qemu_img() {
        return;
    }
    let bench = bench().await;
    let source = bench.file("a.qcow2", &qcow2_file(|_| {}));
    let imported = bench.import(&spec(&source, Format::Qcow2)).await.unwrap();
    assert_eq!(imported.virtual_size, Bytes::gib(1));
}

#[tokio::test]
async fn hostile_and_mistaken_images_are_refused_and_leave_nothing() {
    let bench = bench().await;
    let cases: [(Vec<u8>, Format, &str); 6] = [
        (qcow2_file(|_| {}), Format::Raw, "begins like a qcow2"),
        (b"raw bytes".repeat(100), Format::Qcow2, "does not begin as a qcow2"),
        (
            qcow2_file(|f| f[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9])),
            Format::Qcow2,
            "backing file",
        ),
        (qcow2_file(|f| f[79] = 4), Format::Qcow2, "in another file"),
        (qcow2_file(|f| f[35] = 2), Format::Qcow2, "encrypted"),
        (qcow2_file(|f| f[24] = 0x40), Format::Qcow2, "more than the 100 GiB"),
    ];
    for (bytes, format, wanted) in cases {
        let source = bench.file("image", &bytes);
        let refused = bench.import(&spec(&source, format)).await.unwrap_err();
        let ImageError::Unfit { source, .. } = &refused else { panic!("{refused:?}") };
        assert!(source.to_string().contains(wanted), "{source}");
        bench.assert_clean().await;
    }
}

#[tokio::test]
async fn a_header_only_qemu_img_sees_through_is_refused() {
    if !has_qemu_img() {
        return;
    }
    let bench = bench().await;
    // Reference counts wider than the format has.
    let source = bench.file("a.qcow2", &qcow2_file(|f| f[99] = 7));
    let refused = bench.import(&spec(&source, Format::Qcow2)).await.unwrap_err();
    let ImageError::Unfit { source: Unfit::Unreadable(said), .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(!said.contains("parts"), "our own paths are nobody's business: {said}");
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_qcow2_that_breaks_off_is_refused_wherever_it_does() {
    if !has_qemu_img() {
        return;
    }
    let bench = bench().await;
    let whole = filled_qcow2();
    for length in [100, 70_000, 2 << 16, 3 << 16, 4 << 16, 5 << 16] {
        let source = bench.file("cut.qcow2", &whole[..length]);
        let refused = bench.import(&spec(&source, Format::Qcow2)).await;
        assert!(matches!(refused, Err(ImageError::Unfit { .. })), "{length}: {refused:?}");
        bench.assert_clean().await;
    }
    let source = bench.file("whole.qcow2", &whole);
    bench.import(&spec(&source, Format::Qcow2)).await.unwrap();
}

#[tokio::test]
async fn what_is_no_disk_is_not_taken_for_a_raw_one() {
    let bench = bench().await;
    let vdi = [
        b"<<< Oracle VM VirtualBox Disk Image >>>\n".as_slice(),
        &[0; 24],
        &[0x7f, 0x10, 0xda, 0xbe],
    ];
    let tar = [[b'x'; 257].as_slice(), b"ustar"];
    let cases: [(Vec<u8>, &str); 13] = [
        (vdi.concat(), "declare it vdi"),
        (b"KDMV".to_vec(), "declare it vmdk"),
        (b"\x1f\x8b\x08".to_vec(), "gunzip"),
        (b"\xfd7zXZ\0".to_vec(), "unxz"),
        (b"\x28\xb5\x2f\xfd".to_vec(), "unzstd"),
        (b"BZh91AY&SY".to_vec(), "bunzip2"),
        (b"\x04\x22\x4d\x18".to_vec(), "unlz4"),
        (b"PK\x03\x04".to_vec(), "unzip"),
        (b"7z\xbc\xaf\x27\x1c".to_vec(), "7z x"),
        (tar.concat(), "tar -x"),
        (b"<!DOCTYPE html>".to_vec(), "address of the file"),
        (b"\xef\xbb\xbf\n <HTML>".to_vec(), "address of the file"),
        (b"<?xml version='1.0'?><Error/>".to_vec(), "address of the file"),
    ];
    for (mut bytes, cure) in cases {
        bytes.resize(4096, 1);
        let source = bench.file("image", &bytes);
        for format in [Format::Raw, Format::Qcow2] {
            let refused = bench.import(&spec(&source, format)).await.unwrap_err();
            let ImageError::Unfit { source, .. } = &refused else { panic!("{refused:?}") };
            assert!(source.to_string().contains(cure), "{source}");
        }
        bench.assert_clean().await;
    }
    // Ramdisks are archives, and compressed; kernels may be.
    let source = bench.file("initrd.gz", b"\x1f\x8b\x08");
    bench.import(&spec(&source, Format::Ramdisk)).await.unwrap();
    bench.import(&spec(&source, Format::Kernel)).await.unwrap();
}

// What is sent.

#[tokio::test]
async fn what_is_sent_in_pieces_is_imported_and_a_piece_may_come_again() {
    let bench = bench().await;
    let bytes = noise(100_000);
    let id = UploadId::random();
    let send = async |from: usize, to: usize| {
        bench.cache.upload(id, from as u64, bytes[from..to].to_vec()).await
    };
    let gap = send(1, 2).await.unwrap_err().to_string();
    assert_eq!(gap, format!("conflict: upload {id} has 0 bytes: what follows these is next"));
    assert_eq!(send(0, 60_000).await.unwrap(), Bytes(60_000));
    assert_eq!(send(0, 60_000).await.unwrap(), Bytes(60_000), "the answer was lost");
    assert!(send(60_001, 70_000).await.is_err());
    assert_eq!(send(60_000, 100_000).await.unwrap(), Bytes(100_000));
    let source = format!("upload:{id}");
    let imported = bench.import(&spec(&source, Format::Kernel)).await.unwrap();
    assert_eq!(imported.sha256, sha256(&bytes));
    bench.cache.drop_upload(id).await.unwrap();
    let gone = bench.import(&spec(&source, Format::Raw)).await.unwrap_err();
    assert!(matches!(gone, ImageError::Unreadable { .. }), "{gone:?}");
    bench.cache.drop_upload(id).await.unwrap();
}

#[tokio::test]
async fn uploads_are_bounded_and_old_ones_go_unless_they_are_needed() {
    let bench = bench_with(|limits| limits.size = Bytes(10)).await;
    let cache = &bench.cache;
    let ids: Vec<_> = (0..16).map(|_| UploadId::random()).collect();
    let large = cache.upload(ids[0], 0, vec![1; 11]).await.unwrap_err();
    assert!(matches!(large, ImageError::TooLarge { .. }), "{large:?}");
    for id in &ids {
        cache.upload(*id, 0, vec![1; 10]).await.unwrap();
    }
    let more = cache.upload(UploadId::random(), 0, vec![1]).await.unwrap_err();
    assert!(matches!(more, ImageError::ManyUploads { .. }), "{more:?}");
    assert_eq!(cache.sweep_uploads(|_| false).await.unwrap(), 0, "they are new");
    let needed = ids[3];
    let swept =
        cache.sweep_old_uploads(Some(Duration::ZERO), move |id| id == needed).await.unwrap();
    assert_eq!(swept, 15);
    cache.upload(needed, 10, Vec::new()).await.unwrap();
    let full = bench_with(|limits| limits.keep_free = Bytes(u64::MAX / 2)).await;
    let full = full.cache.upload(needed, 0, vec![1]).await.unwrap_err();
    assert!(matches!(full, ImageError::NoSpace { .. }), "{full:?}");
}

// From servers.

/// How a server answers one request.
#[derive(Clone, Default)]
struct Reply {
    head: String,
    body: Vec<u8>,
    after: After,
}

/// What a server does when it has sent its answer.
#[derive(Clone, Copy, Default)]
enum After {
    #[default]
    Close,
    Hang,
}

/// A request as it came: its headers by lower-case name.
type Headers = HashMap<String, String>;

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Headers>>>,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers the n-th request (from 0) as `answer` says.
    async fn start(answer: impl Fn(usize, &Headers) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/image", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Headers>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let sent = Arc::clone(&bodies);
        let task = tokio::spawn(async move {
            let mut hanging = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let headers = read_request(&mut stream).await;
                if let Some(length) = headers.get("content-length") {
                    let mut body = vec![0; length.parse().unwrap()];
                    stream.read_exact(&mut body).await.unwrap();
                    sent.lock().unwrap().push(body);
                }
                let count = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(headers.clone());
                    seen.len() - 1
                };
                let reply = answer(count, &headers);
                stream.write_all(reply.head.as_bytes()).await.ok();
                stream.write_all(&reply.body).await.ok();
                stream.flush().await.ok();
                match reply.after {
                    After::Close => drop(stream),
                    After::Hang => hanging.push(stream),
                }
            }
        });
        Self { url, requests, bodies, task }
    }

    fn request(&self, n: usize) -> Headers {
        self.requests.lock().unwrap()[n].clone()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Headers {
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        let count = stream.read_line(&mut line).await.unwrap_or(0);
        let line = line.trim_end();
        if count == 0 || line.is_empty() {
            return headers;
        }
        if let Some((name, value)) = line.split_once(": ") {
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }
}

fn ok(length: usize, more: &str, body: &[u8]) -> Reply {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n");
    Reply { head, body: body.to_vec(), after: After::Close }
}

fn rest(bytes: &[u8], from: usize) -> Reply {
    let (length, last) = (bytes.len() - from, bytes.len() - 1);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\nconnection: close\r\n\
         content-range: bytes {from}-{last}/{}\r\n\r\n",
        bytes.len()
    );
    Reply { head, body: bytes[from..].to_vec(), after: After::Close }
}

fn range_start(headers: &Headers) -> Option<usize> {
    headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

const TAG: &str = "etag: \"v1\"\r\n";

#[tokio::test]
async fn a_download_is_told_as_it_goes() {
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let server = Server::start(move |_, _| ok(sent.len(), TAG, &sent)).await;
    let bench = bench().await;
    let progress = watch::Sender::new(Progress::default());
    let spec = ImportSpec { sha256: Some(sha256(&bytes)), ..spec(&server.url, Format::Raw) };
    let imported = bench.cache.import(&spec, &progress, |_| {}).await.unwrap();
    assert_eq!(fs::read(imported.path).unwrap(), bytes);
    let total = Bytes(1 << 20);
    let end = Progress { phase: Phase::Checking, received: total, total: Some(total) };
    assert_eq!(*progress.borrow(), end);
    assert_eq!(server.request(0)["accept-encoding"], "identity");
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let server = Server::start(move |_, headers| match range_start(headers) {
        None => ok(sent.len(), TAG, &sent[..300_000]),
        Some(from) if from < 600_000 => {
            let mut reply = rest(&sent, from);
            reply.body.truncate(300_000);
            reply
        }
        Some(from) => rest(&sent, from),
    })
    .await;
    let bench = bench().await;
    let imported = bench.import(&spec(&server.url, Format::Raw)).await.unwrap();
    assert_eq!(fs::read(imported.path).unwrap(), bytes);
    assert_eq!(imported.sha256, sha256(&bytes));
    assert_eq!(server.count(), 3);
    assert_eq!(server.request(1)["if-range"], "\"v1\"");
    assert_eq!(server.request(1)["range"], "bytes=300000-");
}

#[tokio::test]
async fn an_import_cancelled_or_given_up_is_resumed_by_the_next() {
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let server = Server::start(move |_, headers| match range_start(headers) {
        None => Reply { after: After::Hang, ..ok(sent.len(), TAG, &sent[..500_000]) },
        Some(from) => rest(&sent, from),
    })
    .await;
    let bench = bench().await;
    let spec = spec(&server.url, Format::Raw);
    let progress = watch::Sender::new(Progress::default());
    let mut watching = progress.subscribe();
    tokio::select! {
        _ = bench.cache.import(&spec, &progress, |_| {}) => panic!("it cannot end"),
        half = watching.wait_for(|progress| progress.received == Bytes(500_000)) => drop(half),
    }
    let imported = bench.import(&spec).await.unwrap();
    assert_eq!(imported.sha256, sha256(&bytes));
    assert!(range_start(&server.request(1)).is_some());
}

#[tokio::test]
async fn what_another_run_of_the_agent_left_is_forgotten_by_the_images_name() {
    let server =
        Server::start(|_, _| Reply { after: After::Hang, ..ok(1 << 20, TAG, &[7; 500_000]) }).await;
    let bench = bench().await;
    for name in ["mine", "other"] {
        let url = format!("{}?for={name}", server.url);
        let spec = ImportSpec { name: name.parse().unwrap(), ..spec(&url, Format::Raw) };
        let (progress, mut seen) = watch::channel(Progress::default());
        tokio::select! {
            _ = bench.cache.import(&spec, &progress, |_| {}) => panic!("it cannot end"),
            half = seen.wait_for(|progress| progress.received == Bytes(500_000)) => drop(half),
        }
        drop(bench.cache.lock(&spec.source.key()).lock_owned().await);
    }
    assert_eq!(bench.parts(), 4, "two parts, each with its note");
    let cache = Cache::open(&bench.folder.path().join("cache"), limits()).await.unwrap();
    cache.forget_image(&"mine".parse().unwrap()).await.unwrap();
    assert_eq!(bench.parts(), 2);
    cache.forget_image(&"other".parse().unwrap()).await.unwrap();
    bench.assert_clean().await;
}

#[tokio::test]
async fn an_import_that_is_forgotten_leaves_no_part() {
    let bench = bench().await;
    // Sparse: it takes no space, and a while to read.
    let path = bench.folder.path().join("large");
    fs::File::create(&path).unwrap().set_len(48 << 20).unwrap();
    let spec = spec(path.to_str().unwrap(), Format::Raw);
    let (progress, mut seen) = watch::channel(Progress::default());
    {
        let import = bench.cache.import(&spec, &progress, |_| {});
        let begun = seen.wait_for(|now| now.received.0 > 0);
        tokio::select! {
            biased;
            _ = begun => {}
            ended = import => panic!("it was over before it could be left: {ended:?}"),
        }
    }
    bench.cache.forget(&spec.source).await.unwrap();
    bench.assert_clean().await;
    // What nobody began is as good as forgotten, and it can be had after all.
    bench.cache.forget(&spec.source).await.unwrap();
    bench.import(&spec).await.unwrap();
}

#[tokio::test]
async fn a_file_that_changed_on_the_server_is_fetched_anew() {
    let old = noise(1 << 20);
    let new: Vec<u8> = old.iter().rev().copied().collect();
    let sent = new.clone();
    let server = Server::start(move |n, _| match n {
        0 => ok(old.len(), TAG, &old[..500_000]),
        // If-Range does not match: all of the new version.
        _ => ok(sent.len(), "etag: \"v2\"\r\n", &sent),
    })
    .await;
    let bench = bench().await;
    let imported = bench.import(&spec(&server.url, Format::Raw)).await.unwrap();
    assert_eq!(fs::read(imported.path).unwrap(), new);
}

#[tokio::test]
async fn without_a_strong_validator_nothing_is_pieced_together() {
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let server = Server::start(move |n, _| match n {
        0 => ok(sent.len(), "etag: W/\"v1\"\r\n", &sent[..500_000]),
        _ => ok(sent.len(), "", &sent),
    })
    .await;
    let bench = bench().await;
    let imported = bench.import(&spec(&server.url, Format::Raw)).await.unwrap();
    assert_eq!(imported.sha256, sha256(&bytes));
    assert!(!server.request(1).contains_key("range"));
}

#[tokio::test]
async fn a_wrong_range_is_not_pieced_together() {
    let bytes = noise(1 << 20);
    let server = Server::start(move |n, _| match n {
        0 => ok(bytes.len(), TAG, &bytes[..500_000]),
        _ => rest(&bytes, 1000),
    })
    .await;
    let bench = bench().await;
    let refused = bench.import(&spec(&server.url, Format::Raw)).await.unwrap_err();
    assert!(matches!(refused, ImageError::Answer { .. }), "{refused:?}");
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_server_that_stops_sending_is_given_up_on() {
    let bytes = noise(1 << 20);
    let server = Server::start(move |_, _| Reply {
        after: After::Hang,
        ..ok(bytes.len(), "", &bytes[..1000])
    })
    .await;
    let bench = bench_with(|limits| {
        limits.idle = Duration::from_millis(100);
        limits.retries = 1;
    })
    .await;
    let refused = bench.import(&spec(&server.url, Format::Raw)).await.unwrap_err();
    assert!(matches!(refused, ImageError::Stalled { .. }), "{refused:?}");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_download_has_a_last_moment() {
    let server = Server::start(|_, _| Reply { after: After::Hang, ..Reply::default() }).await;
    let bench = bench_with(|limits| limits.total = Duration::from_millis(100)).await;
    let refused = bench.import(&spec(&server.url, Format::Raw)).await.unwrap_err();
    assert!(matches!(refused, ImageError::TooSlow { .. }), "{refused:?}");
    assert!(refused.is_transient());
}

#[tokio::test]
async fn more_than_the_cap_is_refused_announced_or_not() {
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let announced = Server::start(move |_, _| ok(sent.len(), TAG, &[])).await;
    let unannounced = Server::start(move |_, _| Reply {
        head: "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
        body: bytes.clone(),
        after: After::Close,
    })
    .await;
    let bench = bench_with(|limits| limits.size = Bytes::kib(100)).await;
    for server in [&announced, &unannounced] {
        let digest = Some(sha256(b"another"));
        let spec = ImportSpec { sha256: digest, ..spec(&server.url, Format::Raw) };
        let refused = bench.import(&spec).await.unwrap_err();
        assert!(matches!(refused, ImageError::TooLarge { .. }), "{refused:?}");
        assert_eq!(server.count(), 1);
        bench.assert_clean().await;
    }
}

#[tokio::test]
async fn a_body_whose_end_is_not_proved_is_taken_only_by_its_digest() {
    let bytes = noise(1 << 16);
    let reply = |head: &str, body: &[u8]| {
        let (head, body) = (format!("{head}\r\nconnection: close\r\n\r\n"), body.to_vec());
        Reply { head, body, after: After::Close }
    };
    let with_digest = ImportSpec { sha256: Some(sha256(&bytes)), ..spec("/x", Format::Raw) };
    let without = spec("/x", Format::Raw);
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let bench = bench().await;
        let (whole, half) = (bytes.clone(), bytes[..40_000].to_vec());
        let head = format!("{version} 200 OK");
        let sent = [half.clone(), half, whole];
        let server = Server::start(move |n, _| reply(&head, &sent[n.min(2)])).await;
        let source = || server.url.parse().unwrap();
        let unproved = bench.import(&ImportSpec { source: source(), ..without.clone() }).await;
        assert!(matches!(unproved, Err(ImageError::NoEnd { .. })), "{unproved:?}");
        let spec = ImportSpec { source: source(), ..with_digest.clone() };
        let cut = bench.import(&spec).await;
        assert!(matches!(cut, Err(ImageError::Digest { .. })), "{cut:?}");
        bench.assert_clean().await;
        bench.import(&spec).await.unwrap();
    }
    // In pieces, the last of which is empty.
    let bench = bench().await;
    let chunks = |ended: &str| [b"10000\r\n", bytes.as_slice(), ended.as_bytes()].concat();
    let sent = [chunks("\r\n"), chunks("\r\n0\r\n\r\n")];
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked";
    let server = Server::start(move |n, _| reply(head, &sent[n.min(1)])).await;
    let spec = ImportSpec { source: server.url.parse().unwrap(), ..without };
    assert_eq!(bench.import(&spec).await.unwrap().sha256, with_digest.sha256.unwrap());
    assert_eq!(server.count(), 2, "the first broke off before its last piece");
}

#[tokio::test]
async fn redirects_are_followed_to_an_end() {
    let bytes = noise(4096);
    let server = Server::start(move |n, _| match n {
        0 => Reply { head: redirect("/elsewhere"), ..Reply::default() },
        _ => ok(bytes.len(), TAG, &bytes),
    })
    .await;
    let bench = bench().await;
    bench.import(&spec(&server.url, Format::Raw)).await.unwrap();
    let circle = Server::start(|_, _| Reply { head: redirect("/image"), ..Reply::default() }).await;
    let refused = bench.import(&spec(&circle.url, Format::Raw)).await.unwrap_err();
    assert!(matches!(refused, ImageError::Redirect { .. }), "{refused:?}");
    assert_eq!(circle.count(), 1 + limits().redirects);
}

fn redirect(to: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

fn status(line: &str) -> Reply {
    let head = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    Reply { head, ..Reply::default() }
}

#[tokio::test]
async fn a_refusal_is_final_and_a_trouble_is_tried_again() {
    let bench = bench().await;
    let server = Server::start(|_, _| status("404 Not Found")).await;
    let refused = bench.import(&spec(&server.url, Format::Raw)).await.unwrap_err();
    assert!(matches!(refused, ImageError::Status { status: 404, .. }), "{refused:?}");
    assert_eq!(server.count(), 1);
    let bytes = noise(4096);
    let server = Server::start(move |n, _| match n {
        0 => status("503 Service Unavailable"),
        _ => ok(bytes.len(), TAG, &bytes),
    })
    .await;
    bench.import(&spec(&server.url, Format::Raw)).await.unwrap();
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn errors_do_not_show_credentials() {
    let server = Server::start(|_, _| status("403 Forbidden")).await;
    let bench = bench().await;
    let url = server.url.replace("http://", "http://me:hunter2@") + "?signature=hunter2";
    let mut error: &dyn std::error::Error =
        &bench.import(&spec(&url, Format::Raw)).await.unwrap_err();
    loop {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        let Some(source) = error.source() else { break };
        error = source;
    }
    assert!(server.request(0)["authorization"].starts_with("Basic "));
}

#[tokio::test]
async fn two_imports_of_one_source_at_once_make_one_file() {
    let bytes = noise(1 << 20);
    let digest = sha256(&bytes);
    let server = Server::start(move |_, _| ok(bytes.len(), TAG, &bytes)).await;
    let bench = bench().await;
    let spec = ImportSpec { sha256: Some(digest), ..spec(&server.url, Format::Raw) };
    let (a, b) = tokio::join!(bench.import(&spec), bench.import(&spec));
    assert_eq!(a.unwrap().stored, Stored::New);
    assert_eq!(b.unwrap().stored, Stored::AlreadyThere);
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_sweep_keeps_what_can_be_resumed() {
    let bytes = noise(1 << 20);
    let server = Server::start(move |_, _| ok(bytes.len(), TAG, &bytes[..500_000])).await;
    let bench = bench_with(|limits| limits.retries = 0).await;
    // The second try gets nothing new, as this server takes no ranges: it gives up.
    assert!(bench.import(&spec(&server.url, Format::Raw)).await.is_err());
    let parts = bench.folder.path().join("cache/parts");
    fs::write(parts.join("local.part"), "left by a crash").unwrap();
    fs::write(parts.join("other.part"), "of another boot").unwrap();
    fs::write(parts.join("other.note"), r#"{"boot":"another","validator":"\"x\""}"#).unwrap();
    assert_eq!(bench.cache.sweep().await.unwrap(), Swept { removed: 2, kept: 1 });
    assert_eq!(bench.parts(), 2, "the part and its note");
}

const ALL_PACKED: [Compression; 3] = [Compression::Gzip, Compression::Xz, Compression::Zstd];

fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        }
        Compression::Xz => {
            let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
            xz.write_all(bytes).unwrap();
            xz.finish().unwrap()
        }
        Compression::Zstd => {
            let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
            zstd.include_checksum(true).unwrap();
            zstd.write_all(bytes).unwrap();
            zstd.finish().unwrap()
        }
    }
}

fn packed_spec(source: &str, compression: Compression) -> ImportSpec {
    ImportSpec { compression: Some(compression), ..spec(source, Format::Raw) }
}

#[tokio::test]
async fn a_compressed_file_is_checked_as_received_and_kept_unpacked() {
    for compression in ALL_PACKED {
        let bench = bench().await;
        let bytes = noise(3 << 20);
        let file = packed(compression, &bytes);
        let source = bench.file("disk", &file);
        let sha = Some(sha256(&file));
        let spec = ImportSpec { sha256: sha, ..packed_spec(&source, compression) };
        let imported = bench.import(&spec).await.unwrap();
        assert_eq!(imported.sha256, sha256(&bytes));
        assert_eq!(imported.size, Bytes(bytes.len() as u64));
        assert_eq!(fs::read(&imported.path).unwrap(), bytes);
        assert_eq!(fs::metadata(&imported.path).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(bench.parts(), 0);
    }
}

#[tokio::test]
async fn streams_behind_each_other_are_one_file() {
    for compression in ALL_PACKED {
        let bench = bench().await;
        let file = [packed(compression, b"one, "), packed(compression, b"two")].concat();
        let source = bench.file("disk", &file);
        let imported = bench.import(&packed_spec(&source, compression)).await.unwrap();
        assert_eq!(fs::read(&imported.path).unwrap(), b"one, two");
    }
}

#[tokio::test]
async fn what_cannot_be_unpacked_whole_is_refused_and_leaves_nothing() {
    let bench = bench().await;
    for compression in ALL_PACKED {
        let word = compression.as_str();
        let file = packed(compression, &noise(200_000));
        let cut = |length: usize| file[..length].to_vec();
        let mut flipped = file.clone();
        flipped[100_000] ^= 0x55;
        let garbage = || [&file[..], b"and something else behind it"].concat();
        for (bytes, wanted) in [
            (cut(file.len() / 2), Packed::CutShort(word)),
            (cut(file.len() - 1), Packed::CutShort(word)),
            (cut(7), Packed::CutShort(word)),
            (garbage(), Packed::Damaged(word)),
            (flipped, Packed::Damaged(word)),
            (noise(8000), Packed::Not(word)),
            (packed(compression, b""), Packed::Empty),
        ] {
            let source = bench.file("disk", &bytes);
            match bench.import(&packed_spec(&source, compression)).await {
                Err(ImageError::Packed { source, .. }) => assert_eq!(source, wanted),
                other => panic!("{word}, {wanted:?}: {other:?}"),
            }
            bench.assert_clean().await;
        }
    }
}

#[tokio::test]
async fn a_bomb_is_refused_at_the_cap_and_leaves_nothing() {
    let bench = bench_with(|limits| limits.size = Bytes::mib(8)).await;
    for compression in ALL_PACKED {
        let bomb = packed(compression, &vec![0; (8 << 20) + 1]);
        assert!(bomb.len() < 100_000);
        let source = bench.file("bomb", &bomb);
        match bench.import(&packed_spec(&source, compression)).await {
            Err(ImageError::Packed { source, .. }) => {
                assert_eq!(source, Packed::TooLarge(Bytes::mib(8)));
            }
            other => panic!("{compression:?}: {other:?}"),
        }
        bench.assert_clean().await;
        let fits = packed(compression, &vec![0; 8 << 20]);
        let source = bench.file("fits", &fits);
        let imported = bench.import(&packed_spec(&source, compression)).await.unwrap();
        bench.cache.remove(&imported.sha256, Format::Raw, || false).await.unwrap();
    }
}

#[tokio::test]
async fn a_decoder_does_not_take_more_memory_than_it_may() {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let bench = bench().await;
    let mut options = LzmaOptions::new_preset(0).unwrap();
    options.dict_size(256 << 20);
    let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32).unwrap();
    let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    xz.write_all(&noise(1000)).unwrap();
    // A frame's header, by hand: a window of 256 MiB, then a raw block of one byte, the last.
    let zstd = b"\x28\xb5\x2f\xfd\x00\x90\x09\x00\x00x";
    let at_most = b"\x28\xb5\x2f\xfd\x00\x88\x09\x00\x00x";
    for (compression, bytes) in
        [(Compression::Xz, &xz.finish().unwrap()[..]), (Compression::Zstd, zstd)]
    {
        let source = bench.file("disk", bytes);
        match bench.import(&packed_spec(&source, compression)).await {
            Err(ImageError::Packed { source: Packed::Memory, .. }) => {}
            other => panic!("{compression:?}: {other:?}"),
        }
        bench.assert_clean().await;
    }
    let source = bench.file("disk", at_most);
    let imported = bench.import(&packed_spec(&source, Compression::Zstd)).await.unwrap();
    assert_eq!(fs::read(&imported.path).unwrap(), b"x");
}

#[tokio::test]
async fn a_wrong_digest_is_known_before_anything_is_unpacked() {
    let bench = bench().await;
    let source = bench.file("disk", b"this never reaches a decoder");
    let wanted = Some(sha256(b"something else"));
    let spec = ImportSpec { sha256: wanted, ..packed_spec(&source, Compression::Xz) };
    assert!(matches!(bench.import(&spec).await, Err(ImageError::Digest { .. })));
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_compressed_download_is_resumed_as_it_was_received() {
    let bench = bench().await;
    let bytes = noise(1 << 20);
    let file = packed(Compression::Zstd, &bytes);
    let (half, sent) = (file.len() / 2, file.clone());
    let server = Server::start(move |n, headers| match (n, range_start(headers)) {
        (0, _) => ok(sent.len(), "ETag: \"1\"\r\n", &sent[..half]),
        (_, Some(from)) => rest(&sent, from),
        (_, None) => panic!("not resumed"),
    })
    .await;
    let sha = Some(sha256(&file));
    let spec = ImportSpec { sha256: sha, ..packed_spec(&server.url, Compression::Zstd) };
    let imported = bench.import(&spec).await.unwrap();
    assert_eq!(fs::read(&imported.path).unwrap(), bytes);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn two_imports_of_one_compressed_source_at_once_make_one_download() {
    let bench = bench().await;
    let file = packed(Compression::Gzip, &noise(100_000));
    let digest = sha256(&file);
    let server = Server::start(move |_, _| ok(file.len(), "", &file)).await;
    let sha256 = Some(digest);
    let spec = ImportSpec { sha256, ..packed_spec(&server.url, Compression::Gzip) };
    let (one, two) = tokio::join!(bench.import(&spec), bench.import(&spec));
    assert_eq!(one.unwrap().sha256, two.unwrap().sha256);
    assert_eq!(server.count(), 1);
    // As something else, what is known of it does not count.
    let other = ImportSpec { compression: None, ..spec };
    assert!(matches!(bench.import(&other).await, Err(ImageError::Unfit { .. })));
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn what_a_crash_left_half_unpacked_is_swept_and_in_nobodys_way() {
    let bench = bench().await;
    let source = bench.file("disk", &packed(Compression::Xz, b"whole"));
    let spec = packed_spec(&source, Compression::Xz);
    let made = bench.cache.parts.join(format!("{}.made", spec.source.key()));
    fs::write(&made, "half").unwrap();
    let imported = bench.import(&spec).await.unwrap();
    assert_eq!(fs::read(&imported.path).unwrap(), b"whole");
    fs::write(&made, "half").unwrap();
    bench.cache.sweep().await.unwrap();
    assert_eq!(bench.parts(), 0);
}

fn sha512(bytes: &[u8]) -> Sha512 {
    format!("{:x}", sha2::Sha512::digest(bytes)).parse().unwrap()
}

#[tokio::test]
async fn each_digest_that_is_given_is_compared() {
    let bench = bench().await;
    let mut bytes = noise(200_000);
    bytes.extend([0; 200_000]);
    let source = bench.file("disk", &bytes);
    let (right, wrong) = (Some(sha512(&bytes)), Some(sha512(b"")));
    let plain = spec(&source, Format::Raw);
    for digest in [Some(sha256(&bytes)), None] {
        let spec = ImportSpec { sha256: digest, sha512: wrong.clone(), ..plain.clone() };
        match bench.import(&spec).await {
            Err(error @ ImageError::Digest { kind: "SHA-512", .. }) => {
                assert!(error.to_string().contains(right.as_ref().unwrap().as_str()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        bench.assert_clean().await;
    }
    let both = ImportSpec { sha256: Some(sha256(b"")), sha512: right.clone(), ..plain.clone() };
    let refused = bench.import(&both).await;
    assert!(matches!(refused, Err(ImageError::Digest { kind: "SHA-256", .. })), "{refused:?}");
    let good = ImportSpec { sha512: right, ..plain };
    assert_eq!(bench.import(&good).await.unwrap().sha256, sha256(&bytes));
    // A file that is there does not excuse from the other digest.
    let half = ImportSpec { sha256: Some(sha256(&bytes)), sha512: wrong, ..good.clone() };
    assert!(matches!(bench.import(&half).await, Err(ImageError::Digest { .. })));
    // What was compared is known by either.
    fs::remove_file(&source).unwrap();
    assert_eq!(bench.import(&good).await.unwrap().stored, Stored::AlreadyThere);
}

#[tokio::test]
async fn a_resumed_download_has_its_sha_512_from_its_beginning() {
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let server = Server::start(move |_, headers| match range_start(headers) {
        None => ok(sent.len(), TAG, &sent[..300_000]),
        Some(from) => rest(&sent, from),
    })
    .await;
    let bench = bench().await;
    let spec = ImportSpec { sha512: Some(sha512(&bytes)), ..spec(&server.url, Format::Raw) };
    assert_eq!(bench.import(&spec).await.unwrap().sha256, sha256(&bytes));
    assert_eq!(server.count(), 2);
}

/// A vdi without a block of data, as its header goes.
fn vdi(size: Bytes) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    bytes[64..68].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
    bytes[68..72].copy_from_slice(&0x1_0001u32.to_le_bytes());
    bytes[0x4c] = 1;
    bytes[0x170..0x178].copy_from_slice(&size.0.to_le_bytes());
    bytes
}

/// A program in qemu-img's place, which knows a vdi of 1 MiB and converts it like this.
fn converter(bench: &Bench, convert: &str) {
    let program = bench.folder.path().join("qemu-img");
    let info = r#"{"format":"vdi","virtual-size":1048576}"#;
    let script = format!("#!/bin/sh\n[ $1 = convert ] || exec echo '{info}'\n{convert}\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    bench.cache.put_up_with(Limits {
        qemu_img: program,
        directories: vec![bench.folder.path().to_owned()],
        ..limits()
    });
}

#[tokio::test]
async fn disks_of_other_hypervisors_are_compared_as_received_and_kept_as_qcow2() {
    if !has_qemu_img() {
        return;
    }
    let bench = bench().await;
    let raw = bench.file("raw", &noise(1 << 20));
    for (format, options) in [
        (Format::Vmdk, "subformat=streamOptimized"),
        (Format::Vhdx, "subformat=dynamic"),
        (Format::Vhdx, "subformat=fixed"),
        (Format::Vdi, "static=off"),
        (Format::Vdi, "static=on"),
    ] {
        let source = bench.file("disk", b"");
        let word = format.as_str();
        let arguments = ["convert", "-f", "raw", "-O", word, "-o", options, &raw, &source];
        #[expect(clippy::disallowed_methods, reason = "the disks are to be real ones")]
        let made = std::process::Command::new("qemu-img").args(arguments).status().unwrap();
        assert!(made.success(), "{arguments:?}");
        let sha = Some(sha256(&fs::read(&source).unwrap()));
        let asked = ImportSpec { sha256: sha, ..spec(&source, format) };
        let imported = bench.import(&asked).await.unwrap();
        assert_eq!((imported.format, imported.virtual_size), (Format::Qcow2, Bytes::mib(1)));
        let kept = fs::read(&imported.path).unwrap();
        assert_eq!(imported.sha256, sha256(&kept), "{options}");
        assert_eq!(fs::metadata(&imported.path).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(bench.parts(), 0);
        // Who asks for the same has it.
        fs::remove_file(&source).unwrap();
        assert_eq!(bench.import(&asked).await.unwrap().path, imported.path);
    }
}

#[tokio::test]
async fn a_disk_that_is_too_large_or_not_what_was_declared_is_not_converted() {
    let bench = bench().await;
    converter(&bench, "touch $(dirname $0)/converted; exit 1");
    for (format, bytes) in [
        (Format::Vdi, vdi(Bytes::gib(101))),
        (Format::Vdi, vdi(Bytes::mib(2))),
        (Format::Vdi, noise(1 << 20)),
        (Format::Vmdk, vdi(Bytes::mib(1))),
        (Format::Vhdx, vdi(Bytes::mib(1))),
        (Format::Raw, vdi(Bytes::mib(1))),
        (Format::Qcow2, vdi(Bytes::mib(1))),
    ] {
        let source = bench.file("disk", &bytes);
        let refused = bench.import(&spec(&source, format)).await;
        assert!(matches!(refused, Err(ImageError::Unfit { .. })), "{format:?}: {refused:?}");
        bench.assert_clean().await;
        assert!(!bench.folder.path().join("converted").exists());
    }
}

#[tokio::test]
async fn what_is_not_a_whole_qcow2_after_the_conversion_is_refused() {
    let bench = bench().await;
    let source = bench.file("disk", &vdi(Bytes::mib(1)));
    for (convert, says) in [
        ("echo broken block >&2; exit 1", "broken block"),
        ("echo something else > $8", "does not begin as a qcow2"),
        ("exit 0", ""),
    ] {
        converter(&bench, convert);
        match bench.import(&spec(&source, Format::Vdi)).await {
            Err(ImageError::Unfit { source, .. }) => {
                assert!(source.to_string().contains(says), "{source}");
            }
            other => panic!("{convert}: {other:?}"),
        }
        bench.assert_clean().await;
    }
    converter(&bench, "echo 'error: No space left on device' >&2; exit 1");
    let refused = bench.import(&spec(&source, Format::Vdi)).await;
    assert!(matches!(refused, Err(ImageError::NoSpace { .. })), "{refused:?}");
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_conversion_that_is_called_off_ends_and_leaves_nothing() {
    let bench = bench().await;
    let pid = bench.folder.path().join("pid");
    converter(
        &bench,
        &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid.display()),
    );
    let source = bench.file("disk", &vdi(Bytes::mib(1)));
    let asked = spec(&source, Format::Vdi);
    let progress = watch::Sender::new(Progress::default());
    let running = async {
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = bench.cache.import(&asked, &progress, |_| {}) => panic!("it cannot end"),
        () = running => {}
    }
    let process = format!("/proc/{}/cmdline", fs::read_to_string(&pid).unwrap().trim());
    // Gone, or a zombie that the runtime reaps.
    while fs::read_to_string(&process).is_ok_and(|line| !line.is_empty()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.cache.forget(&asked.source).await.unwrap();
    bench.assert_clean().await;
}

#[tokio::test]
async fn servers_are_asked_through_the_proxy_and_its_password_is_not_told() {
    let proxy = Server::start(|_, _| ok(6, "", b"kernel")).await;
    let address = proxy.url.strip_prefix("http://").unwrap().strip_suffix("/image").unwrap();
    let through = format!("http://me:hunter2@{address}").parse::<Proxy>().unwrap();
    let bench = bench_with(|limits| limits.proxy = Some(through)).await;
    let spec = spec("http://images.invalid/kernel", Format::Kernel);
    assert_eq!(bench.import(&spec).await.unwrap().sha256, sha256(b"kernel"));
    assert_eq!(proxy.request(0)["host"], "images.invalid");
    assert_eq!(proxy.request(0)["proxy-authorization"], "Basic bWU6aHVudGVyMg==");
    drop(proxy);
    let dead = "http://me:hunter2@127.0.0.1:1".parse::<Proxy>().unwrap();
    for source in ["http://images.invalid/x", "https://images.invalid/x"] {
        let dead = dead.clone();
        let bench = bench_with(|limits| (limits.proxy, limits.retries) = (Some(dead), 0)).await;
        let spec = ImportSpec { source: source.parse().unwrap(), ..spec.clone() };
        let error = bench.import(&spec).await.unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        bench.assert_clean().await;
    }
}

#[tokio::test]
async fn the_time_that_the_bandwidth_takes_is_not_the_servers() {
    let server = Server::start(|_, _| ok(300_000, "", &[7; 300_000])).await;
    let bench = bench_with(|limits| {
        limits.bandwidth = Some(Bytes(200_000));
        limits.total = Duration::from_millis(500);
    })
    .await;
    let began = std::time::Instant::now();
    bench.import(&spec(&server.url, Format::Kernel)).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}

// Out of the cache.

impl Bench {
    /// An image of these bytes, and then a hole.
    async fn sparse_image(&self, bytes: &[u8], length: u64) -> Imported {
        let source = self.file("sparse", bytes);
        fs::File::options().write(true).open(&source).unwrap().set_len(length).unwrap();
        self.import(&spec(&source, Format::Raw)).await.unwrap()
    }

    async fn export(&self, image: &Imported, export: &Export) -> Result<(), ExportError> {
        let progress = watch::Sender::new((Bytes(0), Bytes(0)));
        let cancel = CancellationToken::new();
        let (sha256, format) = (&image.sha256, image.format);
        let exported = self.cache.export(sha256, format, export, &progress, &cancel).await;
        if exported.is_ok() && matches!(export.to, Destination::Server(_)) {
            assert_eq!(*progress.borrow(), (image.size, image.size));
        }
        exported
    }
}

fn export_to(mark: &str, to: &str) -> Export {
    Export { mark: mark.to_owned(), to: to.parse().unwrap() }
}

/// A folder to export to, and a bench that allows it.
async fn exporting() -> (tempfile::TempDir, Bench) {
    let folder = tempfile::tempdir().unwrap();
    let allowed = vec!["/does/not/exist".into(), folder.path().to_owned()];
    let bench = bench_with(|limits| limits.export_directories = allowed).await;
    (folder, bench)
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_exported_file_is_the_image_with_its_holes_and_takes_nobodys_place() {
    use std::os::unix::fs::MetadataExt;

    let (folder, bench) = exporting().await;
    let image = bench.sparse_image(&noise(70_000), 8 << 20).await;
    let path = folder.path().join("image.raw");
    let export = export_to("a", path.to_str().unwrap());
    bench.export(&image, &export).await.unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(&image.path).unwrap());
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks of 512 bytes", meta.blocks());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    // As after a crash: it is done already.
    bench.export(&image, &export).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), meta.ino());
    bench.cache.end_export(&export, Exported::Kept).await.unwrap();
    bench.cache.end_export(&export, Exported::Kept).await.unwrap();
    assert_eq!(names(folder.path()), ["image.raw"]);
    // Now it is somebody's, as is a link that leads nowhere.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    for (mark, taken) in [("a", &path), ("b", &path), ("b", &link)] {
        let export = export_to(mark, taken.to_str().unwrap());
        let refused = bench.export(&image, &export).await.unwrap_err();
        assert!(matches!(refused, ExportError::Exists { .. }), "{refused:?}");
        bench.cache.end_export(&export, Exported::Dropped).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), meta.ino());
    }
    assert_eq!(names(folder.path()), ["image.raw", "link"]);
}

#[tokio::test]
async fn an_export_that_is_called_off_or_undone_leaves_nothing() {
    let (folder, bench) = exporting().await;
    let image = bench.sparse_image(&noise(3 << 20), 4 << 20).await;
    let export = export_to("a", folder.path().join("image.raw").to_str().unwrap());
    let progress = watch::Sender::new((Bytes(0), Bytes(0)));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (sha256, format) = (&image.sha256, image.format);
    let ended = bench.cache.export(sha256, format, &export, &progress, &cancel).await;
    assert!(matches!(ended, Err(ExportError::Cancelled)), "{ended:?}");
    assert_eq!(*progress.borrow(), (Bytes::mib(1), Bytes::mib(4)), "it had begun");
    assert_eq!(names(folder.path()).len(), 0);
    // What a crash leaves of one that was under way is begun anew, or goes.
    let left = folder.path().join(".ostler-export-a");
    fs::write(&left, "a part").unwrap();
    bench.export(&image, &export).await.unwrap();
    bench.cache.end_export(&export, Exported::Dropped).await.unwrap();
    assert_eq!(names(folder.path()).len(), 0);
    fs::write(&left, "a part").unwrap();
    bench.cache.end_export(&export, Exported::Dropped).await.unwrap();
    assert_eq!(names(folder.path()).len(), 0);
}

#[tokio::test]
async fn an_image_is_exported_only_to_where_that_is_allowed_and_there_is_room() {
    let bench = bench().await;
    let image = bench.sparse_image(b"image", 4096).await;
    let there = bench.folder.path().join("new");
    let refused = bench.export(&image, &export_to("a", there.to_str().unwrap())).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("images.export_directories (it lists no directory)"), "{text}");

    let (folder, bench) = exporting().await;
    let image = bench.sparse_image(b"image", 4096).await;
    let out = folder.path().join("out");
    std::os::unix::fs::symlink(bench.folder.path(), &out).unwrap();
    for path in [there, out.join("new"), folder.path().join("../new"), "/nowhere/new".into()] {
        let export = export_to("a", path.to_str().unwrap());
        let refused = bench.export(&image, &export).await.unwrap_err();
        assert!(matches!(refused, ExportError::NotAllowed { .. }), "{path:?}: {refused:?}");
        bench.cache.end_export(&export, Exported::Dropped).await.unwrap();
        assert!(!path.exists(), "{path:?}");
    }
    let nowhere = export_to("a", folder.path().join("missing/new").to_str().unwrap());
    let refused = bench.export(&image, &nowhere).await.unwrap_err();
    assert!(matches!(refused, ExportError::Io { .. }), "{refused:?}");
    bench.cache.end_export(&nowhere, Exported::Dropped).await.unwrap();
    // A link from one of the directories into one of them.
    fs::create_dir(folder.path().join("deep")).unwrap();
    std::os::unix::fs::symlink("deep", folder.path().join("current")).unwrap();
    let inside = folder.path().join("current/new");
    bench.export(&image, &export_to("b", inside.to_str().unwrap())).await.unwrap();
    assert!(folder.path().join("deep/new").exists());

    let full = Limits {
        keep_free: Bytes(1 << 60),
        export_directories: vec![folder.path().to_owned()],
        ..limits()
    };
    bench.cache.put_up_with(full);
    let path = folder.path().join("full");
    let refused = bench.export(&image, &export_to("c", path.to_str().unwrap())).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("are needed and") && text.contains("are free"), "{text}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_server_is_sent_the_image_once_and_only_a_yes_is_one() {
    for line in ["200 OK", "201 Created", "204 No Content"] {
        let server = Server::start(move |_, _| status(line)).await;
        let bench = bench().await;
        let image = bench.sparse_image(&noise(70_000), 1 << 20).await;
        let export = export_to("a", &format!("{}?sig=hush", server.url));
        bench.export(&image, &export).await.unwrap();
        bench.cache.end_export(&export, Exported::Kept).await.unwrap();
        assert_eq!(server.request(0)["content-length"], (1 << 20).to_string());
        assert!(!server.request(0).contains_key("transfer-encoding"));
        assert!(server.bodies.lock().unwrap()[0] == fs::read(&image.path).unwrap());
    }
    let away = Server::start(|_, _| status("200 OK")).await;
    let target = away.url.clone();
    let redirecting =
        Server::start(move |_, _| Reply { head: redirect(&target), ..Reply::default() }).await;
    let refusing = Server::start(|_, _| status("403 Forbidden")).await;
    let troubled = Server::start(|_, _| status("503 Service Unavailable")).await;
    let bench = bench().await;
    let image = bench.sparse_image(&noise(70_000), 1 << 20).await;
    for server in [&redirecting, &refusing, &troubled] {
        let export = export_to("a", &format!("{}?sig=hush", server.url));
        let error = bench.export(&image, &export).await.unwrap_err();
        assert!(matches!(error, ExportError::Status { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("hush"), "{error:?}");
        assert_eq!(server.count(), 1);
    }
    assert_eq!(away.count(), 0, "a redirect is not followed");
    let dead = export_to("a", "http://127.0.0.1:1/x?sig=hush");
    let error = bench.export(&image, &dead).await.unwrap_err();
    assert!(matches!(error, ExportError::Transfer { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_takes_nothing_more_is_given_up_on_and_one_may_be_behind_a_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/image", listener.local_addr().unwrap());
    let bench = bench_with(|limits| limits.idle = Duration::from_millis(300)).await;
    // More than there is room for on the way.
    let image = bench.sparse_image(b"image", 32 << 20).await;
    let error = bench.export(&image, &export_to("a", &url)).await.unwrap_err();
    assert!(matches!(error, ExportError::Stalled { .. }), "{error:?}");

    let proxy = Server::start(|_, _| status("200 OK")).await;
    let address = proxy.url.strip_prefix("http://").unwrap().strip_suffix("/image").unwrap();
    let through = format!("http://{address}").parse::<Proxy>().unwrap();
    let bench = bench_with(|limits| limits.proxy = Some(through)).await;
    let image = bench.sparse_image(b"image", 4096).await;
    bench.export(&image, &export_to("a", "http://images.invalid/image")).await.unwrap();
    assert_eq!(proxy.request(0)["host"], "images.invalid");
}
