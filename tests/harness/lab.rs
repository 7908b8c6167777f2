//! `lab COMMAND ARG..`: runs a command with libvirtd and a broker there for
//! all of it, so that a whole test run starts each once, and says by
//! `OSTLER_LAB_BROKER` where that broker is.

use std::process::ExitCode;

use ostler_tests::interrupt::or_interrupted;
use ostler_tests::process::command;
use ostler_tests::services::{Broker, Libvirt};
use ostler_tests::{Error, Result};

#[tokio::main]
async fn main() -> ExitCode {
    match or_interrupted(run()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "it is a program")]
            {
                eprintln!("lab: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<u8> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or_else(|| Error::Missing {
        what: "a command".to_owned(),
        remedy: "lab COMMAND ARG..".to_owned(),
    })?;
    let (libvirt, broker) = tokio::join!(Libvirt::ensure(), Broker::ensure());
    let (_libvirt, broker) = (libvirt?, broker?);
    let mut child = command(&program);
    child.args(words).env(Broker::OF_THE_LAB, broker.uri());
    let mut child = tokio::process::Command::from(child);
    // an interrupt reaches it from the terminal, or by this
    child.kill_on_drop(true);
    let step = format!("running {}", program.display());
    let status = child.status().await.map_err(Error::io(step))?;
    // killed by a signal: any failure will do
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
