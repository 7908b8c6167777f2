//! The plans there are, for whoever wants to know before asking: an operator who wonders what a
//! resize does, and the fault bench, which must not miss a step. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ostler_protocol::rpc::operation::Kind;

use super::{plan, sample};
use crate::journal::records::{Change, Running};

/// For each kind of operation the plans it can have, each the names of its steps, in order. Which
/// one it is follows from the parameters, and from whether the instance runs.
pub fn plans() -> BTreeMap<Kind, BTreeSet<Vec<&'static str>>> {
    let mut plans: BTreeMap<Kind, BTreeSet<Vec<&'static str>>> = BTreeMap::new();
    for change in sample::changes() {
        for was in [Running::Yes, Running::No] {
            let steps: Vec<&str> = plan(&change, was).into_iter().map(|step| step.name()).collect();
            for kind in asked_by(&change) {
                plans.entry(*kind).or_default().insert(steps.clone());
            }
        }
    }
    plans
}

/// The kinds of operations that come down to a change.
const fn asked_by(change: &Change) -> &'static [Kind] {
    match change {
        Change::Boot => &[Kind::Boot],
        Change::Start => &[Kind::Start],
        Change::Stop { .. } => &[Kind::Stop],
        Change::Reboot { .. } => &[Kind::Reboot],
        Change::Pause => &[Kind::Pause],
        Change::Unpause => &[Kind::Unpause],
        Change::Suspend => &[Kind::Suspend],
        Change::Resume => &[Kind::Resume],
        Change::Rebuild { .. } => &[Kind::Rebuild, Kind::Reset],
        Change::Rescue { .. } => &[Kind::Rescue],
        Change::Unrescue => &[Kind::Unrescue],
        Change::Resize { .. } => &[Kind::Resize],
        Change::ConfirmResize => &[Kind::ConfirmResize],
        Change::RevertResize { .. } => &[Kind::RevertResize],
        Change::Adjust { .. } => &[Kind::Adjust],
        Change::Snapshot { .. } => &[Kind::Snapshot],
        Change::Shelve { .. } => &[Kind::Shelve],
        Change::Offload => &[Kind::Offload],
        Change::Unshelve { .. } => &[Kind::Unshelve],
        Change::Update { .. } => &[Kind::Update],
        Change::Lock { .. } => &[Kind::Lock],
        Change::Unlock => &[Kind::Unlock],
        Change::SoftDelete { .. } | Change::Delete => &[Kind::Delete],
        Change::Restore { .. } => &[Kind::Restore],
        Change::Password { .. } => &[Kind::Password],
        Change::ImageImport { .. } => &[Kind::ImageImport],
        Change::ImageRemove => &[Kind::ImageRemove],
        Change::NetworkEnsure { .. } => &[Kind::NetworkEnsure],
        Change::NetworkRemove { .. } => &[Kind::NetworkRemove],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::operations::Step;

    #[test]
    fn every_kind_and_every_step_is_told_of() {
        let plans = plans();
        for kind in Kind::ALL {
            assert!(plans.contains_key(kind), "{kind} has no plan");
        }
        let steps: BTreeSet<&str> = plans.values().flatten().flatten().copied().collect();
        for step in Step::ALL {
            assert!(steps.contains(step.name()), "{step:?} is in no plan");
        }
    }
}
