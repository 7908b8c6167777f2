//! Placeholder.
pub mod host;
pub mod network;
pub mod qcow2;
pub mod threads;
pub mod volume;
