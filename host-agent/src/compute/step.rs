//! The steps there are. Pure.
//!
//! A step may be done again after a crash: drivers tell "made" from "already so". What destroys
//! something comes last in a plan and **commits** ([`Step::commits`]): from there an operation goes
//! on, and is not undone any more.

use ostler_protocol::rpc::operation::StepState;

/// What a step is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// It waits for the hypervisor or a guest, whose calls end by themselves and in order: waiting
    /// for it may be given up when somebody cancels.
    Waits,
    /// The same, and doing it twice would be seen: it is not done again when a crash left open
    /// whether it was done.
    Once,
    /// It works on files or links, and sees to a cancellation itself: nothing may touch a file
    /// behind an undo's back.
    Works,
    /// It destroys what undoing would need: once it has begun the operation only goes on.
    Destroys,
}

macro_rules! steps {
    ($($step:ident = $name:literal $nature:ident),* $(,)?) => {
        /// A step of a plan.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Step {
            $($step,)*
        }

        impl Step {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$step),*];

            /// What it is called, by people and in the journal.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$step => $name,)* }
            }

            const fn nature(self) -> Nature {
                match self { $(Self::$step => Nature::$nature,)* }
            }
        }
    };
}

steps! {
    CreateRootDisk = "create root disk" Works,
    WriteConfigDrive = "write config drive" Works,
    EnsureBridges = "ensure bridges" Waits,
    DefineDomain = "define domain" Waits,
    StartDomain = "start domain" Waits,
    AskShutdown = "ask the guest to shut down" Waits,
    AskReboot = "ask the guest to reboot" Once,
    PowerOff = "power off" Waits,
    DiscardMemory = "discard saved memory" Destroys,
    Pause = "pause vCPUs" Waits,
    Unpause = "run vCPUs" Waits,
    SaveMemory = "save memory" Waits,
    RestoreMemory = "start domain with saved memory" Waits,
    SyncClock = "set the guest's clock" Waits,
    SetRootAside = "set root disk aside" Works,
    CopyRootAside = "copy root disk aside" Works,
    GrowRoot = "grow root disk" Works,
    PutRootBack = "put root disk back" Destroys,
    DropAside = "drop the disk set aside" Destroys,
    CreateRescueDisk = "create rescue disk" Works,
    DropRescueDisk = "drop rescue disk" Destroys,
    CopyDisk = "copy disk" Works,
    StoreImage = "store image" Works,
    DropShelvedImage = "drop the shelved image" Destroys,
    AdjustVcpus = "adjust vCPUs" Waits,
    AdjustMemory = "adjust memory" Waits,
    WriteMetadata = "write metadata" Waits,
    UndefineDomain = "undefine domain" Destroys,
    RemoveLinks = "remove links" Destroys,
    GuardPort = "apply rules" Works,
    PlugInterface = "plug interface" Waits,
    UnplugInterface = "unplug interface" Waits,
    RemoveLink = "remove link" Destroys,
    RemoveFiles = "remove files" Destroys,
    DropBase = "drop unused image files" Destroys,
    SetPassword = "set password" Once,
    FetchImage = "fetch image" Works,
    ExportImage = "export image" Works,
    KeepExport = "keep the exported file" Destroys,
    RemoveImage = "remove image" Destroys,
    EnsureBridge = "ensure bridge" Works,
    RemoveBridge = "remove bridge" Works,
    CreateVolume = "create volume" Works,
    ConnectVolume = "connect volume" Works,
    PlugVolume = "plug volume" Waits,
    UnplugVolume = "unplug volume" Waits,
    DisconnectVolume = "disconnect volume" Destroys,
    CopyVolume = "copy volume" Works,
    SwitchVolume = "switch volume" Destroys,
    ExtendVolume = "extend volume" Works,
    SnapshotVolume = "snapshot volume" Works,
    RevertVolume = "revert volume" Works,
    LimitVolume = "limit volume" Waits,
    DropVolumeSnapshot = "delete volume snapshot" Destroys,
    DeleteVolume = "delete volume" Destroys,
}

impl Step {
    /// The step of this name, as the journal of this version or an earlier one has it.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|step| step.name() == name)
    }

    /// Whether it may be done again when a crash left open whether it was done.
    pub(super) fn may_repeat(self) -> bool {
        self.nature() != Nature::Once
    }

    /// Whether waiting for it may be given up when somebody cancels.
    pub(super) fn may_be_left(self) -> bool {
        matches!(self.nature(), Nature::Waits | Nature::Once)
    }

    /// Whether it destroys what undoing would need.
    pub(super) fn destroys(self) -> bool {
        self.nature() == Nature::Destroys
    }

    /// Whether the operation only goes on, with this step in this state.
    pub(super) fn commits(self, state: StepState) -> bool {
        let begun = match state {
            StepState::Pending | StepState::Undone => false,
            StepState::Running | StepState::Failed | StepState::Done => true,
        };
        begun && self.destroys()
    }
}
