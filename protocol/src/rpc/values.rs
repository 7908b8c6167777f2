//! The values that fields are made of: ids, sizes, names, MACs, secrets. Each checks itself when
//! read, so what arrives typed is well formed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroize;

/// What was wrong with a value, and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a name.
    #[error(
        "{given:?} is not a name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a \
         letter or digit and without '..'"
    )]
    Name {
        /// The text as given, cut to a bounded length.
        given: String,
    },
    /// Not a MAC address a NIC can have.
    #[error("{given:?} is not a MAC address: {why}, as in 52:54:00:12:34:56")]
    Mac {
        /// The text as given, cut to a bounded length.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not an id.
    #[error("{given:?} is not an id: use a UUID, as in 0f8fad5b-d9cb-469f-a165-70867728950e")]
    Id {
        /// The text as given, cut to a bounded length.
        given: String,
    },
    /// Not a prefix.
    #[error("{given:?} is not a prefix: {why}, as in 192.0.2.0/24 or 2001:db8::/64")]
    Prefix {
        /// The text as given, cut to a bounded length.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a digest.
    #[error("{given:?} is not a {kind} digest: use {digits} hexadecimal digits")]
    Digest {
        /// Of which kind it should be.
        kind: &'static str,
        /// So many digits has that.
        digits: usize,
        /// The text as given, cut to a bounded length.
        given: String,
    },
    /// Not an idempotency key.
    #[error("an idempotency key is 1 to 255 printable ASCII characters")]
    Key,
}

/// Bad input is quoted back, but never more than this much of it.
fn quoted(given: &str) -> String {
    given.chars().take(80).collect()
}

/// A value that travels as a checked string.
macro_rules! text_value {
    ($name:ident, $pattern:literal) => {
        impl TryFrom<String> for $name {
            type Error = ValueError;
            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

/// An id that is a UUID.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ValueError;
            fn from_str(text: &str) -> Result<Self, ValueError> {
                // Only the hyphenated form: ids become file and domain names.
                match Uuid::try_parse(text) {
                    Ok(uuid) if text.len() == 36 && !uuid.is_nil() => Ok(Self(uuid)),
                    Ok(_) | Err(_) => Err(ValueError::Id { given: quoted(text) }),
                }
            }
        }

        text_value!($name, "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$");
    };
}

id! {
    /// An instance; given by the caller, or made when the boot is accepted.
    InstanceId
}
id! {
    /// An operation; made when it is accepted.
    OperationId
}
id! {
    /// A port: one NIC of one instance on one network.
    PortId
}
id! {
    /// A volume; given by the caller, or made when its creation is accepted.
    VolumeId
}
id! {
    /// Bytes of an image that are sent to the node; given by who sends them.
    UploadId
}
id! {
    /// A program that was run in a guest; made when it is asked for.
    ExecId
}

id! {
    /// A session on a serial console; made when it is opened.
    ConsoleId
}

/// A size in bytes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// So many MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// So many GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

impl fmt::Display for Bytes {
    /// The largest binary unit that leaves at least one whole, with one decimal where needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (unit, name) in units {
            if self.0 >= unit {
                let tenths = (u128::from(self.0) * 10 / u128::from(unit)) as u64;
                return match tenths % 10 {
                    0 => write!(f, "{} {name}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {name}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// What people call an instance, an image, a network or a flavor. It may become part of a file or
/// link name, so it is a plain word: letters, digits, `.`, `_`, `-`, at most 63.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<VolumeId> for Name {
    /// Hexadecimal digits and dashes.
    fn from(id: VolumeId) -> Self {
        Self(id.to_string())
    }
}

impl From<PortId> for Name {
    /// Hexadecimal digits and dashes.
    fn from(id: PortId) -> Self {
        Self(id.to_string())
    }
}

impl FromStr for Name {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let well_formed = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(plain)
            && !text.contains("..");
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Name { given: quoted(text) })
        }
    }
}

text_value!(Name, "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$");

/// A unicast MAC address, written as six lower-case hexadecimal pairs with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The six bytes.
    pub const fn octets(&self) -> [u8; 6] {
        self.0
    }

    /// An address in QEMU's range (52:54:00), from three bytes of the caller's choice.
    pub const fn in_qemu_range(a: u8, b: u8, c: u8) -> Self {
        Self([0x52, 0x54, 0x00, a, b, c])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = |why| ValueError::Mac { given: quoted(text), why };
        let malformed = || refuse("use six pairs of hexadecimal digits with colons between");
        if text.len() != 17 {
            return Err(malformed());
        }
        let mut octets = [0u8; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or_else(malformed)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
        }
        if octets[0] & 1 == 1 {
            return Err(refuse("it is a multicast address; a NIC needs a unicast one"));
        }
        if octets == [0; 6] {
            return Err(refuse("it is all zeros"));
        }
        Ok(Self(octets))
    }
}

text_value!(MacAddress, "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$");

/// Addresses that begin alike, as in `192.0.2.0/24`; without a length, one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNet);

impl Prefix {
    /// The prefix.
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// Of one address.
    pub fn of(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

impl FromStr for Prefix {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::of(address));
        }
        let refuse = |why| ValueError::Prefix { given: quoted(text), why };
        let net: IpNet = text.parse().map_err(|_| refuse("give an address and a length".into()))?;
        match net.addr() == net.network() {
            true => Ok(Self(net)),
            false => Err(refuse(format!("beyond its length, it has bits: write {}", net.trunc()))),
        }
    }
}

text_value!(Prefix, "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$");

/// A digest as hexadecimal text, in lower case.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $digits:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The digest as hexadecimal text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ValueError;
            fn from_str(text: &str) -> Result<Self, ValueError> {
                if text.len() == $digits && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    Ok(Self(text.to_ascii_lowercase()))
                } else {
                    let given = quoted(text);
                    Err(ValueError::Digest { given, kind: $kind, digits: $digits })
                }
            }
        }

        text_value!($name, $pattern);
    };
}

digest!(
    /// A SHA-256 digest: 64 lower-case hexadecimal digits.
    Sha256, "SHA-256", 64, "^[0-9a-fA-F]{64}$"
);

digest!(
    /// A SHA-512 digest: 128 lower-case hexadecimal digits.
    Sha512, "SHA-512", 128, "^[0-9a-fA-F]{128}$"
);

/// The caller's name for one change: the same key is the same operation, however often it arrives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// A new random key.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for IdempotencyKey {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if (1..=255).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Key)
        }
    }
}

text_value!(IdempotencyKey, "^[!-~]{1,255}$");

/// Milliseconds since the UNIX epoch.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Now, by the system's clock.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |d| d.as_millis() as u64))
    }

    /// Milliseconds from `earlier` to this; 0 if it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A word that must not be seen: wiped when dropped, and not shown by `Debug`.
///
/// It has no `Display`; [`expose`](Self::expose) is the one way to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Take a word into hiding.
    pub fn new(word: String) -> Self {
        Self(word)
    }

    /// The word itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "password" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", "../x", "a/b", "..", ".hidden", "a..b", "-x", "a b", "ä", &"x".repeat(64)]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was taken");
        }
        for good in ["a", "web-1", "debian_12.4", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn only_unicast_macs_are_taken() {
        for bad in [
            "",
            "52:54:00:12:34",
            "52-54-00-12-34-56",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "52:54:00:12:34:5g",
            "+2:54:00:12:34:56",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?} was taken");
        }
        let mac: MacAddress = "52:54:00:AB:cd:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
    }

    #[test]
    fn ids_are_hyphenated_uuids_only() {
        assert!("00000000-0000-0000-0000-000000000000".parse::<InstanceId>().is_err());
        assert!("0f8fad5bd9cb469fa16570867728950e".parse::<InstanceId>().is_err());
        let id = InstanceId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret(..)");
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes::mib(256).to_string(), "256 MiB");
        assert_eq!(Bytes(1536 << 20).to_string(), "1.5 GiB");
    }
}
