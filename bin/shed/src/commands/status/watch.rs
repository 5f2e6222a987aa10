//! `shed status --watch`: a screen that is drawn anew, or a line for each change where nothing can be redrawn.

use std::{io::IsTerminal, process::ExitCode};

use jiff::Timestamp;
use rustix::{
    stdio::stdout,
    termios::{Winsize, tcgetwinsize},
};
use serde::Serialize;
use shed_api::{GuestEvent, ShedEvent, StatusReport};
use shed_client::{ClientError, ShedEvents};
use shed_types::ShedName;

use super::text;
use crate::{
    cli::Context,
    command_error::CommandError,
    commands::work::EndSignals,
    servers::Server,
    ui::{Format, clean},
};

/// Most events that a screen shows, the last ones.
const EVENTS: usize = 20;

/// Size of a terminal that does not tell its own, in rows and columns.
const SIZE: (u16, u16) = (24, 80);

/// Clears the screen and puts the cursor into its corner (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// An event in JSON.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    data: &'a T,
}

/// What is shown at this moment.
#[derive(Debug, Default)]
struct Shown {
    report: Option<StatusReport>,
}

/// Shows what comes until there is no more, or a signal asks the client to end.
pub(super) async fn run(
    context: &Context,
    server: &Server,
    name: &ShedName,
    mut events: ShedEvents,
) -> Result<ExitCode, CommandError> {
    let mut signals = EndSignals::listen()?;
    let screen = context.ui.format() == Format::Text && std::io::stdout().is_terminal();
    let mut shown = Shown::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            signal = signals.next() => return Ok(ExitCode::from(128 + signal)),
        };
        let failed = |error| CommandError::from_client(error, server, Some(name));
        let event = match event {
            Some(event) => event.map_err(failed)?,
            None => return Ok(ExitCode::SUCCESS),
        };
        if let ShedEvent::Error(detail) = event {
            return Err(failed(ClientError::of_event(detail)));
        }
        match (context.ui.format(), screen) {
            (Format::Json, _) => context.ui.print(&json(&event))?,
            (Format::Text, false) => context.ui.print(&line(&event, Timestamp::now()))?,
            (Format::Text, true) => {
                shown.take(event);
                if let Some(report) = &shown.report {
                    let whole = text::whole(report, server, Timestamp::now());
                    context.ui.print(&format!("{CLEAR}{}", fit(&whole, size())))?;
                }
            }
        }
    }
}

impl Shown {
    fn take(&mut self, event: ShedEvent) {
        match (event, &mut self.report) {
            (ShedEvent::Status(report), shown) => *shown = Some(*report),
            (ShedEvent::State(shed), Some(report)) => {
                report.status = shed.status;
                report.error = shed.error;
            }
            (ShedEvent::Event(event), Some(report)) => {
                report.events.push(*event);
                let extra = report.events.len().saturating_sub(EVENTS);
                drop(report.events.drain(..extra));
            }
            // Before the first report there is nothing to change; an error is no part of what is shown.
            (ShedEvent::State(_) | ShedEvent::Event(_), None) | (ShedEvent::Error(_), _) => {}
        }
    }
}

fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(Winsize { ws_row: rows @ 1.., ws_col: columns @ 1.., .. }) => (rows, columns),
        Ok(_) | Err(_) => SIZE,
    }
}

/// Cuts a text to a screen, so that nothing of it scrolls away.
fn fit(text: &str, (rows, columns): (u16, u16)) -> String {
    let lines = text.lines().take(usize::from(rows).saturating_sub(1).max(1));
    lines.map(|line| line.chars().take(columns.into()).collect::<String>() + "\n").collect()
}

fn json(event: &ShedEvent) -> String {
    fn line(kind: &str, data: &impl Serialize) -> String {
        serde_json::to_string(&Line { kind, data }).expect("results are plain JSON") + "\n"
    }
    match event {
        ShedEvent::Status(report) => line(event.name(), report),
        ShedEvent::State(shed) => line(event.name(), shed),
        ShedEvent::Event(told) => line(event.name(), told),
        ShedEvent::Error(detail) => line(event.name(), detail),
    }
}

fn line(event: &ShedEvent, now: Timestamp) -> String {
    let now = text::seconds(now);
    match event {
        ShedEvent::Status(report) => format!("{now}  {}\n", text::gist(report)),
        ShedEvent::State(shed) => format!("{now}  the shed is {}\n", shed.status.as_str()),
        ShedEvent::Event(told) => {
            let told: &GuestEvent = told;
            format!("{}\n", text::event_line(told))
        }
        ShedEvent::Error(detail) => format!("{now}  {}\n", clean(&detail.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StatusReport {
        serde_json::from_str(include_str!("../../../../../crates/shed-api/fixtures/status.json")).unwrap()
    }

    #[test]
    fn a_screen_is_never_longer_or_wider_than_the_terminal() {
        let text = "äbc\nd\ne\nf\n";
        assert_eq!(fit(text, (3, 2)), "äb\nd\n");
        assert_eq!(fit(text, (1, 80)), "äbc\n");
    }

    #[test]
    fn news_change_what_is_shown() {
        let mut shown = Shown::default();
        let event = report().events.remove(0);
        shown.take(ShedEvent::Event(Box::new(event.clone())));
        assert!(shown.report.is_none());
        shown.take(ShedEvent::Status(Box::new(report())));
        for _ in 0..2 * EVENTS {
            shown.take(ShedEvent::Event(Box::new(event.clone())));
        }
        let shown = shown.report.unwrap();
        assert_eq!((shown.events.len(), shown.events.last()), (EVENTS, Some(&event)));
    }

    #[test]
    fn without_a_screen_each_change_is_one_line() {
        let event = report().events.remove(0);
        for event in [ShedEvent::Status(Box::new(report())), ShedEvent::Event(Box::new(event))] {
            assert_eq!(line(&event, Timestamp::UNIX_EPOCH).matches('\n').count(), 1);
            let json = json(&event);
            assert_eq!(json.matches('\n').count(), 1);
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(json["type"], event.name());
        }
    }
}
