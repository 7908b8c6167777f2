//! What it all came to.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::Table;
use ostler_protocol::rpc::operation::Kind;

/// How a point ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Finished,
    Undone,
    Cancelled,
    /// It could not be undone, and said so, with what to do next.
    Told,
}

/// The points of one fault.
#[derive(Debug, Clone, Default)]
struct Row {
    tried: usize,
    finished: usize,
    undone: usize,
    cancelled: usize,
    told: usize,
    wrong: usize,
    left: usize,
}

/// All points.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: BTreeMap<String, Row>,
    /// Which steps of which kinds were cut off.
    hit: BTreeSet<(String, String)>,
    wrong: Vec<String>,
}

impl Tally {
    /// A point was tried.
    pub(super) fn tried(&mut self, fault: &str, point: &str, came: Result<Ended, Vec<String>>) {
        let row = self.rows.entry(fault.to_owned()).or_default();
        row.tried += 1;
        match came {
            Ok(Ended::Finished) => row.finished += 1,
            Ok(Ended::Undone) => row.undone += 1,
            Ok(Ended::Cancelled) => row.cancelled += 1,
            Ok(Ended::Told) => row.told += 1,
            Err(wrongs) => {
                row.wrong += 1;
                row.left += wrongs.iter().filter(|wrong| wrong.starts_with("left: ")).count();
                for wrong in wrongs {
                    let line = format!("{fault}: {point}: {wrong}");
                    eprintln!("WRONG {line}");
                    self.wrong.push(line);
                }
            }
        }
    }

    /// What another lane has come to.
    pub(super) fn add(&mut self, other: Self) {
        for (fault, row) in other.rows {
            self.rows.entry(fault).or_default().add(&row);
        }
        self.hit.extend(other.hit);
        self.wrong.extend(other.wrong);
    }

    /// So many points more than operations.
    pub(super) fn more(&mut self, fault: &str, points: usize) {
        self.rows.entry(fault.to_owned()).or_default().tried += points.saturating_sub(1);
    }

    /// A step was cut off.
    pub(super) fn hit(&mut self, kind: Kind, step: &str) {
        self.hit.insert((kind.to_string(), step.to_owned()));
    }

    /// The steps of these plans, as `rpc.discover` tells them, that were never cut off.
    pub(super) fn missed(&self, plans: &serde_json::Value) -> Vec<String> {
        let mut missed = BTreeSet::new();
        for (kind, plans) in plans.as_object().into_iter().flatten() {
            for step in plans.as_array().into_iter().flatten().flat_map(|plan| plan.as_array()) {
                for step in step.iter().filter_map(|step| step.as_str()) {
                    if !self.hit.contains(&(kind.clone(), step.to_owned())) {
                        missed.insert(format!("{kind}: {step}"));
                    }
                }
            }
        }
        missed.into_iter().collect()
    }

    /// The table, for people.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.set_header([
            "fault",
            "points",
            "finished",
            "undone",
            "cancelled",
            "failed, told",
            "wrong",
            "left behind",
        ]);
        let mut all = Row::default();
        for (fault, row) in &self.rows {
            all.add(row);
            table.add_row(row.cells(fault));
        }
        table.add_row(all.cells("in all"));
        table.to_string()
    }

    /// What was wrong.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.tried += other.tried;
        self.finished += other.finished;
        self.undone += other.undone;
        self.cancelled += other.cancelled;
        self.told += other.told;
        self.wrong += other.wrong;
        self.left += other.left;
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let Self { tried, finished, undone, cancelled, told, wrong, left } = self;
        let counts = [tried, finished, undone, cancelled, told, wrong, left];
        std::iter::once(name.to_owned()).chain(counts.map(ToString::to_string)).collect()
    }
}
