//! From a request to its reply.
//!
//! There is one table. It says of each command its name, what it may do and when, and who carries it
//! out; requests are dispatched by it and `guest-info` is answered from it, so the two cannot differ.
//! Whether a command may run is asked before its arguments are looked at, as clients expect: they tell
//! an agent that cannot from a call that failed by the class of the error.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use ostler_protocol::qga::commands::info::{AgentInfo, CommandInfo, GuestInfo};
use ostler_protocol::qga::commands::sync::{GuestSync, GuestSyncDelimited};
use ostler_protocol::qga::commands::{self as wire, Nothing};
use ostler_protocol::qga::encode::{self, Part, Parts, Reply};
use ostler_protocol::qga::envelope::{Disabled, Request};
use ostler_protocol::qga::{Command, Fault, arguments};
use serde_json::{Map, Value};

use crate::commands::{Agent, CommandError, Handle};
use crate::log::chain;
use crate::policy::Effect;

/// Whether a command is sure to do without the file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileFrozen {
    /// It is.
    Allowed,
    /// It may wait for one that is frozen, for ever.
    Refused,
}

/// What is left to do of a command whose arguments have been read.
type Rest = Pin<Box<dyn Future<Output = Result<Reply, Fault>>>>;
type Run = fn(Rc<Agent>, Map<String, Value>) -> Result<Rest, Fault>;

/// A row of the table.
#[derive(Debug)]
pub struct Entry {
    /// The command's name.
    pub name: &'static str,
    /// Whether a reply follows its success.
    pub success_response: bool,
    /// Whether it may run while file systems are frozen.
    pub while_frozen: WhileFrozen,
    /// What it does to the guest.
    pub effect: Effect,
    run: Run,
}

impl Entry {
    const fn of<C: Handle + 'static>(while_frozen: WhileFrozen, effect: Effect) -> Self {
        Self {
            name: C::NAME,
            success_response: C::SUCCESS_RESPONSE,
            while_frozen,
            effect,
            run: carry_out::<C>,
        }
    }

    /// Why the command may not run now, if it may not.
    pub fn refusal(&self, agent: &Agent) -> Option<Disabled> {
        match self.while_frozen {
            WhileFrozen::Refused if agent.is_frozen() => Some(Disabled::Frozen),
            WhileFrozen::Allowed | WhileFrozen::Refused => {
                agent.policy.refusal(self.name, self.effect)
            }
        }
    }

    /// Whether the command would take these arguments. It is not carried out.
    pub fn check(&self, agent: Rc<Agent>, given: Map<String, Value>) -> Result<(), Fault> {
        (self.run)(agent, given).map(drop)
    }
}

/// The commands, in the order of their names.
pub static TABLE: &[Entry] = {
    use Effect::{Commands, Manages, Reads};
    use WhileFrozen::{Allowed, Refused};
    &[
        Entry::of::<wire::exec::GuestExec>(Refused, Commands),
        Entry::of::<wire::exec::GuestExecStatus>(Refused, Commands),
        Entry::of::<wire::file::GuestFileClose>(Refused, Manages),
        Entry::of::<wire::file::GuestFileFlush>(Refused, Manages),
        Entry::of::<wire::file::GuestFileOpen>(Refused, Manages),
        Entry::of::<wire::file::GuestFileRead>(Refused, Manages),
        Entry::of::<wire::file::GuestFileSeek>(Refused, Manages),
        Entry::of::<wire::file::GuestFileWrite>(Refused, Commands),
        Entry::of::<wire::freeze::GuestFsfreezeFreeze>(Refused, Manages),
        Entry::of::<wire::freeze::GuestFsfreezeFreezeList>(Refused, Manages),
        Entry::of::<wire::freeze::GuestFsfreezeStatus>(Allowed, Reads),
        Entry::of::<wire::freeze::GuestFsfreezeThaw>(Allowed, Manages),
        Entry::of::<wire::trim::GuestFstrim>(Refused, Manages),
        Entry::of::<wire::cpu::GuestGetCpustats>(Refused, Reads),
        Entry::of::<wire::disk::GuestGetDisks>(Refused, Reads),
        Entry::of::<wire::disk::GuestGetDiskstats>(Refused, Reads),
        Entry::of::<wire::filesystem::GuestGetFsinfo>(Refused, Reads),
        Entry::of::<wire::info::GuestGetHostName>(Refused, Reads),
        Entry::of::<wire::cpu::GuestGetLoad>(Refused, Reads),
        Entry::of::<wire::memory::GuestGetMemoryBlockInfo>(Refused, Reads),
        Entry::of::<wire::memory::GuestGetMemoryBlocks>(Refused, Reads),
        Entry::of::<wire::info::GuestGetOsinfo>(Refused, Reads),
        Entry::of::<wire::time::GuestGetTime>(Refused, Reads),
        Entry::of::<wire::timezone::GuestGetTimezone>(Refused, Reads),
        Entry::of::<wire::users::GuestGetUsers>(Refused, Reads),
        Entry::of::<wire::cpu::GuestGetVcpus>(Refused, Reads),
        Entry::of::<GuestInfo>(Allowed, Reads),
        Entry::of::<wire::network::GuestNetworkGetInterfaces>(Refused, Reads),
        Entry::of::<wire::network::GuestNetworkGetRoute>(Refused, Reads),
        Entry::of::<wire::sync::GuestPing>(Allowed, Reads),
        Entry::of::<wire::memory::GuestSetMemoryBlocks>(Refused, Manages),
        Entry::of::<wire::time::GuestSetTime>(Refused, Manages),
        Entry::of::<wire::user::GuestSetUserPassword>(Refused, Manages),
        Entry::of::<wire::cpu::GuestSetVcpus>(Refused, Manages),
        Entry::of::<wire::power::GuestShutdown>(Refused, Manages),
        Entry::of::<wire::ssh::GuestSshAddAuthorizedKeys>(Refused, Commands),
        Entry::of::<wire::ssh::GuestSshGetAuthorizedKeys>(Refused, Reads),
        Entry::of::<wire::ssh::GuestSshRemoveAuthorizedKeys>(Refused, Commands),
        Entry::of::<wire::power::GuestSuspendDisk>(Refused, Manages),
        Entry::of::<wire::power::GuestSuspendHybrid>(Refused, Manages),
        Entry::of::<wire::power::GuestSuspendRam>(Refused, Manages),
        Entry::of::<GuestSync>(Allowed, Reads),
        Entry::of::<GuestSyncDelimited>(Allowed, Reads),
        #[cfg(test)]
        Entry::of::<tests::Wait>(Refused, Reads),
    ]
};

fn carry_out<C: Handle + 'static>(
    agent: Rc<Agent>,
    given: Map<String, Value>,
) -> Result<Rest, Fault> {
    let arguments = arguments::read::<C::Arguments>(given)?;
    Ok(Box::pin(async move {
        let reply = C::handle(agent, arguments).await.map_err(|error| fault(&error))?;
        Reply::new(reply, C::LEAD, C::bulk).map_err(Fault::generic)
    }))
}

/// The one place where an error of ours becomes one of the protocol's: all that is known, in a line.
fn fault(error: &CommandError) -> Fault {
    if let CommandError::Refused { command, why } = error {
        return Fault::disabled(command, *why);
    }
    Fault::generic(chain(error))
}

impl Handle for GuestInfo {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<AgentInfo, CommandError> {
        let supported_commands = TABLE
            .iter()
            .map(|entry| CommandInfo {
                name: entry.name.to_owned(),
                enabled: entry.refusal(&agent).is_none(),
                success_response: entry.success_response,
            })
            .collect();
        Ok(AgentInfo { version: env!("CARGO_PKG_VERSION").to_owned(), supported_commands })
    }
}

/// Whether an answer is to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// One comes.
    Always,
    /// One comes if it fails; success may take for ever to show.
    OnFailure,
}

/// A request that has been understood as far as its command.
#[derive(Debug)]
pub struct Call {
    entry: &'static Entry,
    arguments: Map<String, Value>,
    id: Option<Value>,
}

impl Call {
    /// Finds the command of a request; an error is the line to answer with.
    pub fn prepare(agent: &Agent, request: Value) -> Result<Self, Vec<u8>> {
        let Request { execute, arguments, id } = Request::from_value(request)
            .map_err(|error| encode::fault(&Fault::generic(&error.kind), error.id.as_ref()))?;
        let Ok(place) = TABLE.binary_search_by(|entry| entry.name.cmp(&execute)) else {
            return Err(encode::fault(&Fault::not_found(&execute), id.as_ref()));
        };
        let entry = &TABLE[place];
        if let Some(why) = entry.refusal(agent) {
            return Err(encode::fault(&Fault::disabled(&execute, why), id.as_ref()));
        }
        Ok(Self { entry, arguments, id })
    }

    /// Tells the log who wants to change the guest, before it is done.
    pub fn audit(&self, agent: &Agent, channel: &str) {
        match self.entry.effect {
            Effect::Reads => {}
            Effect::Manages | Effect::Commands => {
                agent.log.audit(self.entry.name, channel, self.id.as_ref());
            }
        }
    }

    /// Whether its answer is to be waited for.
    pub fn answers(&self) -> Answers {
        if self.entry.success_response { Answers::Always } else { Answers::OnFailure }
    }

    /// Whether it may be answered before what was asked earlier: the commands that are sure to do
    /// without the file systems, by which a host finds out how a stuck agent is and helps it out.
    pub fn overtakes(&self) -> bool {
        match self.entry.while_frozen {
            WhileFrozen::Allowed => true,
            WhileFrozen::Refused => false,
        }
    }

    /// Whether it says that its client has given up what it asked before.
    pub fn resynchronizes(&self) -> bool {
        [GuestSync::NAME, GuestSyncDelimited::NAME].contains(&self.entry.name)
    }

    /// Whether its answer means the same before as after that of an earlier command, and can be told
    /// from it.
    pub fn is_independent(&self) -> bool {
        self.overtakes()
            && self.entry.effect == Effect::Reads
            && !self.resynchronizes()
            && self.id.is_some()
    }

    /// The line that says that it is not begun, and why.
    pub fn refuse(&self, why: &str) -> Vec<u8> {
        encode::fault(&Fault::generic(why), self.id.as_ref())
    }

    /// Carries it out, and gives the line to answer with, if there is one.
    pub async fn run(self, agent: Rc<Agent>) -> Option<Parts> {
        let Self { entry, arguments, id } = self;
        let outcome = match (entry.run)(agent.clone(), arguments) {
            Ok(rest) => rest.await,
            Err(fault) => Err(fault),
        };
        match outcome {
            Ok(_) if !entry.success_response => None,
            Ok(reply) => Some(reply.line(id.as_ref())),
            Err(fault) => {
                agent.log.info(format_args!("{} failed: {}", entry.name, fault.desc));
                Some(vec![Part::Text(encode::fault(&fault, id.as_ref()))])
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::options::Invocation;
    use crate::settings::Settings;
    use serde_json::json;

    /// A command that takes as long as it is told to, for the tests of what happens meanwhile.
    #[derive(Debug)]
    pub(crate) enum Wait {}

    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    pub(crate) struct WaitArguments {
        ms: u64,
    }

    thread_local! {
        /// How long those took that have ended, in their order.
        pub(crate) static WAITED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    impl Command for Wait {
        const NAME: &'static str = "guest-wait";
        type Arguments = WaitArguments;
        type Reply = u64;
    }

    impl Handle for Wait {
        async fn handle(_: Rc<Agent>, arguments: WaitArguments) -> Result<u64, CommandError> {
            tokio::time::sleep(std::time::Duration::from_millis(arguments.ms)).await;
            WAITED.with_borrow_mut(|waited| waited.push(arguments.ms));
            Ok(arguments.ms)
        }
    }

    fn agent(options: &[&str]) -> Rc<Agent> {
        let Ok(Invocation::Serve(settings)) = crate::options::parse(options.iter().map(Into::into))
        else {
            panic!("options")
        };
        let settings: Settings = *settings;
        Rc::new(Agent::new(&settings))
    }

    fn ask(agent: &Rc<Agent>, request: Value) -> Value {
        let line = match Call::prepare(agent, request) {
            Err(line) => Some(vec![Part::Text(line)]),
            Ok(call) => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(call.run(agent.clone())),
        };
        let line = encode::joined(line.unwrap());
        serde_json::from_slice(line.strip_prefix(b"\xFF").unwrap_or(&line)).unwrap()
    }

    fn class_and_text(reply: &Value) -> (&str, &str) {
        (reply["error"]["class"].as_str().unwrap(), reply["error"]["desc"].as_str().unwrap())
    }

    #[test]
    fn the_table_is_in_order_and_names_each_command_once() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn guest_info_tells_what_the_dispatcher_would_do() {
        let agent = agent(&["-b", "guest-shutdown"]);
        for frozen in [false, true] {
            agent.set_frozen(frozen);
            let info = ask(&agent, json!({"execute": "guest-info"}));
            for command in info["return"]["supported_commands"].as_array().unwrap() {
                let request = json!({"execute": command["name"], "arguments": {"unknown": 1}});
                let reply = ask(&agent, request);
                let refused = class_and_text(&reply).0 == "CommandNotFound";
                assert_eq!(command["enabled"], !refused, "{command}");
            }
        }
    }

    #[test]
    fn what_is_refused_is_refused_before_its_arguments_are_read() {
        let agent = agent(&["-b", "guest-sync"]);
        let reply = ask(&agent, json!({"execute": "guest-sync", "arguments": {}, "id": null}));
        assert_eq!(
            class_and_text(&reply),
            ("CommandNotFound", "Command guest-sync has been disabled: the command is not allowed")
        );
        assert!(reply.as_object().unwrap().contains_key("id"));
        let reply = ask(&agent, json!({"execute": "guest-x", "id": [1, {"a": null}]}));
        assert_eq!(
            class_and_text(&reply),
            ("CommandNotFound", "The command guest-x has not been found")
        );
        assert_eq!(reply["id"], json!([1, {"a": null}]));
    }

    #[test]
    fn only_what_needs_no_file_system_runs_while_frozen() {
        let agent = agent(&[]);
        agent.set_frozen(true);
        let allowed: Vec<_> = TABLE
            .iter()
            .filter(|entry| entry.refusal(&agent).is_none())
            .map(|entry| entry.name)
            .collect();
        let expected = [
            "guest-fsfreeze-status",
            "guest-fsfreeze-thaw",
            "guest-info",
            "guest-ping",
            "guest-sync",
            "guest-sync-delimited",
        ];
        assert_eq!(allowed, expected);
        let reply = ask(&agent, json!({"execute": "guest-get-osinfo"}));
        assert_eq!(
            class_and_text(&reply).1,
            "Command guest-get-osinfo has been disabled: the agent is in frozen state"
        );
    }

    #[test]
    fn blocking_outweighs_allowing() {
        let agent = agent(&["-a", "guest-ping,guest-sync", "-b", "guest-sync"]);
        let allowed: Vec<_> = TABLE
            .iter()
            .filter(|entry| entry.refusal(&agent).is_none())
            .map(|entry| entry.name)
            .collect();
        assert_eq!(allowed, ["guest-ping"]);
    }

    #[test]
    fn a_profile_refuses_what_goes_further_and_says_which_it_is() {
        let agent = agent(&["--profile", "observe"]);
        let reply = ask(&agent, json!({"execute": "guest-shutdown", "arguments": 1 }));
        assert_eq!(class_and_text(&reply).0, "GenericError", "it is no request");
        let reply = ask(&agent, json!({"execute": "guest-shutdown", "arguments": {"mode": 1}}));
        assert_eq!(
            class_and_text(&reply),
            (
                "CommandNotFound",
                "Command guest-shutdown has been disabled: \
                 the command is not allowed by profile 'observe'"
            )
        );
        assert!(
            TABLE.iter().find(|e| e.name == "guest-get-osinfo").unwrap().refusal(&agent).is_none()
        );
    }

    #[test]
    fn arguments_are_checked_as_the_schema_has_them() {
        let agent = agent(&[]);
        for (arguments, text) in [
            (json!({}), "Parameter 'id' is missing"),
            (json!({"id": 1, "x": 1}), "Parameter 'x' is unexpected"),
            (json!({"id": 1.0}), "Invalid parameter type for 'id', expected: integer"),
        ] {
            let reply = ask(&agent, json!({"execute": "guest-sync", "arguments": arguments}));
            assert_eq!(class_and_text(&reply), ("GenericError", text));
        }
        assert_eq!(
            ask(&agent, json!({"execute": "guest-ping", "arguments": {}})),
            json!({"return": {}})
        );
    }
}
