//! Images that leave the node: into a file of it, or to a server by HTTP PUT.
//!
//! A [place](super::place) is where a file is made.
//!
//! A server is sent the file's length and then the file, once: a redirect would become another
//! request, or none, and look like success.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures_util::stream;
use ostler_protocol::rpc::values::Bytes;
use reqwest::header::CONTENT_LENGTH;
use reqwest::redirect::Policy;
use reqwest::{Body, Url};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::cache::Cache;
use super::fetch;
use super::place::{Copying, Place};
use super::source::redacted;
use super::sparse::{Piece, Reader, ZEROS};

/// Pieces read ahead of what a server takes.
const AHEAD: usize = 4;

/// An export.
#[derive(Debug, Clone)]
pub struct Export {
    /// What no other export has.
    pub mark: String,
    /// Where the bytes go.
    pub to: Destination,
}

/// Whether the file of an export that is over stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exported {
    /// It does.
    Kept,
    /// It goes.
    Dropped,
}

/// Where an image's bytes go. It shows itself without what may be secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file of this node.
    File(PathBuf),
    /// What an http or https server makes of a PUT.
    Server(Url),
}

/// Why a text is no destination. It is not shown: it may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADestination {
    /// Neither of both.
    #[error("an image goes to an absolute path with a file's name, or to an http or https URL")]
    Neither,
    /// Not a URL after all.
    #[error("the URL is malformed: {0}")]
    Url(String),
}

impl FromStr for Destination {
    type Err = NotADestination;
    fn from_str(text: &str) -> Result<Self, NotADestination> {
        let path = Path::new(text);
        if path.is_absolute() {
            let is_name =
                path.file_name().is_some_and(|name| text.ends_with(&*name.to_string_lossy()));
            return if is_name && !text.contains('\0') {
                Ok(Self::File(path.to_owned()))
            } else {
                Err(NotADestination::Neither)
            };
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => Url::parse(text)
                .map(Self::Server)
                .map_err(|error| NotADestination::Url(error.to_string())),
            Some(_) | None => Err(NotADestination::Neither),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => f.write_str(&redacted(url)),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

/// Why an image was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The image's own file cannot be read.
    #[error("cannot read image {}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The node's configuration does not allow writing there.
    #[error("{} is in none of images.export_directories ({})", path.display(), listed(directories))]
    NotAllowed {
        /// The path.
        path: PathBuf,
        /// Where images may be exported to.
        directories: Vec<PathBuf>,
    },
    /// Something has the name.
    #[error("conflict: there is a file {} already", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The file system is full, or would be; nothing was left behind.
    #[error("no space left for {}{}", path.display(), room(*needed, *free))]
    NoSpace {
        /// The path.
        path: PathBuf,
        /// How much room it needs, with what is to stay free.
        needed: Bytes,
        /// How much there is, where that is known.
        free: Option<Bytes>,
    },
    /// The server said something else than that it has it.
    #[error("{url} answered {status}")]
    Status {
        /// The URL, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The exchange broke.
    #[error("cannot send the image to {url}")]
    Transfer {
        /// The URL, without credentials.
        url: String,
        /// How it broke.
        #[source]
        source: io::Error,
    },
    /// The server stopped reading.
    #[error("{url} took nothing for {after:?}")]
    Stalled {
        /// The URL, without credentials.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// It took too long.
    #[error("{url} did not say within {after:?} that it has the image")]
    TooSlow {
        /// The URL, without credentials.
        url: String,
        /// The time it had.
        after: Duration,
    },
    /// The TLS roots or settings of the node are unusable.
    #[error("cannot make an HTTP client (are the node's CA certificates installed?)")]
    Client(#[source] io::Error),
    /// It was called off.
    #[error("the export was called off")]
    Cancelled,
    /// Anything else the file system said.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

fn listed(directories: &[PathBuf]) -> String {
    match directories {
        [] => "it lists no directory".to_owned(),
        some => {
            let shown: Vec<_> = some.iter().map(|path| path.display().to_string()).collect();
            shown.join(", ")
        }
    }
}

fn room(needed: Bytes, free: Option<Bytes>) -> String {
    match free {
        Some(free) => format!(": {needed} are needed and {free} are free"),
        None => format!(": {needed} are needed"),
    }
}

impl Cache {
    pub(super) async fn export_file(
        &self,
        image: PathBuf,
        export: &Export,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), ExportError> {
        let unreadable = |source| ExportError::Image { path: image.clone(), source };
        let path = image.clone();
        let open = move || {
            let file = File::open(path)?;
            let size = Bytes(file.metadata()?.len());
            Ok((file, size))
        };
        let opened = self.exporters.run(open).await.flatten();
        let (file, size) = opened.map_err(unreadable)?;
        progress.send_replace((Bytes(0), size));
        match &export.to {
            Destination::File(path) => {
                let limits = self.limits();
                let copy = Copying {
                    file,
                    size,
                    keep_free: limits.keep_free,
                    progress: progress.clone(),
                    cancel: cancel.clone(),
                };
                let (path, mark) = (path.clone(), export.mark.clone());
                let write = move || {
                    let place = Place::open(&path, &mark, &limits.export_directories)?;
                    place.fill(&copy)
                };
                self.exporters.run(write).await.map_err(unreadable)??;
            }
            Destination::Server(url) => {
                let put = self.put(url, file, size, progress);
                tokio::select! {
                    sent = put => sent?,
                    () = cancel.cancelled() => return Err(ExportError::Cancelled),
                }
            }
        }
        info!(image = %image.display(), to = %export.to, %size, "image exported");
        Ok(())
    }

    pub(super) async fn settle_export(
        &self,
        export: &Export,
        exported: Exported,
    ) -> Result<(), ExportError> {
        let Destination::File(path) = &export.to else { return Ok(()) };
        let (file, mark) = (path.clone(), export.mark.clone());
        let limits = self.limits();
        let end = move || match Place::open(&file, &mark, &limits.export_directories) {
            Ok(place) => place.settle(exported),
            // Nothing was made there, or it is out of reach.
            Err(ExportError::NotAllowed { .. }) => Ok(()),
            Err(ExportError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        };
        let ended = self.exporters.run(end).await;
        ended.map_err(|source| ExportError::Io { step: "end", path: path.clone(), source })?
    }

    /// Send a file to a server. It ends, and the connection with it, when the future is dropped.
    async fn put(
        &self,
        url: &Url,
        file: File,
        size: Bytes,
        progress: &watch::Sender<(Bytes, Bytes)>,
    ) -> Result<(), ExportError> {
        let limits = self.limits();
        let shown = || redacted(url);
        let client = fetch::client(&limits, Policy::none()).map_err(ExportError::Client)?;
        let (pieces, mut incoming) = mpsc::channel(AHEAD);
        let exporters = self.exporters.clone();
        tokio::spawn(async move { exporters.run(move || read(&file, size, &pieces)).await });
        let (sender, mut sent) = (progress.clone(), 0);
        let body = stream::poll_fn(move |context| {
            let piece = incoming.poll_recv(context);
            if let std::task::Poll::Ready(Some(Ok(piece))) = &piece {
                sent += Vec::len(piece) as u64;
                sender.send_replace((Bytes(sent), size));
            }
            piece
        });
        let request = client.put(url.clone()).header(CONTENT_LENGTH, size.0);
        let answer = request.body(Body::wrap_stream(body)).send();
        tokio::pin!(answer);
        let end = Instant::now() + limits.total;
        let answer = loop {
            let taken = progress.borrow().0;
            // What a server does with all of it before it answers takes its time.
            let pause = if taken < size { limits.idle } else { limits.total };
            let until = end.min(Instant::now() + pause);
            match tokio::time::timeout_at(until, &mut answer).await {
                Ok(answer) => break answer,
                Err(_) if Instant::now() >= end => {
                    return Err(ExportError::TooSlow { url: shown(), after: limits.total });
                }
                Err(_) if progress.borrow().0 == taken => {
                    return Err(ExportError::Stalled { url: shown(), after: limits.idle });
                }
                Err(_) => {}
            }
        };
        let answer = answer.map_err(|error| {
            let source = io::Error::other(error.without_url());
            ExportError::Transfer { url: shown(), source }
        })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(ExportError::Status { url: shown(), status: status.as_u16() }),
        }
    }
}

/// Read a file, holes as the zeros they stand for, until nobody wants more.
fn read(file: &File, size: Bytes, pieces: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut reader = Reader::new(file, size.0);
    loop {
        let is_wanted = match reader.next() {
            Ok(Some(Piece::Data(bytes))) => pieces.blocking_send(Ok(bytes.to_vec())).is_ok(),
            Ok(Some(Piece::Hole(mut count))) => {
                let mut is_wanted = true;
                while count > 0 && is_wanted {
                    let zeros = &ZEROS[..count.min(ZEROS.len() as u64) as usize];
                    is_wanted = pieces.blocking_send(Ok(zeros.to_vec())).is_ok();
                    count -= zeros.len() as u64;
                }
                is_wanted
            }
            Ok(None) => return,
            Err(error) => {
                // Whoever sends tells.
                let _ = pieces.blocking_send(Err(error));
                return;
            }
        };
        if !is_wanted {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_names_and_http_urls_are_destinations_and_secrets_are_not_shown() {
        for bad in
            ["", "a.raw", "/", "/srv/", "/srv/..", "/srv/.", "ftp://h/x", "http://", "http:/x"]
        {
            assert!(bad.parse::<Destination>().is_err(), "{bad:?} was taken");
        }
        for good in ["/srv/a.raw", "http://h/a", "HTTPS://h:8443/a?b=c"] {
            assert!(good.parse::<Destination>().is_ok(), "{good:?} was refused");
        }
        let signed: Destination = "https://h/a?signature=hunter2#hunter2".parse().unwrap();
        assert_eq!(format!("{signed} {signed:?}"), "https://h/a Destination(https://h/a)");
        let bad = "http://me:hunter2@:x/".parse::<Destination>().unwrap_err();
        assert!(!bad.to_string().contains("hunter2"), "{bad}");
    }
}
