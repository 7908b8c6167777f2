//! The program `ostler-guest-agent`: options, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use ostler_guest_agent::channel::activation;
use ostler_guest_agent::doctor;
use ostler_guest_agent::log::chain;
use ostler_guest_agent::options::{self, Invocation, Surroundings};

fn main() -> ExitCode {
    let failed = |error: &dyn std::error::Error| {
        let _ = writeln!(std::io::stderr(), "ostler-guest-agent: {}", chain(error));
        ExitCode::FAILURE
    };
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|word| word == "doctor").is_some() {
        return doctor::main(arguments);
    }
    let socket = match activation::take(|name| std::env::var(name).ok()) {
        Ok(socket) => socket,
        Err(error) => return failed(&error),
    };
    let surroundings = Surroundings::of_the_system(socket.is_some());
    let text = match options::read(arguments, &surroundings) {
        Ok(Invocation::Serve(settings)) => return ostler_guest_agent::main(&settings, socket),
        Ok(Invocation::Tell(text)) => text,
        Err(error) => return failed(&error),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
