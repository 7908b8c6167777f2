//! Files of SSH keys.

use std::io::Read as _;
use std::path::Path;

use crate::failure::{Cause, Failure};

/// Bytes read of a file of keys; the node takes fewer.
const KEYS_MOST: u64 = 1 << 20;

/// The lines of a file that are neither empty nor comments.
pub(super) fn read_keys(file: &Path) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(KEYS_MOST).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(KEYS_MOST).read_to_string(&mut text))
    };
    read.map_err(|source| Cause::Local { what: format!("read {}", file.display()), source })?;
    let lines = text.lines().map(str::trim);
    Ok(lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
}
