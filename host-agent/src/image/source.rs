//! Where an image comes from: a path on the node, a URL, or what was sent to the agent.
//!
//! A URL may carry a password or, in its query, a signature. So a source shows itself without
//! both: what is logged, told in errors or kept in the journal is its `Display`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ostler_protocol::rpc::image::UPLOAD;
use ostler_protocol::rpc::values::UploadId;
use reqwest::Url;
use sha2::{Digest, Sha256};

/// Where an image comes from.
#[derive(Clone, PartialEq, Eq)]
pub struct Source(Kind);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Local(PathBuf),
    Remote(Url),
    Upload(UploadId),
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Relative to what?
    #[error(
        "{given:?} is no image source: use an absolute path, an http or https URL, or upload:ID"
    )]
    Neither {
        /// The text, cut short.
        given: String,
    },
    /// Not a URL after all. The text is not shown: it may hold a password.
    #[error("the image's URL is malformed: {why}")]
    Url {
        /// What is wrong with it.
        why: String,
    },
}

impl Source {
    /// What was sent to the agent, if it is that.
    pub fn upload(&self) -> Option<UploadId> {
        match self.0 {
            Kind::Upload(id) => Some(id),
            Kind::Local(_) | Kind::Remote(_) => None,
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.0
    }

    /// A name for what is kept of it while it is fetched; tells nothing about it.
    pub(super) fn key(&self) -> String {
        let digest = match &self.0 {
            Kind::Local(path) => Sha256::digest(path.as_os_str().as_encoded_bytes()),
            Kind::Remote(url) => Sha256::digest(url.as_str()),
            Kind::Upload(id) => Sha256::digest(format!("{UPLOAD}{id}")),
        };
        format!("{digest:x}")
    }
}

/// A URL without what must not be seen.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs without a host, which http URLs are not.
    shown.set_username("").ok();
    shown.set_password(None).ok();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

impl FromStr for Source {
    type Err = SourceError;
    fn from_str(text: &str) -> Result<Self, SourceError> {
        if Path::new(text).is_absolute() && !text.contains('\0') {
            return Ok(Self(Kind::Local(PathBuf::from(text))));
        }
        if let Some(id) = text.strip_prefix(UPLOAD).and_then(|id| id.parse().ok()) {
            return Ok(Self(Kind::Upload(id)));
        }
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        if !lower.starts_with("http://") && !lower.starts_with("https://") {
            // Where a password might be, it is left out.
            let given = match (text.split_once("://"), text.rsplit_once('@')) {
                (Some((scheme, _)), _) => format!("{scheme}://..."),
                (None, Some((_, host))) => format!("...@{host}"),
                (None, None) => text.to_owned(),
            };
            return Err(SourceError::Neither { given: given.chars().take(80).collect() });
        }
        match Url::parse(text) {
            Ok(url) => Ok(Self(Kind::Remote(url))),
            Err(error) => Err(SourceError::Url { why: error.to_string() }),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Local(path) => path.display().fmt(f),
            Kind::Remote(url) => f.write_str(&redacted(url)),
            Kind::Upload(id) => write!(f, "{UPLOAD}{id}"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_and_http_urls_are_sources() {
        for bad in [
            "upload:",
            "upload:../x",
            "",
            "image.raw",
            "./x",
            "ftp://host/x",
            "file:///etc/shadow",
            "http://",
            "nbd:x",
        ] {
            assert!(bad.parse::<Source>().is_err(), "{bad:?} was taken");
        }
        for good in [
            "upload:0f8fad5b-d9cb-469f-a165-70867728950e",
            "/var/image.raw",
            "http://host/x",
            "HTTPS://host:8443/x?y=z",
        ] {
            assert!(good.parse::<Source>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let text = "https://me:hunter2@host/a/b.qcow2?signature=hunter2#hunter2";
        let source: Source = text.parse().unwrap();
        assert_eq!(source.to_string(), "https://host/a/b.qcow2");
        assert!(!format!("{source:?}").contains("hunter2"));
        for bad in ["ftp://me:hunter2@host", "me:hunter2@host:x", "http://me:hunter2@:x/"] {
            assert!(!bad.parse::<Source>().unwrap_err().to_string().contains("hunter2"));
        }
    }
}
