//! Circles among the modules of one folder. An import from anywhere below one module to anywhere
//! below another makes the first depend on the second; at each level, those ways may not lead back.
//!
//! A folder and what is in it may name each other: its `mod.rs` says what the folder is, `super::`
//! takes it from there. That is one thing in several files, not a circle.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::imports::{Import, Module};

/// Modules of one folder that import each other, each step with where it is written.
pub(crate) struct Circle {
    /// the folder's own path, as in `a::b`
    pub(crate) folder: String,
    steps: Vec<Import>,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.steps.iter().chain(self.steps.first());
        let names: Vec<_> = names.filter_map(|step| step.from.last()).map(String::as_str).collect();
        writeln!(f, "in {}: {}", self.folder, names.join(" -> "))?;
        self.steps.iter().try_for_each(|step| writeln!(f, "    {}", step.at))
    }
}

/// What each module of a folder imports of those beside it: one import stands for all.
type Ways = BTreeMap<Module, BTreeMap<Module, Import>>;

/// The shortest circle through each module that is in one, each circle once.
pub(crate) fn among(imports: &[Import]) -> Vec<Circle> {
    let mut folders: BTreeMap<Module, Ways> = BTreeMap::new();
    for import in imports {
        let shared = import.from.iter().zip(&import.to).take_while(|(a, b)| a == b).count();
        let (Some(from), Some(to)) = (import.from.get(..=shared), import.to.get(..=shared)) else {
            continue; // a folder, and what is in it
        };
        let ways = folders.entry(import.from[..shared].to_vec()).or_default();
        let step = Import { from: from.to_vec(), to: to.to_vec(), at: import.at.clone() };
        ways.entry(from.to_vec()).or_default().entry(to.to_vec()).or_insert(step);
    }
    let mut circles = Vec::new();
    for (folder, ways) in folders {
        let mut in_one: Vec<Module> = Vec::new();
        for start in ways.keys() {
            if let Some(steps) = shortest(&ways, start).filter(|_| !in_one.contains(start)) {
                in_one.extend(steps.iter().map(|step| step.from.clone()));
                circles.push(Circle { folder: folder.join("::"), steps });
            }
        }
    }
    circles
}

/// The shortest way from a module back to itself.
fn shortest(ways: &Ways, start: &Module) -> Option<Vec<Import>> {
    let mut reached: BTreeMap<&Module, &Import> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(module) = next.pop_front() {
        for (to, import) in ways.get(module).into_iter().flatten() {
            if reached.contains_key(to) {
                continue;
            }
            reached.insert(to, import);
            if to == start {
                let mut steps = Vec::new();
                let mut back = start;
                while steps.is_empty() || back != start {
                    let step = *reached.get(back)?;
                    steps.push(step.clone());
                    back = &step.from;
                }
                steps.reverse();
                return Some(steps);
            }
            next.push_back(to);
        }
    }
    None
}
