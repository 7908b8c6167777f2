//! The log: lines on standard error.
//!
//! To journald, too: a line is all of an entry there, its fields among it, for `journalctl` shows
//! nothing else. (Fields of journald's own would be asked for by nobody who reads a log at night.)

use std::fmt;

use ostler_host_agent::config::{LogFormat, Settings};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// What changes the log's filter.
pub(crate) type Filter = Handle<EnvFilter, Registry>;

/// Start the log.
pub(crate) fn start(settings: &Settings) -> Result<Filter, Box<dyn std::error::Error>> {
    let (filter, handle) = Layer::new(EnvFilter::try_new(&settings.log_filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let journald = match settings.log_format {
        LogFormat::Auto => std::env::var_os("JOURNAL_STREAM").is_some(),
        LogFormat::Journald => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    if journald {
        let line = Format::default().without_time().with_level(false);
        registry.with(layer.with_ansi(false).event_format(Journald(line))).try_init()?;
    } else if settings.log_format == LogFormat::Json {
        registry.with(layer.json()).try_init()?;
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        registry.with(layer.with_ansi(colours)).try_init()?;
    }
    Ok(handle)
}

/// Have another filter from now on; one that cannot be read changes nothing.
pub(crate) fn set_filter(log: &Filter, text: &str) {
    let set = EnvFilter::try_new(text).map_err(|error| error.to_string());
    if let Err(error) = set.and_then(|new| log.reload(new).map_err(|error| error.to_string())) {
        tracing::error!(error, "log.filter is as before");
    }
}

/// A line with its priority before it, as journald reads it from standard error (sd-daemon(3)).
/// journald has the time itself.
struct Journald<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journald<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // syslog(3)
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
