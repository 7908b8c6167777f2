//! Placeholder.
pub mod host;
pub mod image;
pub mod network;
pub mod qcow2;
pub mod threads;
pub mod volume;
