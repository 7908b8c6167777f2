//! Network interfaces: their addresses and counters.
//!
//! Addresses come from one dump of the kernel's, counters from one reading of `/proc/net/dev`: the
//! cost is that of the interfaces there are, once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::network::{
    GuestNetworkGetInterfaces, InterfaceStatistics, IpAddress, IpAddressType, NetworkInterface,
};

use super::CommandError;
use crate::dispatcher::Handle;
use crate::state::Agent;

/// Why the interfaces could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's list.
    #[error("cannot list the network interfaces")]
    List(#[source] nix::Error),
}

impl Handle for GuestNetworkGetInterfaces {
    async fn handle(_: Rc<Agent>, _: Nothing) -> Result<Vec<NetworkInterface>, CommandError> {
        Ok(interfaces()?)
    }
}

/// The interfaces, in the kernel's order.
pub fn interfaces() -> Result<Vec<NetworkInterface>, NetworkError> {
    let mut interfaces: Vec<NetworkInterface> = Vec::new();
    let counters = counters(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default());
    for found in getifaddrs().map_err(NetworkError::List)? {
        let known = interfaces.iter().position(|known| known.name == found.interface_name);
        let index = known.unwrap_or_else(|| {
            interfaces.push(NetworkInterface {
                name: found.interface_name.clone(),
                hardware_address: None,
                ip_addresses: None,
                statistics: counters.get(&found.interface_name).copied(),
            });
            interfaces.len() - 1
        });
        let interface = &mut interfaces[index];
        if interface.hardware_address.is_none() {
            interface.hardware_address = hardware_address(&found);
        }
        if let Some(address) = ip_address(&found) {
            interface.ip_addresses.get_or_insert_default().push(address);
        }
    }
    Ok(interfaces)
}

/// The link address, of whatever length.
fn hardware_address(found: &InterfaceAddress) -> Option<String> {
    let link = found.address.as_ref()?.as_link_addr()?;
    match link.halen() {
        0 => None,
        6 => link.addr().map(|bytes| bytes.map(|byte| format!("{byte:02x}")).join(":")),
        // longer ones (InfiniBand) are not in what the dump keeps
        _ => {
            let path = format!("/sys/class/net/{}/address", found.interface_name);
            let text = std::fs::read_to_string(path).ok()?;
            Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
        }
    }
}

fn ip_address(found: &InterfaceAddress) -> Option<IpAddress> {
    let address = ip(found.address.as_ref()?)?;
    let prefix = found.netmask.as_ref().and_then(ip).map_or(0, prefix);
    let ip_address_type = match address {
        IpAddr::V4(_) => IpAddressType::Ipv4,
        IpAddr::V6(_) => IpAddressType::Ipv6,
    };
    Some(IpAddress { ip_address: address.to_string(), ip_address_type, prefix })
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

fn prefix(mask: IpAddr) -> i64 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    ones.into()
}

/// The counters of each interface, from the text of `/proc/net/dev`.
fn counters(text: &str) -> BTreeMap<String, InterfaceStatistics> {
    text.lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<u64> =
                numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
            let [rx_bytes, rx_packets, rx_errs, rx_dropped, ..] = numbers[..] else { return None };
            let [tx_bytes, tx_packets, tx_errs, tx_dropped, ..] = *numbers.get(8..)? else {
                return None;
            };
            let statistics = InterfaceStatistics {
                rx_bytes,
                rx_packets,
                rx_errs,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errs,
                tx_dropped,
            };
            Some((name.trim().to_owned(), statistics))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_by_column() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop|bytes\n\
            \x20   lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
            eth0:18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n bad: 1 2\n";
        let counters = counters(text);
        assert_eq!(counters.len(), 2);
        assert_eq!(counters["eth0"].rx_bytes, u64::MAX);
        let lo = counters["lo"];
        assert_eq!((lo.rx_bytes, lo.rx_packets, lo.rx_errs, lo.rx_dropped), (1, 2, 3, 4));
        assert_eq!((lo.tx_bytes, lo.tx_packets, lo.tx_errs, lo.tx_dropped), (9, 10, 11, 12));
    }

    #[test]
    fn the_loopback_is_listed_with_its_addresses_and_counters() {
        let interfaces = interfaces().unwrap();
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(lo.hardware_address.as_deref(), Some("00:00:00:00:00:00"));
        assert!(lo.statistics.is_some());
        if let Some(addresses) = &lo.ip_addresses {
            let v4 = addresses.iter().find(|address| address.ip_address == "127.0.0.1").unwrap();
            assert_eq!((v4.ip_address_type, v4.prefix), (IpAddressType::Ipv4, 8));
        }
    }
}
