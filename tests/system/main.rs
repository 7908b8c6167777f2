//! The product on the real thing: the built programs, real libvirt and QEMU, a real RabbitMQ, and
//! guests that boot. One module for each topic; [`node`] is what they stand on.
//!
//! Without root there is no libvirt to use, and each test says that it is skipped.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test's own functions"
)]

mod agents;
mod baked;
mod boards;
mod broker;
mod broker_chaos;
mod broker_hostile;
mod broker_limits;
mod broker_rights;
mod broker_shares;
mod cdrom;
mod clients;
mod config_drive;
mod console;
mod crash;
mod drain;
mod faults;
mod full_disk;
mod guest_work;
mod guests;
mod hostile;
mod image;
mod inspect;
mod libvirtd;
mod lifecycle;
mod load;
mod network;
mod node;
mod operations;
mod panics;
mod ports;
mod refusals;
mod reload;
mod service;
mod strangers;
mod volumes;
mod volumes_connected;
mod volumes_encrypted;
mod volumes_load;
mod volumes_nfs;
mod volumes_pools;
mod volumes_rbd;
