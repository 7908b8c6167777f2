//! The proxy that servers are asked through. Its URL may hold a password, so it is shown without.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use super::source::redacted;

/// A proxy for http and https.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

/// Why a text is no proxy. It is not shown: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a proxy is an http or https URL, as in http://proxy.example:3128")]
pub struct NotAProxy;

impl Proxy {
    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for Proxy {
    type Err = NotAProxy;
    fn from_str(text: &str) -> Result<Self, NotAProxy> {
        let url = Url::parse(text).map_err(|_| NotAProxy)?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        is_http.then_some(Self(url)).ok_or(NotAProxy)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", redacted(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_http_url_and_its_password_is_not_shown() {
        let proxy: Proxy = "http://me:hunter2@proxy.example:3128".parse().unwrap();
        assert_eq!(format!("{proxy:?}"), "Proxy(http://proxy.example:3128/)");
        for bad in ["", "proxy.example:3128", "socks5://me:hunter2@h", "http://"] {
            assert_eq!(bad.parse::<Proxy>().err(), Some(NotAProxy), "{bad}");
        }
    }
}
