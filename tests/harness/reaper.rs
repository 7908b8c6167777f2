//! `lab-reaper PROGRAM ARG..`: runs a daemon and reaps what it leaves behind.
//!
//! libvirt waits, up to 15 s for each, until the processes of guests it has
//! ended are gone. They are children of whoever adopts orphans, and in a
//! container that is often a first process that reaps nothing. So a daemon the
//! lab starts gets an adopter that does. It ends when it has no children left.

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::wait;
use ostler_tests::process::command;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else { return ExitCode::from(2) };
    // where the kernel refuses, orphans go to the first process as ever
    let _adopts = set_child_subreaper(true);
    if command(program).args(words).spawn().is_err() {
        return ExitCode::from(127);
    }
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_no_children) => return ExitCode::SUCCESS,
        }
    }
}
