//! Where our agent does something else than the stock one, and why. `docs/guest-agent.md` tells
//! users the same.

use super::System;
use super::domain::Seen;

/// One difference: with `ours` replaced by `stock`, what was seen of ours is what was seen of stock.
pub(super) struct Difference {
    check: &'static str,
    /// In all guests if not said.
    system: Option<System>,
    ours: &'static str,
    stock: &'static str,
    /// Why it is meant to be so.
    reason: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        check: "plain reports",
        system: None,
        ours: "total-bytes-privileged: number, ",
        stock: "",
        reason: "as stock agents since 9.1",
    },
    Difference {
        check: "plain reports",
        system: Some(System::Busybox),
        ours: "serial: string, ",
        stock: "",
        reason: "the stock agent knows serials by udev only",
    },
    Difference {
        check: "guestinfo",
        system: Some(System::Busybox),
        ours: " serial=disk-vda",
        stock: "",
        reason: "the same",
    },
    Difference {
        check: "guestinfo",
        system: Some(System::Busybox),
        ours: " serial=disk-vdb",
        stock: "",
        reason: "the same",
    },
    Difference {
        check: "guestinfo",
        system: Some(System::Busybox),
        ours: " serial=disk-vdc",
        stock: "",
        reason: "the same",
    },
    Difference {
        check: "guestinfo",
        system: Some(System::Busybox),
        ours: " disk.0.serial=disk-vda",
        stock: "",
        reason: "the same",
    },
    Difference {
        check: "guestinfo",
        system: Some(System::Busybox),
        ours: " disk.0.serial=disk-vdb",
        stock: "",
        reason: "the same",
    },
    Difference {
        check: "exec",
        system: None,
        ours: "Invalid parameter 'pid': PID 999999 does not exist",
        stock: "Invalid parameter 'pid'",
        reason: "as stock agents since 9.1 mean it; theirs says \"PID ld does not exist\"",
    },
];

/// What is wrong with what a check saw of both; nothing if they are the same but for what is listed.
pub(super) fn wrong(system: System, check: &str, ours: &Seen, stock: &Seen) -> Option<String> {
    let listed = DIFFERENCES
        .iter()
        .filter(|d| d.check == check && d.system.is_none_or(|only| only == system));
    let mut as_stock = text(ours);
    let mut missing = String::new();
    for difference in listed {
        if as_stock.contains(difference.ours) {
            as_stock = as_stock.replace(difference.ours, difference.stock);
        } else {
            missing =
                format!("\n  it lacks {:?}, listed as: {}", difference.ours, difference.reason);
        }
    }
    let stock = text(stock);
    // what fails on both is not the same: it was not seen
    if missing.is_empty() && as_stock == stock && !as_stock.starts_with(FAILED) {
        return None;
    }
    let differ: Vec<String> = lines_apart(&stock, &as_stock);
    Some(format!("{check}:{missing}\n{}", differ.join("\n")))
}

const FAILED: &str = "failed: ";

fn text(seen: &Seen) -> String {
    match seen {
        Ok(seen) => seen.clone(),
        Err(why) => format!("{FAILED}{why}"),
    }
}

/// The lines that are in one of them only; all, if both failed alike.
fn lines_apart(stock: &str, ours: &str) -> Vec<String> {
    let alone = |one: &str, other: &str, whose: &str| {
        one.lines()
            .filter(|line| line.starts_with(FAILED) || !other.lines().any(|there| there == *line))
            .map(|line| format!("  {whose} {line}"))
            .collect::<Vec<_>>()
    };
    [alone(stock, ours, "stock:"), alone(ours, stock, "ours: ")].concat()
}
