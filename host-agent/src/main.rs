//! `ostler-host-agent`: arguments, log, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ostler_host_agent::config::{LogFormat, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
        return ExitCode::SUCCESS;
    }
    if let Err(error) = start_log(&settings) {
        eprintln!("ostler-host-agent: the log cannot be started: {error}");
        return ExitCode::from(2);
    }
    // The one crypto provider of both TLS users; it is set once, so this cannot fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ostler-host-agent: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(stop_on_signal(shutdown.clone()));
        ostler_host_agent::run(settings, shutdown).await
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

fn start_log(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(&settings.log_filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let journald = match settings.log_format {
        LogFormat::Auto => std::env::var_os("JOURNAL_STREAM").is_some(),
        LogFormat::Journald => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if journald {
        registry.with(tracing_journald::layer()?).try_init()?;
    } else if settings.log_format == LogFormat::Json {
        registry.with(layer.json()).try_init()?;
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        registry.with(layer.with_ansi(colours)).try_init()?;
    }
    Ok(())
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
