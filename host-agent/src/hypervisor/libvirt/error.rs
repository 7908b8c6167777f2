//! libvirt's error codes in our words. No code leaves this module.

use ostler_protocol::rpc::values::InstanceId;
use virt::sys;

use super::xml::XmlError;
use crate::hypervisor::Error;

/// What a failed libvirt call means to whoever asked for `step`.
pub(super) fn from_libvirt(
    step: &'static str,
    domain: Option<InstanceId>,
    error: &virt::error::Error,
) -> Error {
    let message = error.message().to_owned();
    match (error.code().to_raw(), domain) {
        (sys::VIR_ERR_NO_DOMAIN, Some(domain)) => Error::NotFound { domain },
        (
            sys::VIR_ERR_AGENT_UNRESPONSIVE
            | sys::VIR_ERR_AGENT_UNSYNCED
            | sys::VIR_ERR_AGENT_COMMAND_TIMEOUT,
            Some(domain),
        ) => Error::GuestAgentUnavailable { domain, reason: message },
        (sys::VIR_ERR_AGENT_COMMAND_FAILED, Some(domain)) => {
            Error::GuestAgentRefused { domain, reason: message }
        }
        // another job holds the domain's lock
        (sys::VIR_ERR_OPERATION_TIMEOUT | sys::VIR_ERR_RESOURCE_BUSY, _) => {
            Error::Busy { step, reason: message }
        }
        (
            sys::VIR_ERR_INVALID_CONN
            | sys::VIR_ERR_NO_CONNECT
            | sys::VIR_ERR_RPC
            | sys::VIR_ERR_GNUTLS_ERROR
            | sys::VIR_ERR_AUTH_FAILED
            | sys::VIR_ERR_AUTH_UNAVAILABLE,
            _,
        ) => Error::Unreachable { step, reason: message },
        (sys::VIR_ERR_SYSTEM_ERROR, _) if is_transport(error) => {
            Error::Unreachable { step, reason: message }
        }
        (
            sys::VIR_ERR_XML_ERROR
            | sys::VIR_ERR_XML_DETAIL
            | sys::VIR_ERR_XML_INVALID_SCHEMA
            | sys::VIR_ERR_DOM_EXIST
            | sys::VIR_ERR_CONFIG_UNSUPPORTED
            | sys::VIR_ERR_OPERATION_INVALID
            | sys::VIR_ERR_OPERATION_DENIED
            | sys::VIR_ERR_OPERATION_UNSUPPORTED
            | sys::VIR_ERR_ACCESS_DENIED
            | sys::VIR_ERR_INVALID_ARG
            | sys::VIR_ERR_ARGUMENT_UNSUPPORTED
            | sys::VIR_ERR_NO_SUPPORT,
            _,
        ) => Error::Refused { step, domain, reason: message },
        _ => Error::Failed { step, domain, message },
    }
}

/// What an error of the XML layer means: the request, or the answer, is not usable.
pub(super) fn from_xml(step: &'static str, domain: Option<InstanceId>, error: &XmlError) -> Error {
    match error {
        XmlError::Character { .. } | XmlError::Path { .. } => {
            Error::Refused { step, domain, reason: error.to_string() }
        }
        XmlError::Write { .. } | XmlError::Read { .. } | XmlError::Missing { .. } => {
            Error::Failed { step, domain, message: error.to_string() }
        }
    }
}

/// Whether libvirt says the domain is not in the state the call needs (off, or already running).
pub(super) fn is_wrong_state(error: &virt::error::Error) -> bool {
    error.code().to_raw() == sys::VIR_ERR_OPERATION_INVALID
}

/// Whether the driver behind this connection has no such call, as the test driver lacks some.
pub(super) fn is_unsupported(error: &virt::error::Error) -> bool {
    error.code().to_raw() == sys::VIR_ERR_NO_SUPPORT
}

/// A system error of the socket to libvirtd, not of something libvirtd did.
fn is_transport(error: &virt::error::Error) -> bool {
    matches!(error.domain().to_raw(), sys::VIR_FROM_RPC | sys::VIR_FROM_REMOTE)
}
