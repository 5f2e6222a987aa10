//! What was approved, and what that is good for. Pure: whoever calls brings the time.

use std::{collections::HashMap, time::Duration};

use crate::{
    answer::Asked,
    config::{ApprovalConfig, Policy},
    system::CLOCK_WITH_SLEEP,
};

/// Names a shed among those of all servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShedKey {
    /// URL of its server.
    pub server: String,
    /// Its name there.
    pub shed: String,
}

impl ShedKey {
    /// Returns who asks.
    #[must_use]
    pub fn of(asked: &Asked) -> Self {
        Self { server: asked.server.clone(), shed: asked.shed.name.clone() }
    }
}

/// Approvals that are still good.
#[derive(Debug)]
pub struct Grants {
    config: ApprovalConfig,
    /// When the last one for all sheds was given.
    session: Option<Duration>,
    /// When the last one of each shed was given.
    sheds: HashMap<ShedKey, Duration>,
}

impl Grants {
    /// Makes an empty set.
    #[must_use]
    pub fn new(config: ApprovalConfig) -> Self {
        Self { config, session: None, sheds: HashMap::new() }
    }

    /// Tells whether a request of this shed needs no question now.
    #[must_use]
    pub fn cover(&self, who: &ShedKey, now: Duration) -> bool {
        let given = match self.config.policy {
            Policy::PerRequest => None,
            Policy::PerSession => self.session,
            Policy::PerShed => self.sheds.get(who).copied(),
        };
        given.is_some_and(|given| self.is_good(given, now))
    }

    /// Notes a yes to a request of this shed.
    pub fn approve(&mut self, who: ShedKey, now: Duration) {
        match self.config.policy {
            Policy::PerRequest => {}
            Policy::PerSession => self.session = Some(now),
            Policy::PerShed => {
                let ttl = self.config.session_ttl;
                self.sheds.retain(|_, given| now.checked_sub(*given).is_some_and(|age| age < ttl));
                let _before = self.sheds.insert(who, now);
            }
        }
    }

    /// One from the future, which only a broken clock makes, is not good.
    fn is_good(&self, given: Duration, now: Duration) -> bool {
        now.checked_sub(given).is_some_and(|age| age < self.config.session_ttl)
    }
}

/// Returns the time since the machine was started, with the time that it slept: an approval must not outlive a night
/// because the lid was closed.
pub(super) fn now() -> Duration {
    let now = rustix::time::clock_gettime(CLOCK_WITH_SLEEP);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(100);

    fn key(shed: u8) -> ShedKey {
        ShedKey { server: "http://s:8080".into(), shed: shed.to_string() }
    }

    fn policies() -> impl Strategy<Value = Policy> {
        proptest::sample::select(Policy::ALL.as_slice())
    }

    proptest! {
        /// Against the rule as the specification says it, over all yeses there ever were.
        #[test]
        fn an_approval_is_good_for_what_the_policy_says(
            policy in policies(),
            steps in proptest::collection::vec((0..4_u8, 0..80_u64, any::<bool>()), 0..60),
        ) {
            let mut grants = Grants::new(ApprovalConfig { policy, session_ttl: TTL });
            let mut given: Vec<(u8, Duration)> = Vec::new();
            let mut now = Duration::from_secs(5);
            for (shed, pause, yes) in steps {
                now += Duration::from_secs(pause);
                let expected = given.iter().any(|(other, at)| now - *at < TTL && match policy {
                    Policy::PerRequest => false,
                    Policy::PerSession => true,
                    Policy::PerShed => *other == shed,
                });
                prop_assert_eq!(grants.cover(&key(shed), now), expected);
                if yes {
                    grants.approve(key(shed), now);
                    given.push((shed, now));
                }
            }
            prop_assert!(grants.sheds.len() <= 4);
        }
    }

    #[test]
    fn a_shed_of_the_same_name_elsewhere_is_another_one() {
        let mut grants = Grants::new(ApprovalConfig { policy: Policy::PerShed, session_ttl: TTL });
        grants.approve(key(1), TTL);
        let other = ShedKey { server: "http://t:8080".into(), ..key(1) };
        assert!(grants.cover(&key(1), TTL) && !grants.cover(&other, TTL));
        assert!(!grants.cover(&key(1), Duration::ZERO), "a clock that went back");
    }

    #[test]
    fn the_clock_goes_forward() {
        let before = now();
        assert!(now() >= before && before > Duration::ZERO);
    }
}
