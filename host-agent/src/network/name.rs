//! Names of links and their derivation, and the sizes a link may carry.
//!
//! The kernel's limit is 15 bytes. Derived names are deterministic, so that what belongs to a port
//! or a network is found without any record of it.

use std::fmt;
use std::str::FromStr;

use ostler_protocol::rpc::values::{Name, PortId};
use sha2::{Digest, Sha256};

/// The longest name of a link, in bytes: the kernel's IFNAMSIZ without its final zero.
const LONGEST: usize = 15;

/// The name of a network link: 1 to 15 letters, digits, `.`, `_` or `-`, starting with a letter or
/// digit.
///
/// Narrower than the kernel's rule, because names also become paths below `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

/// Why a text is not the name of a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkNameError {
    /// Its length or letters are wrong.
    #[error(
        "{given:?} is not a link name: use 1 to 15 letters, digits, '.', '_' or '-', starting \
         with a letter or digit"
    )]
    Malformed {
        /// The text, cut short.
        given: String,
    },
    /// It means something else to the kernel.
    #[error("{given:?} cannot be a link of a network: the kernel reserves this name")]
    Reserved {
        /// The name.
        given: String,
    },
}

impl LinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LinkName {
    type Err = LinkNameError;
    fn from_str(text: &str) -> Result<Self, LinkNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let well_formed = (1..=LONGEST).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(plain);
        if !well_formed {
            return Err(LinkNameError::Malformed { given: text.chars().take(80).collect() });
        }
        // `all` and `default` are not links but the kernel's settings for all of them.
        if matches!(text, "all" | "default" | "lo") {
            return Err(LinkNameError::Reserved { given: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

/// The bridge of a network that names none: `br-<network>` where that fits, else `brx` and twelve
/// digits of the name's hash. The two forms cannot meet.
pub fn bridge_name(network: &Name) -> LinkName {
    let plain = format!("br-{network}");
    if plain.len() <= LONGEST {
        return LinkName(plain);
    }
    hashed("brx", network.as_str())
}

/// A name of three letters and twelve digits of a text's hash.
pub(super) fn hashed(letters: &str, text: &str) -> LinkName {
    let mut name = String::from(letters);
    name.extend(Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")));
    LinkName(name)
}

/// The tap of a port: `tap` and the first eleven characters of the port's id, as neutron's agents
/// know it.
pub fn tap_name(port: PortId) -> LinkName {
    LinkName(format!("tap{}", &port.to_string()[..11]))
}

/// The same as earlier versions of the agent named it: without the id's dash.
pub fn old_tap_name(port: PortId) -> LinkName {
    let digits = port.0.simple().to_string();
    LinkName(digits.chars().take(11).fold(String::from("tap"), |mut name, digit| {
        name.push(digit);
        name
    }))
}

/// Whether a link's name is of the form that [`tap_name`] or [`old_tap_name`] gives.
pub fn is_tap_name(name: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.strip_prefix("tap").is_some_and(|rest| {
        let dash = |(n, b): (usize, u8)| digit(b) || (n == 8 && b == b'-');
        rest.len() == 11 && rest.bytes().enumerate().all(dash)
    })
}

/// How many bytes a link carries in one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u32);

/// Why a number is no MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an MTU of {given} is out of range: use 576 to 65535, normally 1500 or 9000")]
pub struct MtuError {
    /// The number.
    pub given: u32,
}

impl Mtu {
    /// The smallest that there is, bytes.
    pub(super) const LEAST: u32 = 576;

    /// Ethernet's.
    pub const ETHERNET: Self = Self(1500);

    /// An MTU between the smallest every IPv4 host must take and the largest a bridge can.
    pub const fn new(bytes: u32) -> Result<Self, MtuError> {
        if bytes >= Self::LEAST && bytes <= 65535 {
            Ok(Self(bytes))
        } else {
            Err(MtuError { given: bytes })
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_or_a_path_would_misread_are_refused() {
        for bad in
            ["", ".", "..", "a/b", "a b", "a:1", "-x", "sixteen-letters-", "all", "default", "lo"]
        {
            assert!(bad.parse::<LinkName>().is_err(), "{bad:?} was taken");
        }
        for good in ["eth0", "br-lan", "enp3s0.100", "fifteen-letters"] {
            assert!(good.parse::<LinkName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn derived_bridge_names_are_link_names_and_differ() {
        let long_a: Name = "a-very-long-network-name-1".parse().unwrap();
        let long_b: Name = "a-very-long-network-name-2".parse().unwrap();
        let short: Name = "lan".parse().unwrap();
        assert_eq!(bridge_name(&short).as_str(), "br-lan");
        assert_ne!(bridge_name(&long_a), bridge_name(&long_b));
        for name in [&short, &long_a, &long_b] {
            let bridge = bridge_name(name);
            assert_eq!(bridge.as_str().parse(), Ok(bridge.clone()));
            assert_eq!(bridge, bridge_name(name));
        }
    }

    #[test]
    fn a_tap_is_named_by_its_port() {
        let port: PortId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        let tap = tap_name(port);
        assert_eq!(tap.as_str(), "tap0f8fad5b-d9");
        assert!(is_tap_name(tap.as_str()));
        assert_eq!(tap.as_str().parse(), Ok(tap));
        assert_eq!(old_tap_name(port).as_str(), "tap0f8fad5bd9c");
        assert!(is_tap_name("tap0f8fad5bd9c"));
        for foreign in [
            "tap0f8fad5-bd9",
            "tap0",
            "tap0f8fad5bd9C",
            "vnet0",
            "tap0f8fad5bd9cb",
            "tapzzzzzzzzzzz",
        ] {
            assert!(!is_tap_name(foreign), "{foreign}");
        }
    }

    #[test]
    fn mtus_have_bounds() {
        assert!(Mtu::new(575).is_err() && Mtu::new(65536).is_err());
        assert_eq!(Mtu::new(1500), Ok(Mtu::ETHERNET));
    }
}
