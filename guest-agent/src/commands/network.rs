//! Network interfaces: their addresses and counters.
//!
//! All comes from two dumps of the kernel's ([`netlink`]): the cost is that of the interfaces there are,
//! once.

mod netlink;

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::network::{
    GuestNetworkGetInterfaces, IpAddress, IpAddressType, NetworkInterface,
};

use super::{Agent, CommandError, Handle};
use crate::worker::WorkerError;
use netlink::{Address, Link};

/// For listing them: while a driver sets up its hardware, the kernel makes others wait.
const LOOK: Duration = Duration::from_secs(10);
/// What is told of a link without an address, as a stock agent does.
const NO_ADDRESS: &str = "00:00:00:00:00:00";

/// Why the interfaces could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's list.
    #[error("cannot list the network interfaces")]
    List(#[source] nix::Error),
    /// The thread that looks.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl Handle for GuestNetworkGetInterfaces {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<NetworkInterface>, CommandError> {
        Ok(list(&agent).await?)
    }
}

/// The interfaces, in the kernel's order.
pub async fn list(agent: &Agent) -> Result<Vec<NetworkInterface>, NetworkError> {
    let look = || netlink::dump().map(|(links, addresses)| join(links, addresses));
    let found = agent.workers.run("listing the network interfaces", LOOK, look).await?;
    found.map_err(NetworkError::List)
}

/// Gives the links their addresses. One that was set under another name is told under it, after them.
fn join(links: Vec<Link>, addresses: Vec<Address>) -> Vec<NetworkInterface> {
    let mut interfaces = Vec::with_capacity(links.len());
    let mut places = HashMap::with_capacity(links.len());
    let mut labels: HashMap<String, usize> = HashMap::new();
    for link in links {
        places.insert(link.index, interfaces.len());
        interfaces.push(NetworkInterface {
            name: link.name,
            hardware_address: Some(hardware_address(&link.address)),
            ip_addresses: None,
            statistics: link.statistics,
        });
    }
    for Address { link, label, address, prefix } in addresses {
        // a link that came after the links were listed is told next time
        let Some(own) = places.get(&link).copied() else { continue };
        let Some(known) = interfaces.get(own) else { continue };
        let label = label.filter(|label| *label != known.name);
        let at = match label {
            None => own,
            Some(label) => match labels.get(&label) {
                Some(at) => *at,
                None => {
                    let hardware_address = known.hardware_address.clone();
                    labels.insert(label.clone(), interfaces.len());
                    interfaces.push(NetworkInterface {
                        name: label,
                        hardware_address,
                        ip_addresses: None,
                        statistics: None,
                    });
                    interfaces.len() - 1
                }
            },
        };
        let ip_address_type = match address {
            IpAddr::V4(_) => IpAddressType::Ipv4,
            IpAddr::V6(_) => IpAddressType::Ipv6,
        };
        if let Some(interface) = interfaces.get_mut(at) {
            interface.ip_addresses.get_or_insert_default().push(IpAddress {
                ip_address: address.to_string(),
                ip_address_type,
                prefix: prefix.into(),
            });
        }
    }
    interfaces
}

fn hardware_address(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return NO_ADDRESS.to_owned();
    }
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        let colon = if text.is_empty() { "" } else { ":" };
        // a string takes whatever it is given
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, address: &[u8]) -> Link {
        Link { index, name: name.to_owned(), address: address.to_owned(), statistics: None }
    }

    fn address(link: u32, label: Option<&str>, address: [u8; 4], prefix: u8) -> Address {
        Address { link, label: label.map(str::to_owned), address: address.into(), prefix }
    }

    #[test]
    fn addresses_are_told_under_the_name_they_were_set_with() {
        let links = vec![link(3, "eth0", &[2, 0, 0, 0, 0, 0xab]), link(1, "tun0", &[])];
        let addresses = vec![
            address(3, Some("eth0"), [192, 0, 2, 1], 24),
            address(3, Some("eth0:1"), [192, 0, 2, 2], 32),
            address(3, None, [192, 0, 2, 3], 24),
            address(3, Some("eth0:1"), [192, 0, 2, 4], 32),
            address(9, None, [192, 0, 2, 5], 24),
        ];
        let told: Vec<_> = join(links, addresses)
            .into_iter()
            .map(|told| {
                let addresses = told.ip_addresses.unwrap_or_default();
                let addresses: Vec<_> =
                    addresses.into_iter().map(|told| (told.ip_address, told.prefix)).collect();
                (told.name, told.hardware_address.unwrap(), addresses)
            })
            .collect();
        let on = |addresses: &[(&str, i64)]| {
            addresses.iter().map(|(address, prefix)| ((*address).to_owned(), *prefix)).collect()
        };
        let mac = "02:00:00:00:00:ab".to_owned();
        assert_eq!(
            told,
            [
                ("eth0".to_owned(), mac.clone(), on(&[("192.0.2.1", 24), ("192.0.2.3", 24)])),
                ("tun0".to_owned(), NO_ADDRESS.to_owned(), on(&[])),
                ("eth0:1".to_owned(), mac, on(&[("192.0.2.2", 32), ("192.0.2.4", 32)])),
            ]
        );
    }

    #[test]
    fn a_link_address_is_told_whole() {
        let told = hardware_address(&(0..20).collect::<Vec<_>>());
        assert_eq!(told.len(), 59);
        assert!(told.starts_with("00:01:02:") && told.ends_with(":12:13"));
    }

    #[tokio::test]
    async fn the_loopback_is_listed_with_its_addresses_and_counters() {
        let agent = Agent::new(&crate::settings::Settings::for_tests());
        let interfaces = list(&agent).await.unwrap();
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(lo.hardware_address.as_deref(), Some(NO_ADDRESS));
        assert!(lo.statistics.is_some());
        if let Some(addresses) = &lo.ip_addresses {
            let v4 = addresses.iter().find(|address| address.ip_address == "127.0.0.1").unwrap();
            assert_eq!((v4.ip_address_type, v4.prefix), (IpAddressType::Ipv4, 8));
        }
    }
}
