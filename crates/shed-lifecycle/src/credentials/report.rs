//! What sheds sent that was not taken, and what could not be kept in step: for the log and for `shed status`.
//!
//! A guest decides how often something is reported, so both are bounded.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use shed_types::{CredentialName, ShedName};
use tokio::time::Instant;

/// Reports that are kept of a shed.
const KEPT: usize = 20;

/// Lines that are logged of a shed in one [`WINDOW`].
const LINES: u32 = 20;

/// Time in which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The reports of one shed.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    recent: VecDeque<String>,
    window: Option<(Instant, u32)>,
}

impl Reports {
    /// Adds one. Its text is fit for a log.
    pub(super) fn add(&self, shed: &ShedName, credential: Option<&CredentialName>, text: &str) {
        let text = match credential {
            Some(name) => format!("credential `{name}`: {text}"),
            None => text.to_owned(),
        };
        let count = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // What goes on and on is said once.
            if !inner.recent.contains(&text) {
                if inner.recent.len() >= KEPT {
                    let _oldest = inner.recent.pop_front();
                }
                inner.recent.push_back(text.clone());
            }
            let now = Instant::now();
            let (begun, count) =
                inner.window.filter(|(begun, _)| begun.elapsed() < WINDOW).unwrap_or((now, 0));
            inner.window = Some((begun, count.saturating_add(1)));
            count
        };
        match count {
            0..LINES => tracing::warn!(%shed, "{text}"),
            LINES => tracing::warn!(%shed, "more of its credentials' reports are not logged for a minute"),
            _ => {}
        }
    }

    /// Returns the last ones, the oldest first.
    pub(super) fn recent(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_reports_the_last_ones_are_kept_once() {
        let reports = Reports::default();
        let (shed, name) = ("api".parse().unwrap(), "claude".parse().unwrap());
        for number in 0..1000 {
            reports.add(&shed, Some(&name), &format!("report {}", number / 2));
        }
        let recent = reports.recent();
        assert_eq!((recent.len(), recent[19].as_str()), (KEPT, "credential `claude`: report 499"));
    }
}
