//! A fake node: a UNIX socket that answers each request as a test says.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ostler_protocol::rpc::envelope::{Request, Response, read_request};
use ostler_protocol::rpc::fault::{Fault, Reason};
use serde_json::{Value, json};

/// An id that stands for instances in these tests.
pub(crate) const INSTANCE: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// An id that stands for operations.
pub(crate) const OPERATION: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

/// What a node does with a request.
pub(crate) enum Act {
    /// Answers.
    Reply(Value),
    /// Refuses.
    Refuse(Fault),
    /// Sends these bytes as they are.
    Send(Vec<u8>),
    /// Closes the connection without a word.
    Close,
    /// Closes the connection and goes away: the socket is removed.
    Leave,
    /// Says nothing.
    Silence,
}

/// How a test's node answers: called with each request and its number, from 0.
type Script = Box<dyn FnMut(&Request, usize) -> Act + Send>;

/// A fake node.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    script: Script,
    requests: Vec<Request>,
}

impl Node {
    /// A node that answers by this script.
    pub(crate) fn new(script: impl FnMut(&Request, usize) -> Act + Send + 'static) -> Self {
        let node = Self::absent(script);
        node.appear();
        node
    }

    /// The same, whose socket is not there yet.
    pub(crate) fn absent(script: impl FnMut(&Request, usize) -> Act + Send + 'static) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a socket");
        let shared = Shared { script: Box::new(script), requests: Vec::new() };
        Self { folder, shared: Arc::new(Mutex::new(shared)) }
    }

    /// Listen; until somebody is told to leave, or the test process ends.
    pub(crate) fn appear(&self) {
        let listener = UnixListener::bind(self.path()).expect("the socket is free");
        let (path, shared) = (self.path(), Arc::clone(&self.shared));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serve(stream, &shared) == Next::Leave {
                    // A test whose folder is gone already does not care.
                    drop(std::fs::remove_file(path));
                    return;
                }
            }
        });
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("node.sock")
    }

    /// What it was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.lock().expect("no test panics in its script").requests.clone()
    }

    /// The methods it was asked for so far.
    pub(crate) fn methods(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.method).collect()
    }
}

#[derive(PartialEq)]
enum Next {
    Stay,
    Leave,
}

/// Serve one connection: the command has one at a time.
fn serve(stream: UnixStream, shared: &Mutex<Shared>) -> Next {
    let mut writer = stream.try_clone().expect("a socket can be cloned");
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let request = read_request(line.as_bytes()).expect("the command sends requests");
        let act = {
            let mut shared = shared.lock().expect("no test panics in its script");
            let number = shared.requests.len();
            shared.requests.push(request.clone());
            (shared.script)(&request, number)
        };
        let outcome = match act {
            Act::Reply(value) => Ok(value),
            Act::Refuse(fault) => Err(fault),
            Act::Send(bytes) => {
                // The command may have enough before it has all.
                drop(writer.write_all(&bytes));
                return Next::Stay;
            }
            Act::Close => return Next::Stay,
            Act::Leave => return Next::Leave,
            Act::Silence => continue,
        };
        let response = Response::new(request.id, outcome);
        let mut bytes = serde_json::to_vec(&response).expect("a response is JSON");
        bytes.push(b'\n');
        if writer.write_all(&bytes).is_err() {
            return Next::Stay;
        }
    }
    Next::Stay
}

/// A refusal.
pub(crate) fn refuse(reason: Reason, message: &str) -> Act {
    Act::Refuse(Fault::new(reason, message))
}

/// An instance.
pub(crate) fn instance(id: &str, name: &str) -> Value {
    json!({
        "id": id, "name": name, "status": "ACTIVE", "vm_state": "active", "task_state": null,
        "power_state": "running", "host": "node1", "domain": "ostler-1", "image": "debian",
        "vcpus": 2, "memory": 536_870_912, "disk": 2_147_483_648_u64,
        "ports": [{
            "id": "16fd2706-8baf-433b-82eb-8c7fada847da", "network": "lan",
            "mac": "52:54:00:12:34:56", "bridge": "br-lan", "tap": "tap16fd2706",
        }],
        "guest": {"state": "ready", "agent": "1.2", "transport": "ostler"},
        "created": 0, "updated": 0,
    })
}

/// An operation on [`INSTANCE`], with the states of its steps.
pub(crate) fn operation(kind: &str, state: &str, revision: u64, steps: &[&str]) -> Value {
    let names = ["create root disk", "define domain", "start domain"];
    let steps: Vec<Value> = names
        .iter()
        .zip(steps)
        .map(|(name, state)| json!({"name": name, "state": state}))
        .collect();
    json!({
        "id": OPERATION, "kind": kind, "subject": {"instance": INSTANCE}, "state": state,
        "steps": steps, "revision": revision, "accepted": 0,
    })
}
