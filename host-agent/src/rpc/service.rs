//! What both transports share: from the bytes of a request to its response.

use std::sync::Arc;

use ostler_protocol::rpc::envelope::{Context as WireContext, Id, Response, read_request};
use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::host::Link;
use ostler_protocol::rpc::method::{Call, Effect, openrpc};
use ostler_protocol::rpc::values::IdempotencyKey;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use tracing::Instrument;

use crate::compute::Compute;
use crate::compute::command::{Command, Context};
use crate::hypervisor::Hypervisor;
use crate::network::Network;

/// How much of a caller's name for a request is kept.
const REQUEST_NAME_MAX: usize = 128;

/// How much of what is wrong with a request is logged, characters.
const LOGGED_MAX: usize = 500;

/// Answers requests, whichever way they came.
pub struct Service<H: Hypervisor, N> {
    compute: Arc<Compute<H, N>>,
    broker: watch::Receiver<Link>,
    /// The OpenRPC document, made once.
    document: Arc<Value>,
}

impl<H: Hypervisor, N> Clone for Service<H, N> {
    fn clone(&self) -> Self {
        Self {
            compute: Arc::clone(&self.compute),
            broker: self.broker.clone(),
            document: Arc::clone(&self.document),
        }
    }
}

/// A request that could be read.
pub struct Asked {
    id: Option<Id>,
    call: Call,
    context: Context,
    span: tracing::Span,
}

impl Asked {
    /// Whether it changes something; such a request is written down before it is acknowledged.
    pub fn is_change(&self) -> bool {
        self.call.effect() == Effect::Change
    }

    /// Whether it carries an idempotency key.
    pub fn has_key(&self) -> bool {
        self.context.key.is_some()
    }

    /// The id its response carries.
    pub fn id(&self) -> Option<Id> {
        self.id.clone()
    }

    /// Whether its answer may take long.
    pub fn may_wait(&self) -> bool {
        match &self.call {
            Call::OperationWait(_) | Call::GuestReport(_) | Call::NetworkList(_) => true,
            Call::HostPing(_)
            | Call::HostShow(_)
            | Call::Discover(_)
            | Call::InstanceBoot(_)
            | Call::InstanceList(_)
            | Call::InstanceShow(_)
            | Call::InstanceStart(_)
            | Call::InstanceStop(_)
            | Call::InstanceReboot(_)
            | Call::InstanceDelete(_)
            | Call::InstancePassword(_)
            | Call::OperationGet(_)
            | Call::OperationList(_)
            | Call::OperationCancel(_)
            | Call::ImageImport(_)
            | Call::ImageList(_)
            | Call::ImageRemove(_)
            | Call::NetworkEnsure(_) => false,
        }
    }
}

impl<H: Hypervisor, N: Network> Service<H, N> {
    /// A service in front of `compute`; `broker` tells whether there is one and it can be reached.
    pub fn new(compute: Arc<Compute<H, N>>, broker: watch::Receiver<Link>) -> Self {
        let document = Arc::new(openrpc(env!("CARGO_PKG_VERSION")));
        Self { compute, broker, document }
    }

    /// The compute behind it.
    pub fn compute(&self) -> &Arc<Compute<H, N>> {
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
        let span = if call.effect() == Effect::Change {
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
        let outcome = self.carry_out(call, context).instrument(span).await;
        id.map(|id| Response::new(Some(id), outcome))
    }

    async fn carry_out(&self, call: Call, context: Context) -> Result<Value, Fault> {
        let compute = &self.compute;
        let command = match call {
            Call::HostPing(_) => return value(&compute.ping()),
            Call::HostShow(_) => {
                let broker = *self.broker.borrow();
                return value(&compute.host(broker).await?);
            }
            Call::Discover(_) => return Ok(Value::clone(&self.document)),
            Call::InstanceList(filter) => return value(&compute.instances(&filter)),
            Call::InstanceShow(select) => return value(&compute.instance(select.id)?),
            Call::GuestReport(query) => return value(&compute.guest_report(&query).await?),
            Call::OperationGet(select) => return value(&compute.operation(select.id).await?),
            Call::OperationList(filter) => return value(&compute.operations(filter).await?),
            Call::OperationWait(wait) => return value(&compute.wait(&wait).await?),
            Call::OperationCancel(select) => return value(&compute.cancel(select.id).await?),
            Call::ImageList(_) => return value(&compute.images()),
            Call::NetworkList(_) => return value(&compute.networks().await?),
            Call::InstanceBoot(boot) => Command::Boot(boot),
            Call::InstanceStart(select) => Command::Start(select.id),
            Call::InstanceStop(halt) => Command::Stop(halt),
            Call::InstanceReboot(halt) => Command::Reboot(halt),
            Call::InstanceDelete(select) => Command::Delete(select.id),
            Call::InstancePassword(password) => Command::Password(password),
            Call::ImageImport(import) => Command::ImageImport(import),
            Call::ImageRemove(select) => Command::ImageRemove(select.name),
            Call::NetworkEnsure(ensure) => Command::NetworkEnsure(ensure),
        };
        let accepted = compute.submit(command, context).await;
        if let Err(fault) = &accepted {
            tracing::info!(%fault, "refused");
        }
        value(&accepted?)
    }
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
