//! The QEMU guest agent protocol.
