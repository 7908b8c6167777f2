//! The plans there are, for whoever wants to know before asking: an operator who wonders what a
//! resize does, and the fault bench, which must not miss a step. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ostler_protocol::rpc::operation::Kind;

use super::samples;
use crate::journal::records::Running;

/// For each kind of operation the plans it can have, each the names of its steps, in order. Which
/// one it is follows from the parameters, and from whether the instance runs.
pub fn plans() -> BTreeMap<Kind, BTreeSet<Vec<&'static str>>> {
    let of = |kind: &Kind| {
        let plans = samples(*kind)
            .into_iter()
            .flat_map(|change| [Running::Yes, Running::No].map(|was| change.plan(was).steps()));
        let names = plans.map(|plan| plan.into_iter().map(|step| step.name()).collect());
        (*kind, names.collect())
    };
    Kind::ALL.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::step::Step;

    #[test]
    fn every_kind_and_every_step_is_told_of() {
        let plans = plans();
        for kind in Kind::ALL {
            assert!(!plans[kind].is_empty(), "{kind} has no plan");
        }
        let steps: BTreeSet<&str> = plans.values().flatten().flatten().copied().collect();
        for step in Step::ALL {
            assert!(steps.contains(step.name()), "{step:?} is in no plan");
        }
    }
}
