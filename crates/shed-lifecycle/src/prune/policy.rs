//! Decides what a prune takes and what it leaves, and says why. No I/O and no clock of its own: every rule is tested
//! without a file (spec A.7).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use shed_image::SidecarKind;
use shed_types::GoDuration;

use crate::{ShedStatus, Space};

/// Age that an unfinished file must have (spec A.7). A conversion writes all the time, so one that has not for an hour
/// is not going on, even if whoever makes it takes no lock.
const TMP_AGE: Duration = Duration::from_secs(60 * 60);

/// Ages from this one on are told in days.
const DAYS_FROM: Duration = Duration::from_secs(48 * 60 * 60);

/// Why something is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneReason {
    /// A shed has been stopped for so long.
    Stopped(Duration),
    /// A log is longer than so many bytes, which are kept.
    LongerThan(u64),
    /// No image needs so many blobs.
    Blobs(u64),
}

/// Why something is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkipReason {
    /// A shed is not stopped.
    NotStopped(ShedStatus),
    /// It is too young.
    TooRecent {
        /// Since it was last written to.
        age: Duration,
        /// What the age must be.
        limit: Duration,
    },
    /// A shed was used between the first look and its turn.
    UsedMeanwhile,
    /// Somebody else has removed it meanwhile.
    Gone,
    /// This server cannot read a shed's record, so it does not know what it would delete.
    Unreadable,
    /// The lock of an image is held.
    LockHeld,
    /// An orphan is none any more, or was written to.
    InUse,
    /// It is a lock.
    IsLock,
    /// The backend keeps no logs of its machines' consoles.
    NoConsoleLog,
    /// An image or the blobs are kept, for a reason of their own.
    Image(String),
}

/// What becomes of a shed or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes; it is so old.
    Take(Duration),
    /// It stays.
    Leave(SkipReason),
}

/// Judges a shed by its status and the time of its record; one that is as old as the limit is old enough.
pub(super) fn judge_shed(
    status: ShedStatus,
    written: Option<SystemTime>,
    now: SystemTime,
    until: Duration,
) -> Verdict {
    match (status, written) {
        (ShedStatus::Stopped, Some(written)) => by_age(written, now, until),
        (ShedStatus::Stopped, None) => Verdict::Leave(SkipReason::Gone),
        (ShedStatus::Starting | ShedStatus::Running | ShedStatus::Stopping | ShedStatus::Broken, _) => {
            Verdict::Leave(SkipReason::NotStopped(status))
        }
    }
}

/// Judges a sidecar without an image; whether its lock is held is asked afterwards.
pub(super) fn judge_orphan(kind: SidecarKind, written: SystemTime, now: SystemTime) -> Verdict {
    match kind {
        SidecarKind::Lock => Verdict::Leave(SkipReason::IsLock),
        SidecarKind::Tmp => by_age(written, now, TMP_AGE),
        SidecarKind::Source => by_age(written, now, Duration::ZERO),
    }
}

fn by_age(written: SystemTime, now: SystemTime, limit: Duration) -> Verdict {
    // A time in the future, after the host's clock was set back, is as young as can be.
    let age = now.duration_since(written).unwrap_or_default();
    if age >= limit { Verdict::Take(age) } else { Verdict::Leave(SkipReason::TooRecent { age, limit }) }
}

/// Foretells what a log's cut to `keep` bytes frees: whole blocks of 4 KiB, the usual size. Nothing when it is not cut.
pub(super) fn foretell_cut(log: Space, keep: u64) -> Option<Space> {
    let kept = keep.checked_next_multiple_of(4096).unwrap_or(u64::MAX);
    (log.logical_bytes > keep).then(|| Space {
        logical_bytes: log.logical_bytes - keep,
        physical_bytes: log.physical_bytes.saturating_sub(kept),
    })
}

impl PruneReason {
    /// Says in a few words why it went, or would go.
    #[must_use]
    pub fn text(self, dry_run: bool) -> String {
        let would = if dry_run { "would be " } else { "" };
        match self {
            Self::Stopped(age) => format!("{would}deleted (stopped {})", rough(age, DAYS_FROM)),
            Self::LongerThan(bytes) => format!("{would}cut to its last {bytes} bytes"),
            Self::Blobs(1) => format!("{would}deleted (1 blob that no image needs)"),
            Self::Blobs(count) => format!("{would}deleted ({count} blobs that no image needs)"),
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStopped(status) => write!(f, "cannot prune {} shed", word(*status)),
            // In hours at most, like the limit, so that the two can be compared.
            Self::TooRecent { age, limit } => {
                write!(f, "too recent ({} < {})", rough(*age, Duration::MAX), short(*limit))
            }
            Self::UsedMeanwhile => f.write_str("used while the prune went on"),
            Self::Gone => f.write_str("gone already"),
            Self::Unreadable => f.write_str("its record cannot be used by this server"),
            Self::LockHeld => f.write_str("lock held (conversion in progress)"),
            Self::InUse => f.write_str("in use (its image is there by now, or is being made)"),
            Self::IsLock => f.write_str("locks are never removed"),
            Self::NoConsoleLog => f.write_str("this backend keeps no console log"),
            Self::Image(reason) => f.write_str(reason),
        }
    }
}

/// Returns the status in the word that lists of sheds use.
const fn word(status: ShedStatus) -> &'static str {
    match status {
        ShedStatus::Broken => "error",
        ShedStatus::Starting | ShedStatus::Running | ShedStatus::Stopping | ShedStatus::Stopped => {
            status.as_str()
        }
    }
}

/// Writes an age in its largest unit, rounded down: `59s`, `12m`, `3h`, `5d`.
fn rough(age: Duration, days_from: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600.. if age < days_from => format!("{}h", seconds / 3600),
        3600.. => format!("{}d", seconds / 86_400),
    }
}

/// Writes a duration as Go does, but without zeros at its end: `72h`, `1h30m`, `1.5s`.
fn short(duration: Duration) -> String {
    let text = GoDuration::saturating_from(duration).to_string();
    let without_seconds = text.strip_suffix("m0s").map_or_else(|| text.clone(), |rest| format!("{rest}m"));
    without_seconds.strip_suffix("h0m").map_or_else(|| without_seconds.clone(), |rest| format!("{rest}h"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATUSES: [ShedStatus; 5] = [
        ShedStatus::Starting,
        ShedStatus::Running,
        ShedStatus::Stopping,
        ShedStatus::Stopped,
        ShedStatus::Broken,
    ];

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    #[test]
    fn reasons_read_as_the_specification_writes_them() {
        let recent = |age, limit| SkipReason::TooRecent { age, limit }.to_string();
        assert_eq!(recent(hours(3), hours(72)), "too recent (3h < 72h)");
        assert_eq!(recent(hours(120), hours(720)), "too recent (120h < 720h)");
        assert_eq!(recent(Duration::from_secs(725), hours(1)), "too recent (12m < 1h)");
        assert_eq!(recent(Duration::from_millis(100), Duration::from_millis(1500)), "too recent (0s < 1.5s)");
        assert_eq!(recent(hours(1), Duration::from_secs(5400)), "too recent (1h < 1h30m)");
        assert_eq!(recent(Duration::from_secs(5), Duration::from_secs(600)), "too recent (5s < 10m)");
        assert_eq!(recent(Duration::from_secs(5), Duration::from_secs(10)), "too recent (5s < 10s)");
        let skip = |status| SkipReason::NotStopped(status).to_string();
        assert_eq!(skip(ShedStatus::Running), "cannot prune running shed");
        assert_eq!(skip(ShedStatus::Broken), "cannot prune error shed");
        assert_eq!(SkipReason::LockHeld.to_string(), "lock held (conversion in progress)");
        assert_eq!(PruneReason::Stopped(hours(5 * 24 + 3)).text(false), "deleted (stopped 5d)");
        assert_eq!(PruneReason::Stopped(hours(47)).text(true), "would be deleted (stopped 47h)");
        assert_eq!(PruneReason::LongerThan(10).text(false), "cut to its last 10 bytes");
    }

    #[test]
    fn a_shed_is_taken_from_its_limit_on_and_not_a_moment_before() {
        let now = SystemTime::UNIX_EPOCH + hours(1_000_000);
        let judge = |written| judge_shed(ShedStatus::Stopped, Some(written), now, hours(72));
        assert_eq!(judge(now - hours(72)), Verdict::Take(hours(72)));
        let nearly = hours(72) - Duration::from_nanos(1);
        assert_eq!(
            judge(now - nearly),
            Verdict::Leave(SkipReason::TooRecent { age: nearly, limit: hours(72) })
        );
        assert_eq!(
            judge(now + hours(1)),
            Verdict::Leave(SkipReason::TooRecent { age: Duration::ZERO, limit: hours(72) })
        );
        assert_eq!(
            judge_shed(ShedStatus::Stopped, None, now, Duration::ZERO),
            Verdict::Leave(SkipReason::Gone)
        );
    }

    #[test]
    fn a_lock_is_never_taken_and_an_unfinished_file_from_an_hour_on() {
        let now = SystemTime::UNIX_EPOCH + hours(1_000_000);
        assert_eq!(
            judge_orphan(SidecarKind::Lock, now - hours(9999), now),
            Verdict::Leave(SkipReason::IsLock)
        );
        assert_eq!(judge_orphan(SidecarKind::Tmp, now - hours(1), now), Verdict::Take(hours(1)));
        assert!(matches!(
            judge_orphan(SidecarKind::Tmp, now - hours(1) + Duration::from_nanos(1), now),
            Verdict::Leave(SkipReason::TooRecent { .. })
        ));
        assert_eq!(judge_orphan(SidecarKind::Source, now, now), Verdict::Take(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn only_stopped_sheds_are_ever_taken_and_only_old_ones(
            status in prop::sample::select(&STATUSES),
            written in prop::option::of(0u64..1 << 40),
            now in 0u64..1 << 40,
            until in 0u64..1 << 40,
        ) {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let verdict = judge_shed(status, written.map(at), at(now), Duration::from_secs(until));
            let old = written.is_some_and(|written| now.saturating_sub(written) >= until);
            prop_assert_eq!(matches!(verdict, Verdict::Take(_)), status == ShedStatus::Stopped && old);
        }

        #[test]
        fn a_lower_limit_takes_no_less(written in 0u64..1 << 40, now in 0u64..1 << 40, a in 0u64..1 << 40, b in 0u64..1 << 40) {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let taken = |until| matches!(
                judge_shed(ShedStatus::Stopped, Some(at(written)), at(now), Duration::from_secs(until)),
                Verdict::Take(_)
            );
            prop_assert!(taken(a.min(b)) || !taken(a.max(b)));
        }

        #[test]
        fn a_cut_frees_no_more_than_there_is(logical in any::<u64>(), physical in any::<u64>(), keep in any::<u64>()) {
            let log = Space { logical_bytes: logical, physical_bytes: physical };
            match foretell_cut(log, keep) {
                None => prop_assert!(logical <= keep),
                Some(freed) => {
                    prop_assert_eq!(freed.logical_bytes, logical - keep);
                    prop_assert!(freed.physical_bytes <= physical);
                }
            }
        }

        #[test]
        fn reasons_are_written_whatever_the_times(age in any::<u64>(), limit in any::<u64>()) {
            let (age, limit) = (Duration::from_secs(age), Duration::from_secs(limit));
            let text = SkipReason::TooRecent { age, limit }.to_string();
            prop_assert!(text.starts_with("too recent (") && text.contains(" < "));
            prop_assert!(!PruneReason::Stopped(age).text(false).is_empty());
        }
    }
}
