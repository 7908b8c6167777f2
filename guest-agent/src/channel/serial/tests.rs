//! The port's semantics, with a stand-in for the device that behaves as the kernel's driver does.
