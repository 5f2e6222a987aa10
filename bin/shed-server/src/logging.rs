//! Where the server's log goes and how it looks: one line an event on stderr.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogLevel;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people, coloured on a terminal.
    Human,
    /// One JSON object a line, for programs.
    Json,
}

/// Begins logging. Call it once, before anything that logs.
pub fn begin(level: LogLevel, format: LogFormat) {
    let own = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    // The libraries' debug lines are about every byte; nobody who debugs Shed wants them.
    let libraries = own.min(LevelFilter::INFO);
    let filter = Targets::new().with_default(libraries).with_target("shed", own);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let begun = match format {
        LogFormat::Human => {
            registry.with(lines.with_ansi(io::stderr().is_terminal()).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if begun.is_err() {
        tracing::debug!("logging had begun already");
    }
}
