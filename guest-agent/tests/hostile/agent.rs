//! An agent as a process, and a client of it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// No answer takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let mut child = Command::new(env!("CARGO_BIN_EXE_ostler-guest-agent"))
            .args(["-v", "-m", "unix-listen", "--profile", "observe", "-p"])
            .arg(folder.path().join("socket"))
            .arg("-t")
            .arg(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the agent did not start");
        }
        std::thread::spawn(move || log.lines().for_each(drop));
        Self { child, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(stream), syncs: 0 }
    }

    /// Its descriptors, when a client has just been answered and nothing is under way.
    pub(crate) fn descriptors(&self) -> usize {
        // while it is served nobody else is, so what was before is closed
        let mut client = self.connect();
        client.resynchronize();
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// What it had of a processor, by the kernel's clock ticks.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        let ticks: u64 =
            after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// A line of its status that is a number of KiB.
    pub(crate) fn memory(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn assert_lives(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "the agent has ended");
        self.connect().resynchronize();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    syncs: i64,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends until the agent takes no more, and tells how much it took.
    pub(crate) fn stuff(&mut self, bytes: &[u8]) -> usize {
        let socket = self.stream.get_mut();
        socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut sent = 0;
        let error = loop {
            match socket.write(bytes) {
                Ok(count) => sent += count,
                Err(error) => break error.kind(),
            }
        };
        assert!(matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    pub(crate) fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        line
    }

    pub(crate) fn reply(&mut self) -> Value {
        serde_json::from_slice(&self.line()).unwrap()
    }

    pub(crate) fn read(&mut self, count: usize) {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
    }

    /// Asks as hosts do that want to begin afresh, and gives what came before the answer.
    pub(crate) fn resynchronize(&mut self) -> Vec<u8> {
        self.syncs += 1;
        let request = format!(
            "\u{0}{{\"execute\": \"guest-sync-delimited\", \"arguments\": {{\"id\": {}}}}}",
            self.syncs
        );
        let mut request = request.into_bytes();
        request[0] = 0xFF;
        self.send(&request);
        let answer = format!("\u{0}{{\"return\": {}}}\n", self.syncs);
        let mut answer = answer.into_bytes();
        answer[0] = 0xFF;
        let until = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the agent has closed the channel");
            if line == answer {
                return before;
            }
            before.extend(line);
            assert!(Instant::now() < until, "no answer to a sync");
        }
    }
}
