//! Tells the host of units that fail: one journalctl follows what systemd says of them, for as long as the agent runs.
//!
//! It starts some time after the machine is up, so that no boot waits for it, and reads what this boot has had so far.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use shed_protocol::{Envelope, SYSTEM_EVENT};

use super::{
    coalesce::{Coalesce, Failure},
    entries::Entries,
    export::Entry,
    find, journal_arguments, spawn,
};
use crate::{log, state::State};

/// What systemd's message has as its id when a unit fails (sd-messages.h, SD_MESSAGE_UNIT_FAILURE_RESULT).
const UNIT_FAILED: &str = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c";

/// How long after it has its identity the machine is left alone: what was asked of a new shed comes first.
const AFTER_BOOT: Duration = Duration::from_secs(3);

/// First and longest pause before a journalctl that has ended is started again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Most failures of the past that are looked at.
const PAST: u32 = 256;

/// Longest name of a unit and longest result that are told, in characters.
const NAME: usize = 256;

/// Follows until the agent ends; at once when the image has no journalctl.
pub(crate) async fn watch(state: &State) {
    state.identified.cancelled().await;
    tokio::time::sleep(AFTER_BOOT).await;
    let Some(journalctl) = find("journalctl") else { return };
    let mut units = Coalesce::default();
    let mut cursor = None;
    let mut pause = PAUSE.0;
    loop {
        let began = Instant::now();
        match spawn(&journalctl, &arguments(cursor.as_deref())).and_then(Entries::of) {
            Ok(mut entries) => follow(&mut entries, &mut units, &mut cursor, state).await,
            Err(error) => log::error(&format!("cannot run journalctl: {error}")),
        }
        // One that ran for long has not failed for the reason before.
        if began.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn arguments(after: Option<&str>) -> Vec<String> {
    let mut arguments = journal_arguments();
    arguments.push("--follow".to_owned());
    arguments.extend(match after {
        Some(cursor) => vec![format!("--after-cursor={cursor}")],
        None => vec!["--boot".to_owned(), format!("--lines={PAST}")],
    });
    arguments.push(UNIT_FAILED.to_owned());
    arguments
}

/// Tells of each failure until the process ends.
async fn follow(entries: &mut Entries, units: &mut Coalesce, cursor: &mut Option<String>, state: &State) {
    loop {
        let now = Instant::now();
        let due = units.next_due().map(tokio::time::Instant::from_std);
        let events = tokio::select! {
            entry = entries.next() => {
                let Ok(Some(entry)) = entry else { return };
                if let Some(place) = entry.text("__CURSOR") {
                    *cursor = Some(place);
                }
                failure(&entry).and_then(|failure| units.failed(failure, now)).into_iter().collect()
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                units.due(Instant::now())
            }
        };
        for event in events {
            state.post(&Envelope::event(SYSTEM_EVENT, &event));
        }
    }
}

/// Understands systemd's message; a manager of a user's units names them in another field.
fn failure(entry: &Entry) -> Option<Failure> {
    let cut = |text: String| text.chars().take(NAME).collect::<String>();
    let unit = entry.text("UNIT").or_else(|| entry.text("USER_UNIT"))?;
    let at = Timestamp::from_microsecond(entry.number("__REALTIME_TIMESTAMP")?).ok()?;
    let result = entry.text("UNIT_RESULT").unwrap_or_else(|| "failed".to_owned());
    Some(Failure { unit: cut(unit), result: cut(result), at })
}
