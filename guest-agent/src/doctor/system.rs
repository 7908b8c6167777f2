//! The system that is looked at, under a root.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};

use super::Finding;
use crate::commands::program::DIRECTORIES;
use crate::options::Surroundings;

/// So much of a file is read.
const MOST: u64 = 1 << 20;

/// What is looked at.
#[derive(Debug)]
pub(super) struct System {
    root: PathBuf,
    /// Who owns what is the system's own.
    superuser: u32,
    /// Who looks.
    user: u32,
}

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// As the kernel has it, cut to 15 characters.
    pub(super) name: String,
    /// Its file, where that may be seen.
    pub(super) program: Option<PathBuf>,
    /// What it has open.
    pub(super) files: Vec<PathBuf>,
}

impl System {
    /// The one this program runs in.
    pub(super) fn here() -> Self {
        Self { root: "/".into(), superuser: 0, user: Uid::effective().as_raw() }
    }

    pub(super) fn user(&self) -> Finding {
        if self.user == self.superuser {
            return Finding::fine("user", "looks as root");
        }
        Finding::warning("user", "not root: some things cannot be seen", "run this as root")
    }

    /// Where the agent would look for its configuration.
    pub(super) fn surroundings(&self) -> Surroundings {
        let there = Surroundings::of_the_system(false);
        let place = |file: Option<PathBuf>| file.map(|path| self.place(path));
        Surroundings {
            stock_file: place(there.stock_file),
            own_file: place(there.own_file),
            activated: there.activated,
        }
    }

    fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The beginning of a file; nothing where there is none.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.place(path)).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The end of a file that grows.
    pub(super) fn read_end(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut file = File::open(self.place(path)).ok()?;
        let length = file.seek(SeekFrom::End(0)).ok()?;
        file.seek(SeekFrom::Start(length.saturating_sub(MOST))).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The word that a file of the kernel's holds.
    pub(super) fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.read(path)?.trim_matches(['\0', '\n', ' ']).to_owned())
    }

    /// The names in a directory, in order.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.place(path)) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(super) fn metadata(&self, path: impl AsRef<Path>) -> Option<Metadata> {
        fs::metadata(self.place(path)).ok()
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.metadata(path).is_some()
    }

    pub(super) fn is_directory(&self, path: impl AsRef<Path>) -> bool {
        self.metadata(path).is_some_and(|metadata| metadata.is_dir())
    }

    /// Whether this user may.
    pub(super) fn may(&self, path: impl AsRef<Path>, what: AccessFlags) -> bool {
        access(&self.place(path), what).is_ok()
    }

    /// What a link says.
    pub(super) fn link(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        fs::read_link(self.place(path)).ok()
    }

    /// Where links lead to, as the system sees it.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let root = fs::canonicalize(&self.root).ok()?;
        let path = fs::canonicalize(self.place(path)).ok()?;
        Some(Path::new("/").join(path.strip_prefix(root).ok()?))
    }

    /// Why somebody else than root decides what a file is, if so.
    pub(super) fn foreign(&self, path: impl AsRef<Path>) -> Option<String> {
        let metadata = self.metadata(path)?;
        if metadata.uid() != self.superuser {
            return Some(format!("belongs to user {}", metadata.uid()));
        }
        let mode = metadata.permissions().mode();
        (mode & 0o022 != 0).then(|| format!("can be written by others (mode {:o})", mode & 0o7777))
    }

    /// Whether it is a file that its owner may run.
    pub(super) fn is_program(&self, path: impl AsRef<Path>) -> bool {
        self.metadata(path).is_some_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    }

    /// A program, where the agent would find it.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        let mut places = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
        places.find(|path| self.is_program(path))
    }

    /// The programs that run, this one apart.
    pub(super) fn processes(&self) -> Vec<Process> {
        let pids = self.list("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
        pids.filter(|pid| *pid != std::process::id()).filter_map(|pid| self.process(pid)).collect()
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let about = Path::new("/proc").join(pid.to_string());
        let files = about.join("fd");
        Some(Process {
            pid,
            name: self.word(about.join("comm"))?,
            program: self.link(about.join("exe")),
            files: self
                .list(&files)
                .iter()
                .filter_map(|name| self.link(files.join(name)))
                .collect(),
        })
    }

    /// What a process was started with, its own name left out.
    pub(super) fn arguments(&self, pid: u32) -> Vec<OsString> {
        let Ok(line) = fs::read(self.place(format!("/proc/{pid}/cmdline"))) else {
            return Vec::new();
        };
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        line.split(|byte| *byte == 0)
            .skip(1)
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect()
    }

    /// The last component, where it is one.
    pub(super) fn file_name(path: &Path) -> String {
        match path.components().next_back() {
            Some(Component::Normal(name)) => name.to_string_lossy().into_owned(),
            _ => String::new(),
        }
    }
}

/// Trees to look at.
#[cfg(test)]
pub(super) mod fixture {
    use super::*;
    use std::os::unix::fs::symlink;

    pub(in crate::doctor) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(in crate::doctor) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(in crate::doctor) fn system(&self) -> System {
            let user = Uid::effective().as_raw();
            System { root: self.0.path().to_owned(), superuser: user, user }
        }

        /// Where what this user has made belongs to somebody else.
        pub(in crate::doctor) fn of_another_user(&self) -> System {
            let system = self.system();
            System { superuser: system.user + 1, ..system }
        }

        pub(in crate::doctor) fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            self.mode(path.to_str().unwrap(), 0o644);
        }

        pub(in crate::doctor) fn program(&self, path: &str) {
            self.file(path, "#!/bin/sh\n");
            self.mode(path, 0o755);
        }

        pub(in crate::doctor) fn mode(&self, path: &str, mode: u32) {
            let path = self.0.path().join(path);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }

        pub(in crate::doctor) fn directory(&self, path: &str) {
            fs::create_dir_all(self.0.path().join(path)).unwrap();
        }

        pub(in crate::doctor) fn link(&self, target: &str, path: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }

        pub(in crate::doctor) fn remove(&self, path: &str) {
            let path = self.0.path().join(path);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }

        pub(in crate::doctor) fn process(
            &self,
            pid: u32,
            name: &str,
            program: &str,
            files: &[&str],
        ) {
            let about = format!("proc/{pid}");
            self.file(&format!("{about}/comm"), &format!("{name}\n"));
            self.file(&format!("{about}/cmdline"), &format!("{program}\0"));
            self.file(&format!("{about}/stat"), &format!("{pid} ({name}) S 1 0"));
            self.link(program, &format!("{about}/exe"));
            for (number, file) in files.iter().enumerate() {
                self.link(file, &format!("{about}/fd/{number}"));
            }
        }
    }
}
