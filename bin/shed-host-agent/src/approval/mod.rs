//! Asks a person before a key is used for a shed (spec J.4).
//!
//! An [`Approver`] knows what was approved already ([`Grants`], pure) and who can be asked (a [`Gate`]). Only the request
//! that waits for a person is delayed. Nobody to ask, no answer in time and a no are the same to the guest: denied.
//!
//! Who is asked is each system's own ([`gate`]): the [`Queue`], which `shed-host-agent approvals` answers, or on a Mac that has it
//! Touch ID, in whose prompt [`Question::text`] stands.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
pub mod notify;
mod policy;
mod queue;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_extensions::clean;
use tokio::sync::watch;

#[cfg(target_os = "linux")]
pub use self::linux::gate;
#[cfg(target_os = "macos")]
pub use self::macos::gate;
pub use policy::{Grants, ShedKey};
pub use queue::{Queue, UnknownQuestion, Waiting};

use crate::{
    answer::{Asked, Told},
    config::ApprovalConfig,
};

/// What a person is asked. Its texts are cleaned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Who asks.
    pub shed: String,
    /// Whose shed it is.
    pub server: String,
    /// What would be done, like `sign with ssh-ed25519 SHA256:…`.
    pub action: String,
    /// When it was asked.
    pub asked_at: Timestamp,
}

impl Question {
    /// Makes the question for a request.
    #[must_use]
    pub fn new(asked: &Asked, action: &str) -> Self {
        Self {
            shed: clean(&asked.shed.name, 64),
            server: clean(&asked.server, 128),
            action: clean(action, 200),
            asked_at: Timestamp::now(),
        }
    }

    /// Returns it as a sentence for a person.
    #[must_use]
    pub fn text(&self) -> String {
        format!("shed {} at {} wants to {}", self.shed, self.server, self.action)
    }
}

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Approved,
    /// No, or nothing at all.
    Denied,
}

/// A way to ask a person.
#[async_trait::async_trait]
pub trait Gate: Send + Sync {
    /// What the audit log calls it.
    fn name(&self) -> &'static str;

    /// Asks, and waits a bounded time. Dropping the future takes the question back.
    async fn ask(&self, who: &ShedKey, question: Question) -> Verdict;
}

/// Decides whether a request may go on.
pub struct Approver {
    gate: Arc<dyn Gate>,
    grants: Mutex<Grants>,
    /// Told of each new grant, which may be good for others that wait.
    granted: watch::Sender<()>,
}

impl std::fmt::Debug for Approver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Approver").field("gate", &self.gate.name()).finish_non_exhaustive()
    }
}

impl Approver {
    /// Makes one that has approved nothing yet.
    #[must_use]
    pub fn new(config: ApprovalConfig, gate: Arc<dyn Gate>) -> Self {
        Self { gate, grants: Mutex::new(Grants::new(config)), granted: watch::Sender::default() }
    }

    /// Says whether the request may go on, and tells how that was found out.
    pub async fn approve(&self, asked: &Asked, action: &str, told: &mut Told) -> Verdict {
        let who = ShedKey::of(asked);
        let mut granted = self.granted.subscribe();
        if self.lock().cover(&who, policy::now()) {
            told.approval = Some("remembered");
            return Verdict::Approved;
        }
        told.approval = Some(self.gate.name());
        let mut answer = self.gate.ask(&who, Question::new(asked, action));
        loop {
            tokio::select! {
                verdict = &mut answer => {
                    if verdict == Verdict::Approved {
                        self.lock().approve(who.clone(), policy::now());
                        self.granted.send_replace(());
                    }
                    return verdict;
                }
                Ok(()) = granted.changed() => {
                    if self.lock().cover(&who, policy::now()) {
                        told.approval = Some("remembered");
                        return Verdict::Approved;
                    }
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    use super::*;
    use crate::config::Policy;

    /// Counts who is asked and says what it is told to, when it is told to.
    struct Scripted {
        asked: AtomicUsize,
        say: watch::Receiver<Option<Verdict>>,
    }

    #[async_trait::async_trait]
    impl Gate for Scripted {
        fn name(&self) -> &'static str {
            "test"
        }

        async fn ask(&self, _who: &ShedKey, _question: Question) -> Verdict {
            self.asked.fetch_add(1, Relaxed);
            let mut say = self.say.clone();
            let said = say.wait_for(Option::is_some).await.unwrap();
            said.unwrap()
        }
    }

    fn asked(shed: &str) -> Asked {
        let shed = shed_api::PluginShed { name: shed.into(), backend: "qemu".into(), server: "s".into() };
        Asked { server: "http://s:8080".into(), shed, payload: serde_json::Value::Null }
    }

    fn approver(policy: Policy) -> (Arc<Scripted>, Approver, watch::Sender<Option<Verdict>>) {
        let (say, heard) = watch::channel(None);
        let gate = Arc::new(Scripted { asked: AtomicUsize::new(0), say: heard });
        let config = ApprovalConfig { policy, session_ttl: Duration::from_secs(60) };
        (gate.clone(), Approver::new(config, gate), say)
    }

    #[tokio::test]
    async fn a_no_is_not_remembered_and_a_yes_is_as_the_policy_says() {
        for (policy, again) in [(Policy::PerRequest, 3), (Policy::PerShed, 2), (Policy::PerSession, 2)] {
            let (gate, approver, say) = approver(policy);
            let mut told = Told::default();
            say.send_replace(Some(Verdict::Denied));
            assert_eq!(approver.approve(&asked("a"), "sign", &mut told).await, Verdict::Denied);
            say.send_replace(Some(Verdict::Approved));
            assert_eq!(approver.approve(&asked("a"), "sign", &mut told).await, Verdict::Approved);
            assert_eq!(told.approval, Some("test"));
            assert_eq!(approver.approve(&asked("a"), "sign", &mut told).await, Verdict::Approved);
            assert_eq!(gate.asked.load(Relaxed), again, "{policy:?}");
        }
    }

    #[tokio::test]
    async fn one_yes_lets_go_those_that_it_covers_and_no_others() {
        let (gate, approver, _say) = approver(Policy::PerShed);
        let approver = Arc::new(approver);
        let ask = |shed: &'static str| {
            let approver = approver.clone();
            tokio::spawn(async move { approver.approve(&asked(shed), "sign", &mut Told::default()).await })
        };
        let (a, b) = (ask("a"), ask("b"));
        while gate.asked.load(Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        approver.lock().approve(ShedKey::of(&asked("a")), policy::now());
        approver.granted.send_replace(());
        assert_eq!(a.await.unwrap(), Verdict::Approved);
        tokio::task::yield_now().await;
        assert!(!b.is_finished());
        b.abort();
    }

    #[test]
    fn what_a_person_reads_is_clean_and_short() {
        let question = Question::new(&asked(&"x\n\u{202e}".repeat(1000)), &"y\u{1b}[2J".repeat(1000));
        assert!(question.text().chars().count() < 450 && !question.text().contains(char::is_control));
    }
}
