//! What a step costs the journal: one commit of the operation and its instance, as a worker makes it
//! before and after each step, beside a bare write of as many bytes that is flushed as SQLite's is,
//! in the same folder.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

use ostler_host_agent::journal::records::{InstanceRecord, OperationRecord, Running};
use ostler_host_agent::journal::{Accepted, Journal, Write};
use ostler_tests::process::Run;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::settings::Settings;

/// Commits before those that count.
const WARM_UP: usize = 20;
/// Callers whose commits come together.
const TOGETHER: usize = 16;
/// A time like any other, milliseconds since the epoch.
const NOW: u64 = 1_795_486_613_001;
/// How far into its file the bare write goes before it begins anew.
const ROUND: u64 = 4 << 20;

/// Commit, and write, in turn.
///
/// # Errors
/// If the journal or the disk refuses.
pub(crate) async fn measure(settings: &Settings) -> Result<Section> {
    // where builds are, and not among temporary files, which may be in memory
    fs::create_dir_all(&settings.folder).map_err(Error::io("making the folder of numbers"))?;
    let place = tempfile::tempdir_in(&settings.folder).map_err(Error::io("making a folder"))?;
    let place = place.path();
    let refused = |error: ostler_host_agent::journal::Error| {
        Error::Lab(ostler_tests::Error::Io {
            step: "the journal".to_owned(),
            source: std::io::Error::other(error),
        })
    };
    let path = place.join("journal.db");
    let (journal, _ended) = Journal::open(&path).map_err(refused)?;
    let mut under_way = UnderWay::new()?;
    let accepted = Accepted { fingerprint: DIGEST.to_owned() };
    journal.accept(accepted, under_way.next()).await.map_err(refused)?;

    // what a commit writes, before SQLite begins the file anew
    let log = place.join("journal.db-wal");
    let before = size(&log);
    for _ in 0..WARM_UP {
        journal.write(under_way.next()).await.map_err(refused)?;
    }
    let bytes = size(&log).saturating_sub(before) / WARM_UP as u64;
    if bytes == 0 {
        return Err(Error::Nothing { what: "a growing log of the journal".to_owned() });
    }
    let mut bare = Bare::open(&place.join("bare"), bytes)?;

    let (mut ours, mut floor, mut together): (Series, Series, Series) = Default::default();
    for _ in 0..settings.commits {
        took(&mut ours, async || journal.write(under_way.next()).await.map_err(refused)).await?;
        took(&mut floor, async || tokio::task::block_in_place(|| bare.write())).await?;
        let many: Vec<Write> = (0..TOGETHER).map(|_| under_way.next()).collect();
        let begun = Instant::now();
        let written = many.into_iter().map(|write| journal.write(write));
        futures_util::future::try_join_all(written).await.map_err(refused)?;
        together.push(begun.elapsed().as_secs_f64() * 1000.0 / TOGETHER as f64);
    }
    let mut section = Section::new("The journal: a commit");
    let ms = Unit::Milliseconds;
    let against = format!("{bytes} bytes written and flushed");
    section.line(Line::new("one commit, of a step", ms, &ours).against(&against, &floor));
    let line = Line::new(format!("each of {TOGETHER} that come together"), ms, &together);
    section.line(line.against(&against, &floor));
    section.note("an operation commits when it is accepted, before each step, and when it is over");
    section.note(format!("on {}", file_system(place).await?));
    section.note("the bare write is one pwrite and fdatasync into a file that has its size");
    Ok(section)
}

async fn took(series: &mut Series, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    work().await?;
    series.took(begun.elapsed());
    Ok(())
}

/// A file that is written to and flushed.
struct Bare {
    file: fs::File,
    block: Vec<u8>,
    at: u64,
}

impl Bare {
    fn open(path: &Path, size: u64) -> Result<Self> {
        let step = || Error::io("the bare file");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(path);
        let mut file = file.map_err(step())?;
        // like SQLite's log, which is written over again and again
        file.write_all(&vec![1; (ROUND + size) as usize]).map_err(step())?;
        file.sync_all().map_err(step())?;
        Ok(Self { file, block: vec![2; size as usize], at: 0 })
    }

    fn write(&mut self) -> Result<()> {
        let written = self
            .file
            .seek(SeekFrom::Start(self.at))
            .and_then(|_| self.file.write_all(&self.block))
            .and_then(|()| self.file.sync_data());
        self.at = (self.at + self.block.len() as u64) % ROUND;
        written.map_err(Error::io("the bare write"))
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |known| known.len())
}

/// The kind of file system a folder is on.
async fn file_system(folder: &Path) -> Result<String> {
    let kind = Run::new("stat").args(["-f", "-c", "%T"]).args([folder]).stdout().await?;
    Ok(kind.trim().to_owned())
}

/// A digest like any other.
const DIGEST: &str = "5257525752575257525752575257525752575257525752575257525752575257";

/// An operation under way, and its instance.
struct UnderWay {
    operation: OperationRecord,
    instance: InstanceRecord,
}

impl UnderWay {
    fn new() -> Result<Self> {
        let id = "bebd254c-4c63-489c-ab3c-770f833a1cd7";
        let steps = ["create root disk", "ensure bridges", "define domain", "start domain"];
        let steps: Vec<Value> = steps
            .map(|name| json!({"name": name, "state": "pending", "started": NOW, "finished": NOW}))
            .to_vec();
        let operation = json!({
            "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "kind": "instance.start",
            "subject": {"instance": id}, "key": DIGEST, "state": "running", "steps": steps,
            "revision": 0, "accepted": NOW, "started": NOW,
        });
        let instance = json!({
            "id": id, "name": "web-1", "image": "debian-12",
            "base": {"sha256": DIGEST, "format": "qcow2", "virtual_size": 10_737_418_240_u64},
            "direct": null, "flavor": "small", "vcpus": 2, "memory": 2_147_483_648_u64,
            "disk": 10_737_418_240_u64, "max_vcpus": 2, "max_memory": 2_147_483_648_u64,
            "ports": [{
                "id": "a6613a53-f510-4713-a1fa-29836dcd2756", "network": "lan",
                "mac": "52:54:00:a6:61:3a",
            }],
            "owner": "tenant-1", "metadata": {"role": "web"}, "built": true, "vm_state": "active",
            "task_state": null, "operation": null, "fault": null, "created": NOW, "updated": NOW,
            "revision": 0, "fingerprint": DIGEST,
        });
        let operation = OperationRecord {
            operation: record("an operation", operation)?,
            change: "start".into(),
            was: Running::No,
        };
        Ok(Self { operation, instance: record("an instance's record", instance)? })
    }

    /// Both as they are after one more change.
    fn next(&mut self) -> Write {
        self.operation.operation.revision += 1;
        self.instance.revision += 1;
        Write {
            operation: Some(self.operation.clone()),
            instance: Some(self.instance.clone()),
            ..Write::default()
        }
    }
}

fn record<T: DeserializeOwned>(what: &'static str, document: Value) -> Result<T> {
    serde_json::from_value(document)
        .map_err(|error| Error::Garbled { what, text: error.to_string() })
}
