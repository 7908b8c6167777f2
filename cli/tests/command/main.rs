//! The built command against a fake node on a UNIX socket: what is sent, what is printed where,
//! and with which exit code, through lost connections, nonsense and Ctrl-C.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why")]

mod changes;
mod contact;
mod lifecycle;
mod node;
mod reads;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use node::Node;

/// The command, speaking to this node and to nothing the environment may name.
#[expect(clippy::disallowed_methods, reason = "the command itself is under test")]
fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    command
        .args(arguments)
        .env_clear()
        .env("OSTLER_SOCKET", node.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Run the command to its end.
fn run(node: &Node, arguments: &[&str]) -> Output {
    command(node, arguments).output().expect("the command starts")
}

/// Run the command with something on its standard input.
fn run_with_input(node: &Node, arguments: &[&str], input: &str) -> Output {
    let mut child =
        command(node, arguments).stdin(Stdio::piped()).spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    stdin.write_all(input.as_bytes()).expect("the command reads its input");
    drop(stdin);
    child.wait_with_output().expect("the command ends")
}

/// The command at work, its standard error read line by line.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut child = command(node, arguments).spawn().expect("the command starts");
        let stderr = BufReader::new(child.stderr.take().expect("standard error is piped"));
        Self { child, stderr }
    }

    /// Read standard error until a line has this in it.
    fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        loop {
            let from = seen.len();
            let read = self.stderr.read_line(&mut seen).expect("standard error is text");
            assert!(read > 0, "the command ended without saying {text:?}, but: {seen}");
            if seen[from..].contains(text) {
                return;
            }
        }
    }

    /// Press Ctrl-C.
    #[expect(clippy::disallowed_methods, reason = "std cannot send signals")]
    fn interrupt(&self) {
        let kill = format!("kill -INT {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("sh runs");
        assert!(status.success());
    }

    /// Wait for the end; what was left of standard error.
    fn end(mut self) -> (Output, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).expect("standard error is text");
        (self.child.wait_with_output().expect("the command ends"), rest)
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the result is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are text")
}

/// The exit code, with what was printed if it is not this one.
#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    let (out, err) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
}
