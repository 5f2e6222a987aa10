//! The files of a prune that are no shed's disk: what conversions have left, and logs. Called by the prune.

use std::{collections::BTreeSet, error::Error, io, time::SystemTime};

use camino::Utf8Path;
use shed_image::{ImageStore, Orphan, OrphanFate};
use shed_types::ShedName;

use super::{
    PruneOutcome, PruneReason, PruneRequest, PruneScope, PruneSubject, SkipReason,
    policy::{Verdict, foretell_cut, judge_orphan},
};
use crate::{Sheds, Space, context::blocking, log_cut, space::look};

/// What a look at the images directory finds.
#[derive(Debug, Default)]
pub(super) struct OrphanPlan {
    pub take: Vec<Orphan>,
    pub skip: Vec<(Orphan, SkipReason)>,
    /// What was tried, and why it failed.
    pub failures: Vec<(String, Box<dyn Error + Send + Sync>)>,
}

/// Looks for orphans and judges them.
pub(super) fn plan_orphans(images_dir: &Utf8Path, now: SystemTime) -> OrphanPlan {
    let mut plan = OrphanPlan::default();
    let store = ImageStore::new(images_dir);
    let orphans = match store.orphans() {
        Ok(orphans) => orphans,
        Err(error) => {
            plan.failures.push(("no orphans were pruned".to_owned(), error.into()));
            return plan;
        }
    };
    for orphan in orphans {
        match judge_orphan(orphan.kind, orphan.modified, now) {
            Verdict::Leave(reason) => plan.skip.push((orphan, reason)),
            Verdict::Take(_) => match store.orphan_is_locked(&orphan) {
                Ok(true) => plan.skip.push((orphan, SkipReason::LockHeld)),
                Ok(false) => plan.take.push(orphan),
                Err(error) => plan.failures.push((could_not_remove(&orphan), error.into())),
            },
        }
    }
    plan
}

/// Returns what an orphan takes.
pub(super) const fn space(orphan: &Orphan) -> Space {
    Space { logical_bytes: orphan.size_bytes, physical_bytes: orphan.disk_bytes }
}

fn could_not_remove(orphan: &Orphan) -> String {
    format!("{} could not be removed", orphan.path)
}

impl Sheds {
    /// Removes the orphans that still are as they were, each under the lock of its image.
    pub(super) async fn prune_orphans(&self, orphans: Vec<Orphan>, outcome: &mut PruneOutcome) {
        let store = ImageStore::new(self.context().settings.images_dir.clone());
        for orphan in orphans {
            let (store, of) = (store.clone(), orphan.clone());
            let fate = blocking(move || store.remove_orphan(&of)).await;
            let subject = PruneSubject::Orphan(orphan.path.clone(), orphan.kind);
            match fate {
                Ok(OrphanFate::Removed) => {
                    tracing::info!(path = %orphan.path, bytes = orphan.disk_bytes, "pruned an orphan");
                    outcome.take(subject, space(&orphan), None);
                }
                Ok(OrphanFate::Vanished) => outcome.skip(subject, SkipReason::Gone),
                Ok(OrphanFate::LockHeld) => outcome.skip(subject, SkipReason::LockHeld),
                Ok(OrphanFate::InUse) => outcome.skip(subject, SkipReason::InUse),
                Ok(OrphanFate::IsLock) => outcome.skip(subject, SkipReason::IsLock),
                Err(error) => outcome.fail(&could_not_remove(&orphan), &error),
            }
        }
    }

    /// Cuts the logs of all sheds but those that are going, or foretells it.
    pub(super) async fn prune_logs(
        &self,
        request: &PruneRequest,
        going: &BTreeSet<ShedName>,
        outcome: &mut PruneOutcome,
    ) {
        if !request.scopes.contains(&PruneScope::Logs) {
            return;
        }
        let keeps_logs = self.context().backend.capabilities().console_log;
        let (keep, dry_run) = (request.log_tail_bytes, request.dry_run);
        for shed in self.list().into_iter().map(|view| view.name).filter(|shed| !going.contains(shed)) {
            if !keeps_logs {
                outcome.skip(PruneSubject::Log(shed, None), SkipReason::NoConsoleLog);
                continue;
            }
            let files = self.context().files(&shed);
            for path in [files.console_log, files.vmm_log] {
                let log = path.clone();
                let freed =
                    blocking(move || if dry_run { foretell(&log, keep) } else { cut(&log, keep) }).await;
                match freed {
                    Ok(Some(freed)) => {
                        let reason = PruneReason::LongerThan(keep);
                        outcome.take(PruneSubject::Log(shed.clone(), Some(path)), freed, Some(reason));
                    }
                    // It is short, or not there.
                    Ok(None) => {}
                    Err(error) => outcome.fail(&format!("{path} could not be cut"), &error),
                }
            }
        }
    }
}

fn foretell(log: &Utf8Path, keep: u64) -> io::Result<Option<Space>> {
    Ok(look(log)?.and_then(|file| foretell_cut(file.space, keep)))
}

fn cut(log: &Utf8Path, keep: u64) -> io::Result<Option<Space>> {
    let cut = log_cut::cut(log, keep, keep)?;
    Ok(cut.map(|cut| Space {
        logical_bytes: cut.before.logical_bytes.saturating_sub(cut.after.logical_bytes),
        physical_bytes: cut.before.physical_bytes.saturating_sub(cut.after.physical_bytes),
    }))
}
