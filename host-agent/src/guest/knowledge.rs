//! What is known of one guest: the last report, kept up to date by what the agent tells unasked.
//!
//! A report has the time it was taken. Events make parts of it newer than that and never older, so
//! its age errs on the side of caution. It outlives the guest's silence and the instance's stop; the
//! next one replaces it.

use ostler_protocol::qga::commands::filesystem::FilesystemInfo;
use ostler_protocol::qga::commands::info::{AgentInfo, HostName, OsInfo};
use ostler_protocol::qga::commands::network::NetworkInterface;
use ostler_protocol::qga::events::GuestEvent;
use ostler_protocol::rpc::guest::{
    Agent, Filesystem, GuestState, Heartbeat, Interface, Missing, Os, Report, Transport,
};
use ostler_protocol::rpc::values::{InstanceId, Timestamp};

use super::error::Error;
use super::report::{self, Part, clean};

/// Words kept of what an agent says it can do.
const CAPABILITIES: usize = 32;

/// What a guest answered when it was asked for everything.
#[derive(Debug)]
pub(super) struct Gathered {
    /// The way it came.
    pub(super) over: Transport,
    /// `guest-info`
    pub(super) agent: Result<Part<AgentInfo>, Error>,
    /// `guest-get-osinfo`
    pub(super) os: Result<OsInfo, Error>,
    /// `guest-get-host-name`
    pub(super) host_name: Result<HostName, Error>,
    /// `guest-network-get-interfaces`
    pub(super) interfaces: Result<Part<Vec<NetworkInterface>>, Error>,
    /// `guest-get-fsinfo`
    pub(super) filesystems: Result<Part<Vec<FilesystemInfo>>, Error>,
}

impl Gathered {
    /// Why there is no report in this: the first error, if no part was told.
    pub(super) fn failure(&self) -> Option<&Error> {
        let told = self.agent.is_ok()
            || self.os.is_ok()
            || self.host_name.is_ok()
            || self.interfaces.is_ok()
            || self.filesystems.is_ok();
        if told { None } else { self.agent.as_ref().err() }
    }
}

/// The last report, in parts.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    taken: Option<(Timestamp, Transport)>,
    boot_id: Option<String>,
    agent: Part<Option<Agent>>,
    host_name: Option<String>,
    os: Option<Os>,
    interfaces: Part<Vec<Interface>>,
    filesystems: Part<Vec<Filesystem>>,
    heartbeat: Option<Heartbeat>,
    missing: Vec<Missing>,
    /// What the agent on Ostler's port does beyond the standard.
    capabilities: Vec<String>,
}

impl Knowledge {
    /// Takes in what the agent told unasked.
    pub(super) fn told(&mut self, event: &GuestEvent, now: Timestamp) {
        if let GuestEvent::Ready(ready) = event {
            let boot_id = ready.boot_id.as_deref().map(clean);
            if boot_id.is_some() && boot_id != self.boot_id {
                // another boot: what the one before said is no part of it
                *self = Self { boot_id, ..Self::default() };
            }
        }
        self.taken.get_or_insert((now, Transport::Ostler));
        match event {
            GuestEvent::Ready(ready) => {
                let version = clean(&ready.version);
                let agent = self.agent.value.get_or_insert_with(nobody);
                if agent.version != version {
                    *agent = Agent { version, commands: Vec::new() };
                }
                self.host_name = Some(clean(&ready.hostname)).filter(|name| !name.is_empty());
                self.os = Some(report::os(&ready.os));
                let words = ready.capabilities.iter().take(CAPABILITIES);
                self.capabilities = words.map(|word| clean(word)).collect();
            }
            GuestEvent::NetworkChanged(data) => {
                self.interfaces = report::interfaces(&data.interfaces).of(data.truncated);
                self.found("guest-network-get-interfaces");
            }
            GuestEvent::FilesystemsChanged(data) => {
                self.filesystems = report::filesystems(&data.filesystems).of(data.truncated);
                self.found("guest-get-fsinfo");
            }
            GuestEvent::Heartbeat(data) => self.heartbeat = Some(report::heartbeat(data, now)),
            GuestEvent::Thawed(_) => {}
        }
    }

    /// Whether the agent on Ostler's port says that it does this.
    pub(super) fn capable(&self, word: &str) -> bool {
        self.capabilities.iter().any(|known| known == word)
    }

    fn found(&mut self, command: &str) {
        self.missing.retain(|missing| missing.command != command);
    }

    /// Takes in a whole report. A part that failed is missing, not what it was before.
    pub(super) fn gathered(&mut self, gathered: Gathered, now: Timestamp) {
        let mut missing = Vec::new();
        let known = self.agent.value.take();
        self.taken = Some((now, gathered.over));
        self.agent = match part(gathered.agent, "guest-info", &mut missing) {
            Some(info) => {
                let Part { value, truncated } = report::agent(&info.value).of(info.truncated);
                Part { value: Some(value), truncated }
            }
            None => Part { value: known, truncated: false },
        };
        self.os = part(gathered.os, "guest-get-osinfo", &mut missing).map(|os| report::os(&os));
        self.host_name = part(gathered.host_name, "guest-get-host-name", &mut missing)
            .map(|name| clean(&name.host_name));
        self.interfaces = part(gathered.interfaces, "guest-network-get-interfaces", &mut missing)
            .map(|list| report::interfaces(&list.value).of(list.truncated))
            .unwrap_or_default();
        self.filesystems = part(gathered.filesystems, "guest-get-fsinfo", &mut missing)
            .map(|list| report::filesystems(&list.value).of(list.truncated))
            .unwrap_or_default();
        self.missing = missing;
    }

    /// The last report, if there ever was one.
    pub(super) fn report(
        &self,
        id: InstanceId,
        state: GuestState,
        now: Timestamp,
    ) -> Option<Report> {
        let (taken, transport) = self.taken?;
        Some(Report {
            id,
            state,
            transport,
            taken,
            age: now.since(taken),
            agent: self.agent.value.clone().unwrap_or_else(nobody),
            host_name: self.host_name.clone(),
            os: self.os.clone(),
            interfaces: self.interfaces.value.clone(),
            filesystems: self.filesystems.value.clone(),
            heartbeat: self.heartbeat.clone(),
            missing: self.missing.clone(),
            truncated: self.agent.truncated
                || self.interfaces.truncated
                || self.filesystems.truncated,
        })
    }
}

/// An agent that did not say what it is.
fn nobody() -> Agent {
    Agent { version: String::new(), commands: Vec::new() }
}

fn part<T>(
    answer: Result<T, Error>,
    command: &'static str,
    missing: &mut Vec<Missing>,
) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            let why = match error {
                Error::Refused { desc, .. } => desc,
                error @ (Error::NotRunning { .. }
                | Error::Unavailable { .. }
                | Error::Garbled { .. }
                | Error::Timeout { .. }
                | Error::Busy { .. }
                | Error::Invalid { .. }
                | Error::KeyReused
                | Error::UnknownExec { .. }
                | Error::Unwritable { .. }) => error.to_string(),
            };
            missing.push(Missing { command: command.to_owned(), why: clean(&why) });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::qga::ErrorClass;
    use ostler_protocol::qga::events::{NetworkChanged, Ready};

    fn id() -> InstanceId {
        "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap()
    }

    fn gathered() -> Gathered {
        Gathered {
            over: Transport::Libvirt,
            agent: Ok(Part::whole(AgentInfo {
                version: "1".into(),
                supported_commands: Vec::new(),
            })),
            os: Ok(OsInfo::default()),
            host_name: Ok(HostName { host_name: "web".into() }),
            interfaces: Ok(Part::default()),
            filesystems: Err(Error::Refused {
                command: "guest-get-fsinfo",
                class: ErrorClass::CommandNotFound,
                desc: "it is off".into(),
            }),
        }
    }

    fn interface(name: &str) -> NetworkInterface {
        NetworkInterface {
            name: name.into(),
            hardware_address: None,
            ip_addresses: None,
            statistics: None,
        }
    }

    #[test]
    fn nothing_is_known_of_a_guest_that_never_spoke() {
        assert_eq!(Knowledge::default().report(id(), GuestState::Waiting, Timestamp(1)), None);
    }

    #[test]
    fn a_part_that_was_refused_is_missing_with_the_guests_reason() {
        let mut knowledge = Knowledge::default();
        knowledge.gathered(gathered(), Timestamp(5));
        let report = knowledge.report(id(), GuestState::Ready, Timestamp(12)).unwrap();
        assert_eq!((report.taken, report.age), (Timestamp(5), 7));
        assert_eq!(report.host_name.as_deref(), Some("web"));
        let missing = Missing { command: "guest-get-fsinfo".into(), why: "it is off".into() };
        assert_eq!(report.missing, [missing]);
    }

    #[test]
    fn events_alone_make_a_report() {
        let mut knowledge = Knowledge::default();
        let ready = Ready { version: "2".into(), hostname: "db".into(), ..Ready::default() };
        knowledge.told(&GuestEvent::Ready(Box::new(ready)), Timestamp(1));
        let report = knowledge.report(id(), GuestState::Ready, Timestamp(2)).unwrap();
        assert_eq!((report.agent.version.as_str(), report.age), ("2", 1));
        assert_eq!(report.host_name.as_deref(), Some("db"));
    }

    #[test]
    fn an_event_renews_its_part_and_not_the_reports_time() {
        let mut knowledge = Knowledge::default();
        knowledge.gathered(gathered(), Timestamp(5));
        let event = NetworkChanged { interfaces: vec![interface("eth1")], truncated: false };
        knowledge.told(&GuestEvent::NetworkChanged(event), Timestamp(9));
        let report = knowledge.report(id(), GuestState::Ready, Timestamp(10)).unwrap();
        assert_eq!((report.interfaces[0].name.as_str(), report.taken), ("eth1", Timestamp(5)));
    }

    #[test]
    fn another_boot_starts_from_nothing() {
        let mut knowledge = Knowledge::default();
        let ready = |boot: &str| {
            GuestEvent::Ready(Box::new(Ready { boot_id: Some(boot.into()), ..Ready::default() }))
        };
        let event = NetworkChanged { interfaces: vec![interface("eth1")], truncated: false };
        knowledge.told(&ready("a"), Timestamp(1));
        knowledge.told(&GuestEvent::NetworkChanged(event), Timestamp(1));
        knowledge.told(&ready("a"), Timestamp(2));
        let interfaces = |knowledge: &Knowledge| {
            let report = knowledge.report(id(), GuestState::Ready, Timestamp(9)).unwrap();
            (report.interfaces.len(), report.taken)
        };
        assert_eq!(interfaces(&knowledge), (1, Timestamp(1)));
        knowledge.told(&ready("b"), Timestamp(3));
        assert_eq!(interfaces(&knowledge), (0, Timestamp(3)));
    }

    #[test]
    fn when_every_part_failed_there_is_no_report() {
        let timeout = || Error::Timeout { command: "x" };
        let all = Gathered {
            agent: Err(timeout()),
            os: Err(timeout()),
            host_name: Err(timeout()),
            interfaces: Err(timeout()),
            filesystems: Err(timeout()),
            ..gathered()
        };
        assert_eq!(all.failure(), Some(&timeout()));
        assert_eq!(gathered().failure(), None);
    }
}
