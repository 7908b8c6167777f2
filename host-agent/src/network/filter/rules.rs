//! The rules as nft's language has them. Pure.
//!
//! Each port has a chain, `from-TAP`, and sets of who may send from which address. A frame goes on if it
//! is ARP, IPv4 or IPv6, comes from a MAC of the port's, and from an address of the port's where those
//! are known. A guest is no DHCP server and no router to its neighbours, and speaks for nobody else in
//! ARP and neighbour discovery. IPv6 addresses made from the MAC (fe80::) are the port's always.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use ostler_protocol::rpc::values::MacAddress;

use super::Guard;
use crate::network::LinkName;

/// A table without any port, after its name: what all ports' rules hang on.
///
/// Before everything of others' (their priority is -200): what a guest may not send, nobody sees.
const BASE: &str = " {
\tmap from {
\t\ttype ifname : verdict
\t}

\tchain prerouting {
\t\ttype filter hook prerouting priority -250; policy accept;
\t\tiifname vmap @from
\t}
}
";

/// The whole table in place of what there was, in one transaction; none without ports.
pub(super) fn whole<'a>(table: &str, guards: impl Iterator<Item = &'a Guard>) -> String {
    let ports: String = guards.map(|guard| add(table, guard)).collect();
    let none = format!("add table bridge {table}\ndelete table bridge {table}\n");
    match ports.is_empty() {
        true => none,
        false => format!("{none}table bridge {table}{BASE}{ports}"),
    }
}

/// The rules of a port that has none.
pub(super) fn add(table: &str, guard: &Guard) -> String {
    let mut text = sets(table, guard);
    text.push_str(&chains(table, guard));
    let tap = &guard.tap;
    line(
        &mut text,
        format_args!("add element bridge {table} from {{ \"{tap}\" : jump from-{tap} }}"),
    );
    text
}

/// The same for a port that has some, in their place. Frames meet the old ones or the new ones.
pub(super) fn replace(table: &str, guard: &Guard) -> String {
    remove(table, &guard.tap) + &add(table, guard)
}

/// Nothing is left of a port's.
pub(super) fn remove(table: &str, tap: &LinkName) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("delete element bridge {table} from {{ \"{tap}\" }}"));
    for chain in ["from", "nd"] {
        line(&mut text, format_args!("flush chain bridge {table} {chain}-{tap}"));
    }
    for chain in ["from", "nd"] {
        line(&mut text, format_args!("delete chain bridge {table} {chain}-{tap}"));
    }
    for set in ["v4", "v6"] {
        line(&mut text, format_args!("delete set bridge {table} {set}-{tap}"));
    }
    text
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // writing to a String does not fail
    let _ = writeln!(text, "{what}");
}

/// Whose chain of rules it is, by its name.
pub(super) fn chain(tap: &LinkName) -> String {
    format!("from-{tap}")
}

fn macs(guard: &Guard) -> BTreeSet<MacAddress> {
    guard.pairs.iter().filter_map(|pair| pair.mac_address).chain([guard.mac]).collect()
}

/// The address that an interface makes from its MAC: RFC 4291, appendix A.
fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets().map(u16::from);
    let word = |high: u16, low: u16| (high << 8) | low;
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// Who may send from which addresses.
fn allowed(guard: &Guard) -> BTreeSet<(MacAddress, IpNet)> {
    let own = guard.addresses.iter().map(|address| (guard.mac, address.net()));
    let pairs = guard.pairs.iter();
    let pairs = pairs.map(|p| (p.mac_address.unwrap_or(guard.mac), p.ip_address.net()));
    let made = macs(guard).into_iter().map(|mac| (mac, IpAddr::from(link_local(mac)).into()));
    own.chain(pairs).chain(made).collect()
}

fn is_v4(net: &IpNet) -> bool {
    net.addr().is_ipv4()
}

fn sets(table: &str, guard: &Guard) -> String {
    let (tap, allowed) = (&guard.tap, allowed(guard));
    let mut text = String::new();
    for (name, kind, v4) in [("v4", "ipv4_addr", true), ("v6", "ipv6_addr", false)] {
        let of: Vec<(MacAddress, IpNet)> =
            allowed.iter().filter(|(_, net)| is_v4(net) == v4).copied().collect();
        let elements: Vec<String> =
            apart(of).iter().map(|(mac, net)| format!("{mac} . {net}")).collect();
        line(
            &mut text,
            format_args!(
                "add set bridge {table} {name}-{tap} {{ type ether_addr . {kind}; flags interval; }}"
            ),
        );
        if !elements.is_empty() {
            let elements = elements.join(", ");
            line(
                &mut text,
                format_args!("add element bridge {table} {name}-{tap} {{ {elements} }}"),
            );
        }
    }
    text
}

/// Without what lies in another one of the same MAC: nft refuses sets that overlap.
fn apart(all: Vec<(MacAddress, IpNet)>) -> Vec<(MacAddress, IpNet)> {
    let within = |(mac, net): &(MacAddress, IpNet)| {
        all.iter().any(|(of, other)| of == mac && other != net && other.contains(net))
    };
    all.iter().filter(|one| !within(one)).copied().collect()
}

fn chains(table: &str, guard: &Guard) -> String {
    let tap = &guard.tap;
    let macs = macs(guard);
    let list: Vec<String> = macs.iter().map(ToString::to_string).collect();
    let list = list.join(", ");
    let raw: Vec<String> = macs.iter().map(|mac| raw(&mac.octets())).collect();
    let raw = raw.join(", ");
    let known = |v4: bool| guard.addresses.iter().any(|address| is_v4(&address.net()) == v4);
    let mut rules: Vec<String> = vec![
        format!("ether saddr != {{ {list} }} {}", drop("mac")),
        // Of a bridge's own protocols, such as spanning tree.
        format!("ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 {}", drop("bridge")),
        format!("ether type arp arp saddr ether != {{ {list} }} {}", drop("arp")),
    ];
    if known(true) {
        rules.push(format!(
            "ether type arp arp saddr ip != 0.0.0.0 arp saddr ether . arp saddr ip != @v4-{tap} {}",
            drop("arp")
        ));
    }
    rules.push("ether type arp accept".to_owned());
    rules.push(format!("ether type ip udp sport 67 udp dport 68 {}", drop("dhcp-server")));
    if known(true) {
        rules.push("ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept".to_owned());
        rules.push(format!("ether type ip ether saddr . ip saddr != @v4-{tap} {}", drop("ipv4")));
    }
    rules.push("ether type ip accept".to_owned());
    // Routers speak so, to hosts: RFC 4861.
    rules.push(format!(
        "ether type ip6 icmpv6 type {{ nd-router-advert, nd-redirect }} {}",
        drop("router")
    ));
    rules.push(format!("ether type ip6 udp sport 547 udp dport 546 {}", drop("dhcpv6-server")));
    // The MAC that a neighbour is told, in the option that comes first: RFC 4861, 4.6.1.
    for (kind, option, at) in [
        ("nd-neighbor-advert", "0x0201", 192),
        ("nd-neighbor-solicit", "0x0101", 192),
        ("nd-router-solicit", "0x0101", 64),
    ] {
        rules.push(format!(
            "ether type ip6 icmpv6 type {kind} @th,{at},16 {option} @th,{},48 != {{ {raw} }} {}",
            at + 16,
            drop("nd")
        ));
    }
    let mut nd = Vec::new();
    if known(false) {
        rules.push(format!("ether type ip6 icmpv6 type nd-neighbor-advert jump nd-{tap}"));
        nd = targets(guard);
        rules.push("ether type ip6 ip6 saddr :: meta l4proto ipv6-icmp accept".to_owned());
        rules.push(format!("ether type ip6 ether saddr . ip6 saddr != @v6-{tap} {}", drop("ipv6")));
    }
    rules.push("ether type ip6 accept".to_owned());
    rules.push(drop("protocol"));
    let mut text = String::new();
    for chain in ["nd", "from"] {
        line(&mut text, format_args!("add chain bridge {table} {chain}-{tap}"));
    }
    for rule in nd {
        line(&mut text, format_args!("add rule bridge {table} nd-{tap} {rule}"));
    }
    for rule in rules {
        line(&mut text, format_args!("add rule bridge {table} from-{tap} {rule}"));
    }
    text
}

fn drop(why: &str) -> String {
    format!("counter drop comment \"{why}\"")
}

fn raw(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Only for addresses of the port's may a guest answer who asks for the MAC.
fn targets(guard: &Guard) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    for (_, net) in allowed(guard) {
        let IpNet::V6(net) = net else { continue };
        match net.prefix_len() {
            0 => rules.push("return".to_owned()),
            length => {
                let bits = u128::from(net.network()) >> (128 - u32::from(length));
                rules.push(format!("@th,64,{length} {bits:#x} return"));
            }
        }
    }
    rules.push(drop("nd"));
    rules
}

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::port::AddressPair;

    use super::*;

    fn guard(addresses: &[&str], pairs: &[(&str, Option<&str>)]) -> Guard {
        Guard {
            tap: "tap0f8fad5b-d9".parse().unwrap(),
            mac: "52:54:00:01:02:03".parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            pairs: pairs
                .iter()
                .map(|(ip, mac)| AddressPair {
                    ip_address: ip.parse().unwrap(),
                    mac_address: mac.map(|mac| mac.parse().unwrap()),
                })
                .collect(),
        }
    }

    #[test]
    fn a_port_of_unknown_addresses_is_kept_to_its_mac_only() {
        let text = add("ostler", &guard(&[], &[]));
        assert!(text.contains("ether saddr != { 52:54:00:01:02:03 } counter drop"));
        assert!(!text.contains("ip saddr"), "{text}");
    }

    #[test]
    fn addresses_are_held_against_their_family() {
        let text = add("ostler", &guard(&["192.0.2.7"], &[]));
        assert!(text.contains("v4-tap0f8fad5b-d9 { 52:54:00:01:02:03 . 192.0.2.7/32 }"), "{text}");
        assert!(text.contains("ip saddr != @v4") && !text.contains("ip6 saddr != @v6"), "{text}");
        let text = add("ostler", &guard(&["2001:db8::7"], &[]));
        assert!(text.contains("52:54:00:01:02:03 . fe80::5054:ff:fe01:203/128"), "{text}");
        assert!(text.contains("@th,64,128 0x20010db8000000000000000000000007 return"), "{text}");
    }

    #[test]
    fn what_lies_in_another_is_said_once() {
        let text = add(
            "ostler",
            &guard(
                &["192.0.2.7"],
                &[("192.0.2.0/24", None), ("192.0.2.7", Some("52:54:00:00:00:09"))],
            ),
        );
        assert!(!text.contains("52:54:00:01:02:03 . 192.0.2.7/32"), "{text}");
        assert!(text.contains("52:54:00:00:00:09 . 192.0.2.7/32"), "{text}");
    }
}
