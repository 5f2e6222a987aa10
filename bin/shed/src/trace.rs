//! The table of `--trace`: where the time of a create or start went.

use std::time::Duration;

use shed_api::PhaseTime;

use crate::ui::{Look, Table};

/// Lays out the server's phases, the time of the whole request there, and what the client adds to it.
pub(crate) fn table(timeline: &[PhaseTime], total: Duration) -> Table {
    let total_ms = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
    let server_ms = timeline.iter().map(|phase| phase.start_ms.saturating_add(phase.ms)).max().unwrap_or(0);
    let mut table = Table::new(&["PHASE", "START", "MS"]).right("START").right("MS");
    let plain = |text: String| (text, Look::Plain);
    for phase in timeline {
        table.row(vec![
            plain(phase.phase.clone()),
            plain(phase.start_ms.to_string()),
            plain(phase.ms.to_string()),
        ]);
    }
    for (name, ms) in [
        ("server, all phases", server_ms),
        ("client and network", total_ms.saturating_sub(server_ms)),
        ("total", total_ms),
    ] {
        table.row(vec![(name.to_owned(), Look::Dim), plain(String::new()), plain(ms.to_string())]);
    }
    table
}
