//! Every operation on real guests: what an operator sees, what the guest sees, and what is left on
//! the node. By the socket here; `doors` has all of them through the broker and the command.

mod disks;
mod doors;
mod memory;
mod notes;
mod reality;
mod shelf;
mod words;
