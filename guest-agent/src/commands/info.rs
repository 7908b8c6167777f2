//! The system: its kernel, distribution and name.

use std::ffi::OsStr;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::utsname::uname;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::info::{GuestGetHostName, GuestGetOsinfo, HostName, OsInfo};

use super::{Agent, CommandError, Handle};
use crate::worker::WorkerError;

/// Where a distribution says what it is, the first that exists.
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// Names another file for it, as with stock agents.
const OS_RELEASE_VARIABLE: &str = "QGA_OS_RELEASE";
/// For reading it: it may lie on a disk that is gone.
const LOOK: Duration = Duration::from_secs(10);

/// Why the system could not be told.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// The kernel does not tell the host name.
    #[error("cannot read the host name")]
    HostName(#[source] nix::Error),
}

impl Handle for GuestGetHostName {
    async fn handle(_: Rc<Agent>, _: Nothing) -> Result<HostName, CommandError> {
        Ok(HostName { host_name: host_name()? })
    }
}

impl Handle for GuestGetOsinfo {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<OsInfo, CommandError> {
        Ok(os_info(&agent).await?)
    }
}

/// The host name, as the kernel has it.
pub fn host_name() -> Result<String, InfoError> {
    let name = nix::unistd::gethostname().map_err(InfoError::HostName)?;
    Ok(name.to_string_lossy().into_owned())
}

/// The kernel's id of this boot.
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim_end().to_owned())
}

/// What is known of kernel and distribution.
pub async fn os_info(agent: &Agent) -> Result<OsInfo, WorkerError> {
    agent
        .look("reading os-release", LOOK, |root| {
            let release = match std::env::var(OS_RELEASE_VARIABLE) {
                Ok(path) => root.text(&path).ok(),
                Err(_) => OS_RELEASE.iter().find_map(|path| root.text(path).ok()),
            };
            let mut info = kernel();
            describe(&mut info, &release.unwrap_or_default());
            info
        })
        .await
}

fn kernel() -> OsInfo {
    let mut info = OsInfo::default();
    if let Ok(kernel) = uname() {
        let text = |text: &OsStr| Some(text.to_string_lossy().into_owned());
        info.kernel_release = text(kernel.release());
        info.kernel_version = text(kernel.version());
        info.machine = text(kernel.machine());
    }
    info
}

/// Fills in what an os-release file says.
fn describe(info: &mut OsInfo, release: &str) {
    for line in release.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let field = match key {
            "ID" => &mut info.id,
            "NAME" => &mut info.name,
            "PRETTY_NAME" => &mut info.pretty_name,
            "VERSION" => &mut info.version,
            "VERSION_ID" => &mut info.version_id,
            "VARIANT" => &mut info.variant,
            "VARIANT_ID" => &mut info.variant_id,
            _ => continue,
        };
        *field = Some(unquote(value));
    }
}

/// The value of a shell assignment that expands nothing.
fn unquote(text: &str) -> String {
    let mut value = String::new();
    let mut characters = text.chars();
    let mut quote = None;
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\'' | '"', None) => quote = Some(character),
            (character, Some(open)) if character == open => quote = None,
            ('\\', None) => value.extend(characters.next()),
            ('\\', Some('"')) => {
                let next = characters.next();
                // before anything else it stands for itself; os-release(5) has both quotes escaped
                if !next.is_some_and(|next| matches!(next, '"' | '\'' | '\\' | '$' | '`')) {
                    value.push('\\');
                }
                value.extend(next);
            }
            (' ' | '\t' | ';', None) => break,
            _ => value.push(character),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn os_release_is_read_as_a_shell_reads_it() {
        let mut info = OsInfo::default();
        describe(
            &mut info,
            "# comment\nID=debian\nNAME='Debian GNU/Linux'\nPRETTY_NAME=\"a \\\"b\\\" \\$c\"\n\
             VERSION_ID=12 ; x\nVERSION=\nUNKNOWN=x\n",
        );
        assert_eq!(info.id.as_deref(), Some("debian"));
        assert_eq!(info.name.as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(info.pretty_name.as_deref(), Some("a \"b\" $c"));
        assert_eq!(info.version_id.as_deref(), Some("12"));
        assert_eq!(info.version.as_deref(), Some(""));
        assert_eq!(info.variant, None);
    }

    #[test]
    fn a_backslash_in_quotes_stands_for_itself_before_most_letters() {
        assert_eq!(unquote(r#""a\\b\n\"c\$d\`e""#), r#"a\b\n"c$d`e"#);
        assert_eq!(unquote(r"'a\b'"), r"a\b");
        assert_eq!(unquote(r#""\'""#), "'", "a shell keeps it, readers of os-release do not");
        assert_eq!(unquote(r"a\ b c"), "a b");
        assert_eq!(unquote("\"open"), "open");
        assert_eq!(unquote(r#"a"b"'c' # comment"#), "abc");
    }

    proptest! {
        #[test]
        fn no_release_breaks_the_reader(text in "((ID|NAME|VERSION)=[\"'\\\\a-z ]{0,9}\n|.){0,20}") {
            describe(&mut OsInfo::default(), &text);
        }
    }
}
