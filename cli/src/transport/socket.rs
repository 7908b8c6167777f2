//! The node's UNIX socket: one JSON message a line, one request at a time.

use std::io::ErrorKind;
use std::path::Path;

use ostler_protocol::rpc::envelope::Response;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Message, RESPONSE_LIMIT, TransportError, read_response};

/// A connection to the socket.
pub(crate) struct SocketLink {
    stream: BufReader<UnixStream>,
}

impl SocketLink {
    /// Connect.
    pub(super) async fn open(path: &Path) -> Result<Self, TransportError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Self { stream: BufReader::with_capacity(64 << 10, stream) }),
            Err(source) if source.kind() == ErrorKind::PermissionDenied => {
                Err(TransportError::SocketDenied { path: path.to_owned(), source })
            }
            Err(source) => Err(TransportError::Socket { path: path.to_owned(), source }),
        }
    }

    /// Send a request and read lines until there is its response.
    pub(super) async fn exchange(&mut self, message: &Message) -> Result<Response, TransportError> {
        let lost = |error: std::io::Error| TransportError::Lost(Some(Box::new(error)));
        self.stream.write_all(&message.body).await.map_err(lost)?;
        self.stream.write_all(b"\n").await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)?;
        let line = self.read_line().await?;
        read_response(&line, message)
    }

    /// One line, without its end, or an error once it is too long.
    async fn read_line(&mut self) -> Result<Vec<u8>, TransportError> {
        let mut line = Vec::new();
        loop {
            let available = match self.stream.fill_buf().await {
                Ok([]) => return Err(TransportError::Lost(None)),
                Ok(available) => available,
                Err(error) => return Err(TransportError::Lost(Some(Box::new(error)))),
            };
            let end = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            if line.len() + part.len() > RESPONSE_LIMIT {
                return Err(TransportError::TooLarge);
            }
            line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.stream.consume(used);
            if end.is_some() {
                return Ok(line);
            }
        }
    }
}
