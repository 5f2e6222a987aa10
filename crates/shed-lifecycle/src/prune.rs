//! Gives disk space back: `POST /api/system/prune` (spec A.7).
//!
//! First everything is looked at, the times of all records before anything else, and judged by [`policy`]; a dry run ends
//! there. Then stopped sheds go, so that nothing refers to their images any more, then images, then what conversions
//! have left, and logs are cut last. Each thing is looked at once more when its turn comes, by whoever guards it: a shed
//! by its own task, images and sidecars under their locks. So whatever somebody begins to use meanwhile stays.
//!
//! A failure does not end the prune; it is told beside what was done.

mod files;
mod instances;
mod policy;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use camino::Utf8PathBuf;
use shed_image::{Orphan, SidecarKind};
use shed_types::{ImageName, ShedName, error_chain};

use crate::{BlobPrune, Sheds, Space, context::blocking};
use files::OrphanPlan;
use instances::Candidate;
pub use policy::{PruneReason, SkipReason};

/// What a prune looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PruneScope {
    /// Images that neither the configuration nor a shed uses.
    Images,
    /// Sheds that have been stopped for long.
    Instances,
    /// Logs that have grown long.
    Logs,
    /// What conversions have left that never ended.
    Orphans,
}

/// What shall be pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneRequest {
    /// What to look at.
    pub scopes: BTreeSet<PruneScope>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Stopped sheds that were used within this time stay.
    pub until: Duration,
    /// What is left of a log that is cut, in bytes.
    pub log_tail_bytes: u64,
}

/// Something that a prune looked at. Their order is the one in which they go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PruneSubject {
    /// A shed.
    Instance(ShedName),
    /// An image.
    Image(ImageName, Utf8PathBuf),
    /// The blobs in this store that no image needs.
    Blobs(Utf8PathBuf),
    /// A sidecar of an image that is not there.
    Orphan(Utf8PathBuf, SidecarKind),
    /// A log of a shed; without a path, all that it might have.
    Log(ShedName, Option<Utf8PathBuf>),
}

/// Something that was removed or cut or, in a dry run, would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// What.
    pub subject: PruneSubject,
    /// What that frees.
    pub freed: Space,
    /// Why, where that is not plain.
    pub reason: Option<PruneReason>,
}

/// Something that was left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// What.
    pub subject: PruneSubject,
    /// Why.
    pub reason: SkipReason,
}

/// What a prune did or, in a dry run, would do. Sheds come first, then images, orphans and logs, each by name or path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOutcome {
    /// What was removed or cut.
    pub pruned: Vec<Pruned>,
    /// What was left alone.
    pub skipped: Vec<Skipped>,
    /// What could not be done, a sentence each.
    pub failures: Vec<String>,
}

/// Why nothing was pruned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    #[error("nothing was pruned: {}", .failures.join("; "))]
    Failed {
        /// What could not be done, a sentence each; at least one.
        failures: Vec<String>,
    },
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl PruneOutcome {
    fn take(&mut self, subject: PruneSubject, freed: Space, reason: Option<PruneReason>) {
        self.pruned.push(Pruned { subject, freed, reason });
    }

    fn skip(&mut self, subject: PruneSubject, reason: SkipReason) {
        self.skipped.push(Skipped { subject, reason });
    }

    /// Brings both lists into the order in which things go, and then of names and paths.
    fn sort(&mut self) {
        self.pruned.sort_by(|a, b| a.subject.cmp(&b.subject));
        self.skipped.sort_by(|a, b| a.subject.cmp(&b.subject));
    }

    fn fail(&mut self, tried: &str, error: &(dyn std::error::Error + 'static)) {
        let failure = format!("{tried}: {}", error_chain(error));
        tracing::warn!(%failure, "a part of a prune failed");
        self.failures.push(failure);
    }
}

impl Sheds {
    /// Prunes. Of several at once each waits for the one before; dry runs change nothing and do not wait.
    ///
    /// # Errors
    /// When something failed and nothing was done. A failure beside something that was done is in the outcome.
    ///
    /// # Cancel safety
    /// Dropping the future ends the prune with the thing that is being removed at that moment.
    pub async fn prune(&self, request: PruneRequest) -> Result<PruneOutcome, PruneError> {
        let mut outcome = if request.dry_run {
            self.dry_run(&request).await
        } else {
            let _turn = self.prune_turn().await;
            self.wet_run(&request).await
        };
        outcome.sort();
        if outcome.pruned.is_empty() && !outcome.failures.is_empty() {
            return Err(if self.ending() {
                PruneError::ShuttingDown
            } else {
                PruneError::Failed { failures: outcome.failures }
            });
        }
        Ok(outcome)
    }

    async fn dry_run(&self, request: &PruneRequest) -> PruneOutcome {
        let mut outcome = PruneOutcome::default();
        let Plan { instances, orphans } = self.plan(request, &mut outcome).await;
        let going: BTreeSet<ShedName> = instances.iter().map(|candidate| candidate.shed.clone()).collect();
        for candidate in instances {
            outcome.take(PruneSubject::Instance(candidate.shed), candidate.space, Some(candidate.reason));
        }
        self.prune_unused_images(request, &going, &mut outcome).await;
        for orphan in orphans {
            outcome.take(PruneSubject::Orphan(orphan.path.clone(), orphan.kind), files::space(&orphan), None);
        }
        self.prune_logs(request, &going, &mut outcome).await;
        outcome
    }

    async fn wet_run(&self, request: &PruneRequest) -> PruneOutcome {
        let mut outcome = PruneOutcome::default();
        let plan = self.plan(request, &mut outcome).await;
        self.prune_instances(plan.instances, &mut outcome).await;
        self.prune_unused_images(request, &BTreeSet::new(), &mut outcome).await;
        self.prune_orphans(plan.orphans, &mut outcome).await;
        self.prune_logs(request, &BTreeSet::new(), &mut outcome).await;
        outcome
    }

    /// Looks at everything that may go, and tells the outcome what stays.
    async fn plan(&self, request: &PruneRequest, outcome: &mut PruneOutcome) -> Plan {
        let context = Arc::clone(self.context());
        // Before anything else: whatever writes a record makes its shed look young.
        let times = blocking(move || context.instances.records_modified()).await;
        let now = SystemTime::now();
        let mut plan = Plan::default();
        if request.scopes.contains(&PruneScope::Instances) {
            match times {
                Ok(times) => plan.instances = self.plan_instances(&times, now, request.until, outcome).await,
                Err(error) => outcome.fail("no sheds were pruned", &error),
            }
        }
        if request.scopes.contains(&PruneScope::Orphans) {
            let context = Arc::clone(self.context());
            let found = blocking(move || files::plan_orphans(&context.settings.images_dir, now)).await;
            let OrphanPlan { take, skip, failures } = found;
            plan.orphans = take;
            for (orphan, reason) in skip {
                outcome.skip(PruneSubject::Orphan(orphan.path, orphan.kind), reason);
            }
            for (tried, error) in failures {
                outcome.fail(&tried, &*error);
            }
        }
        plan
    }

    /// Removes the images that neither the configuration nor a shed needs; sheds that are going need none.
    async fn prune_unused_images(
        &self,
        request: &PruneRequest,
        going: &BTreeSet<ShedName>,
        outcome: &mut PruneOutcome,
    ) {
        if !request.scopes.contains(&PruneScope::Images) {
            return;
        }
        let images = match self.prune_images(going, request.dry_run).await {
            Ok(images) => images,
            Err(error) => return outcome.fail("no images were pruned", &error),
        };
        for image in images.deleted {
            let freed = Space { logical_bytes: image.logical_bytes, physical_bytes: image.physical_bytes };
            outcome.take(PruneSubject::Image(image.name, image.path), freed, None);
        }
        for image in images.kept {
            outcome.skip(PruneSubject::Image(image.name, image.path), SkipReason::Image(image.reason));
        }
        match images.blobs {
            BlobPrune::None => {}
            BlobPrune::Removed { report, .. } if report.files == 0 => {}
            BlobPrune::Removed { store, report } => {
                let freed = Space { logical_bytes: report.bytes, physical_bytes: report.bytes };
                outcome.take(PruneSubject::Blobs(store), freed, Some(PruneReason::Blobs(report.files)));
            }
            BlobPrune::Kept { store, reason } => {
                outcome.skip(PruneSubject::Blobs(store), SkipReason::Image(reason));
            }
        }
        outcome.failures.extend(images.failures);
    }

    async fn plan_instances(
        &self,
        times: &BTreeMap<ShedName, SystemTime>,
        now: SystemTime,
        until: Duration,
        outcome: &mut PruneOutcome,
    ) -> Vec<Candidate> {
        let views = self.list().into_iter().map(|view| (view.name, view.status)).collect();
        let judged = instances::judge(views, self.unreadable(), times, now, until);
        let context = Arc::clone(self.context());
        let (candidates, skipped) = blocking(move || instances::measure(&context, judged)).await;
        for (shed, reason) in skipped {
            outcome.skip(PruneSubject::Instance(shed), reason);
        }
        candidates
    }
}

/// What may go.
#[derive(Debug, Default)]
struct Plan {
    instances: Vec<Candidate>,
    orphans: Vec<Orphan>,
}
