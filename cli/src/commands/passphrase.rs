//! The passphrase of an encrypted volume, from a file: on the command line every user of the machine
//! could read it.

use std::io::{self, Read};
use std::path::Path;

use ostler_protocol::rpc::values::Secret;
use zeroize::Zeroizing;

use crate::failure::{Cause, Failure};

/// The longest that the node takes, and a line's end.
const MAX: u64 = 512 + 2;

/// Read it; `-` is standard input. The end of its line is not part of it.
pub(super) fn read(file: &Path) -> Result<Secret, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = if file.as_os_str() == "-" {
        io::stdin().take(MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(MAX).read_to_string(&mut text))
    };
    read.map_err(|source| Cause::Local { what: format!("read {}", file.display()), source })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}
