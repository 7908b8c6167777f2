//! Completions and man pages, made of the command line itself; no node is asked.

use std::path::Path;

use clap::CommandFactory;

use super::line::Cli;
use crate::failure::{Cause, Failure};
use crate::output::write_out;

/// Write a completion script to standard output.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ostler", &mut script);
    Ok(write_out(&script)?)
}

/// Write a man page for each command into a folder.
pub(super) fn man(folder: &Path) -> Result<(), Failure> {
    let failed = |source| Cause::Local {
        what: format!("write the man pages into {}", folder.display()),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    Ok(clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?)
}
