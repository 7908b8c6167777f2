//! `ostler-host-agent`: arguments, log, run, exit code.

mod log;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ostler_host_agent::config::Settings;
use ostler_host_agent::rpc::socket;
use ostler_host_agent::{Error, allocator, reload};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs instances on this node: takes commands from its socket and from RabbitMQ, drives libvirt.
///
/// Exit codes: 0 stopped on request, 1 could not start or go on, 2 wrong arguments or configuration.
#[derive(Parser)]
#[command(name = "ostler-host-agent", version)]
struct Arguments {
    /// The configuration; without one, /etc/ostler/host-agent.toml if it is there.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Check the configuration and say what is wrong with it.
    CheckConfig,
}

/// Threads of the runtime at most: what blocks or computes for long has threads of its own, and a
/// node may have hundreds of processors, which are there for its guests.
const WORKERS_MAX: usize = 4;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "before there is a log")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = match Settings::load(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("ostler-host-agent: {}", chain(&error));
            return ExitCode::from(2);
        }
    };
    if let Some(Action::CheckConfig) = arguments.action {
        println!("the configuration of host {} is valid", settings.host);
        let fixed: Vec<_> = reload::fixed().collect();
        println!("a restart is needed to change {}; a reload for all else", fixed.join(", "));
        return ExitCode::SUCCESS;
    }
    let filter = match log::start(&settings) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("ostler-host-agent: the log cannot be started: {error}");
            return ExitCode::from(2);
        }
    };
    let sockets = match socket::passed() {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::error!(%error, "what systemd passes cannot be used");
            return ExitCode::FAILURE;
        }
    };
    allocator::give_back();
    // The one crypto provider of both TLS users; it is set once, so this cannot fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(workers).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ostler-host-agent: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(stop_on_signal(shutdown.clone()));
        let asked = signal(SignalKind::hangup()).map_err(Error::Signals)?;
        let filter = Box::new(move |text: &str| log::set_filter(&filter, text));
        let reloads = reload::Source { path: arguments.config, asked, filter };
        ostler_host_agent::run(settings, sockets, reloads, shutdown).await
    });
    // Calls that libvirt never answers are left behind; they must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "ended");
            ExitCode::FAILURE
        }
    }
}

async fn stop_on_signal(shutdown: CancellationToken) {
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be listened for");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
}

/// An error and its sources, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
