//! Questions to a guest, over whichever port answers.
//!
//! Over Ostler's own port the questions of a report go together; over libvirt, which lets one through
//! at a time, they go one after the other and stop at the first that is not answered.

use ostler_protocol::qga::Command;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::filesystem::GuestGetFsinfo;
use ostler_protocol::qga::commands::info::{GuestGetHostName, GuestGetOsinfo, GuestInfo};
use ostler_protocol::qga::commands::network::GuestNetworkGetInterfaces;
use ostler_protocol::qga::commands::sync::GuestPing;
use ostler_protocol::rpc::guest::Transport;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::entry::Entry;
use super::error::Error;
use super::knowledge::Gathered;
use super::report::Part;
use super::request::{self, Ask, Success};
use super::settings::GuestSettings;
use super::standard;
use crate::hypervisor::Hypervisor;

/// One guest, a way to it, and the time there is.
#[derive(Debug)]
pub(super) struct Inquiry<'a, H> {
    /// The way through libvirt.
    pub(super) hypervisor: &'a H,
    /// The bounds.
    pub(super) settings: &'a GuestSettings,
    /// The guest.
    pub(super) entry: &'a Entry,
    /// The way to take.
    pub(super) over: Transport,
    /// When answers are no use any more.
    pub(super) deadline: Instant,
}

impl<H: Hypervisor> Inquiry<'_, H> {
    /// Asks, and reads the reply. The error has none of the `secrets` in it.
    pub(super) async fn ask<C: Command>(
        &self,
        arguments: &C::Arguments,
        secrets: &[&str],
    ) -> Result<C::Reply, Error> {
        self.list::<C>(arguments, secrets).await.map(|part| part.value)
    }

    /// The same of what is a list, and whether the agent has cut it.
    pub(super) async fn list<C: Command>(
        &self,
        arguments: &C::Arguments,
        secrets: &[&str],
    ) -> Result<Part<C::Reply>, Error> {
        let told = match self.over {
            Transport::Ostler => self.send::<C>(arguments, Success::Reply).await,
            Transport::Libvirt => {
                self.pass_on::<C>(arguments).await.map(Part::whole).map_err(|f| f.error)
            }
        };
        told.and_then(|Part { value, truncated }| {
            request::reply::<C>(value).map(|value| Part { value, truncated })
        })
        .map_err(|error| request::without(request::unless_frozen(error), secrets))
    }

    /// Tells the guest to do something whose success has no reply.
    pub(super) async fn tell<C: Command>(&self, arguments: &C::Arguments) -> Result<(), Error> {
        let quiet = self.settings.quiet;
        let outcome = match self.over {
            Transport::Ostler => self.send::<C>(arguments, Success::Quiet(quiet)).await.map(|_| ()),
            Transport::Libvirt => {
                // no answer must mean that it was done, not that nobody is there
                self.ask::<GuestPing>(&Nothing {}, &[]).await?;
                let deadline = Instant::now() + quiet;
                match (Inquiry { deadline, ..*self }).pass_on::<C>(arguments).await {
                    Ok(_) => Ok(()),
                    Err(failure) if failure.mute => Ok(()),
                    Err(failure) => Err(failure.error),
                }
            }
        };
        outcome.map_err(|error| request::without(request::unless_frozen(error), &[]))
    }

    async fn pass_on<C: Command>(
        &self,
        arguments: &C::Arguments,
    ) -> Result<Value, standard::Failure> {
        let Self { hypervisor, settings, entry, .. } = *self;
        standard::ask::<H, C>(hypervisor, entry, &settings.caps, arguments, self.deadline).await
    }

    async fn send<C: Command>(
        &self,
        arguments: &C::Arguments,
        success: Success,
    ) -> Result<Part<Value>, Error> {
        let (entry, deadline, command) = (self.entry, self.deadline, C::NAME);
        let instance = entry.id;
        let id = entry.question();
        let line = request::line::<C>(arguments, Some(id))?;
        let asks = match &*entry.run() {
            Some(run) => run.asks.clone(),
            None => return Err(Error::NotRunning { instance }),
        };
        let (answer, answered) = oneshot::channel();
        let ask = Ask { id, command, line, deadline, success, answer };
        match timeout_at(deadline, asks.send(ask)).await {
            Err(_) => return Err(Error::Timeout { command }),
            Ok(Err(_)) => return Err(Error::NotRunning { instance }),
            Ok(Ok(())) => {}
        }
        // the session keeps the deadline
        answered.await.unwrap_or(Err(Error::NotRunning { instance }))
    }

    /// Asks for everything a report has.
    pub(super) async fn gather(&self) -> Gathered {
        match self.over {
            Transport::Ostler => {
                let (agent, os, host_name, interfaces, filesystems) = tokio::join!(
                    self.list::<GuestInfo>(&Nothing {}, &[]),
                    self.ask::<GuestGetOsinfo>(&Nothing {}, &[]),
                    self.ask::<GuestGetHostName>(&Nothing {}, &[]),
                    self.list::<GuestNetworkGetInterfaces>(&Nothing {}, &[]),
                    self.list::<GuestGetFsinfo>(&Nothing {}, &[]),
                );
                Gathered { over: self.over, agent, os, host_name, interfaces, filesystems }
            }
            Transport::Libvirt => {
                let mut given_up = None;
                let agent = self.next::<GuestInfo>(&mut given_up).await;
                let os = self.next::<GuestGetOsinfo>(&mut given_up).await.map(|os| os.value);
                let host_name =
                    self.next::<GuestGetHostName>(&mut given_up).await.map(|name| name.value);
                let interfaces = self.next::<GuestNetworkGetInterfaces>(&mut given_up).await;
                let filesystems = self.next::<GuestGetFsinfo>(&mut given_up).await;
                Gathered { over: self.over, agent, os, host_name, interfaces, filesystems }
            }
        }
    }

    async fn next<C: Command<Arguments = Nothing>>(
        &self,
        given_up: &mut Option<Error>,
    ) -> Result<Part<C::Reply>, Error> {
        if let Some(error) = given_up {
            return Err(error.clone());
        }
        let answer = self.list::<C>(&Nothing {}, &[]).await;
        if let Err(error) = &answer
            && error.is_retryable()
        {
            *given_up = Some(error.clone());
        }
        answer
    }
}
