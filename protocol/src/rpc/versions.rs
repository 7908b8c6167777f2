//! The version of the native RPC. The agent answers the current one and the one before it.

/// The version this build speaks, told by `host.ping` and `rpc.discover`.
pub const CURRENT: u32 = 1;

/// The oldest version this build still answers. There is none before 1.
pub const OLDEST: u32 = 1;
