//! Images from http and https servers.
//!
//! A transfer that breaks is taken up where it stopped, by a range request that names the version
//! of the file it has the beginning of; a server that has another version by now sends all of it.
//! Every wait has an end, and every length a cap, whatever the server claims or sends. A body whose
//! end nothing proves is taken only if a digest does.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ostler_protocol::rpc::values::{Bytes, Name};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED,
    RANGE, TRANSFER_ENCODING,
};
use reqwest::redirect::Policy;
use reqwest::{Client, NoProxy, Response, StatusCode, Url, Version};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::pace::Pace;
use super::part::{Part, Resumable, Start, Writer, Written, writing};
use super::source::redacted;
use super::{ImageError, Limits, Phase, Progress};
use crate::host;
use crate::threads::Threads;

/// What to fetch and how.
pub(super) struct Fetch<'a> {
    pub(super) image: &'a Name,
    pub(super) url: &'a Url,
    pub(super) part: &'a Part,
    pub(super) cap: Bytes,
    /// Whether what comes is compared with a digest.
    pub(super) proved: bool,
    pub(super) limits: &'a Limits,
    pub(super) threads: &'a Threads,
    pub(super) progress: &'a watch::Sender<Progress>,
    pub(super) pace: &'a Pace,
    /// For how long the pace kept it waiting, milliseconds.
    pub(super) kept: AtomicU64,
}

/// An answer whose body is about to be read.
struct Body {
    response: Response,
    start: Start,
    /// Bytes we have already.
    offset: u64,
    /// Bytes of the whole, if the server tells.
    total: Option<u64>,
}

impl Fetch<'_> {
    /// Fetch all of it into the part, within the time there is.
    pub(super) async fn run(&self) -> Result<Written, ImageError> {
        let client =
            client(self.limits, redirects(self.limits.redirects)).map_err(ImageError::Client)?;
        let after = self.limits.total;
        let end = Instant::now() + after;
        let mut written = std::pin::pin!(self.persist(&client));
        loop {
            let kept = self.kept.load(Ordering::Relaxed);
            let until = end + Duration::from_millis(kept);
            match tokio::time::timeout_at(until, &mut written).await {
                Ok(written) => return written,
                Err(_) if self.kept.load(Ordering::Relaxed) > kept => {}
                Err(_) => return Err(ImageError::TooSlow { url: self.shown(), after }),
            }
        }
    }

    /// Try until it is there, or does not get on any more.
    async fn persist(&self, client: &Client) -> Result<Written, ImageError> {
        let mut idle_tries = 0;
        loop {
            let had = self.have();
            let error = match self.once(client).await {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            idle_tries = if self.have() > had { 0 } else { idle_tries + 1 };
            let full = matches!(error, ImageError::NoSpace { .. });
            if full || !error.is_transient() || idle_tries > self.limits.retries {
                return Err(error);
            }
            let pause = Duration::from_millis(200) * 2u32.pow(idle_tries.min(6));
            warn!(url = self.shown(), %error, have = %Bytes(self.have()), ?pause, "download broke off");
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, client: &Client) -> Result<Written, ImageError> {
        let resumable = self.part.resumable();
        let body = self.ask(client, resumable).await?;
        if !self.proved && !tells_its_end(&body) {
            return Err(ImageError::NoEnd { url: self.shown() });
        }
        self.check_room(&body)?;
        if body.start == Start::Anew {
            let validator = validator(body.response.headers());
            self.part.begin(validator, self.image).map_err(writing(self.part))?;
        }
        self.receive(body).await
    }

    async fn ask(&self, client: &Client, resumable: Option<Resumable>) -> Result<Body, ImageError> {
        // Bytes as they are: a compressed answer would be neither what its length nor what its
        // digest says.
        let mut request = client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(Resumable { have, validator }) = &resumable {
            request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, validator);
        }
        let response = self.in_time(request.send()).await?;
        if response.headers().contains_key(CONTENT_ENCODING) {
            return Err(self.wrong("it is compressed, though that was declined"));
        }
        let length = response.content_length();
        match (response.status(), resumable) {
            (StatusCode::OK, _) => {
                Ok(Body { response, start: Start::Anew, offset: 0, total: length })
            }
            (StatusCode::PARTIAL_CONTENT, Some(Resumable { have, .. })) => {
                let Some((first, total)) = content_range(response.headers()) else {
                    return Err(self.wrong("its Content-Range is not understood"));
                };
                if first != have {
                    return Err(self.wrong("it sent another range than was asked for"));
                }
                info!(url = self.shown(), have = %Bytes(have), "download resumed");
                let total = total.or(length.map(|length| have.saturating_add(length)));
                Ok(Body { response, start: Start::Resume, offset: have, total })
            }
            // All of it is there, or it has become shorter: what we have is of no use to us.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                self.part.discard().map_err(writing(self.part))?;
                let source = io::Error::other("the server has nothing after what is there");
                Err(ImageError::Transfer { url: self.shown(), source })
            }
            (status, _) => Err(ImageError::Status { url: self.shown(), status: status.as_u16() }),
        }
    }

    fn check_room(&self, body: &Body) -> Result<(), ImageError> {
        let Some(total) = body.total else { return Ok(()) };
        if total > self.cap.0 {
            return Err(self.too_large());
        }
        let folder = self.part.data.parent().unwrap_or(&self.part.data);
        let free = host::space(folder).map_err(writing(self.part))?.free;
        let needed = (total - body.offset.min(total)).saturating_add(self.limits.keep_free.0);
        if free.0 < needed {
            return Err(writing(self.part)(io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    async fn receive(&self, body: Body) -> Result<Written, ImageError> {
        let Body { mut response, start, offset, total } = body;
        let writer = Writer::start(self.threads, self.part, start, self.limits.keep_free);
        let mut received = offset;
        let failed = loop {
            let total = total.map(Bytes);
            let phase = Phase::Receiving;
            self.progress.send_replace(Progress { phase, received: Bytes(received), total });
            match self.in_time(response.chunk()).await {
                Ok(Some(chunk)) => {
                    let note = |wait: Duration| {
                        self.kept.fetch_add(wait.as_millis() as u64, Ordering::Relaxed);
                    };
                    self.pace.keep(chunk.len(), note).await;
                    received = received.saturating_add(chunk.len() as u64);
                    if received > self.cap.0 {
                        break Some(self.too_large());
                    }
                    if !writer.push(chunk).await {
                        break None;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = failed {
            writer.abandon().await.map_err(writing(self.part))?;
            return Err(error);
        }
        let written = writer.finish().await.map_err(writing(self.part))?;
        if written.size == Bytes(0) {
            return Err(ImageError::Empty { source_shown: self.shown() });
        }
        if total.is_some_and(|total| total != written.size.0) {
            return Err(self.wrong("it has another length than announced"));
        }
        Ok(written)
    }

    /// The next thing from the server, unless it takes too long.
    async fn in_time<T>(
        &self,
        next: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, ImageError> {
        let after = self.limits.idle;
        match tokio::time::timeout(after, next).await {
            Ok(Ok(next)) => Ok(next),
            Ok(Err(error)) if error.is_redirect() => {
                Err(ImageError::Redirect { url: self.shown() })
            }
            Ok(Err(error)) => {
                let source = io::Error::other(error.without_url());
                Err(ImageError::Transfer { url: self.shown(), source })
            }
            Err(_) => Err(ImageError::Stalled { url: self.shown(), after }),
        }
    }

    fn have(&self) -> u64 {
        self.part.resumable().map_or(0, |resumable| resumable.have)
    }

    fn shown(&self) -> String {
        redacted(self.url)
    }

    fn wrong(&self, what: &'static str) -> ImageError {
        ImageError::Answer { url: self.shown(), what }
    }

    fn too_large(&self) -> ImageError {
        ImageError::TooLarge { source_shown: self.shown(), cap: self.cap }
    }
}

/// Asks servers, through the proxy if there is one: that of the settings, or of the usual variables
/// of the environment. NO_PROXY holds for either.
pub(super) fn client(limits: &Limits, policy: Policy) -> io::Result<Client> {
    // Fails if a provider is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let unusable = |error| io::Error::other(reqwest::Error::without_url(error));
    let mut client = Client::builder();
    if let Some(proxy) = &limits.proxy {
        let proxy = reqwest::Proxy::all(proxy.url().clone()).map_err(unusable)?;
        client = client.proxy(proxy.no_proxy(NoProxy::from_env()));
    }
    client
        .user_agent(concat!("ostler-host-agent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect)
        .redirect(policy)
        .build()
        .map_err(unusable)
}

/// Follow so many, none of them from https to http.
fn redirects(most: usize) -> Policy {
    Policy::custom(move |attempt| {
        let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > most {
            attempt.error("too many redirects")
        } else if from_https && attempt.url().scheme() != "https" {
            attempt.error("redirect from https to http")
        } else {
            attempt.follow()
        }
    })
}

/// Whether a body that breaks off is known from one that ends. Without a length or pieces, of which
/// the last is empty, HTTP/1 ends it with the connection; later versions have a mark for it.
fn tells_its_end(body: &Body) -> bool {
    let codings = body.response.headers().get_all(TRANSFER_ENCODING);
    let last = codings.iter().next_back().and_then(|codings| codings.to_str().ok());
    let last = last.and_then(|codings| codings.rsplit(',').next());
    body.total.is_some()
        || body.response.version() > Version::HTTP_11
        || last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
}

/// What names this version of the file in a later request for its rest. A weak tag does not: two
/// files with the same one may differ in bytes.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let strong = text(ETAG).filter(|tag| tag.starts_with('"'));
    strong.or(text(LAST_MODIFIED)).map(str::to_owned)
}

/// The first byte and the size of the whole, of `bytes 10-99/100` or `bytes 10-99/*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((first, None)),
        total => Some((first, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: reqwest::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn only_what_names_exact_bytes_is_resumed_by() {
        assert_eq!(validator(&headers(ETAG, "\"abc\"")).as_deref(), Some("\"abc\""));
        assert_eq!(validator(&headers(ETAG, "W/\"abc\"")), None);
        assert!(validator(&headers(LAST_MODIFIED, "Mon, 23 Nov 2026 10:00:00 GMT")).is_some());
        assert_eq!(validator(&HeaderMap::new()), None);
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        let read = |text| content_range(&headers(CONTENT_RANGE, text));
        assert_eq!(read("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(read("bytes 10-99/*"), Some((10, None)));
        for bad in ["bytes */100", "10-99/100", "bytes -1-99/100", "bytes 10-99/x", "bytes"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
