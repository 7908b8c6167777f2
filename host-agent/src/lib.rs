//! Placeholder.

pub mod hypervisor;
