//! The node's own socket: one JSON text a line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Call, CallError, outcome};

/// A connection to the node's socket: one JSON text a line.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Socket {
    /// Connect.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn connect(path: &Path) -> Result<Self, CallError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| CallError::Lost(format!("{}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Send bytes as they are: for what no well-behaved client sends.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        self.stream.write_all(bytes).await.map_err(|error| self.lost(&error))
    }

    /// The next line as it is; `None` when the agent has closed.
    ///
    /// # Errors
    /// If none comes in time.
    pub async fn receive_raw(&mut self, patience: Duration) -> Result<Option<Value>, CallError> {
        let mut line = String::new();
        let read = tokio::time::timeout(patience, self.stream.read_line(&mut line)).await;
        let read = read
            .map_err(|_| CallError::Unanswered { method: "(raw)".to_owned(), waited: patience })?
            .map_err(|error| self.lost(&error))?;
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).map_err(|_| CallError::Garbled(line))
    }

    pub(super) async fn send(&mut self, call: &Call) -> Result<Value, CallError> {
        let id = Uuid::new_v4().to_string();
        let mut bytes = call.body(&id, call.key.as_deref()).to_string().into_bytes();
        bytes.push(b'\n');
        let until = Instant::now() + call.patience;
        timeout_at(until, self.stream.write_all(&bytes))
            .await
            .map_err(|_| call.unanswered())?
            .map_err(|error| self.lost(&error))?;
        loop {
            let mut line = String::new();
            let read = timeout_at(until, self.stream.read_line(&mut line))
                .await
                .map_err(|_| call.unanswered())?
                .map_err(|error| self.lost(&error))?;
            if read == 0 {
                return Err(CallError::Lost(format!("{}: closed", self.path.display())));
            }
            // an answer to a call given up on earlier is passed over
            if let Some(outcome) = outcome(line.as_bytes(), &id) {
                return outcome;
            }
        }
    }

    fn lost(&self, error: &std::io::Error) -> CallError {
        CallError::Lost(format!("{}: {error}", self.path.display()))
    }
}
