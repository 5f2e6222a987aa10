//! Decides what a request to a shed does. No I/O, no lock, no clock: every rule is tested without a machine.
//!
//! The driver asks here with the shed's activity and acts on the answer.
//!
//! ```text
//!   Creating --agent ready--> Running --stop--> Stopping --> Stopped --start--> Starting --agent ready--> Running
//!      `--any failure--> (gone)   |--machine ends----------> Stopped <--failure---|
//!                                 `--guest reboots, where that ends its machine--> Starting
//!   any of them --delete--> Deleting --> (gone)
//! ```

use std::fmt;

/// What a shed is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Being created; it does not exist before this ends.
    Creating,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Being stopped.
    Stopping,
    /// Stopped.
    Stopped,
    /// Being deleted.
    Deleting,
    /// Unusable, e.g. its disk is gone.
    Broken,
    /// Unusable, because a machine of it may be left that could not be ended.
    Stuck,
}

/// What may be asked of a shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Bring its machine up.
    Start,
    /// Bring its machine down; its disk stays.
    Stop,
    /// Remove it and its data.
    Delete,
    /// Remove it and its data, but only while it is stopped and at rest.
    DeleteIfStopped,
}

/// What the driver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Begin what was asked for.
    Begin,
    /// Drop what is in progress first, then begin what was asked for.
    CancelThenBegin,
    /// The same thing is in progress: answer when it ends.
    Join,
    /// Say no, and why.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A start of a running shed.
    AlreadyRunning,
    /// A stop of a stopped shed.
    AlreadyStopped,
    /// Something in progress excludes it.
    Busy,
    /// The shed is unusable.
    Broken,
    /// The request is for stopped sheds only.
    NotStopped,
}

/// Returns what `request` does to a shed that is doing `activity`.
pub(crate) const fn decide(activity: Activity, request: Request) -> Decision {
    use Decision::{Begin, CancelThenBegin, Join, Refuse};
    match (activity, request) {
        (Activity::Stopped, Request::Start | Request::Delete | Request::DeleteIfStopped)
        | (Activity::Running, Request::Stop | Request::Delete)
        | (Activity::Broken, Request::Delete)
        // What could not be ended may be by now; until it is, nothing may be started.
        | (Activity::Stuck, Request::Stop | Request::Delete) => Begin,

        // Several clients that find a shed stopped may start it at the same moment; all of them get the machine.
        (Activity::Starting, Request::Start)
        | (Activity::Stopping, Request::Stop)
        | (Activity::Deleting, Request::Delete) => Join,

        // A boot that hangs must not keep its owner waiting until start_timeout.
        (Activity::Starting, Request::Stop | Request::Delete) | (Activity::Creating, Request::Delete) => {
            CancelThenBegin
        }
        // The data goes away, so there is no point in a graceful end.
        (Activity::Stopping, Request::Delete) => CancelThenBegin,

        // Nobody has asked for this shed by its name, so whatever somebody does with it comes first. One that is
        // broken may be all that is left of somebody's work.
        (
            Activity::Creating
            | Activity::Starting
            | Activity::Running
            | Activity::Stopping
            | Activity::Deleting
            | Activity::Broken
            | Activity::Stuck,
            Request::DeleteIfStopped,
        ) => Refuse(Refusal::NotStopped),

        (Activity::Running, Request::Start) => Refuse(Refusal::AlreadyRunning),
        (Activity::Stopped | Activity::Broken, Request::Stop) => Refuse(Refusal::AlreadyStopped),
        (Activity::Broken | Activity::Stuck, Request::Start) => Refuse(Refusal::Broken),
        (Activity::Creating, Request::Start | Request::Stop)
        | (Activity::Stopping, Request::Start)
        | (Activity::Deleting, Request::Start | Request::Stop) => Refuse(Refusal::Busy),
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "being created",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Stopping => "being stopped",
            Self::Stopped => "stopped",
            Self::Deleting => "being deleted",
            Self::Broken | Self::Stuck => "broken",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIVITIES: [Activity; 8] = [
        Activity::Creating,
        Activity::Starting,
        Activity::Running,
        Activity::Stopping,
        Activity::Stopped,
        Activity::Deleting,
        Activity::Broken,
        Activity::Stuck,
    ];
    const REQUESTS: [Request; 4] = [Request::Start, Request::Stop, Request::Delete, Request::DeleteIfStopped];

    /// What a shed does next, in a model that knows nothing but the decisions.
    fn next(activity: Activity, request: Request) -> Activity {
        match (decide(activity, request), request) {
            (Decision::Begin | Decision::CancelThenBegin, Request::Start) => Activity::Starting,
            (Decision::Begin | Decision::CancelThenBegin, Request::Stop) => Activity::Stopping,
            (Decision::Begin | Decision::CancelThenBegin, Request::Delete | Request::DeleteIfStopped) => {
                Activity::Deleting
            }
            (Decision::Join | Decision::Refuse(_), _) => activity,
        }
    }

    #[test]
    fn delete_is_never_refused() {
        for activity in ACTIVITIES {
            assert!(!matches!(decide(activity, Request::Delete), Decision::Refuse(_)), "{activity}");
        }
    }

    #[test]
    fn only_the_same_operation_is_joined() {
        for activity in ACTIVITIES {
            for request in REQUESTS {
                if decide(activity, request) == Decision::Join {
                    let same = matches!(
                        (activity, request),
                        (Activity::Starting, Request::Start)
                            | (Activity::Stopping, Request::Stop)
                            | (Activity::Deleting, Request::Delete)
                    );
                    assert!(same, "{activity} {request:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_cancelled_in_order_to_start() {
        for activity in ACTIVITIES {
            assert_ne!(decide(activity, Request::Start), Decision::CancelThenBegin, "{activity}");
        }
    }

    #[test]
    fn a_shed_that_is_not_yet_there_can_only_be_deleted() {
        for request in [Request::Start, Request::Stop] {
            assert_eq!(decide(Activity::Creating, request), Decision::Refuse(Refusal::Busy));
        }
    }

    #[test]
    fn only_a_stopped_shed_is_deleted_by_those_who_did_not_name_it() {
        for activity in ACTIVITIES {
            let begins = decide(activity, Request::DeleteIfStopped) == Decision::Begin;
            let refused = decide(activity, Request::DeleteIfStopped) == Decision::Refuse(Refusal::NotStopped);
            let stopped = activity == Activity::Stopped;
            assert_eq!((begins, refused), (stopped, !stopped), "{activity}");
        }
    }

    proptest! {
        #[test]
        fn a_delete_that_has_begun_is_never_left(requests in prop::collection::vec(0usize..REQUESTS.len(), 0..20)) {
            let mut activity = Activity::Deleting;
            for index in requests {
                activity = next(activity, REQUESTS[index]);
                prop_assert_eq!(activity, Activity::Deleting);
            }
        }

        #[test]
        fn without_a_delete_by_name_only_a_stopped_shed_is_ever_deleted(
            start in 0usize..8,
            requests in prop::collection::vec(0usize..3, 1..20),
        ) {
            let unnamed = [Request::Start, Request::Stop, Request::DeleteIfStopped];
            let mut activity = ACTIVITIES[start];
            for index in requests {
                let after = next(activity, unnamed[index]);
                if after == Activity::Deleting && activity != Activity::Deleting {
                    prop_assert_eq!(activity, Activity::Stopped);
                }
                activity = after;
            }
        }

        #[test]
        fn a_second_machine_is_never_started(start in 0usize..8, requests in prop::collection::vec(0usize..REQUESTS.len(), 1..20)) {
            let mut activity = ACTIVITIES[start];
            for index in requests {
                let after = next(activity, REQUESTS[index]);
                if after == Activity::Starting && activity != Activity::Starting {
                    prop_assert_eq!(activity, Activity::Stopped, "a start begins only from stopped");
                }
                activity = after;
            }
        }
    }
}
