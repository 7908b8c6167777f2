//! What is allowed in a config drive: nova's bounds, and host names by RFC 1123.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_protocol::rpc::values::{InstanceId, Secret};

/// The most base64 that user data may be, bytes; nova's bound, and vendor data's too.
const DATA_MAX: usize = 65_535;
/// The most public keys.
const KEYS_MAX: usize = 16;
/// The longest label of a host name, and the longest name, bytes.
const LABEL_MAX: usize = 63;
const HOSTNAME_MAX: usize = 253;

/// Which parameter is wrong, and in what; never what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The parameter.
    pub(crate) parameter: &'static str,
    /// What is wrong, and what would be right.
    pub(crate) why: String,
}

impl Wrong {
    fn new(parameter: &'static str, why: impl Into<String>) -> Self {
        Self { parameter, why: why.into() }
    }
}

/// User data and vendor data.
///
/// # Errors
/// One is too long or not base64; or vendor data are not text, which they are in both layouts.
pub(crate) fn check_data(
    user_data: Option<&Secret>,
    vendor_data: Option<&Secret>,
) -> Result<(), Wrong> {
    let decoded = |parameter, data: Option<&Secret>| {
        let base64 = data.map(Secret::expose).unwrap_or_default();
        if base64.len() > DATA_MAX {
            let most = DATA_MAX / 4 * 3;
            let why = format!(
                "{parameter} is too long: {DATA_MAX} bytes of base64 at most, which is {most} bytes \
                 of data"
            );
            return Err(Wrong::new(parameter, why));
        }
        let not = |_| Wrong::new(parameter, format!("{parameter} is not base64 with its padding"));
        STANDARD.decode(base64).map_err(not)
    };
    decoded("user_data", user_data)?;
    let text = std::str::from_utf8(&decoded("vendor_data", vendor_data)?).map(drop);
    text.map_err(|_| Wrong::new("vendor_data", "vendor_data is not text in UTF-8"))
}

/// Public keys; `problem` says what keeps a line from being one.
///
/// # Errors
/// There are too many, or one is none.
pub(crate) fn check_keys(
    keys: &[String],
    problem: impl Fn(&str) -> Option<&'static str>,
) -> Result<(), Wrong> {
    if keys.len() > KEYS_MAX {
        return Err(Wrong::new("ssh_keys", format!("ssh_keys are at most {KEYS_MAX}")));
    }
    keys.iter().enumerate().try_for_each(|(at, key)| match problem(key) {
        None => Ok(()),
        Some(problem) => {
            let why = format!("ssh_keys[{at}] is not a public key: {problem}");
            Err(Wrong::new("ssh_keys", why))
        }
    })
}

/// A host name, with a domain or without.
///
/// # Errors
/// It is none.
pub(crate) fn check_hostname(hostname: &str) -> Result<(), Wrong> {
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if hostname.len() <= HOSTNAME_MAX && hostname.split('.').all(label) {
        return Ok(());
    }
    let why = format!(
        "hostname is not one: labels of letters, digits and inner hyphens with dots between them, \
         {LABEL_MAX} bytes each, {HOSTNAME_MAX} in all"
    );
    Err(Wrong::new("hostname", why))
}

/// An instance's name as a host name, as nova makes it.
pub(crate) fn fit_hostname(name: &str, id: InstanceId) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let made: String = name.chars().map(fit).collect();
    let made = made.trim_matches('-');
    let made = made.get(..LABEL_MAX).unwrap_or(made).trim_end_matches('-');
    if made.is_empty() { format!("Server-{id}") } else { made.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: usize) -> Secret {
        Secret::new(STANDARD.encode(vec![b'x'; bytes]))
    }

    #[test]
    fn data_are_as_long_as_in_nova_and_no_longer() {
        // 65532 bytes of base64: the next longer is 65536
        assert_eq!(check_data(Some(&data(49_149)), Some(&data(49_149))), Ok(()));
        assert_eq!(check_data(Some(&data(49_150)), None).unwrap_err().parameter, "user_data");
        assert_eq!(check_data(None, Some(&data(49_150))).unwrap_err().parameter, "vendor_data");
        assert_eq!(check_data(None, None), Ok(()));
    }

    #[test]
    fn what_is_wrong_with_data_is_told_without_them() {
        for bad in ["hunter2!", "aHVudGVyMg", "aHVu dGVyMg=="] {
            let wrong = check_data(Some(&Secret::new(bad.to_owned())), None).unwrap_err();
            assert_eq!(wrong.parameter, "user_data");
            assert!(!wrong.why.contains(bad), "{wrong:?}");
        }
        let binary = Secret::new(STANDARD.encode([0xff, 0xfe]));
        assert_eq!(check_data(Some(&binary), None), Ok(()), "user data may be gzipped");
        assert_eq!(check_data(None, Some(&binary)).unwrap_err().parameter, "vendor_data");
    }

    #[test]
    fn there_are_sixteen_keys_at_most() {
        let keys = |n| vec!["key".to_owned(); n];
        assert_eq!(check_keys(&keys(16), |_| None), Ok(()));
        assert!(check_keys(&keys(17), |_| None).is_err());
        let wrong = check_keys(&keys(1), |_| Some("it is none")).unwrap_err();
        assert_eq!(wrong.why, "ssh_keys[0] is not a public key: it is none");
    }

    #[test]
    fn host_names_are_those_of_rfc_1123() {
        let long = |n: usize| vec!["a".repeat(63); n].join(".");
        for good in ["web", "Web-1", "9", "web.example.org", &"a".repeat(63), &long(3)] {
            assert_eq!(check_hostname(good), Ok(()), "{good}");
        }
        let over = &long(4);
        for bad in
            ["", ".", "web.", "-a", "a-", "a_b", "a b", "a\n", "ä", "a..b", &"a".repeat(64), over]
        {
            assert!(check_hostname(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_name_is_made_a_host_name() {
        let id: InstanceId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        for (name, fit) in [
            ("web", "web"),
            ("Web_1.example", "web-1-example"),
            ("--x--", "x"),
            ("", "Server-0f8fad5b-d9cb-469f-a165-70867728950e"),
            ("äöü", "Server-0f8fad5b-d9cb-469f-a165-70867728950e"),
            (&"y".repeat(80), &"y".repeat(63)),
        ] {
            assert_eq!(fit_hostname(name, id), fit, "{name:?}");
            assert_eq!(check_hostname(fit), Ok(()));
        }
    }
}
