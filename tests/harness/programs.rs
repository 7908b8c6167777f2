//! Where the built programs are: `$OSTLER_PROGRAMS`, or `dist` in the build
//! folder, which is where `make build` puts them.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The workspace this harness was built in.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Cargo's build folder.
pub fn build_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |folder| workspace().join(folder))
}

/// The folder the programs are in.
pub fn folder() -> PathBuf {
    std::env::var_os("OSTLER_PROGRAMS")
        .map_or_else(|| build_folder().join("dist"), |folder| workspace().join(folder))
}

/// One of the three programs.
///
/// # Errors
/// [`Error::Missing`] if it is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = folder().join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Missing { what: path.display().to_string(), remedy: "run `make build`".to_owned() })
}

/// The host agent.
///
/// # Errors
/// If it is not built.
pub fn host_agent() -> Result<PathBuf> {
    program("ostler-host-agent")
}

/// The guest agent, static.
///
/// # Errors
/// If it is not built.
pub fn guest_agent() -> Result<PathBuf> {
    program("ostler-guest-agent")
}

/// The operator's command.
///
/// # Errors
/// If it is not built.
pub fn cli() -> Result<PathBuf> {
    program("ostler")
}

/// A program of the harness's own, which cargo builds along with the one that
/// asks: beside it, or one folder up from a test.
///
/// # Errors
/// If it is not there.
pub fn of_the_lab(name: &str) -> Result<PathBuf> {
    let asking = std::env::current_exe().map_err(Error::io("finding the running program"))?;
    let beside = asking.parent().into_iter().chain(asking.parent().and_then(Path::parent));
    beside.map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        Error::Missing {
            what: name.to_owned(),
            remedy: "run `cargo build -p ostler-tests --bins`".to_owned(),
        }
    })
}
