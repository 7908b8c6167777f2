//! The methods: one table that decodes, dispatches and documents.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::fault::{Fault, Reason, located};
use super::schemas::Schemas;
use super::strict::Strict;
use super::{console, guest, host, image, inspect, instance, network, operation, port, volume};

/// Whether a method only looks, or changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Answers directly.
    Read,
    /// Changes something in a guest, or sends a piece of an image, and answers directly; safe to
    /// repeat.
    Act,
    /// Answers with the accepted [`operation::Operation`].
    Change,
}

/// A method: its name and what goes in and out.
pub trait Method {
    /// As in `instance.boot`.
    const NAME: &'static str;
    /// Whether it only looks.
    const EFFECT: Effect;
    /// What goes in.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// What comes out.
    type Reply: Serialize + DeserializeOwned + JsonSchema;
}

macro_rules! methods {
    ($($variant:ident $name:literal $effect:ident ($params:ty) -> $reply:ty, $summary:literal
       $(, $refusals:expr)?;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $summary)]
            #[derive(Debug, Clone, Copy)]
            pub struct $variant;

            impl Method for $variant {
                const NAME: &'static str = $name;
                const EFFECT: Effect = Effect::$effect;
                type Params = $params;
                type Reply = $reply;
            }
        )*

        /// A decoded request.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Call {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant($params),
            )*
        }

        impl Call {
            /// Decode a request's method and parameters.
            ///
            /// # Errors
            /// `unknown_method`, or `invalid_params` with the path of the parameter at fault.
            pub fn decode(method: &str, params: Option<Value>) -> Result<Self, Fault> {
                match method {
                    $($name => Ok(Self::$variant(decode_params($name, params)?)),)*
                    _ => Err(unknown_method(method)),
                }
            }

            /// The method's name.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Whether it only looks.
            pub const fn effect(&self) -> Effect {
                match self { $(Self::$variant(_) => Effect::$effect,)* }
            }

            /// What it may be refused for. An operation's own failure is another matter: that is in
            /// the operation.
            pub fn refusals(&self) -> Vec<Reason> {
                match self { $(Self::$variant(_) => refusals(Effect::$effect, &[$($refusals)?]),)* }
            }
        }

        /// The names of all methods.
        pub const NAMES: &[&str] = &[$($name),*];

        /// All methods, in OpenRPC's words.
        pub(super) fn documented(schemas: &mut Schemas) -> Vec<Value> {
            vec![$(schemas.method::<$params, $reply>(
                $name,
                $summary,
                &refusals(Effect::$effect, &[$($refusals)?]),
            )),*]
        }
    };
}

/// What any method may be refused for.
const ANY: &[Reason] = &[
    Reason::InvalidRequest,
    Reason::InvalidParams,
    Reason::Busy,
    Reason::Expired,
    Reason::Internal,
];
/// What any change may be refused for besides: it is written down before it is answered.
const CHANGE: &[Reason] = &[
    Reason::NotFound,
    Reason::Conflict,
    Reason::KeyReused,
    Reason::Draining,
    Reason::NoSpace,
    Reason::HypervisorUnavailable,
    Reason::HypervisorFailed,
];

/// What a method may be refused for, besides what its own line says.
fn refusals(effect: Effect, own: &[&[Reason]]) -> Vec<Reason> {
    let common = match effect {
        Effect::Read | Effect::Act => &[],
        Effect::Change => CHANGE,
    };
    let mut all = [&[ANY, common], own].concat().concat();
    all.sort_by_key(|reason| std::cmp::Reverse(reason.code()));
    all.dedup();
    all
}

/// Refusals of one kind, besides those any method shares.
const NODE: &[Reason] = &[Reason::HypervisorUnavailable, Reason::HypervisorFailed];
const NAMED: &[Reason] = &[Reason::NotFound];
const STATE: &[Reason] = &[Reason::NotFound, Reason::Conflict];
const ROOM: &[Reason] = &[Reason::NoCapacity, Reason::InUse, Reason::ImageUnavailable];
const NEEDED: &[Reason] = &[Reason::InUse];
const LIBVIRT: &[Reason] = &[
    Reason::NotFound,
    Reason::Conflict,
    Reason::HypervisorUnavailable,
    Reason::HypervisorFailed,
    Reason::TimedOut,
];
const GUEST: &[Reason] = &[
    Reason::NotFound,
    Reason::Conflict,
    Reason::KeyReused,
    Reason::HypervisorUnavailable,
    Reason::HypervisorFailed,
    Reason::GuestUnavailable,
    Reason::GuestFailed,
    Reason::TimedOut,
    Reason::Cancelled,
];
const UPLOAD: &[Reason] =
    &[Reason::Conflict, Reason::NoSpace, Reason::ImageInvalid, Reason::ImageUnavailable];
const CONSOLE: &[Reason] = &[
    Reason::NotFound,
    Reason::Conflict,
    Reason::InUse,
    Reason::HypervisorUnavailable,
    Reason::HypervisorFailed,
    Reason::TimedOut,
];

methods! {
    HostPing "host.ping" Read (host::Nothing) -> host::Pong,
        "whether the agent answers, and which version it is";
    HostShow "host.show" Read (host::Nothing) -> host::Host,
        "the node: its size, its use, its links", NODE;
    Discover "rpc.discover" Read (host::Nothing) -> Value,
        "this document, as OpenRPC";
    InstanceBoot "instance.boot" Change (instance::Boot) -> operation::Operation,
        "make an instance from an image and start it", ROOM;
    InstanceList "instance.list" Read (instance::List) -> Vec<instance::Instance>,
        "the instances of the node", NAMED;
    InstanceShow "instance.show" Read (instance::Select) -> instance::Instance,
        "one instance", NAMED;
    InstanceStart "instance.start" Change (instance::Select) -> operation::Operation,
        "switch it on", ROOM;
    InstanceStop "instance.stop" Change (instance::Halt) -> operation::Operation,
        "switch it off: ask the guest, then by force";
    InstanceReboot "instance.reboot" Change (instance::Halt) -> operation::Operation,
        "restart it: through the guest, or by reset";
    InstancePause "instance.pause" Change (instance::Select) -> operation::Operation,
        "stop its vCPUs, and keep its memory";
    InstanceUnpause "instance.unpause" Change (instance::Select) -> operation::Operation,
        "let its vCPUs run again";
    InstanceSuspend "instance.suspend" Change (instance::Select) -> operation::Operation,
        "save its memory to disk and switch it off";
    InstanceResume "instance.resume" Change (instance::Select) -> operation::Operation,
        "switch it on with the memory that was saved", ROOM;
    InstanceRebuild "instance.rebuild" Change (instance::Rebuild) -> operation::Operation,
        "give it a new root disk from an image; its identity and ports stay", ROOM;
    InstanceReset "instance.reset" Change (instance::Reset) -> operation::Operation,
        "put its root disk back to its image", ROOM;
    InstanceRescue "instance.rescue" Change (instance::Rescue) -> operation::Operation,
        "boot it from a rescue image, its own disk beside", ROOM;
    InstanceUnrescue "instance.unrescue" Change (instance::Select) -> operation::Operation,
        "boot it from its own disk again", ROOM;
    InstanceResize "instance.resize" Change (instance::Resize) -> operation::Operation,
        "give it another size; confirm or revert follows", ROOM;
    InstanceConfirmResize "instance.confirm_resize" Change (instance::Select) -> operation::Operation,
        "keep the new size, and forget the old disk";
    InstanceRevertResize "instance.revert_resize" Change (instance::Select) -> operation::Operation,
        "go back to the old size and the old disk", ROOM;
    InstanceAdjust "instance.adjust" Change (instance::Adjust) -> operation::Operation,
        "change vCPUs and memory in place, within its maximum", ROOM;
    InstanceSnapshot "instance.snapshot" Change (instance::Snapshot) -> operation::Operation,
        "make an image of its root disk", ROOM;
    InstanceShelve "instance.shelve" Change (instance::Shelve) -> operation::Operation,
        "switch it off and keep it as an image", ROOM;
    InstanceOffload "instance.offload" Change (instance::Select) -> operation::Operation,
        "leave only the image of a shelved instance";
    InstanceUnshelve "instance.unshelve" Change (instance::Select) -> operation::Operation,
        "bring a shelved instance back", ROOM;
    InstanceUpdate "instance.update" Change (instance::Update) -> operation::Operation,
        "change its name, owner or metadata";
    InstanceLock "instance.lock" Change (instance::Lock) -> operation::Operation,
        "refuse changes to it until it is unlocked";
    InstanceUnlock "instance.unlock" Change (instance::Select) -> operation::Operation,
        "allow changes again";
    InstanceDelete "instance.delete" Change (instance::Delete) -> operation::Operation,
        "delete it: restorable for some time, or at once with its disk, ports and sockets";
    InstanceRestore "instance.restore" Change (instance::Select) -> operation::Operation,
        "take back a soft delete";
    InstancePassword "instance.password" Change (instance::Password) -> operation::Operation,
        "set the password of an account in the guest";
    InstanceAttachVolume "instance.attach_volume" Change (volume::Attach) -> operation::Operation,
        "give it a volume, running or not", NEEDED;
    InstanceDetachVolume "instance.detach_volume" Change (volume::Detach) -> operation::Operation,
        "take a volume from it, once its guest lets go";
    InstanceSwapVolume "instance.swap_volume" Change (volume::Swap) -> operation::Operation,
        "put another volume in the place of one it has, with what that holds, running or not", NEEDED;
    InstanceListVolumes "instance.list_volumes" Read (instance::Select) -> Vec<volume::AttachedVolume>,
        "its volumes", NAMED;
    InstanceAttachInterface "instance.attach_interface" Change (port::Attach) -> operation::Operation,
        "give it a port, or a new one on a network, running or not", NEEDED;
    InstanceDetachInterface "instance.detach_interface" Change (port::Detach) -> operation::Operation,
        "take a port from it, once its guest lets go";
    InstanceListInterfaces "instance.list_interfaces" Read (instance::Select) -> Vec<port::Port>,
        "its ports", NAMED;
    GuestReport "guest.report" Read (guest::Query) -> guest::Report,
        "what the guest says of itself", GUEST;
    GuestExec "guest.exec" Act (guest::work::Exec) -> guest::work::Started,
        "run a program in the guest; the same key runs it once", GUEST;
    GuestExecWait "guest.exec_wait" Read (guest::work::ExecWait) -> guest::work::Execution,
        "how a program is doing, and what it wrote", GUEST;
    GuestFileRead "guest.file_read" Read (guest::work::FileRead) -> guest::work::FilePiece,
        "read a piece of a file in the guest", GUEST;
    GuestFileWrite "guest.file_write" Act (guest::work::FileWrite) -> guest::work::FileWritten,
        "write a piece of a file in the guest", GUEST;
    GuestTime "guest.time" Read (guest::work::Select) -> guest::work::Clock,
        "the guest's clock beside the node's", GUEST;
    GuestSyncTime "guest.sync_time" Act (guest::work::Select) -> guest::work::Clock,
        "set the guest's clock by the node's", GUEST;
    GuestSshKeys "guest.ssh_keys" Act (guest::work::SshKeys) -> guest::work::Keys,
        "list or change the SSH keys of an account in the guest", GUEST;
    GuestTrim "guest.trim" Act (guest::work::Trim) -> guest::work::Trimmed,
        "tell the guest's disks what its file systems do not use", GUEST;
    OperationGet "operation.get" Read (operation::Select) -> operation::Operation,
        "one operation", NAMED;
    OperationList "operation.list" Read (operation::List) -> Vec<operation::Operation>,
        "operations, newest first", NAMED;
    OperationWait "operation.wait" Read (operation::Wait) -> operation::Operation,
        "wait until an operation has moved on or is over", NAMED;
    OperationCancel "operation.cancel" Read (operation::Select) -> operation::Operation,
        "ask a running operation to stop and undo what it did", STATE;
    ImageUpload "image.upload" Act (image::Upload) -> image::Uploaded,
        "send a piece of an image to be imported", UPLOAD;
    ImageImport "image.import" Change (image::Import) -> operation::Operation,
        "fetch an image into the node's cache and check it", ROOM;
    ImageExport "image.export" Change (image::Export) -> operation::Operation,
        "write an image to a file of the node, or send it to a server by HTTP PUT";
    ImageList "image.list" Read (host::Nothing) -> Vec<image::Image>,
        "the images in the node's cache";
    ImageRemove "image.remove" Change (image::Select) -> operation::Operation,
        "remove an image no instance is made from", NEEDED;
    NetworkEnsure "network.ensure" Change (network::Ensure) -> operation::Operation,
        "make a network's bridge as described", NEEDED;
    NetworkRemove "network.remove" Change (network::Select) -> operation::Operation,
        "forget a network no instance is on, and remove its bridge if the agent made it", NEEDED;
    NetworkList "network.list" Read (host::Nothing) -> Vec<network::Network>,
        "the networks of the node";
    NetworkShow "network.show" Read (network::Select) -> network::Network,
        "one network: in what it is not as it should be, and its ports", NAMED;
    PortCreate "port.create" Change (port::Create) -> operation::Operation,
        "make a port on a network";
    PortList "port.list" Read (port::List) -> Vec<port::Port>,
        "the ports of the node", NAMED;
    PortShow "port.show" Read (port::Select) -> port::Port,
        "one port", NAMED;
    PortStats "port.stats" Read (port::Select) -> port::Stats,
        "what was counted of a port: what its guest sent and may not", NAMED;
    PortUpdate "port.update" Change (port::Update) -> operation::Operation,
        "change its name, owner or addresses";
    PortDelete "port.delete" Change (port::Select) -> operation::Operation,
        "delete a port that no instance has", NEEDED;
    VolumeCreate "volume.create" Change (volume::Create) -> operation::Operation,
        "make a volume: empty, or from an image, a snapshot or another volume", ROOM;
    VolumeList "volume.list" Read (volume::List) -> Vec<volume::Volume>,
        "the volumes of the node", NAMED;
    VolumeShow "volume.show" Read (volume::Select) -> volume::Volume,
        "one volume, with its snapshots", NAMED;
    VolumeUpdate "volume.update" Change (volume::Update) -> operation::Operation,
        "change its name, owner or metadata";
    VolumeExtend "volume.extend" Change (volume::Extend) -> operation::Operation,
        "make it larger, in use or not", ROOM;
    VolumeSnapshot "volume.snapshot" Change (volume::TakeSnapshot) -> operation::Operation,
        "keep what it holds now, to go back to or to make volumes from", NEEDED;
    VolumeDeleteSnapshot "volume.delete_snapshot" Change (volume::SelectSnapshot) -> operation::Operation,
        "forget a snapshot", NEEDED;
    VolumeRevert "volume.revert" Change (volume::SelectSnapshot) -> operation::Operation,
        "go back to a snapshot: what was written since is lost", NEEDED;
    VolumeDelete "volume.delete" Change (volume::Delete) -> operation::Operation,
        "delete a volume that no instance has, with its snapshots", NEEDED;
    VolumePools "volume.pools" Read (host::Nothing) -> Vec<volume::Pool>,
        "where volumes are kept, and how much room there is";
    InstanceXml "instance.xml" Read (inspect::ReadXml) -> inspect::Xml,
        "its definition as libvirt keeps it, without secrets", LIBVIRT;
    InstanceDiagnostics "instance.diagnostics" Read (instance::Select) -> inspect::Diagnostics,
        "what is counted of it while it runs: processors, NICs, disks, memory", LIBVIRT;
    InstanceVnc "instance.vnc" Read (instance::Select) -> inspect::Screen,
        "where its VNC server listens", LIBVIRT;
    InstanceVncOpen "instance.vnc_open" Read (inspect::OpenScreen) -> inspect::OpenedScreen,
        "let somebody connect to its VNC server: a new password, for a short time", LIBVIRT;
    InstanceConsoleLog "instance.console_log" Read (console::ReadLog) -> console::Log,
        "the end of what its serial console printed", CONSOLE;
    ConsoleOpen "console.open" Read (console::Open) -> console::Opened,
        "begin a session on its serial console", CONSOLE;
    ConsoleRead "console.read" Read (console::Read) -> console::Printed,
        "what the guest printed, waited for if there is nothing yet", CONSOLE;
    ConsoleWrite "console.write" Read (console::Write) -> console::Taken,
        "type into the console", CONSOLE;
    ConsoleClose "console.close" Read (console::Close) -> host::Nothing,
        "end a session", CONSOLE;
}

fn unknown_method(method: &str) -> Fault {
    let method: String = method.chars().take(80).collect();
    Fault::new(Reason::UnknownMethod, format!("there is no method {method:?}"))
        .next("rpc.discover lists the methods")
}

fn decode_params<P: DeserializeOwned>(method: &str, params: Option<Value>) -> Result<P, Fault> {
    let params = match params {
        None => Value::Object(Map::new()),
        Some(params @ Value::Object(_)) => params,
        Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_),
        ) => {
            return Err(Fault::new(
                Reason::InvalidParams,
                format!("the parameters of {method} go by name: params must be an object"),
            ));
        }
    };
    serde_path_to_error::deserialize(Strict(params)).map_err(|error| {
        let path = error.path().to_string();
        // serde quotes what it cannot take, and a misplaced secret must not come back in clear.
        let wrong = match path.split(['.', '[']).next() {
            Some("password") => {
                "password: give {\"crypted\": HASH} or {\"plain\": WORD}".to_owned()
            }
            Some("args" | "env") => format!("{path}: give a list of strings"),
            Some("input" | "data") => format!("{path}: give base64"),
            Some(_) | None => located(&error),
        };
        let fault = Fault::new(
            Reason::InvalidParams,
            format!("the parameters of {method} are wrong: {wrong}"),
        )
        .next(format!("rpc.discover describes the parameters of {method}"));
        if path == "." { fault } else { fault.about(format!("parameter {path}")) }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn boot(params: Value) -> Result<Call, Fault> {
        Call::decode("instance.boot", Some(params))
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let cases = [
            (json!({"image": "i"}), "missing field `name`"),
            (json!({"name": "a", "image": "i", "colour": "red"}), "unknown field `colour`"),
            (json!({"name": "a", "image": "i", "vcpus": "two"}), "vcpus: invalid type"),
            (json!({"name": "../x", "image": "i"}), "is not a name"),
            (
                json!({"name": "a", "image": "i", "networks": [{"network": "n", "mac": "01:00:5e:00:00:01"}]}),
                "networks[0].mac: \"01:00:5e:00:00:01\" is not a MAC address: it is a multicast",
            ),
            (
                json!({"name": "a", "image": "i", "networks": [["lan"]]}),
                "networks[0]: invalid type: sequence, expected an object",
            ),
        ];
        for (params, expected) in cases {
            let fault = boot(params).unwrap_err();
            assert_eq!(fault.data.reason, Reason::InvalidParams);
            assert!(fault.message.contains(expected), "{} lacks {expected}", fault.message);
        }
    }

    #[test]
    fn a_misplaced_password_does_not_come_back_in_the_error() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for password in [json!("hunter2"), json!({"hunter2": 1}), json!({"plain": ["hunter2"]})] {
            let params = json!({"id": id, "user": "root", "password": password});
            let fault = Call::decode("instance.password", Some(params)).unwrap_err();
            assert!(!serde_json::to_string(&fault).unwrap().contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn a_misplaced_argument_does_not_come_back_in_the_error() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (member, value) in [
            ("args", json!("hunter2")),
            ("args", json!([["hunter2"]])),
            ("env", json!({"hunter2": 1})),
            ("input", json!(["hunter2"])),
        ] {
            let mut params = json!({"id": id, "path": "/bin/true"});
            params[member] = value;
            let fault = Call::decode("guest.exec", Some(params)).unwrap_err();
            assert!(!serde_json::to_string(&fault).unwrap().contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn parameters_go_by_name() {
        assert!(Call::decode("host.ping", Some(json!([]))).is_err());
        assert!(Call::decode("host.ping", Some(json!({}))).is_ok());
        assert!(Call::decode("host.ping", None).is_ok());
    }

    #[test]
    fn an_unknown_method_is_refused_and_not_echoed_at_length() {
        let fault = Call::decode(&"x".repeat(10_000), None).unwrap_err();
        assert_eq!(fault.code, -32601);
        assert!(fault.message.len() < 200);
    }
}
