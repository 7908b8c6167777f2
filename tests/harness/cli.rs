//! The operator's command, run as an operator would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::agent::HostAgent;
use crate::console::Console;
use crate::process::{Output, Run};
use crate::seat::Seat;
use crate::{Error, Result, process, programs};

/// The built `ostler`, and which node it is to ask.
#[derive(Debug, Clone)]
pub struct Cli {
    program: PathBuf,
    env: Vec<(&'static str, String)>,
    patience: Duration,
}

impl Cli {
    /// One that asks over a node's socket.
    ///
    /// # Errors
    /// If the command is not built.
    pub fn over_socket(socket: &Path) -> Result<Self> {
        // an empty OSTLER_BROKER, so that the caller's own has no effect
        let env = vec![
            ("OSTLER_SOCKET", socket.to_string_lossy().into_owned()),
            ("OSTLER_BROKER", String::new()),
        ];
        Self::new(env)
    }

    /// One that asks through a broker. The URI goes by the environment: it
    /// holds a password, and arguments are for all to see.
    ///
    /// # Errors
    /// If the command is not built.
    pub fn over_broker(uri: &str, host: &str) -> Result<Self> {
        Self::new(vec![("OSTLER_BROKER", uri.to_owned()), ("OSTLER_HOST", host.to_owned())])
    }

    /// One for this node, on its socket.
    ///
    /// # Errors
    /// If the command is not built.
    pub fn on(agent: &HostAgent) -> Result<Self> {
        Self::over_socket(&agent.socket())
    }

    fn new(env: Vec<(&'static str, String)>) -> Result<Self> {
        Ok(Self { program: programs::cli()?, env, patience: Duration::from_secs(180) })
    }

    /// How long one run may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn run(&self, args: &[&str], stdin: &str) -> Run {
        let run = Run::new(&self.program).args(args).stdin(stdin).patience(self.patience);
        self.env.iter().fold(run, |run, (name, value)| {
            if value.is_empty() { run.without_env(*name) } else { run.env(*name, value) }
        })
    }

    /// Run it on a terminal, with somebody at the keyboard.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn seat(&self, args: &[&str]) -> Result<(Seat, Console)> {
        let mut command = process::command(&self.program);
        command.args(args);
        for (name, value) in &self.env {
            match value.as_str() {
                "" => command.env_remove(name),
                value => command.env(name, value),
            };
        }
        Seat::take(command)
    }

    /// Run it with these arguments and this on stdin, whatever it returns.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time.
    pub async fn output(&self, args: &[&str], stdin: &str) -> Result<Output> {
        self.run(args, stdin).output().await
    }

    /// Run it; what it printed for people, if it succeeded.
    ///
    /// # Errors
    /// Also if it does not return 0.
    pub async fn text(&self, args: &[&str]) -> Result<String> {
        self.run(args, "").stdout().await
    }

    /// Run it with `--output json`; what it printed for programs, if it
    /// succeeded. Null if it printed nothing.
    ///
    /// # Errors
    /// Also if it does not return 0, or that is not JSON.
    pub async fn json(&self, args: &[&str]) -> Result<Value> {
        self.json_with(args, "").await
    }

    /// The same with something on stdin, which is where secrets go.
    ///
    /// # Errors
    /// As there.
    pub async fn json_with(&self, args: &[&str], stdin: &str) -> Result<Value> {
        let mut all = vec!["--output", "json"];
        all.extend_from_slice(args);
        let text = self.run(&all, stdin).stdout().await?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|_| Error::Garbled {
            what: format!("what `ostler {}` printed", args.join(" ")),
            text,
        })
    }
}
