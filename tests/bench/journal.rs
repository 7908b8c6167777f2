//! What a step costs the journal: one commit, beside a bare write of as many bytes that is flushed
//! as SQLite's is, in the same folder.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

use ostler_host_agent::journal::records::InstanceRecord;
use ostler_host_agent::journal::{Journal, Write};
use ostler_tests::place::Place;
use serde_json::json;

use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::settings::Settings;

/// Commits before those that count.
const WARM_UP: usize = 20;
/// Callers whose commits come together.
const TOGETHER: usize = 16;
/// How far into its file the bare write goes before it begins anew.
const ROUND: u64 = 4 << 20;

/// Commit, and write, in turn.
///
/// # Errors
/// If the journal or the disk refuses.
pub(crate) async fn measure(settings: &Settings) -> Result<Section> {
    // where builds are, and with them the files of a node: not in memory
    let place = Place::new("journal")?;
    let refused = |error: ostler_host_agent::journal::Error| {
        Error::Lab(ostler_tests::Error::Io {
            step: "the journal".to_owned(),
            source: std::io::Error::other(error),
        })
    };
    let path = place.join("journal.db");
    let (journal, _ended) = Journal::open(&path).map_err(refused)?;
    let mut instance = instance()?;

    // what a commit writes, before SQLite begins the file anew
    let log = place.join("journal.db-wal");
    let before = size(&log);
    for _ in 0..WARM_UP {
        journal.write(next(&mut instance)).await.map_err(refused)?;
    }
    let bytes = (size(&log) - before) / WARM_UP as u64;
    let mut bare = Bare::open(&place.join("bare"), bytes)?;

    let (mut ours, mut floor, mut together): (Series, Series, Series) = Default::default();
    for _ in 0..settings.commits {
        took(&mut ours, async || journal.write(next(&mut instance)).await.map_err(refused)).await?;
        took(&mut floor, async || tokio::task::block_in_place(|| bare.write())).await?;
        let many: Vec<Write> = (0..TOGETHER).map(|_| next(&mut instance)).collect();
        let begun = Instant::now();
        let written = many.into_iter().map(|write| journal.write(write));
        futures_util::future::try_join_all(written).await.map_err(refused)?;
        together.push(begun.elapsed().as_secs_f64() * 1000.0 / TOGETHER as f64);
    }
    let mut section = Section::new("The journal: a commit");
    let ms = Unit::Milliseconds;
    let against = format!("{bytes} bytes written and flushed");
    section.line(Line::new("one commit", ms, &ours).against(&against, &floor));
    let line = Line::new(format!("each of {TOGETHER} that come together"), ms, &together);
    section.line(line.against(&against, &floor));
    section.note("an operation commits when it is accepted, before each step, and when it is over");
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

/// The record as it is after one more change.
fn next(instance: &mut InstanceRecord) -> Write {
    instance.revision += 1;
    Write { instance: Some(instance.clone()), ..Write::default() }
}

/// A record as a boot makes it.
fn instance() -> Result<InstanceRecord> {
    let digest = "5257".repeat(16);
    let record = json!({
        "id": "bebd254c-4c63-489c-ab3c-770f833a1cd7", "name": "web-1", "image": "debian-12",
        "base": {"sha256": digest, "format": "qcow2", "virtual_size": 10_737_418_240_u64},
        "direct": null, "flavor": "small", "vcpus": 2, "memory": 2_147_483_648_u64,
        "disk": 10_737_418_240_u64, "max_vcpus": 2, "max_memory": 2_147_483_648_u64,
        "ports": [{
            "id": "a6613a53-f510-4713-a1fa-29836dcd2756", "network": "lan",
            "mac": "52:54:00:a6:61:3a",
        }],
        "owner": "tenant-1", "metadata": {"role": "web"}, "built": true, "vm_state": "active",
        "task_state": null, "operation": null, "fault": null, "created": 1_795_486_613_001_u64,
        "updated": 1_795_486_613_001_u64, "revision": 0,
        "fingerprint": digest,
    });
    serde_json::from_value(record).map_err(|error| Error::Garbled {
        what: "an instance's record",
        text: error.to_string(),
    })
}
