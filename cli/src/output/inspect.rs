//! What is counted of instances, and their screens, for people.

use ostler_protocol::rpc::inspect::{Diagnostics, OpenedScreen, Screen, Xml};
use ostler_protocol::rpc::values::Bytes;

use super::instance::power;
use super::table::{Field, fields};
use super::time::{instant, span};
use super::{Look, Show};
use crate::clean::clean_lines;

impl Show for Xml {
    fn show(&self, _: Look) -> String {
        clean_lines(self.xml.trim_end())
    }
}

impl Show for Diagnostics {
    fn show(&self, look: Look) -> String {
        let seconds = |nanoseconds: Option<u64>| match nanoseconds {
            Some(time) => Field::plain(format!("{:.2} s", time as f64 / 1e9)),
            None => Field::plain("-"),
        };
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("state", power(self.state)),
            ("driver", Field::plain(format!("{} ({})", self.driver, self.hypervisor))),
            ("up", Field::maybe(self.uptime.map(|up| span(up.saturating_mul(1000))))),
            ("cpu time", seconds(self.cpu_time)),
        ];
        for cpu in &self.cpu_details {
            let time = seconds(cpu.time).into_text();
            rows.push(("vcpu", Field::plain(format!("{}: {time}", cpu.id))));
        }
        for nic in &self.nic_details {
            let text = format!(
                "{} ({}): received {}; sent {}",
                nic.mac.map_or_else(|| "?".to_owned(), |mac| mac.to_string()),
                nic.tap,
                traffic(nic.rx_octets, nic.rx_packets, nic.rx_errors, nic.rx_drop),
                traffic(nic.tx_octets, nic.tx_packets, nic.tx_errors, nic.tx_drop),
            );
            rows.push(("nic", Field::plain(text)));
        }
        for disk in &self.disk_details {
            let text = format!(
                "{}: read {} in {} requests; written {} in {}; {} flushes; {} errors",
                disk.target,
                size(disk.read_bytes.map(Bytes)),
                number(disk.read_requests),
                size(disk.write_bytes.map(Bytes)),
                number(disk.write_requests),
                number(disk.flush_requests),
                number(disk.errors),
            );
            rows.push(("disk", Field::plain(text)));
        }
        let memory = &self.memory_details;
        let text = format!(
            "{} of {}; {} of the node's",
            size(memory.used),
            size(memory.maximum),
            size(memory.rss)
        );
        rows.push(("memory", Field::plain(text)));
        if let Some(told) = memory.told {
            let text = format!(
                "{} available, {} free, {} caches of {}; swapped in {}, out {} (told {})",
                size(memory.guest_available),
                size(memory.guest_free),
                size(memory.guest_caches),
                size(memory.guest_total),
                size(memory.swap_in),
                size(memory.swap_out),
                instant(told),
            );
            rows.push(("in the guest", Field::plain(text)));
        }
        fields(look, rows)
    }
}

fn size(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string())
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

fn traffic(
    octets: Option<u64>,
    packets: Option<u64>,
    errors: Option<u64>,
    drop: Option<u64>,
) -> String {
    format!(
        "{} in {} packets, {} errors, {} dropped",
        size(octets.map(Bytes)),
        number(packets),
        number(errors),
        number(drop)
    )
}

impl Show for Screen {
    fn show(&self, look: Look) -> String {
        fields(look, [("address", Field::plain(self.address)), ("port", Field::plain(self.port))])
    }
}

impl Show for OpenedScreen {
    fn show(&self, look: Look) -> String {
        fields(
            look,
            [
                ("address", Field::plain(self.address)),
                ("port", Field::plain(self.port)),
                ("password", Field::plain(self.password.expose())),
                ("until", Field::plain(instant(self.until))),
            ],
        )
    }
}
