//! A guest's serial console: logging in over it proves an account and its
//! password as nothing that goes through an agent can.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::process::Run;
use crate::{Error, Result, poll};

/// How long a guest may take to come to its login prompt: a boot without KVM
/// on a busy machine.
const BOOT: Duration = Duration::from_secs(400);
/// How long it may take from the password to the shell.
const LOGIN: Duration = Duration::from_secs(90);
/// How long it may take to answer a line.
const ANSWER: Duration = Duration::from_secs(30);

/// An open console.
#[derive(Debug)]
pub struct Console {
    pty: AsyncFd<File>,
    /// What was read and not yet expected.
    seen: String,
    /// Whether it shows `login:`, and nothing was typed there yet.
    prompts: bool,
}

/// How often a name was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Once,
    Again,
}

/// What became of a login.
#[derive(Debug)]
pub enum Login {
    /// A shell.
    Session(Session),
    /// `Login incorrect`; the console is at its prompt again.
    Refused(Console),
}

impl Login {
    /// The session, or an error that says it was refused.
    ///
    /// # Errors
    /// If it was refused.
    pub fn session(self) -> Result<Session> {
        match self {
            Self::Session(session) => Ok(session),
            Self::Refused(console) => {
                Err(Error::Garbled { what: "a login".to_owned(), text: console.seen })
            }
        }
    }
}

/// What a command in the guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed, on either stream, without the last newline.
    pub text: String,
}

impl Console {
    /// The console of a running domain, by libvirt's URI and its name or uuid of it.
    ///
    /// # Errors
    /// If it does not run or has no serial console on a pty.
    pub async fn of_domain(uri: &str, domain: &str) -> Result<Self> {
        let path = Run::new("virsh").args(["-q", "-c", uri, "ttyconsole", domain]).stdout().await?;
        Self::open(Path::new(path.trim()))
    }

    /// The console on this pty.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits())
            .open(path)
            .map_err(Error::path("opening", path))?;
        let step = format!("setting {} raw", path.display());
        let mut settings = tcgetattr(&file).map_err(Error::errno(&step))?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings).map_err(Error::errno(&step))?;
        Self::over(file)
    }

    /// Whatever is at the other end of this descriptor, which does not block.
    ///
    /// # Errors
    /// If it cannot be watched.
    pub fn over(file: File) -> Result<Self> {
        #[expect(deprecated, reason = "what succeeds it is unsafe; a File keeps its descriptor")]
        let pty = AsyncFd::new(file).map_err(Error::io("watching a console"))?;
        Ok(Self { pty, seen: String::new(), prompts: false })
    }

    /// Type this.
    ///
    /// # Errors
    /// If the guest takes nothing.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        let mut rest = text.as_bytes();
        let until = Instant::now() + ANSWER;
        while !rest.is_empty() {
            let wrote = timeout_at(until, async {
                loop {
                    let mut ready = self.pty.writable().await?;
                    if let Ok(wrote) = ready.try_io(|pty| pty.get_ref().write(rest)) {
                        return wrote;
                    }
                }
            })
            .await;
            let wrote = match wrote {
                Ok(wrote) => wrote.map_err(Error::io("writing to the console"))?,
                Err(_) => return Err(self.timed_out("the guest reads its console", ANSWER)),
            };
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// Read until one of these comes; which one, and what came before it.
    ///
    /// # Errors
    /// If none comes in time; with what did.
    pub async fn expect(&mut self, wanted: &[&str], patience: Duration) -> Result<(usize, String)> {
        let until = Instant::now() + patience;
        loop {
            let first = wanted
                .iter()
                .enumerate()
                .filter_map(|(which, text)| Some((self.seen.find(text)?, which, text.len())))
                .min();
            if let Some((at, which, length)) = first {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + length);
                return Ok((which, before));
            }
            match timeout_at(until, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Err(self.timed_out(&format!("one of {wanted:?}"), patience)),
            }
        }
    }

    /// Wait for `login:` and log in.
    ///
    /// # Errors
    /// If the guest does not get that far; a wrong password is not an error.
    pub async fn login(mut self, user: &str, password: &str) -> Result<Login> {
        let until = Instant::now() + BOOT;
        loop {
            let fresh = self.prompts;
            if !fresh {
                self.reach_login().await?;
            }
            self.prompts = false;
            let named = self.name(user).await?;
            self.send(&format!("{password}\r")).await?;
            let outcomes = ["Login incorrect", "# ", "$ "];
            let (which, _) = self.expect(&outcomes, LOGIN).await?;
            if which != 0 {
                return Session::begin(self).await.map(Login::Session);
            }
            self.prompted().await?;
            // What was typed to find the prompt, or a name typed twice, may have been taken as the
            // name or the password: that refusal says nothing.
            if (fresh && named == Named::Once) || Instant::now() >= until {
                return Ok(Login::Refused(self));
            }
        }
    }

    /// Type the user's name, and again if the prompt comes again: a getty that was only starting
    /// throws away what was typed before it.
    async fn name(&mut self, user: &str) -> Result<Named> {
        let until = Instant::now() + BOOT;
        let mut named = Named::Once;
        self.send(&format!("{user}\r")).await?;
        loop {
            match self.expect(&["assword: "], Duration::from_secs(4)).await {
                Ok(_) => return Ok(named),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) if self.seen.contains("login: ") => {
                    self.seen.clear();
                    named = Named::Again;
                    self.send(&format!("{user}\r")).await?;
                }
                // merely slow
                Err(_) => {}
            }
        }
    }

    /// Whatever state an earlier user left it in. A console nobody had open
    /// has dropped what was printed, so it is asked to print again.
    async fn reach_login(&mut self) -> Result<()> {
        let until = Instant::now() + BOOT;
        self.seen.clear();
        loop {
            self.send("\r").await?;
            let prompts = ["login: ", "assword: ", "# ", "$ "];
            match self.expect(&prompts, Duration::from_secs(2)).await {
                Ok((0, _)) => {
                    // more of the kind may be on its way; only the last one counts
                    self.settle().await?;
                    return Ok(());
                }
                Ok((1, _)) => {
                    // an empty password is refused, after a while
                    self.send("\r").await?;
                    self.expect(&["login: "], ANSWER).await?;
                    self.settle().await?;
                    return Ok(());
                }
                Ok(_) => self.send("exit\r").await?,
                // the end of a session's loop; nothing to a getty without a name
                Err(_) if Instant::now() < until => self.send("\u{4}").await?,
                Err(_) => return Err(self.timed_out("a login prompt", BOOT)),
            }
        }
    }

    /// Wait for `login:`, which comes by itself.
    async fn prompted(&mut self) -> Result<()> {
        self.expect(&["login: "], ANSWER).await?;
        self.settle().await?;
        self.prompts = true;
        Ok(())
    }

    /// Read and forget until nothing comes for a moment.
    async fn settle(&mut self) -> Result<()> {
        while let Ok(read) = timeout(Duration::from_millis(300), self.read()).await {
            read?;
        }
        self.seen.clear();
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        let count = loop {
            let mut ready = self.pty.readable().await.map_err(Error::io("watching the console"))?;
            match ready.try_io(|pty| pty.get_ref().read(&mut bytes)) {
                Ok(Ok(0)) => return Err(closed(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(count)) => break count,
                Ok(Err(error)) => return Err(closed(error)),
                Err(_not_yet) => {}
            }
        };
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        // a guest that writes without end is not to fill the harness
        if self.seen.len() > 1 << 20 {
            let mut from = self.seen.len() - (1 << 19);
            while !self.seen.is_char_boundary(from) {
                from += 1;
            }
            self.seen.drain(..from);
        }
        Ok(())
    }

    fn timed_out(&self, what: &str, waited: Duration) -> Error {
        Error::TimedOut { what: what.to_owned(), waited, seen: format!("{:?}", self.seen) }
    }
}

fn closed(source: io::Error) -> Error {
    Error::Io { step: "reading the console (has the guest ended?)".to_owned(), source }
}

/// A shell in the guest.
#[derive(Debug)]
pub struct Session {
    console: Console,
    /// Ends each answer; nothing a command prints by chance.
    mark: String,
}

impl Session {
    /// Replaces the login's shell, which edits lines and prints prompts, by a
    /// loop that runs one line after another, each in a shell of its own.
    async fn begin(mut console: Console) -> Result<Self> {
        let mark = Uuid::new_v4().simple().to_string();
        // the quotes keep the echo of this line from looking like its effect
        let line = format!(
            "exec sh -c 'stty -echo; echo \"{}\"\"{}\"; while read -r line; do \
             sh -c \"$line\" </dev/null 2>&1; printf \"\\n%s:%s\\n\" \"{}\"\"{}\" $?; done'\r",
            &mark[..16],
            &mark[16..],
            &mark[..16],
            &mark[16..],
        );
        console.send(&line).await?;
        console.expect(&[&format!("{mark}\r\n")], ANSWER).await?;
        Ok(Self { console, mark })
    }

    /// Run one line; no more than a terminal's line, some 4000 bytes.
    ///
    /// # Errors
    /// If it does not end in half a minute.
    pub async fn run(&mut self, line: &str) -> Result<Ran> {
        self.run_for(line, ANSWER).await
    }

    /// The same, with so much time.
    ///
    /// # Errors
    /// If that is not enough.
    pub async fn run_for(&mut self, line: &str, patience: Duration) -> Result<Ran> {
        self.console.send(&format!("{line}\n")).await?;
        let mark = format!("\r\n{}:", self.mark);
        let (_, text) = self.console.expect(&[&mark], patience).await?;
        let (_, code) = self.console.expect(&["\r\n"], ANSWER).await?;
        let code = code
            .trim()
            .parse()
            .map_err(|_| Error::Garbled { what: "an exit code".into(), text: code })?;
        let text = text.replace("\r\n", "\n");
        Ok(Ran { code, text: text.trim_end_matches('\n').to_owned() })
    }

    /// The same; what it printed, if it returned 0.
    ///
    /// # Errors
    /// Also if it returned anything else.
    pub async fn ask(&mut self, line: &str) -> Result<String> {
        let ran = self.run(line).await?;
        if ran.code == 0 {
            return Ok(ran.text);
        }
        Err(Error::Failed {
            command: format!("{line} (in the guest)"),
            status: format!("exit {}", ran.code),
            stderr: ran.text,
        })
    }

    /// Leave it as it is; the console.
    pub fn abandon(self) -> Console {
        self.console
    }

    /// Log out; the console, for the next login.
    ///
    /// # Errors
    /// If no login prompt comes back.
    pub async fn logout(mut self) -> Result<Console> {
        self.console.send("\u{4}").await?;
        self.console.prompted().await?;
        Ok(self.console)
    }
}

/// Wait until a domain of the libvirt at this URI has a console to open; the path of its pty.
///
/// # Errors
/// If it has none in time.
pub async fn pty_of(uri: &str, domain: &str, patience: Duration) -> Result<PathBuf> {
    poll::until(&format!("{domain} has a console"), patience, async || {
        Run::new("virsh")
            .args(["-q", "-c", uri, "ttyconsole", domain])
            .stdout()
            .await
            .map_err(|error| error.to_string())
            .and_then(|path| match path.trim() {
                "" => Err("none".to_owned()),
                path => Ok(PathBuf::from(path)),
            })
    })
    .await
}
