//! How the setup of this boot stands: kept for health reports, also over a restart of the agent.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_protocol::{Failure, Occasion, SetupReport, Step, StepEnd, StepReport};

use crate::{log, whole_file};

/// The report, and its file.
#[derive(Debug)]
pub(super) struct Reports {
    file: PathBuf,
    kept: Mutex<Option<Kept>>,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    report: SetupReport,
    /// When the step in progress began.
    began_at: Timestamp,
}

impl Reports {
    /// Takes over what an agent that was here before in this boot has left. What ran then has lost its agent, and with it
    /// the one who would have seen its end.
    pub(super) fn open(file: &Path) -> Self {
        let kept: Option<Kept> = fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let reports = Self { file: file.to_owned(), kept: Mutex::new(kept) };
        let interrupted = reports.kept().as_ref().and_then(|kept| kept.report.running);
        if let Some(step) = interrupted {
            let message = "the agent was restarted meanwhile; how it ended was not seen".to_owned();
            let failure =
                Failure { message, code: None, timed_out: false, last_lines: Vec::new(), log: None };
            reports.ended(step, &StepEnd::Failed(failure), None);
        }
        reports
    }

    /// How the setup stands, when there was one.
    pub(super) fn get(&self) -> Option<SetupReport> {
        self.kept().as_ref().map(|kept| kept.report.clone())
    }

    /// A setup begins with this step.
    pub(super) fn begin(&self, occasion: Occasion, first: Step) {
        let report = SetupReport { occasion, running: Some(first), steps: Vec::new() };
        *self.kept() = Some(Kept { report, began_at: Timestamp::now() });
        self.keep();
    }

    /// A step has ended, and the next one, if there is one, begins.
    pub(super) fn ended(&self, step: Step, end: &StepEnd, next: Option<Step>) {
        if let Some(kept) = self.kept().as_mut() {
            let now = Timestamp::now();
            // The clock may have been set meanwhile.
            let took_ms = u64::try_from(now.duration_since(kept.began_at).as_millis()).unwrap_or(0);
            let began_at = std::mem::replace(&mut kept.began_at, now);
            kept.report.steps.push(StepReport { step, end: end.clone(), began_at, took_ms });
            kept.report.running = next;
        }
        self.keep();
    }

    fn keep(&self) {
        let Some(kept) = self.kept().clone() else { return };
        let kept = serde_json::to_vec(&kept).map_err(Into::into);
        if let Err(error) = kept.and_then(|text| whole_file::replace(&self.file, &text, 0o600)) {
            log::info(&format!("how the setup stands is not kept: {error}"));
        }
    }

    /// A report is whole at every point where a holder of the lock could die.
    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_outlives_the_agent_and_what_ran_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("setup.json");
        let reports = Reports::open(&file);
        assert_eq!(reports.get(), None);
        reports.begin(Occasion::Create, Step::Clone);
        reports.ended(Step::Clone, &StepEnd::Done, Some(Step::Provision));
        assert_eq!(reports.get().unwrap().running, Some(Step::Provision));

        let next = Reports::open(&file).get().unwrap();
        assert_eq!((next.occasion, next.running, next.steps.len()), (Occasion::Create, None, 2));
        assert_eq!(next.steps[0], reports.get().unwrap().steps[0]);
        let StepEnd::Failed(failure) = &next.steps[1].end else { panic!("{next:?}") };
        assert!(failure.message.contains("agent was restarted"));
        assert_eq!(Reports::open(&file).get().unwrap(), next);

        fs::write(&file, "{").unwrap();
        assert_eq!(Reports::open(&file).get(), None);
    }
}
