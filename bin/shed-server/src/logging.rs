//! Where the server's log goes and how it looks: one line an event on stderr.
//!
//! What is logged has parts that clients and guests choose: paths, names, what a console said. No such part can begin
//! a line of its own or reach a terminal as an escape sequence, whatever the code that logs it does.

use std::{
    fmt::{self, Write},
    io::{self, IsTerminal},
};

use tracing::{field::Field, level_filters::LevelFilter};
use tracing_subscriber::{
    field::MakeExt,
    filter::Targets,
    fmt::{
        FormatFields,
        format::{self, Writer},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

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
            let lines = lines.with_ansi(io::stderr().is_terminal()).with_target(false);
            registry.with(lines.fmt_fields(fields())).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if begun.is_err() {
        tracing::debug!("logging had begun already");
    }
}

/// Writes fields as `name=value`, each on the event's line.
fn fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(writer, "{}=", field.name())?;
        }
        write!(OneLine(writer), "{value:?}")
    };
    format::debug_fn(write).delimited(" ")
}

/// Escapes what would end the line, or what a terminal would act on.
struct OneLine<'a, 'w>(&'a mut Writer<'w>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(is_unsafe) {
            match piece.chars().next_back().filter(|last| is_unsafe(*last)) {
                None => self.0.write_str(piece)?,
                Some(last) => {
                    self.0.write_str(&piece[..piece.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
            }
        }
        Ok(())
    }
}

/// Control characters, the line ends of Unicode, and marks that turn the direction of writing.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).without_time().with_target(false);
        let lines = lines.with_writer(move || writer.clone()).fmt_fields(fields());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn an_event_looks_as_ever() {
        let text = logged(|| {
            let _span = tracing::info_span!("request", id = %"7f").entered();
            tracing::warn!(path = %"/api", status = 200, agent = ?"a b", none = None::<u8>, "request");
        });
        assert_eq!(text, " WARN request{id=7f}: request path=/api status=200 agent=\"a b\"\n");
    }

    #[test]
    fn nothing_that_is_logged_can_begin_a_line_or_an_escape_sequence() {
        let evil = "x\n INFO forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\u{0}\u{7f}ü";
        let text = logged(|| {
            let _span = tracing::info_span!("request", id = %evil).entered();
            tracing::error!(error = %evil, quoted = evil, "{evil}");
        });
        assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "{text:?}");
        assert!(!text.trim_end().chars().any(is_unsafe), "{text:?}");
        assert!(text.contains(r"error=x\n INFO forged\r\u{1b}[2J") && text.contains('ü'), "{text}");
    }
}
