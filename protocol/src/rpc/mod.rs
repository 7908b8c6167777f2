//! The native JSON-RPC of the host agent.
