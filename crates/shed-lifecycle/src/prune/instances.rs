//! The sheds of a prune: which may go, and their end. Called by the prune; judged by its policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use shed_types::ShedName;

use super::{
    PruneOutcome, PruneReason, PruneSubject, SkipReason,
    policy::{Verdict, judge_shed},
};
use crate::{
    ShedStatus, Sheds, Space, context::Context, driver::NotAtRest, sheds::DeleteAtRestError, space::files_in,
};

/// A shed that may go.
#[derive(Debug)]
pub(super) struct Candidate {
    pub shed: ShedName,
    /// When its record was last written; if that changes, it stays.
    pub written: SystemTime,
    pub space: Space,
    pub reason: PruneReason,
}

/// What is known of each shed before its files are looked at, by name.
pub(super) type Judged = BTreeMap<ShedName, Result<(SystemTime, Duration), SkipReason>>;

/// Judges every shed, those that this server cannot read among them.
pub(super) fn judge(
    statuses: BTreeMap<ShedName, ShedStatus>,
    unreadable: BTreeSet<ShedName>,
    times: &BTreeMap<ShedName, SystemTime>,
    now: SystemTime,
    until: Duration,
) -> Judged {
    let mut judged: Judged = unreadable.into_iter().map(|shed| (shed, Err(SkipReason::Unreadable))).collect();
    for (shed, status) in statuses {
        let written = times.get(&shed).copied();
        let result = match (judge_shed(status, written, now, until), written) {
            (Verdict::Take(age), Some(written)) => Ok((written, age)),
            (Verdict::Take(_), None) => Err(SkipReason::Gone),
            (Verdict::Leave(reason), _) => Err(reason),
        };
        let _unreadable = judged.insert(shed, result);
    }
    judged
}

/// Looks at what the judged sheds take. Names without a directory are left out.
pub(super) fn measure(context: &Context, judged: Judged) -> (Vec<Candidate>, Vec<(ShedName, SkipReason)>) {
    let (mut candidates, mut skipped) = (Vec::new(), Vec::new());
    for (shed, result) in judged {
        let directory = context.files(&shed).directory;
        match result {
            Ok((written, age)) => {
                // What cannot be looked at counts for nothing; the delete will say why, if that fails, too.
                let space = files_in(&directory).unwrap_or_default().iter().map(|file| file.space).sum();
                candidates.push(Candidate { shed, written, space, reason: PruneReason::Stopped(age) });
            }
            Err(SkipReason::Unreadable) if directory.symlink_metadata().is_err() => {}
            Err(reason) => skipped.push((shed, reason)),
        }
    }
    (candidates, skipped)
}

impl Sheds {
    /// Deletes the candidates that nobody has begun to use since.
    pub(super) async fn prune_instances(&self, candidates: Vec<Candidate>, outcome: &mut PruneOutcome) {
        for Candidate { shed, written, space, reason } in candidates {
            match self.delete_if_at_rest(&shed, written).await {
                Ok(()) => {
                    tracing::info!(%shed, bytes = space.physical_bytes, "pruned a shed");
                    outcome.take(PruneSubject::Instance(shed), space, Some(reason));
                }
                Err(DeleteAtRestError::Gone) => outcome.skip(PruneSubject::Instance(shed), SkipReason::Gone),
                Err(DeleteAtRestError::NotAtRest(why)) => {
                    let reason = match why {
                        NotAtRest::NotStopped(status) => SkipReason::NotStopped(status),
                        NotAtRest::Changed => SkipReason::UsedMeanwhile,
                    };
                    outcome.skip(PruneSubject::Instance(shed), reason);
                }
                Err(DeleteAtRestError::Delete(error)) => {
                    outcome.fail(&format!("shed `{shed}` could not be deleted"), &error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use camino::Utf8Path;
    use shed_backend::fake::FakeWorld;
    use shed_image::{ImageLimits, file_name};
    use shed_registry::RegistrySettings;
    use shed_types::DiskGb;

    use super::*;
    use crate::{NewShed, Progress, Settings};

    /// Starts a server with one stopped shed.
    async fn server(dir: &Utf8Path, shed: &ShedName) -> Sheds {
        let size = DiskGb::try_from(1).unwrap();
        let images_dir = dir.join("images");
        std::fs::create_dir_all(images_dir.join(file_name::CACHE)).unwrap();
        let template = images_dir.join(file_name::CACHE).join(file_name::upper_template(size));
        for path in [&template, &images_dir.join("kernel"), &images_dir.join("base-rootfs.ext4")] {
            std::fs::write(path, b"x").unwrap();
        }
        let settings = Settings {
            kept_from_guests: Vec::new(),
            instance_dir: dir.join("instances"),
            kernel: images_dir.join("kernel"),
            initrd: images_dir.join("kernel"),
            images_dir,
            base_rootfs: None,
            images: BTreeMap::new(),
            registries: RegistrySettings::default(),
            image_limits: ImageLimits::default(),
            home: None,
            default_cpus: 1.try_into().unwrap(),
            default_memory_mb: 512.try_into().unwrap(),
            default_disk_gb: size,
            start_timeout: Duration::from_secs(20),
            stop_timeout: Duration::from_secs(20),
            extra_cmdline: Vec::new(),

            credentials: Default::default(),
            env_file: None,
            extra_known_hosts: Vec::new(),
            bus: Default::default(),
        };
        let sheds = Sheds::open(settings, Arc::new(FakeWorld::new().backend())).await.unwrap();
        let new = NewShed {
            name: shed.clone(),
            image: None,
            cpus: None,
            memory_mb: None,
            repo: None,
            local_dir: None,
            no_provision: false,
        };
        sheds.create(new, Progress::silent()).await.unwrap();
        sheds.stop(shed).await.unwrap();
        sheds
    }

    fn written(sheds: &Sheds, shed: &ShedName) -> SystemTime {
        sheds.instances().record_modified(shed).unwrap().unwrap()
    }

    /// Prunes the shed as one whose record was seen with this time; returns why it stays, if it does.
    async fn prune(sheds: &Sheds, shed: &ShedName, written: SystemTime) -> Option<SkipReason> {
        let (shed, reason) = (shed.clone(), PruneReason::Stopped(Duration::ZERO));
        let candidate = Candidate { shed, written, space: Space::default(), reason };
        let mut outcome = PruneOutcome::default();
        sheds.prune_instances(vec![candidate], &mut outcome).await;
        assert_eq!(outcome.pruned.len() + outcome.skipped.len(), 1, "{outcome:?}");
        outcome.skipped.pop().map(|skip| skip.reason)
    }

    #[tokio::test]
    async fn a_candidate_goes_only_if_it_is_still_as_it_was_seen() {
        let guard = tempfile::tempdir().unwrap();
        let shed: ShedName = "api".parse().unwrap();
        let sheds = server(Utf8Path::from_path(guard.path()).unwrap(), &shed).await;
        let seen = written(&sheds, &shed);

        sheds.start(&shed, Progress::silent()).await.unwrap();
        assert_eq!(prune(&sheds, &shed, seen).await, Some(SkipReason::NotStopped(ShedStatus::Running)));
        sheds.stop(&shed).await.unwrap();
        // The clock of a file system may be coarse; what matters is that the time is another one.
        let later = seen + Duration::from_secs(1);
        std::fs::File::open(sheds.instances().record_path(&shed)).unwrap().set_modified(later).unwrap();
        assert_eq!(prune(&sheds, &shed, seen).await, Some(SkipReason::UsedMeanwhile));
        assert_eq!(sheds.get(&shed).unwrap().status, ShedStatus::Stopped);

        assert_eq!(prune(&sheds, &shed, later).await, None);
        assert_eq!(sheds.get(&shed), None);
        assert!(!sheds.files(&shed).directory.exists());
        assert_eq!(prune(&sheds, &shed, later).await, Some(SkipReason::Gone));
    }

    #[test]
    fn sheds_that_cannot_be_read_are_told_but_not_taken() {
        let [unreadable, both, plain]: [ShedName; 3] = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let now = SystemTime::now();
        let times = [&unreadable, &both, &plain].map(|shed| (shed.clone(), SystemTime::UNIX_EPOCH)).into();
        let statuses = [&both, &plain].map(|shed| (shed.clone(), ShedStatus::Stopped)).into();
        let judged = judge(statuses, [unreadable.clone(), both.clone()].into(), &times, now, Duration::ZERO);
        assert_eq!(judged[&unreadable], Err(SkipReason::Unreadable));
        // A name that was unreadable once and is a shed of this server by now is judged as one.
        assert!(judged[&both].is_ok() && judged[&plain].is_ok());
    }
}
