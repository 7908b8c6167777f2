//! Starting a program, on a thread that may hang.
//!
//! Each program has a process group of its own, so that all of it can be ended. Nothing is called
//! between fork and exec unless it is to run as somebody else: the system then starts it without
//! copying the agent.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::libc;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use ostler_protocol::qga::commands::exec::ExecCapture;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::ExecError;
use crate::commands::account::Account;
use crate::commands::program::SEARCH_PATH;

/// What is to be run, and how.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) path: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Option<Vec<String>>,
    pub(super) folder: Option<PathBuf>,
    pub(super) identity: Option<Identity>,
    pub(super) capture: ExecCapture,
    pub(super) input: bool,
    pub(super) allowed: Option<Vec<String>>,
}

/// Who a program runs as.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) account: Account,
    pub(super) groups: Vec<u32>,
}

/// A program that was started. It is killed if nobody keeps it.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: i64,
    pub(super) program: PathBuf,
    child: Option<(Child, Pipes)>,
}

/// The agent's ends of its streams.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) input: Option<pipe::Sender>,
    pub(super) out: Option<pipe::Receiver>,
    pub(super) err: Option<pipe::Receiver>,
}

impl Started {
    /// Lets it live.
    pub(super) fn keep(mut self) -> Option<(Child, Pipes)> {
        self.child.take()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            // its client has been told that it did not start
            let _ = child.start_kill();
        }
    }
}

impl Plan {
    /// Finds the program, asks whether it may be run, and starts it.
    pub(super) fn start(self, runtime: &Handle) -> Result<Started, ExecError> {
        let _context = runtime.enter();
        let failed = |error: &io::Error| {
            let why = match error.raw_os_error() {
                Some(errno) => nix::Error::from_raw(errno).desc().to_owned(),
                None => error.to_string(),
            };
            ExecError::Spawn { path: self.path.clone(), why }
        };
        let program = self.find().map_err(|error| failed(&error))?;
        if let Some(allowed) = &self.allowed
            && !allowed.iter().any(|rule| permits(rule, &program, &self.arguments))
        {
            return Err(ExecError::NotAllowed(program));
        }
        let started = match self.spawn(&program, None) {
            // a script that does not say what for: the shell's
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                self.spawn(Path::new("/bin/sh"), Some(&program))
            }
            started => started,
        };
        let (child, pipes) = started.map_err(|error| failed(&error))?;
        let pid = child.id().map_or(-1, i64::from);
        Ok(Started { pid, program, child: Some((child, pipes)) })
    }

    /// The program's whole path.
    fn find(&self) -> io::Result<PathBuf> {
        let base = match &self.folder {
            Some(folder) => folder.clone(),
            None => std::env::current_dir().unwrap_or_else(|_| "/".into()),
        };
        if self.path.is_empty() {
            return Err(nix::Error::ENOENT.into());
        }
        if self.path.contains('/') {
            return Ok(base.join(&self.path));
        }
        let given = self.environment.as_ref().and_then(|environment| {
            environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).map(Into::into)
        });
        let search = given.or_else(|| std::env::var_os("PATH")).unwrap_or(SEARCH_PATH.into());
        let mut error = nix::Error::ENOENT;
        for folder in std::env::split_paths(&search) {
            let path = base.join(folder).join(&self.path);
            if crate::commands::program::is_program(&path) {
                return Ok(path);
            }
            if path.exists() {
                error = nix::Error::EACCES;
            }
        }
        Err(error.into())
    }

    fn spawn(&self, program: &Path, script: Option<&Path>) -> io::Result<(Child, Pipes)> {
        #[expect(clippy::disallowed_methods, reason = "clients run programs here and nowhere else")]
        let mut command = Command::new(program);
        match script {
            None => command.arg0(&self.path),
            Some(script) => command.arg(script),
        };
        command.args(&self.arguments).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Some(environment) = &self.environment {
            command.env_clear();
            // of two of a name the first one counts, as for getenv(3)
            for entry in environment.iter().rev() {
                if let Some((name, value)) = entry.split_once('=') {
                    command.env(name, value);
                }
            }
        }
        if let Some(identity) = &self.identity {
            if self.environment.is_none() {
                let Account { name, home, .. } = &identity.account;
                command.env("HOME", home).env("USER", name).env("LOGNAME", name);
            }
            become_another(&mut command, identity);
        }
        let (streams, ends) = self.streams()?;
        command.stdin(streams.input).stdout(streams.out).stderr(streams.err);
        let child = command.spawn()?;
        // ours must know when theirs are closed
        drop(command);
        Ok((child, ends.into_pipes()?))
    }

    fn streams(&self) -> io::Result<(Streams, AgentPipes)> {
        let mut streams = Streams { input: Stdio::null(), out: Stdio::null(), err: Stdio::null() };
        let mut ends = AgentPipes::default();
        if self.input {
            let (reader, writer) = io::pipe()?;
            streams.input = reader.into();
            ends.input = Some(writer);
        }
        match self.capture {
            ExecCapture::None => {}
            ExecCapture::Stdout => streams.out = kept(&mut ends.out)?.into(),
            ExecCapture::Stderr => streams.err = kept(&mut ends.err)?.into(),
            ExecCapture::Separated => {
                streams.out = kept(&mut ends.out)?.into();
                streams.err = kept(&mut ends.err)?.into();
            }
            ExecCapture::Merged => {
                let writer = kept(&mut ends.out)?;
                streams.err = writer.try_clone()?.into();
                streams.out = writer.into();
            }
        }
        Ok((streams, ends))
    }
}

fn kept(end: &mut Option<PipeReader>) -> io::Result<PipeWriter> {
    let (reader, writer) = io::pipe()?;
    *end = Some(reader);
    Ok(writer)
}

/// The program's ends.
struct Streams {
    input: Stdio,
    out: Stdio,
    err: Stdio,
}

/// The agent's ends.
#[derive(Default)]
struct AgentPipes {
    input: Option<PipeWriter>,
    out: Option<PipeReader>,
    err: Option<PipeReader>,
}

impl AgentPipes {
    fn into_pipes(self) -> io::Result<Pipes> {
        let receiver = |end: Option<PipeReader>| {
            end.map(|end| pipe::Receiver::from_owned_fd(OwnedFd::from(end))).transpose()
        };
        Ok(Pipes {
            input: self
                .input
                .map(|end| pipe::Sender::from_owned_fd(OwnedFd::from(end)))
                .transpose()?,
            out: receiver(self.out)?,
            err: receiver(self.err)?,
        })
    }
}

/// Keeps the descriptors the agent was started with from the programs it starts. Its own are kept from
/// them anyway.
pub fn keep_descriptors() {
    let open = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect::<Vec<i32>>()
    });
    // without /proc, as many as there usually may be
    for descriptor in open.unwrap_or_else(|_| (3..1024).collect()) {
        if descriptor > 2 {
            #[expect(unsafe_code, reason = "the descriptor is a number: nobody here owns it")]
            // SAFETY: the call takes three numbers, and fails if the descriptor is not open
            unsafe {
                libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}

fn become_another(command: &mut Command, identity: &Identity) {
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let gid = Gid::from_raw(identity.account.gid);
    let uid = Uid::from_raw(identity.account.uid);
    let drop_rights = move || {
        setgroups(&groups)?;
        setgid(gid)?;
        setuid(uid)?;
        Ok(())
    };
    #[expect(unsafe_code, reason = "the standard library sets no supplementary groups")]
    // SAFETY: it makes three system calls and allocates nothing
    unsafe {
        command.as_std_mut().pre_exec(drop_rights);
    }
}

/// Whether a rule lets a command line be run: the rule's words are the program and the first of its
/// arguments, each whole. A program is the same by the folder it is in, not by what a link of its name
/// leads to: every program of a busybox leads to the same file.
fn permits(rule: &str, program: &Path, arguments: &[String]) -> bool {
    let mut words = rule.split_whitespace();
    let Some(allowed) = words.next() else { return false };
    let same = match (place(Path::new(allowed)), place(program)) {
        (Some(allowed), Some(program)) => allowed == program,
        _ => false,
    };
    let mut arguments = arguments.iter();
    same && words.all(|word| arguments.next().is_some_and(|argument| argument == word))
}

fn place(program: &Path) -> Option<PathBuf> {
    let name = program.file_name()?;
    Some(std::fs::canonicalize(program.parent()?).ok()?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn plan(path: &str, environment: Option<&[&str]>) -> Plan {
        Plan {
            path: path.to_owned(),
            arguments: Vec::new(),
            environment: environment
                .map(|entries| entries.iter().map(|entry| (*entry).to_owned()).collect()),
            folder: None,
            identity: None,
            capture: ExecCapture::None,
            input: false,
            allowed: None,
        }
    }

    fn executable(path: &Path) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_name_is_looked_for_and_a_path_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::create_dir_all(one.join("p")).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(one.join("q"), "").unwrap();
        executable(&two.join("p"));
        let path = format!("PATH={}:{}", one.display(), two.display());
        let find = |name| plan(name, Some(&["X=1", &path])).find();
        assert_eq!(find("p").unwrap(), two.join("p"), "a folder is no program");
        assert_eq!(find("q").unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!(find("r").unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(find("").unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(find("/no/such").unwrap(), Path::new("/no/such"));
        let relative = Plan { folder: Some(two.clone()), ..plan("./p", None) };
        assert_eq!(relative.find().unwrap(), two.join("./p"));
        assert!(plan("sh", None).find().unwrap().is_absolute());
    }

    #[test]
    fn a_rule_permits_what_begins_with_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(&bin, folder.path().join("sbin")).unwrap();
        let rule = format!("{} restart  web", bin.join("ctl").display());
        let asked = |program: &str, arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|word| (*word).to_owned()).collect();
            permits(&rule, &folder.path().join(program), &arguments)
        };
        assert!(asked("bin/ctl", &["restart", "web"]));
        assert!(asked("bin/ctl", &["restart", "web", "now"]));
        assert!(asked("sbin/ctl", &["restart", "web"]), "the same folder");
        assert!(asked("bin/../bin/ctl", &["restart", "web"]));
        assert!(!asked("bin/ctl", &["restart", "website"]));
        assert!(!asked("bin/ctl", &["restart"]));
        assert!(!asked("bin/ctl", &["restart web"]));
        assert!(!asked("bin/ctl2", &["restart", "web"]));
        assert!(!asked("ctl", &["restart", "web"]));
        // all of a busybox's programs are one file
        executable(&bin.join("busybox"));
        symlink(bin.join("busybox"), bin.join("ctl")).unwrap();
        symlink(bin.join("busybox"), bin.join("rm")).unwrap();
        assert!(asked("bin/ctl", &["restart", "web"]));
        assert!(!asked("bin/rm", &["restart", "web"]));
        assert!(!permits("", Path::new("/bin/sh"), &[]));
        assert!(!permits("sh", Path::new("/bin/sh"), &[]));
    }
}
