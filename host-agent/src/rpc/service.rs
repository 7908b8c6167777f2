//! What both transports share: from the bytes of a request to its response.

use std::sync::Arc;

use ostler_protocol::rpc::discover::openrpc;
use ostler_protocol::rpc::envelope::{Context as WireContext, Id, Response, read_request};
use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::host::Link;
use ostler_protocol::rpc::method::{Call, Effect};
use ostler_protocol::rpc::values::{IdempotencyKey, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::Instrument;

use super::fault;
use crate::compute::{Command, Compute, Context, Inspection, Outside, plans};
use crate::refusal::Refusal;

/// How much of a caller's name for a request is kept.
const REQUEST_NAME_MAX: usize = 128;

/// How much of what is wrong with a request is logged, characters.
const LOGGED_MAX: usize = 500;

/// Answers requests, whichever way they came.
pub struct Service<O: Outside> {
    compute: Arc<Compute<O>>,
    broker: watch::Receiver<Link>,
    inspection: Inspection<O::Hypervisor>,
}

impl<O: Outside> Clone for Service<O> {
    fn clone(&self) -> Self {
        Self {
            compute: Arc::clone(&self.compute),
            broker: self.broker.clone(),
            inspection: self.inspection.clone(),
        }
    }
}

/// A request that could be read.
pub struct Asked {
    id: Option<Id>,
    pub(super) call: Call,
    context: Context,
    span: tracing::Span,
}

impl Asked {
    /// Whether it changes something; such a request is written down before it is acknowledged.
    pub fn is_change(&self) -> bool {
        self.call.effect() == Effect::Change
    }

    /// Whether, delivered twice, it would be done twice but for its key.
    pub fn needs_key(&self) -> bool {
        self.is_change() || matches!(self.call, Call::GuestExec(_))
    }

    /// Whether it carries an idempotency key.
    pub fn has_key(&self) -> bool {
        self.context.key.is_some()
    }

    /// The id its response carries.
    pub fn id(&self) -> Option<Id> {
        self.id.clone()
    }
}

impl<O: Outside> Service<O> {
    /// A service in front of `compute`; `broker` tells whether there is one and it can be reached.
    pub fn new(compute: Arc<Compute<O>>, broker: watch::Receiver<Link>) -> Self {
        let inspection = compute.reads().inspection();
        Self { compute, broker, inspection }
    }

    /// Ends the console sessions, after the shutdown token was cancelled.
    pub async fn drain(&self) {
        self.inspection.drain().await;
    }

    /// The compute behind it.
    pub fn compute(&self) -> &Arc<Compute<O>> {
        &self.compute
    }

    /// Read and decode a request. `caller` is who asks, for the audit line; `key` is the
    /// transport's own idempotency key.
    ///
    /// # Errors
    /// The response that refuses it.
    pub fn read(
        &self,
        bytes: &[u8],
        caller: &str,
        key: Option<IdempotencyKey>,
    ) -> Result<Asked, Box<Response>> {
        let refuse = |id, fault: Fault| {
            // It may name what is wrong, and be as long as the request.
            let said: String = fault.to_string().chars().take(LOGGED_MAX).collect();
            tracing::info!(caller, fault = said, "refused");
            Box::new(Response::new(id, Err(fault)))
        };
        let request = read_request(bytes).map_err(|(id, fault)| refuse(id, fault))?;
        let WireContext { key: named, deadline, request: name } =
            request.context.unwrap_or_default();
        let call = match Call::decode(&request.method, request.params) {
            Ok(call) => call,
            Err(fault) => return Err(refuse(request.id, fault)),
        };
        let audited = match call.effect() {
            Effect::Change | Effect::Act => true,
            Effect::Read => false,
        };
        let span = if audited {
            let name: String = name.unwrap_or_default().chars().take(REQUEST_NAME_MAX).collect();
            let span = tracing::info_span!("request", method = call.name(), caller, request = name);
            span.in_scope(|| tracing::info!("asked"));
            span
        } else {
            tracing::Span::none()
        };
        let context = Context { key: named.or(key), deadline };
        Ok(Asked { id: request.id, call, context, span })
    }

    /// Answer a request; none if it wants no answer.
    pub async fn answer(&self, asked: Asked) -> Option<Response> {
        let Asked { id, call, context, span } = asked;
        let (name, refusals) = (call.name(), call.refusals());
        let outcome = match in_time(&call, &context) {
            Ok(()) => self.carry_out(call, context).instrument(span).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = &outcome {
            let reason = fault.data.reason;
            debug_assert!(refusals.contains(&reason), "{name} is not said to be {reason:?}");
        }
        id.map(|id| Response::new(Some(id), outcome))
    }

    async fn carry_out(&self, call: Call, context: Context) -> Result<Value, Fault> {
        let compute = &self.compute;
        let command = match call {
            Call::HostPing(_) => return value(&compute.reads().ping()),
            Call::HostShow(_) => {
                let broker = *self.broker.borrow();
                return value(&compute.reads().host(broker).await?);
            }
            Call::Discover(_) => return Ok(document()),
            Call::InstanceList(filter) => {
                let found = compute.reads().instances(&filter)?;
                let told: Vec<_> = found.into_iter().map(fault::instance).collect();
                return value(&told);
            }
            Call::InstanceShow(select) => {
                return value(&fault::instance(compute.reads().instance(select.id)?));
            }
            Call::GuestReport(query) => return value(&compute.reads().guest_report(&query).await?),
            Call::GuestExecWait(wait) => {
                return value(&compute.reads().guest_exec_wait(&wait).await?);
            }
            Call::GuestFileRead(read) => {
                return value(&compute.reads().guest_file_read(&read).await?);
            }
            Call::GuestTime(select) => return value(&compute.reads().guest_time(select.id).await?),
            Call::GuestExec(exec) => {
                let key = context.key.clone();
                return acted(compute.reads().guest_exec(exec, key)).await;
            }
            Call::GuestFileWrite(write) => {
                return acted(compute.reads().guest_file_write(write)).await;
            }
            Call::GuestSyncTime(select) => {
                return acted(compute.reads().guest_sync_time(select.id)).await;
            }
            Call::GuestSshKeys(keys) => {
                return acted(compute.reads().guest_ssh_keys(&keys)).await;
            }
            Call::ImageUpload(upload) => {
                return acted(compute.reads().image_upload(upload)).await;
            }
            Call::GuestTrim(trim) => return acted(compute.reads().guest_trim(trim)).await,
            Call::OperationGet(select) => {
                return value(&fault::operation(compute.reads().operation(select.id).await?));
            }
            Call::OperationList(filter) => {
                return value(&compute.reads().operations(filter).await?);
            }
            Call::OperationWait(wait) => {
                return value(&fault::operation(compute.reads().wait(&wait).await?));
            }
            Call::OperationCancel(select) => {
                return value(&fault::operation(compute.cancel(select.id).await?));
            }
            Call::ImageList(_) => return value(&compute.reads().images().await),
            Call::VolumeList(filter) => {
                let found = compute.reads().volumes(&filter)?;
                let told: Vec<_> = found.into_iter().map(fault::volume).collect();
                return value(&told);
            }
            Call::VolumeShow(select) => {
                return value(&fault::volume(compute.reads().volume(select.id)?));
            }
            Call::VolumePools(_) => return value(&compute.reads().pools().await),
            Call::InstanceListVolumes(select) => {
                return value(&compute.reads().volumes_of(select.id)?);
            }
            Call::PortList(filter) => return value(&compute.reads().ports(&filter)?),
            Call::PortStats(select) => {
                return value(&compute.reads().port_stats(select.id).await?);
            }
            Call::PortShow(select) => return value(&compute.reads().port(select.id)?),
            Call::InstanceListInterfaces(select) => {
                return value(&compute.reads().interfaces(select.id)?);
            }
            Call::NetworkShow(select) => {
                return value(&compute.reads().network(&select.name).await?);
            }
            Call::NetworkList(_) => return value(&compute.reads().networks().await?),
            Call::InstanceXml(read) => return value(&compute.reads().xml(&read).await?),
            Call::InstanceDiagnostics(select) => {
                return value(&compute.reads().diagnostics(select.id).await?);
            }
            Call::InstanceVnc(select) => return value(&compute.reads().vnc(select.id).await?),
            Call::InstanceVncOpen(open) => return value(&compute.reads().open_vnc(&open).await?),
            Call::InstanceConsoleLog(read) => {
                return value(&compute.reads().console_log(&self.inspection, &read).await?);
            }
            Call::ConsoleOpen(open) => {
                return value(&compute.reads().console_open(&self.inspection, &open)?);
            }
            Call::ConsoleRead(read) => {
                return value(&compute.reads().console_read(&self.inspection, &read).await?);
            }
            Call::ConsoleWrite(write) => {
                return value(&compute.reads().console_write(&self.inspection, &write).await?);
            }
            Call::ConsoleClose(close) => {
                return value(&compute.reads().console_close(&self.inspection, &close));
            }
            Call::InstanceBoot(boot) => Command::Boot(boot),
            Call::InstanceStart(select) => Command::Start(select.id),
            Call::InstanceStop(halt) => Command::Stop(halt),
            Call::InstanceReboot(halt) => Command::Reboot(halt),
            Call::InstancePause(select) => Command::Pause(select.id),
            Call::InstanceUnpause(select) => Command::Unpause(select.id),
            Call::InstanceSuspend(select) => Command::Suspend(select.id),
            Call::InstanceResume(select) => Command::Resume(select.id),
            Call::InstanceRebuild(asked) => Command::Rebuild(asked),
            Call::InstanceReset(asked) => Command::Reset(asked),
            Call::InstanceRescue(asked) => Command::Rescue(asked),
            Call::InstanceUnrescue(select) => Command::Unrescue(select.id),
            Call::InstanceResize(asked) => Command::Resize(asked),
            Call::InstanceConfirmResize(select) => Command::ConfirmResize(select.id),
            Call::InstanceRevertResize(select) => Command::RevertResize(select.id),
            Call::InstanceAdjust(asked) => Command::Adjust(asked),
            Call::InstanceSnapshot(asked) => Command::Snapshot(asked),
            Call::InstanceShelve(asked) => Command::Shelve(asked),
            Call::InstanceOffload(select) => Command::Offload(select.id),
            Call::InstanceUnshelve(select) => Command::Unshelve(select.id),
            Call::InstanceUpdate(asked) => Command::Update(asked),
            Call::InstanceLock(asked) => Command::Lock(asked),
            Call::InstanceUnlock(select) => Command::Unlock(select.id),
            Call::InstanceRestore(select) => Command::Restore(select.id),
            Call::InstanceDelete(delete) => Command::Delete(delete),
            Call::InstancePassword(password) => Command::Password(password),
            Call::ImageImport(import) => Command::ImageImport(import),
            Call::ImageExport(export) => Command::ImageExport(export),
            Call::ImageRemove(select) => Command::ImageRemove(select.name),
            Call::NetworkEnsure(ensure) => Command::NetworkEnsure(ensure),
            Call::NetworkRemove(select) => Command::NetworkRemove(select.name),
            Call::InstanceAttachVolume(asked) => Command::AttachVolume(asked),
            Call::InstanceDetachVolume(asked) => Command::DetachVolume(asked),
            Call::InstanceSwapVolume(asked) => Command::SwapVolume(asked),
            Call::InstanceAttachInterface(asked) => Command::AttachInterface(asked),
            Call::InstanceDetachInterface(asked) => Command::DetachInterface(asked),
            Call::PortCreate(asked) => Command::PortCreate(asked),
            Call::PortUpdate(asked) => Command::PortUpdate(asked),
            Call::PortDelete(select) => Command::PortDelete(select.id),
            Call::VolumeCreate(asked) => Command::VolumeCreate(asked),
            Call::VolumeUpdate(asked) => Command::VolumeUpdate(asked),
            Call::VolumeExtend(asked) => Command::VolumeExtend(asked),
            Call::VolumeSnapshot(asked) => Command::VolumeSnapshot(asked),
            Call::VolumeDeleteSnapshot(asked) => Command::VolumeDeleteSnapshot(asked),
            Call::VolumeRevert(asked) => Command::VolumeRevert(asked),
            Call::VolumeDelete(asked) => Command::VolumeDelete(asked),
        };
        acted(async { compute.submit(command, context).await.map(fault::operation) }).await
    }
}

/// The OpenRPC document. It is made when somebody asks, who hardly ever does: kept, it would be two
/// megabytes.
fn document() -> Value {
    let mut document = openrpc(env!("CARGO_PKG_VERSION"));
    document["x-plans"] = json!(plans());
    document
}

/// Whether what is answered directly may still be begun. For a change the journal is asked first: it
/// may be there already, under its key.
fn in_time(call: &Call, context: &Context) -> Result<(), Fault> {
    let direct = match call.effect() {
        Effect::Read | Effect::Act => true,
        Effect::Change => false,
    };
    if direct && context.is_expired(Timestamp::now()) {
        let text = "expired: the request's deadline had passed before it was begun";
        return Err(Fault::new(Reason::Expired, text).next("send it again with a later deadline"));
    }
    Ok(())
}

/// The outcome of a change, or of something done in a guest.
async fn acted<T: Serialize>(
    act: impl Future<Output = Result<T, Refusal>>,
) -> Result<Value, Fault> {
    let outcome = act.await;
    if let Err(refusal) = &outcome {
        tracing::info!(%refusal, "refused");
    }
    value(&outcome?)
}

fn value(reply: &impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(reply)
        .map_err(|error| Fault::of(Reason::Internal, &error).next("see the agent's log"))
}

/// A response as bytes.
pub(super) fn bytes(response: &Response) -> Vec<u8> {
    // Responses hold JSON values only, which always serialize.
    serde_json::to_vec(response).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_same_whenever_it_is_made() {
        let first = document().to_string();
        assert_eq!(document().to_string(), first);
        assert!(first.contains("\"x-plans\":{"), "it tells the steps of the operations");
    }

    fn asked(method: &str, params: Value, deadline: u64) -> Result<(), Fault> {
        let call = Call::decode(method, Some(params)).unwrap();
        in_time(&call, &Context { key: None, deadline: Some(Timestamp(deadline)) })
    }

    #[test]
    fn a_read_and_an_act_heed_their_deadline_and_a_change_asks_the_journal_first() {
        let id = json!({"id": "0f8fad5b-d9cb-469f-a165-70867728950e"});
        for (method, params) in [
            ("host.ping", json!({})),
            ("instance.show", id.clone()),
            ("guest.sync_time", id.clone()),
        ] {
            let fault = asked(method, params.clone(), 1).unwrap_err();
            assert_eq!(fault.data.reason, Reason::Expired, "{method}");
            assert_eq!(asked(method, params, u64::MAX), Ok(()), "{method}");
        }
        assert_eq!(asked("instance.start", id, 1), Ok(()));
    }
}
