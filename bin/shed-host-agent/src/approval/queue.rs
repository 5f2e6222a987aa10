//! Questions that wait for somebody at `shed-host-agent approvals`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{Gate, Question, ShedKey, Verdict, notify::Notifier};

/// How long a question waits; the guest waits 30 s (spec J.3).
pub(super) const PATIENCE: Duration = Duration::from_secs(25);

/// Most questions of one shed that wait.
const PER_SHED: usize = 8;

/// A question that waits, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Names it in `approve` and `deny`. Drawn anew each time, so that an answer never meets another question.
    pub id: String,
    /// What is asked.
    #[serde(flatten)]
    pub question: Question,
}

/// No such question waits: it was answered, its time is up, or it never was.
#[derive(Debug, thiserror::Error)]
#[error(
    "no request {0:?} waits for approval; it was answered already or its time is up; see `shed-host-agent approvals list`"
)]
pub struct UnknownQuestion(String);

/// The questions that wait. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<BTreeMap<String, Entry>>,
    /// Told of each change.
    changes: watch::Sender<()>,
    notifier: Option<Notifier>,
    patience: Duration,
}

#[derive(Debug)]
struct Entry {
    who: ShedKey,
    question: Question,
    answer: oneshot::Sender<Verdict>,
}

impl Queue {
    /// Makes an empty one; with a notifier, the desktop tells of each question.
    #[must_use]
    pub fn new(notifier: Option<Notifier>) -> Self {
        Self::with_patience(notifier, PATIENCE)
    }

    fn with_patience(notifier: Option<Notifier>, patience: Duration) -> Self {
        let changes = watch::Sender::default();
        Self(Arc::new(Shared { waiting: Mutex::default(), changes, notifier, patience }))
    }

    /// Returns the questions, the oldest first.
    #[must_use]
    pub fn waiting(&self) -> Vec<Waiting> {
        let waiting = self.0.lock();
        let mut list: Vec<_> = waiting
            .iter()
            .map(|(id, entry)| Waiting { id: id.clone(), question: entry.question.clone() })
            .collect();
        list.sort_by_key(|waiting| waiting.question.asked_at);
        list
    }

    /// Answers a question.
    ///
    /// # Errors
    /// When it does not wait any more.
    pub fn answer(&self, id: &str, verdict: Verdict) -> Result<Question, UnknownQuestion> {
        let unknown = || UnknownQuestion(shed_extensions::clean(id, 40));
        let entry = self.0.lock().remove(id).ok_or_else(unknown)?;
        self.0.changes.send_replace(());
        entry.answer.send(verdict).map_err(|_| unknown())?;
        Ok(entry.question)
    }

    /// Denies everything that waits, because nobody will be asked any more.
    pub fn deny_all(&self) {
        for (_, entry) in std::mem::take(&mut *self.0.lock()) {
            // Whoever does not wait any more needs no answer.
            let _gone = entry.answer.send(Verdict::Denied);
        }
        self.0.changes.send_replace(());
    }

    /// Returns what is told of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    fn add(&self, who: &ShedKey, question: &Question) -> Option<(Place, oneshot::Receiver<Verdict>)> {
        let mut waiting = self.0.lock();
        if waiting.values().filter(|entry| entry.who == *who).count() >= PER_SHED {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let mut id = Uuid::new_v4().simple().to_string();
        id.truncate(8);
        // Two of 128 with the same 32 bits: the second one is refused.
        if waiting.contains_key(&id) {
            return None;
        }
        let entry = Entry { who: who.clone(), question: question.clone(), answer };
        let _none = waiting.insert(id.clone(), entry);
        drop(waiting);
        self.0.changes.send_replace(());
        Some((Place { shared: Arc::clone(&self.0), id }, answered))
    }
}

#[async_trait::async_trait]
impl Gate for Queue {
    fn name(&self) -> &'static str {
        "prompt"
    }

    async fn ask(&self, who: &ShedKey, question: Question) -> Verdict {
        let Some((place, answered)) = self.add(who, &question) else {
            tracing::warn!(
                shed = question.shed,
                "a request is denied, because too many of this shed wait for approval"
            );
            return Verdict::Denied;
        };
        tracing::info!(id = place.id, "{}; see `shed-host-agent approvals`", question.text());
        if let Some(notifier) = &self.0.notifier {
            notifier.show(&place.id, &question);
        }
        match tokio::time::timeout(self.0.patience, answered).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Verdict::Denied,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its question back when nobody waits for the answer any more.
struct Place {
    shared: Arc<Shared>,
    id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = self.shared.lock().remove(&self.id);
        if removed.is_some() {
            self.shared.changes.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn who(shed: &str) -> ShedKey {
        ShedKey { server: "http://s:8080".into(), shed: shed.into() }
    }

    fn question(shed: &str) -> Question {
        Question { shed: shed.into(), server: "s".into(), action: "sign".into(), asked_at: Timestamp::now() }
    }

    fn ask(queue: &Queue, shed: &'static str) -> tokio::task::JoinHandle<Verdict> {
        let queue = queue.clone();
        tokio::spawn(async move { queue.ask(&who(shed), question(shed)).await })
    }

    async fn wait_for(queue: &Queue, count: usize) {
        let mut changes = queue.changes();
        while queue.waiting().len() != count {
            changes.changed().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_question_gets_its_own_answer_once() {
        let queue = Queue::new(None);
        let (a, b) = (ask(&queue, "a"), ask(&queue, "b"));
        wait_for(&queue, 2).await;
        let of = |shed: &str| queue.waiting().into_iter().find(|w| w.question.shed == shed).unwrap().id;
        let (first, second) = (of("a"), of("b"));
        assert_eq!(queue.answer(&first, Verdict::Approved).unwrap().shed, "a");
        assert!(queue.answer(&first, Verdict::Denied).unwrap_err().to_string().contains(&first));
        assert_eq!(a.await.unwrap(), Verdict::Approved);
        queue.answer(&second, Verdict::Denied).unwrap();
        assert_eq!(b.await.unwrap(), Verdict::Denied);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_answers_is_denied_and_gone() {
        let queue = Queue::new(None);
        let begin = tokio::time::Instant::now();
        assert_eq!(ask(&queue, "a").await.unwrap(), Verdict::Denied);
        assert_eq!(begin.elapsed().as_secs(), PATIENCE.as_secs());
        assert!(queue.waiting().is_empty());
    }

    #[tokio::test]
    async fn one_shed_cannot_fill_the_queue_and_who_goes_takes_the_question_along() {
        let queue = Queue::new(None);
        let asked: Vec<_> = (0..PER_SHED).map(|_| ask(&queue, "a")).collect();
        wait_for(&queue, PER_SHED).await;
        assert_eq!(queue.ask(&who("a"), question("a")).await, Verdict::Denied);
        let other = ask(&queue, "b");
        wait_for(&queue, PER_SHED + 1).await;
        for task in &asked {
            task.abort();
        }
        wait_for(&queue, 1).await;
        queue.deny_all();
        assert_eq!(other.await.unwrap(), Verdict::Denied);
        assert!(queue.waiting().is_empty());
    }
}
