//! The plans: which steps a change comes down to, in which order. Pure.
//!
//! | change | steps |
//! |---|---|
//! | boot | create root disk, ensure bridges, define domain, start domain |
//! | start | ensure bridges, define domain, start domain |
//! | stop | ask the guest to shut down (unless hard), power off |
//! | reboot | ask the guest to reboot (unless hard); if it does not: power off, and start afresh |
//! | pause, unpause | the vCPUs; then the guest's clock is set |
//! | suspend, resume | save the memory; start from it, and set the clock |
//! | rebuild, reset | power off, set the root disk aside, make another, start; then drop the old |
//! | rescue | power off, make a rescue disk, start from it |
//! | unrescue | power off, start from the own disk; then drop the rescue disk |
//! | resize | shut down, copy the root disk aside, grow it, start in the new size |
//! | confirm | drop the copy |
//! | revert | power off, put the copy back, start in the old size |
//! | adjust | vCPUs, memory |
//! | snapshot | copy the disk (the guest frozen for an instant), store the image |
//! | shelve | shut down, copy the disk, store the image; offload: remove all else |
//! | unshelve | (make the root disk from the image,) start; then drop the image |
//! | update | write the domain's metadata |
//! | delete, soft | shut down |
//! | restore | start, if it ran |
//! | delete, hard | power off, undefine domain, remove links, remove files, drop what only it used |
//! | password | set password |
//! | image.import, image.remove, network.ensure | one step each |
//!
//! A step may be done again after a crash: drivers tell "made" from "already so". One that may
//! not, because doing it twice would be seen, says so in [`Step::may_repeat`]. What destroys
//! something comes last and **commits** ([`Step::commits`]): from there an operation goes on, and
//! is not undone any more.

use ostler_protocol::rpc::instance::{Manner, VmState};
use ostler_protocol::rpc::operation::{self, Kind, StepState};

use crate::journal::records::{Change, Running};

macro_rules! steps {
    ($($step:ident = $name:literal),* $(,)?) => {
        /// A step of a plan.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::compute) enum Step {
            $($step,)*
        }

        impl Step {
            /// All of them.
            #[cfg(test)]
            pub(in crate::compute) const ALL: &[Self] = &[$(Self::$step),*];

            pub(in crate::compute) const fn name(self) -> &'static str {
                match self { $(Self::$step => $name,)* }
            }
        }
    };
}

steps! {
    CreateRootDisk = "create root disk",
    EnsureBridges = "ensure bridges",
    DefineDomain = "define domain",
    StartDomain = "start domain",
    AskShutdown = "ask the guest to shut down",
    AskReboot = "ask the guest to reboot",
    PowerOff = "power off",
    DiscardMemory = "discard saved memory",
    Pause = "pause vCPUs",
    Unpause = "run vCPUs",
    SaveMemory = "save memory",
    RestoreMemory = "start domain with saved memory",
    SyncClock = "set the guest's clock",
    SetRootAside = "set root disk aside",
    CopyRootAside = "copy root disk aside",
    GrowRoot = "grow root disk",
    PutRootBack = "put root disk back",
    DropAside = "drop the disk set aside",
    CreateRescueDisk = "create rescue disk",
    DropRescueDisk = "drop rescue disk",
    CopyDisk = "copy disk",
    StoreImage = "store image",
    DropShelvedImage = "drop the shelved image",
    AdjustVcpus = "adjust vCPUs",
    AdjustMemory = "adjust memory",
    WriteMetadata = "write metadata",
    UndefineDomain = "undefine domain",
    RemoveLinks = "remove links",
    RemoveFiles = "remove files",
    DropBase = "drop unused image files",
    SetPassword = "set password",
    FetchImage = "fetch image",
    RemoveImage = "remove image",
    EnsureBridge = "ensure bridge",
    RemoveBridge = "remove bridge",
}

impl Step {
    /// Whether it may be done again when a crash left open whether it was done.
    pub(in crate::compute) const fn may_repeat(self) -> bool {
        !matches!(self, Self::AskReboot | Self::SetPassword)
    }

    /// Whether it destroys what undoing would need: once it has begun the operation only goes on.
    pub(in crate::compute) const fn commits(self, state: StepState) -> bool {
        let begun = match state {
            StepState::Pending | StepState::Undone => false,
            StepState::Running | StepState::Failed | StepState::Done => true,
        };
        begun && self.destroys()
    }

    const fn destroys(self) -> bool {
        match self {
            Self::PutRootBack
            | Self::DropAside
            | Self::DropRescueDisk
            | Self::DropShelvedImage
            | Self::DiscardMemory
            | Self::UndefineDomain
            | Self::RemoveLinks
            | Self::RemoveFiles
            | Self::DropBase
            | Self::RemoveImage => true,
            Self::CreateRootDisk
            | Self::EnsureBridges
            | Self::DefineDomain
            | Self::StartDomain
            | Self::AskShutdown
            | Self::AskReboot
            | Self::PowerOff
            | Self::Pause
            | Self::Unpause
            | Self::SaveMemory
            | Self::RestoreMemory
            | Self::SyncClock
            | Self::SetRootAside
            | Self::CopyRootAside
            | Self::GrowRoot
            | Self::CreateRescueDisk
            | Self::CopyDisk
            | Self::StoreImage
            | Self::AdjustVcpus
            | Self::AdjustMemory
            | Self::WriteMetadata
            | Self::SetPassword
            | Self::FetchImage
            | Self::EnsureBridge
            | Self::RemoveBridge => false,
        }
    }

    /// Whether it is tried again until it is done, when it fails: there is no way back from it, or
    /// none is wanted, and half of it must not stay.
    pub(in crate::compute) const fn goes_on(self, change: &Change) -> bool {
        self.destroys() || matches!(change, Change::Delete | Change::SoftDelete { .. })
    }

    /// Whether waiting for it may be given up when somebody cancels: it waits for the hypervisor
    /// or a guest, whose calls end by themselves and in order. What works on files sees to a
    /// cancellation itself, for nothing may touch a file behind an undo's back.
    pub(in crate::compute) const fn may_be_left(self) -> bool {
        match self {
            Self::EnsureBridges
            | Self::DefineDomain
            | Self::StartDomain
            | Self::AskShutdown
            | Self::AskReboot
            | Self::PowerOff
            | Self::Pause
            | Self::Unpause
            | Self::SaveMemory
            | Self::RestoreMemory
            | Self::SyncClock
            | Self::AdjustVcpus
            | Self::AdjustMemory
            | Self::WriteMetadata
            | Self::SetPassword => true,
            Self::DiscardMemory
            | Self::CreateRootDisk
            | Self::SetRootAside
            | Self::CopyRootAside
            | Self::GrowRoot
            | Self::PutRootBack
            | Self::DropAside
            | Self::CreateRescueDisk
            | Self::DropRescueDisk
            | Self::CopyDisk
            | Self::StoreImage
            | Self::DropShelvedImage
            | Self::UndefineDomain
            | Self::RemoveLinks
            | Self::RemoveFiles
            | Self::DropBase
            | Self::FetchImage
            | Self::RemoveImage
            | Self::EnsureBridge
            | Self::RemoveBridge => false,
        }
    }
}

const START: [Step; 3] = [Step::EnsureBridges, Step::DefineDomain, Step::StartDomain];
const SHUT_DOWN: [Step; 2] = [Step::AskShutdown, Step::PowerOff];
const REMOVE: [Step; 4] =
    [Step::UndefineDomain, Step::RemoveLinks, Step::RemoveFiles, Step::DropBase];

/// What a change comes down to, for an instance that ran, or did not, when it was accepted.
pub(in crate::compute) fn plan(change: &Change, was: Running) -> Vec<Step> {
    let if_running = |steps: &[Step]| match was {
        Running::Yes => steps.to_vec(),
        Running::No => Vec::new(),
    };
    match change {
        Change::Boot => [&[Step::CreateRootDisk][..], &START].concat(),
        Change::Start => START.to_vec(),
        Change::Stop { manner: Manner::Soft, .. } | Change::SoftDelete { .. } => SHUT_DOWN.to_vec(),
        Change::Stop { manner: Manner::Hard, .. } => vec![Step::PowerOff],
        Change::Reboot { manner, .. } => {
            let ask: &[Step] = match manner {
                Manner::Soft => &[Step::AskReboot],
                Manner::Hard => &[],
            };
            [ask, &[Step::PowerOff, Step::DiscardMemory], &START].concat()
        }
        Change::Pause => vec![Step::Pause],
        Change::Unpause => vec![Step::Unpause, Step::SyncClock],
        Change::Suspend => vec![Step::SaveMemory],
        Change::Resume => vec![Step::EnsureBridges, Step::RestoreMemory, Step::SyncClock],
        Change::Rebuild { .. } => {
            let mut steps = vec![
                Step::PowerOff,
                Step::SetRootAside,
                Step::CreateRootDisk,
                Step::EnsureBridges,
                Step::DefineDomain,
            ];
            steps.extend(if_running(&[Step::StartDomain]));
            steps.extend([Step::DropAside, Step::DropBase]);
            steps
        }
        Change::Rescue { .. } => [&[Step::PowerOff, Step::CreateRescueDisk][..], &START].concat(),
        Change::Unrescue => {
            [&[Step::PowerOff][..], &START, &[Step::DropRescueDisk, Step::DropBase]].concat()
        }
        Change::Resize { .. } => {
            let mut steps = if_running(&SHUT_DOWN);
            steps.extend([
                Step::CopyRootAside,
                Step::GrowRoot,
                Step::EnsureBridges,
                Step::DefineDomain,
            ]);
            steps.extend(if_running(&[Step::StartDomain]));
            steps
        }
        Change::ConfirmResize => vec![Step::DropAside],
        Change::RevertResize { start } => {
            let mut steps =
                vec![Step::PowerOff, Step::PutRootBack, Step::EnsureBridges, Step::DefineDomain];
            if *start == Running::Yes {
                steps.push(Step::StartDomain);
            }
            steps
        }
        Change::Adjust { vcpus, memory } => {
            let vcpus = vcpus.map(|_| Step::AdjustVcpus);
            vcpus.into_iter().chain(memory.map(|_| Step::AdjustMemory)).collect()
        }
        Change::Snapshot { .. } => vec![Step::CopyDisk, Step::StoreImage],
        Change::Shelve { offload, .. } => {
            let mut steps = if_running(&SHUT_DOWN);
            steps.extend([Step::CopyDisk, Step::StoreImage, Step::DiscardMemory]);
            if *offload {
                steps.extend(REMOVE);
            }
            steps
        }
        Change::Offload => REMOVE.to_vec(),
        Change::Unshelve { base, .. } => {
            let disk: &[Step] = match base {
                Some(_) => &[Step::CreateRootDisk],
                None => &[],
            };
            [disk, &START, &[Step::DropShelvedImage, Step::DropBase]].concat()
        }
        Change::Update { .. } => vec![Step::WriteMetadata],
        Change::Lock { .. } | Change::Unlock => Vec::new(),
        Change::Restore { to } => match to {
            VmState::Active | VmState::Rescued => START.to_vec(),
            VmState::Resized => if_running(&START),
            VmState::Building
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Shelved
            | VmState::ShelvedOffloaded
            | VmState::SoftDeleted
            | VmState::Error
            | VmState::Deleted => Vec::new(),
        },
        Change::Delete => [&[Step::PowerOff][..], &REMOVE, &[Step::DropShelvedImage]].concat(),
        Change::Password { .. } => vec![Step::SetPassword],
        Change::ImageImport { .. } => vec![Step::FetchImage],
        Change::ImageRemove => vec![Step::RemoveImage],
        Change::NetworkEnsure { .. } => vec![Step::EnsureBridge],
        Change::NetworkRemove { .. } => vec![Step::RemoveBridge],
    }
}

/// The steps of a plan as the caller sees them, none begun.
pub(in crate::compute) fn pending(change: &Change, was: Running) -> Vec<operation::Step> {
    let pending = |step: Step| operation::Step {
        name: step.name().to_owned(),
        state: StepState::Pending,
        already: false,
        failures: 0,
        progress: None,
        started: None,
        finished: None,
    };
    plan(change, was).into_iter().map(pending).collect()
}

/// Whether the operation has come so far that it can only go on.
pub(in crate::compute) fn committed(plan: &[Step], steps: &[operation::Step]) -> bool {
    plan.iter().zip(steps).any(|(step, now)| step.commits(now.state))
}

/// Whether it is too late to cancel: it can only go on, or stopping would leave what was on off
/// for good, since a change of this kind is not undone.
pub(in crate::compute) fn too_late(
    change: &Change,
    plan: &[Step],
    steps: &[operation::Step],
) -> bool {
    let off = |(step, now): (&Step, &operation::Step)| {
        *step == Step::PowerOff && now.state == StepState::Done
    };
    committed(plan, steps) || (!can_undo(change) && plan.iter().zip(steps).any(off))
}

/// Whether a change leaves things as they were when it fails.
pub(in crate::compute) const fn can_undo(change: &Change) -> bool {
    match change {
        Change::Boot
        | Change::Start
        | Change::Pause
        | Change::Unpause
        | Change::Suspend
        | Change::Rebuild { .. }
        | Change::Rescue { .. }
        | Change::Unrescue
        | Change::Resize { .. }
        | Change::RevertResize { .. }
        | Change::Adjust { .. }
        | Change::Snapshot { .. }
        | Change::Shelve { .. }
        | Change::Unshelve { .. }
        | Change::Update { .. }
        | Change::Restore { .. }
        | Change::ImageImport { .. }
        | Change::NetworkEnsure { .. }
        | Change::NetworkRemove { .. } => true,
        // What was asked of a guest cannot be taken back, and a removal goes on when asked again.
        Change::Stop { .. }
        | Change::Reboot { .. }
        | Change::Resume
        | Change::ConfirmResize
        | Change::Offload
        | Change::Lock { .. }
        | Change::Unlock
        | Change::SoftDelete { .. }
        | Change::Delete
        | Change::Password { .. }
        | Change::ImageRemove => false,
    }
}

/// Whether an operation of this kind can be stopped on request.
pub(in crate::compute) const fn can_cancel(kind: Kind) -> bool {
    match kind {
        Kind::Boot
        | Kind::Start
        | Kind::Stop
        | Kind::Reboot
        | Kind::Suspend
        | Kind::Rebuild
        | Kind::Reset
        | Kind::Rescue
        | Kind::Unrescue
        | Kind::Resize
        | Kind::RevertResize
        | Kind::Adjust
        | Kind::Snapshot
        | Kind::Shelve
        | Kind::Unshelve
        | Kind::Restore
        | Kind::Password
        | Kind::ImageImport => true,
        Kind::Pause
        | Kind::Unpause
        | Kind::Resume
        | Kind::ConfirmResize
        | Kind::Offload
        | Kind::Update
        | Kind::Lock
        | Kind::Unlock
        | Kind::Delete
        | Kind::ImageRemove
        | Kind::NetworkEnsure
        | Kind::NetworkRemove => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::operations::sample;

    #[test]
    fn a_soft_stop_ends_by_force() {
        let change = Change::Stop { manner: Manner::Soft, timeout: 1 };
        assert_eq!(plan(&change, Running::Yes).last(), Some(&Step::PowerOff));
    }

    #[test]
    fn what_a_guest_would_see_twice_is_not_repeated() {
        assert!(!Step::AskReboot.may_repeat());
        assert!(Step::PowerOff.may_repeat());
    }

    #[test]
    fn nothing_is_destroyed_before_the_last_step_that_can_be_undone() {
        for change in sample::changes().iter().filter(|change| can_undo(change)) {
            for was in [Running::Yes, Running::No] {
                let plan = plan(change, was);
                let first = plan.iter().position(|step| step.commits(StepState::Done));
                let Some(first) = first else { continue };
                if matches!(change, Change::RevertResize { .. }) {
                    continue; // it puts back what the undo of a resize would
                }
                assert!(
                    plan[first..].iter().all(|step| step.commits(StepState::Done)),
                    "{change:?}: {plan:?}"
                );
            }
        }
    }

    #[test]
    fn a_reboot_that_has_switched_off_is_not_cancelled() {
        let change = Change::Reboot { manner: Manner::Hard, timeout: 1 };
        let plan = plan(&change, Running::Yes);
        let mut steps = pending(&change, Running::Yes);
        steps[0].state = StepState::Running;
        assert!(!too_late(&change, &plan, &steps));
        steps[0].state = StepState::Done;
        assert!(too_late(&change, &plan, &steps));
    }

    #[test]
    fn every_step_is_in_a_plan() {
        let used: Vec<Step> = sample::changes()
            .iter()
            .flat_map(|change| [Running::Yes, Running::No].map(|was| plan(change, was)))
            .flatten()
            .collect();
        for step in Step::ALL {
            assert!(used.contains(step), "{step:?} is in no plan");
        }
    }
}
