//! The routes, as the kernel lists them in text.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::network::{GuestNetworkGetRoute, NetworkRoute};

use super::{Agent, CommandError, Handle};
use crate::root::Root;

const IPV4: &str = "/proc/net/route";
const IPV6: &str = "/proc/net/ipv6_route";
/// For reading them.
const LOOK: Duration = Duration::from_secs(10);
/// So many routes are told: a router on the Internet has a million, which no reply can hold.
const MOST: usize = 50_000;

/// Why the routes could not be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {IPV4}")]
pub struct RouteError(#[source] io::Error);

impl Handle for GuestNetworkGetRoute {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<NetworkRoute>, CommandError> {
        let look = || routes(&Root::system());
        let routes = agent.workers.run("reading the routes", LOOK, look).await??;
        if routes.len() == MOST {
            agent.log.info(format_args!("there may be more routes than the {MOST} that are told"));
        }
        Ok(routes)
    }
}

/// The routes. A kernel without one of the protocols has those of the other.
fn routes(root: &Root) -> Result<Vec<NetworkRoute>, RouteError> {
    let (v4, v6) = (root.text(IPV4), root.text(IPV6));
    let (v4, v6) = match (v4, v6) {
        (Err(error), Err(_)) => return Err(RouteError(error)),
        (v4, v6) => (v4.unwrap_or_default(), v6.unwrap_or_default()),
    };
    Ok(v4.lines().filter_map(ipv4).chain(v6.lines().filter_map(ipv6)).take(MOST).collect())
}

/// `eth0 00000000 0102000A 0003 0 0 100 00000000 0 0 0`
fn ipv4(line: &str) -> Option<NetworkRoute> {
    let mut words = line.split_ascii_whitespace();
    let iface = words.next()?.to_owned();
    // the kernel writes the number that the address' bytes are on its processor
    let address = |word: &str| Some(Ipv4Addr::from(hex(word)?.to_ne_bytes()).to_string());
    let destination = address(words.next()?)?;
    let gateway = address(words.next()?)?;
    let flags = hex(words.next()?)?;
    let refcnt = words.next()?.parse().ok()?;
    let used = words.next()?.parse().ok()?;
    let metric = words.next()?.parse().ok()?;
    let mask = address(words.next()?)?;
    Some(NetworkRoute {
        iface,
        destination,
        metric,
        gateway: Some(gateway),
        mask: Some(mask),
        flags: Some(flags.into()),
        refcnt: Some(refcnt),
        used: Some(used),
        mtu: Some(words.next()?.parse().ok()?),
        window: Some(words.next()?.parse().ok()?),
        irtt: Some(words.next()?.parse().ok()?),
        version: 4,
        ..NetworkRoute::default()
    })
}

/// `fe80... 40 000... 00 000... 00000100 00000001 00000000 00000001 eth0`
fn ipv6(line: &str) -> Option<NetworkRoute> {
    let mut words = line.split_ascii_whitespace();
    let address = |word: &str| {
        let digits = word.len() == 32 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bits = digits.then(|| u128::from_str_radix(word, 16).ok()).flatten()?;
        Some(Ipv6Addr::from_bits(bits).to_string())
    };
    let destination = address(words.next()?)?;
    let desprefixlen = hex(words.next()?)?;
    let source = address(words.next()?)?;
    let srcprefixlen = hex(words.next()?)?;
    let nexthop = address(words.next()?)?;
    let metric = hex(words.next()?)?;
    let refcnt = hex(words.next()?)?;
    let used = hex(words.next()?)?;
    let flags = hex(words.next()?)?;
    Some(NetworkRoute {
        iface: words.next()?.to_owned(),
        destination,
        metric: metric.into(),
        flags: Some(flags.into()),
        refcnt: Some(refcnt.into()),
        used: Some(used.into()),
        desprefixlen: Some(desprefixlen.to_string()),
        source: Some(source),
        srcprefixlen: Some(srcprefixlen.to_string()),
        nexthop: Some(nexthop),
        version: 6,
        ..NetworkRoute::default()
    })
}

fn hex(word: &str) -> Option<u32> {
    u32::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;
    use proptest::prelude::*;

    #[test]
    fn both_tables_are_told() {
        let gateway = u32::from_ne_bytes([192, 0, 2, 1]);
        let mask = u32::from_ne_bytes([255, 255, 255, 0]);
        let v4 = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{gateway:08X}\t0003\t0\t7\t100\t{mask:08X}\t1500\t2\t3 \nbroken\t1\n"
        );
        let v6 = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000002 80200001     eth0\nbroken\n";
        let (_folder, root) = tree(&[(IPV4, &v4), (IPV6, v6)]);
        let [v4, v6] = &routes(&root).unwrap()[..] else { panic!("two routes") };
        assert_eq!(
            (v4.iface.as_str(), v4.destination.as_str(), v4.version),
            ("eth0", "0.0.0.0", 4)
        );
        assert_eq!(v4.gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(v4.mask.as_deref(), Some("255.255.255.0"));
        assert_eq!((v4.metric, v4.flags, v4.used), (100, Some(3), Some(7)));
        assert_eq!((v4.mtu, v4.window, v4.irtt), (Some(1500), Some(2), Some(3)));
        assert_eq!(v4.nexthop, None);
        assert_eq!((v6.iface.as_str(), v6.destination.as_str(), v6.version), ("eth0", "fd00::", 6));
        assert_eq!(
            (v6.desprefixlen.as_deref(), v6.srcprefixlen.as_deref()),
            (Some("64"), Some("0"))
        );
        assert_eq!((v6.source.as_deref(), v6.nexthop.as_deref()), (Some("::"), Some("::")));
        assert_eq!((v6.metric, v6.refcnt, v6.used), (256, Some(1), Some(2)));
        assert_eq!((v6.flags, v6.mask.as_deref()), (Some(0x8020_0001), None));
    }

    #[test]
    fn a_kernel_without_one_protocol_tells_the_other() {
        let (_folder, root) = tree(&[(IPV6, "")]);
        assert_eq!(routes(&root).unwrap(), []);
        let (_folder, root) = tree(&[]);
        assert!(routes(&root).is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(line in "([0-9A-Fa-f+]{0,34}[ \t]|.){0,20}") {
            let _ = (ipv4(&line), ipv6(&line));
        }
    }
}
