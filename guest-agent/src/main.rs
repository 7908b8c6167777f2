//! The program `ostler-guest-agent`: options, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use ostler_guest_agent::doctor;
use ostler_guest_agent::options::{self, Invocation};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|word| word == "doctor").is_some() {
        return doctor::main(arguments);
    }
    let text = match options::parse(arguments) {
        Ok(Invocation::Serve(settings)) => return ostler_guest_agent::main(*settings),
        Ok(Invocation::Tell(text)) => text,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ostler-guest-agent: {error}");
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
