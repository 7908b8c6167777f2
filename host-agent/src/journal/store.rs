//! The tables, and the typed reads and writes on them.

use std::path::Path;
use std::time::Duration;

use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::operation::{Kind, List, State};
use ostler_protocol::rpc::values::{
    IdempotencyKey, Name, OperationId, PortId, Timestamp, VolumeId,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{
    ImageRecord, InstanceRecord, NetworkRecord, OperationRecord, PortRecord, VolumeRecord,
};
use super::{Error, Journal};
use crate::refusal::Operation;

/// What a row of an instance is called in errors.
pub(super) const INSTANCE: &str = "instance";

/// What a row of a volume is called in errors.
pub(super) const VOLUME: &str = "volume";

/// What a row of a port is called in errors.
pub(super) const PORT: &str = "port";

/// The version of the tables, in SQLite's `user_version`.
const VERSION: i64 = 3;

const SCHEMA: &str = "
CREATE TABLE instance (
    id TEXT PRIMARY KEY, revision INTEGER NOT NULL, deleted INTEGER, body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE image (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE network (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE operation (
    id TEXT PRIMARY KEY,
    key TEXT UNIQUE,
    fingerprint TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    finished INTEGER,
    change TEXT NOT NULL,
    was TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE node (boot TEXT NOT NULL) STRICT;
CREATE INDEX operation_accepted ON operation (accepted);
CREATE INDEX operation_unfinished ON operation (accepted) WHERE finished IS NULL;
";

/// What version 2 adds.
const VOLUMES: &str = "
CREATE TABLE volume (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// What version 3 adds.
const PORTS: &str = "
CREATE TABLE port (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = 3;
";

/// What is known at start.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// All instances, deleted ones that are still remembered included.
    pub instances: Vec<InstanceRecord>,
    /// All images.
    pub images: Vec<ImageRecord>,
    /// All networks.
    pub networks: Vec<NetworkRecord>,
    /// All volumes.
    pub volumes: Vec<VolumeRecord>,
    /// All ports.
    pub ports: Vec<PortRecord>,
    /// The operations that are not over, in the order they were accepted.
    pub unfinished: Vec<OperationRecord>,
    /// The boot of the node in which its instances were last seen to.
    pub boot: Option<String>,
    /// The rows that could not be read. They stay where they are.
    pub unreadable: Vec<Error>,
}

/// Rows to be written together.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// The operation as it is now.
    pub operation: Option<OperationRecord>,
    /// An instance as it is now.
    pub instance: Option<InstanceRecord>,
    /// An image as it is now, or that it is gone.
    pub image: Option<Entry<ImageRecord>>,
    /// A network as it is now, or that it is gone.
    pub network: Option<Entry<NetworkRecord>>,
    /// Volumes as they are now, or that they are gone.
    pub volumes: Vec<VolumeEntry>,
    /// Ports as they are now, or that they are gone.
    pub ports: Vec<PortEntry>,
}

impl Write {
    /// Whether this is of an operation that frees space on the disk.
    fn frees(&self) -> bool {
        let frees = |kind| {
            matches!(
                kind,
                Kind::Delete
                    | Kind::ImageRemove
                    | Kind::Offload
                    | Kind::ConfirmResize
                    | Kind::VolumeDelete
            )
        };
        self.operation.as_ref().is_some_and(|record| frees(record.operation.kind))
    }

    fn is_over(&self) -> bool {
        self.operation.as_ref().is_some_and(|record| record.operation.finished.is_some())
    }
}

/// A row as it is now.
#[derive(Debug, Clone)]
pub enum Entry<T, K = Name> {
    /// It is this.
    Put(T),
    /// It is gone.
    Gone(K),
}

/// A volume's row.
pub type VolumeEntry = Entry<VolumeRecord, VolumeId>;

impl VolumeEntry {
    /// The volume.
    pub fn id(&self) -> VolumeId {
        match self {
            Self::Put(volume) => volume.id,
            Self::Gone(id) => *id,
        }
    }
}

/// A port's row.
pub type PortEntry = Entry<PortRecord, PortId>;

/// What acceptance adds to an operation.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The digest of the request, without its secrets.
    pub fingerprint: String,
}

pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let failed = |source| Error::Open { path: path.to_owned(), source };
    let connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )
        .map_err(failed)?;
    let found: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let missing = match found {
        0 => format!("{SCHEMA} {VOLUMES} {PORTS}"),
        1 => format!("{VOLUMES} {PORTS}"),
        2 => PORTS.to_owned(),
        VERSION => String::new(),
        found => return Err(Error::Newer { path: path.to_owned(), found, known: VERSION }),
    };
    if !missing.is_empty() {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {missing} COMMIT;")).map_err(failed)?;
    }
    Ok(connection)
}

impl Journal {
    /// Everything the agent must know when it starts.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn load(&self) -> Result<Snapshot, Error> {
        self.call("read the journal", |db| {
            let mut unreadable = Vec::new();
            Ok(Snapshot {
                instances: bodies(db, INSTANCE, "SELECT id, body FROM instance", &mut unreadable)?,
                images: bodies(db, "image", "SELECT name, body FROM image", &mut unreadable)?,
                networks: bodies(db, "network", "SELECT name, body FROM network", &mut unreadable)?,
                volumes: bodies(db, VOLUME, "SELECT id, body FROM volume", &mut unreadable)?,
                ports: bodies(db, PORT, "SELECT id, body FROM port", &mut unreadable)?,
                boot: rows(db, "SELECT boot FROM node", [], |row| row.get(0))?.pop(),
                unfinished: operations(
                    db,
                    "SELECT id, change, was, body FROM operation WHERE finished IS NULL \
                     ORDER BY accepted",
                    &mut unreadable,
                )?,
                unreadable,
            })
        })
        .await
    }

    /// Write a newly accepted operation together with what it sets at once.
    ///
    /// # Errors
    /// The journal cannot be written; then nothing of it was.
    pub async fn accept(&self, accepted: Accepted, write: Write) -> Result<(), Error> {
        let frees = write.frees();
        let work = move |db: &Connection| {
            if let Some(record) = &write.operation {
                let o = &record.operation;
                let key = o.key.as_ref().map(IdempotencyKey::as_str);
                run(
                    db,
                    "INSERT INTO operation (id, key, fingerprint, subject, state, accepted, \
                     change, was, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        o.id.to_string(),
                        key,
                        accepted.fingerprint,
                        o.subject.to_string(),
                        state_word(o.state),
                        o.accepted.0 as i64,
                        text("operation", &record.change)?,
                        text("operation", &record.was)?,
                        text("operation", o)?
                    ],
                )?;
            }
            put(db, Write { operation: None, ..write.clone() })
        };
        match frees {
            true => self.call_to_free("write an accepted operation", work).await,
            false => self.call("write an accepted operation", work).await,
        }
    }

    /// Write how things are now.
    ///
    /// # Errors
    /// The journal cannot be written; then nothing of it was.
    pub async fn write(&self, write: Write) -> Result<(), Error> {
        if !write.frees() {
            return self.call("write progress", move |db| put(db, write)).await;
        }
        let over = write.is_over();
        let written = self.call_to_free("write progress", move |db| put(db, write.clone())).await;
        if over && written.is_ok() {
            self.refill().await;
        }
        written
    }

    /// Write down in which boot of the node its instances were seen to.
    ///
    /// # Errors
    /// The journal cannot be written; then nothing of it was.
    pub async fn booted(&self, boot: String) -> Result<(), Error> {
        self.call("write the node's boot", move |db| {
            run(db, "DELETE FROM node", [])?;
            run(db, "INSERT INTO node (boot) VALUES (?1)", params![boot])
        })
        .await
    }

    /// The operation a key was used for, and the digest of its request.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn find_key(
        &self,
        key: &IdempotencyKey,
    ) -> Result<Option<(Operation, String)>, Error> {
        let key = key.as_str().to_owned();
        self.call("look up an idempotency key", move |db| {
            let found = db
                .query_row(
                    "SELECT id, body, fingerprint FROM operation WHERE key = ?1",
                    [key],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                )
                .optional()
                .map_err(|source| Error::Sql { action: "look up an idempotency key", source })?;
            found
                .map(|(id, body, fingerprint): (String, String, String)| {
                    Ok((parse("operation", &id, &body)?, fingerprint))
                })
                .transpose()
        })
        .await
    }

    /// An operation, over or not.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        let found = self
            .call("read an operation", move |db| {
                let sql = "SELECT id, body FROM operation WHERE id = ?1";
                rows(db, sql, params![id.to_string()], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
                })
            })
            .await?;
        found.first().map(|(id, body)| parse("operation", id, body)).transpose()
    }

    /// Operations, newest first, `filter.limit` of them at most.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn operations(&self, filter: List, limit: u32) -> Result<Vec<Operation>, Error> {
        self.call("list operations", move |db| {
            let subject = filter.instance.map(|id| format!("instance {id}"));
            let state = filter.state.map(state_word);
            let found = rows(
                db,
                "SELECT id, body FROM operation WHERE (?1 IS NULL OR subject = ?1) \
                 AND (?2 IS NULL OR state = ?2) ORDER BY accepted DESC LIMIT ?3",
                params![subject, state, limit],
                |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
            )?;
            let mut unreadable = Vec::new();
            let read = found.iter().map(|(id, body)| parse("operation", id, body));
            Ok(legible(read, &mut unreadable))
        })
        .await
    }

    /// Forget operations that were over, and instances that were deleted, before then.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn forget(&self, before: Timestamp) -> Result<(), Error> {
        let forgotten = self.call_to_free("forget old operations", move |db| {
            run(db, "DELETE FROM operation WHERE finished < ?1", params![before.0 as i64])?;
            run(db, "DELETE FROM instance WHERE deleted < ?1", params![before.0 as i64])
        });
        forgotten.await?;
        self.refill().await;
        Ok(())
    }
}

fn put(db: &Connection, write: Write) -> Result<(), Error> {
    if let Some(record) = &write.operation {
        let o = &record.operation;
        run(
            db,
            // Writes of the worker and of whoever cancels may overtake each other.
            "UPDATE operation SET state = ?2, finished = ?3, body = ?4 WHERE id = ?1 \
             AND finished IS NULL AND json_extract(body, '$.revision') <= ?5",
            params![
                o.id.to_string(),
                state_word(o.state),
                o.finished.map(|t| t.0 as i64),
                text("operation", o)?,
                o.revision as i64
            ],
        )?;
    }
    if let Some(instance) = &write.instance {
        let deleted = (instance.vm_state == VmState::Deleted).then_some(instance.updated.0 as i64);
        run(
            db,
            "INSERT INTO instance (id, revision, deleted, body) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (id) DO UPDATE SET revision = ?2, deleted = ?3, body = ?4 \
             WHERE revision < ?2",
            params![
                instance.id.to_string(),
                instance.revision as i64,
                deleted,
                text("instance", instance)?
            ],
        )?;
    }
    match &write.image {
        None => {}
        Some(Entry::Put(image)) => run(
            db,
            "INSERT INTO image (name, body) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET body = ?2",
            params![image.name.as_str(), text("image", image)?],
        )?,
        Some(Entry::Gone(name)) => {
            run(db, "DELETE FROM image WHERE name = ?1", params![name.as_str()])?;
        }
    }
    match &write.network {
        None => {}
        Some(Entry::Put(network)) => run(
            db,
            "INSERT INTO network (name, body) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET body = ?2",
            params![network.name.as_str(), text("network", network)?],
        )?,
        Some(Entry::Gone(name)) => {
            run(db, "DELETE FROM network WHERE name = ?1", params![name.as_str()])?;
        }
    }
    for entry in &write.volumes {
        match entry {
            Entry::Put(volume) => run(
                db,
                "INSERT INTO volume (id, body) VALUES (?1, ?2) \
                 ON CONFLICT (id) DO UPDATE SET body = ?2",
                params![volume.id.to_string(), text("volume", volume)?],
            )?,
            Entry::Gone(id) => {
                run(db, "DELETE FROM volume WHERE id = ?1", params![id.to_string()])?;
            }
        }
    }
    for entry in &write.ports {
        match entry {
            Entry::Put(port) => run(
                db,
                "INSERT INTO port (id, body) VALUES (?1, ?2) \
                 ON CONFLICT (id) DO UPDATE SET body = ?2",
                params![port.id.to_string(), text("port", port)?],
            )?,
            Entry::Gone(id) => {
                run(db, "DELETE FROM port WHERE id = ?1", params![id.to_string()])?;
            }
        }
    }
    Ok(())
}

fn run(db: &Connection, sql: &'static str, params: impl rusqlite::Params) -> Result<(), Error> {
    let done = db.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
    done.map(|_| ()).map_err(|source| Error::Sql { action: "write the journal", source })
}

fn rows<T>(
    db: &Connection,
    sql: &'static str,
    params: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    let found = db
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params, read)?.collect());
    found.map_err(|source| Error::Sql { action: "read the journal", source })
}

fn bodies<T: DeserializeOwned>(
    db: &Connection,
    what: &'static str,
    sql: &'static str,
    unreadable: &mut Vec<Error>,
) -> Result<Vec<T>, Error> {
    let found = rows(db, sql, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    Ok(legible(found.iter().map(|(id, body)| parse(what, id, body)), unreadable))
}

/// What could be read; the rest is set aside.
fn legible<T>(read: impl Iterator<Item = Result<T, Error>>, unreadable: &mut Vec<Error>) -> Vec<T> {
    read.filter_map(|row| row.map_err(|error| unreadable.push(error)).ok()).collect()
}

fn operations(
    db: &Connection,
    sql: &'static str,
    unreadable: &mut Vec<Error>,
) -> Result<Vec<OperationRecord>, Error> {
    let found = rows(db, sql, [], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, String>(3)?,
        ))
    })?;
    let read = found.iter().map(|(id, change, was, body)| {
        Ok(OperationRecord {
            operation: parse("operation", id, body)?,
            change: parse("operation", id, change)?,
            was: parse("operation", id, was)?,
        })
    });
    Ok(legible(read, unreadable))
}

fn text<T: Serialize>(what: &'static str, value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|source| Error::Body { what, id: String::new(), source })
}

fn parse<T: DeserializeOwned>(what: &'static str, id: &str, body: &str) -> Result<T, Error> {
    serde_json::from_str(body).map_err(|source| Error::Body { what, id: id.to_owned(), source })
}

const fn state_word(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Undone => "undone",
    }
}
