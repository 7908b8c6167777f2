//! What is printed, and what is kept: the same numbers as a table and as JSON.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{Attribute, Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::figures::{Series, Spread};
use crate::settings::Settings;

/// All values are kept of series no longer than this.
const KEPT: usize = 100;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// KiB.
    Kibibytes,
    /// Things.
    Count,
    /// Of one processor.
    Percent,
}

impl Unit {
    fn word(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Kibibytes => "KiB",
            Self::Count => "",
            Self::Percent => "%",
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value < 10.0 => format!("{value:.3}"),
            Self::Milliseconds if value < 100.0 => format!("{value:.1}"),
            Self::Percent => format!("{value:.2}"),
            Self::Milliseconds | Self::Kibibytes | Self::Count => format!("{value:.0}"),
        }
    }
}

/// What ours is held against.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    name: String,
    values: Series,
    /// The ratio we want to stay below.
    goal: Option<Goal>,
}

/// What we want a ratio to be at most.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// The median of the ratios.
    Median(f64),
    /// The ratio of the 99th percentiles.
    Tail(f64),
}

/// One line: ours, and a peer if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    what: String,
    unit: Unit,
    ours: Series,
    peer: Option<Peer>,
}

impl Line {
    /// A number of ours.
    pub(crate) fn new(what: impl Into<String>, unit: Unit, ours: &Series) -> Self {
        Self { what: what.into(), unit, ours: ours.clone(), peer: None }
    }

    /// Held against this, measured in turn with it.
    #[must_use]
    pub(crate) fn against(mut self, name: impl Into<String>, values: &Series) -> Self {
        self.peer = Some(Peer { name: name.into(), values: values.clone(), goal: None });
        self
    }

    /// We want to stay within so many times the peer.
    #[must_use]
    pub(crate) fn goal(self, ratio: f64) -> Self {
        self.wanted(Goal::Median(ratio))
    }

    /// We want the 99th percentile to stay within so many times the peer's.
    #[must_use]
    pub(crate) fn tail_goal(self, ratio: f64) -> Self {
        self.wanted(Goal::Tail(ratio))
    }

    fn wanted(mut self, goal: Goal) -> Self {
        if let Some(peer) = &mut self.peer {
            peer.goal = Some(goal);
        }
        self
    }

    /// What is wanted, and what is; `None` if nothing is wanted, or there is too little to tell.
    fn verdict(&self) -> Option<(Goal, f64)> {
        let goal = self.peer.as_ref()?.goal?;
        let is = match goal {
            Goal::Median(_) => self.ratio()?.median,
            Goal::Tail(_) => self.tail_ratio()?,
        };
        Some((goal, is))
    }

    fn ratio(&self) -> Option<Spread> {
        self.ours.over(&self.peer.as_ref()?.values).spread()
    }

    /// Of the two 99th percentiles, where there is something to tell them by.
    fn tail_ratio(&self) -> Option<f64> {
        let peer = &self.peer.as_ref()?.values;
        (self.ours.values().len() > KEPT)
            .then(|| Some(self.ours.quantile(0.99)? / peer.quantile(0.99)?))?
    }

    fn document(&self) -> Value {
        let mut line = json!({
            "what": self.what, "unit": self.unit.word(), "ours": summary(&self.ours),
        });
        if let Some(peer) = &self.peer {
            line["peer"] = json!({"name": peer.name, "values": summary(&peer.values)});
            line["ratio"] = self.ratio().map(|r| spread(&r)).unwrap_or_default();
            line["ratio_p99"] = json!(self.tail_ratio());
            let (name, wanted) = match peer.goal {
                None => ("goal", None),
                Some(Goal::Median(wanted)) => ("goal", Some(wanted)),
                Some(Goal::Tail(wanted)) => ("goal_p99", Some(wanted)),
            };
            line[name] = json!(wanted);
        }
        line
    }
}

fn spread(spread: &Spread) -> Value {
    json!({"low": spread.low, "median": spread.median, "high": spread.high})
}

fn summary(series: &Series) -> Value {
    let mut summary = json!({
        "n": series.values().len(),
        "spread": series.spread().map(|s| spread(&s)),
        "p99": series.quantile(0.99),
        "min": series.quantile(0.0),
        "max": series.quantile(1.0),
    });
    if series.values().len() <= KEPT {
        summary["values"] = json!(series.values());
    }
    summary
}

/// Lines that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    title: String,
    lines: Vec<Line>,
    /// What has to be known to read them.
    notes: Vec<String>,
}

impl Section {
    /// An empty one.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), lines: Vec::new(), notes: Vec::new() }
    }

    /// One more line.
    pub(crate) fn line(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// One more note.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let heads = [
            "",
            "ours",
            "[quartiles]",
            "p99",
            "peer",
            "[quartiles]",
            "p99",
            "ratio",
            "[quartiles]",
            "p99",
            "goal",
            "against",
        ];
        table.set_header(heads.map(|head| Cell::new(head).add_attribute(Attribute::Dim)));
        for line in &self.lines {
            table.add_row(row(line));
        }
        for at in 1..=10 {
            if let Some(column) = table.column_mut(at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("\n{}\n{table}\n", self.title);
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text
    }

    fn document(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(Line::document).collect();
        json!({"title": self.title, "lines": lines, "notes": self.notes})
    }
}

fn row(line: &Line) -> Vec<Cell> {
    let unit = line.unit;
    let values = |series: &Series| {
        let many = series.values().len() > 1;
        let tail = series.values().len() > KEPT;
        let spread = series.spread();
        [
            spread.map(|s| format!("{} {}", unit.text(s.median), unit.word())),
            spread
                .filter(|_| many)
                .map(|s| format!("[{}..{}]", unit.text(s.low), unit.text(s.high))),
            series.quantile(0.99).filter(|_| tail).map(|p99| unit.text(p99)),
        ]
    };
    let mut cells = vec![Cell::new(&line.what)];
    let mut add = |texts: &[Option<String>]| {
        cells.extend(texts.iter().map(|text| Cell::new(text.as_deref().unwrap_or_default())));
    };
    add(&values(&line.ours));
    let Some(peer) = &line.peer else { return cells };
    add(&values(&peer.values));
    let ratio = line.ratio();
    let many = peer.values.values().len() > 1;
    add(&[
        ratio.map(|r| format!("{:.3}", r.median)),
        ratio.filter(|_| many).map(|r| format!("[{:.2}..{:.2}]", r.low, r.high)),
        line.tail_ratio().map(|r| format!("{r:.2}")),
        line.verdict().map(|(goal, is)| {
            let (what, wanted) = match goal {
                Goal::Median(wanted) => ("", wanted),
                Goal::Tail(wanted) => ("p99 ", wanted),
            };
            format!("{what}{wanted} {}", if is <= wanted { "met" } else { "MISSED" })
        }),
        Some(peer.name.clone()),
    ]);
    cells
}

/// Everything of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<(Section, Value)>,
    failed: Vec<(String, String)>,
}

impl Report {
    /// What was measured, and how the machine was meanwhile.
    pub(crate) fn measured(&mut self, section: Section, load: Value) {
        self.sections.push((section, load));
    }

    /// What could not be.
    pub(crate) fn failed(&mut self, section: &str, why: String) {
        self.failed.push((section.to_owned(), why));
    }

    /// Whether all that was asked for could be measured.
    pub(crate) fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }

    /// Write it down; where.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(crate) fn keep(&self, settings: &Settings, machine: &Value) -> Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let sections: Vec<Value> = self
            .sections
            .iter()
            .map(|(section, load)| {
                let mut section = section.document();
                section["load"] = load.clone();
                section
            })
            .collect();
        let failed: Vec<Value> = self
            .failed
            .iter()
            .map(|(section, why)| json!({"section": section, "why": why}))
            .collect();
        let document = json!({
            "format": 1, "taken": now, "machine": machine, "settings": settings.document(),
            "sections": sections, "failed": failed,
        });
        let path = settings.folder.join(format!("{now}.json"));
        let text = format!("{document:#}\n");
        fs::create_dir_all(&settings.folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(Error::io(format!("writing {}", path.display())))?;
        Ok(path)
    }
}
