//! Placeholder.
pub mod network;
pub mod qcow2;
pub mod threads;
pub mod volume;
