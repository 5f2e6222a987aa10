//! macOS: Touch ID, where the Mac has it and somebody has taught it a finger; else the queue is asked.
//!
//! The system's own prompt names the shed and what it wants. It shows one prompt at a time, so others wait for their turn, for no
//! longer than a request waits at all. A prompt that cannot be shown, as when nobody is logged in, counts as a no (spec J.4).

use std::sync::{Arc, mpsc};

use block2::RcBlock;
use objc2::runtime::Bool;
use objc2_foundation::{NSError, NSString};
use objc2_local_authentication::{LAContext, LAPolicy};
use tokio::{
    sync::{Mutex, Semaphore, oneshot},
    time::timeout,
};

use super::{Gate, Question, Queue, ShedKey, Verdict, queue::PATIENCE};

/// A finger, and nothing else: with a password in its place whoever watches the screen could say yes.
const POLICY: LAPolicy = LAPolicy::DeviceOwnerAuthenticationWithBiometrics;

/// Most questions that wait for their turn; more are denied.
const WAITING: usize = 8;

/// Returns who is asked.
#[must_use]
pub fn gate(queue: &Queue) -> Arc<dyn Gate> {
    // SAFETY: a new context belongs to this thread, and this asks whether the policy could be evaluated.
    let can = unsafe { LAContext::new().canEvaluatePolicy_error(POLICY) };
    match can {
        Ok(()) => Arc::new(TouchId { turn: Mutex::new(()), places: Semaphore::new(WAITING) }),
        Err(error) => {
            tracing::info!(reason = %error, "Touch ID cannot be used; `shed-host-agent approvals` is asked");
            Arc::new(queue.clone())
        }
    }
}

/// The system's prompt for a finger.
struct TouchId {
    turn: Mutex<()>,
    places: Semaphore,
}

#[async_trait::async_trait]
impl Gate for TouchId {
    fn name(&self) -> &'static str {
        "touchid"
    }

    async fn ask(&self, _who: &ShedKey, question: Question) -> Verdict {
        let Ok(_place) = self.places.try_acquire() else {
            tracing::warn!(shed = question.shed, "a request is denied, because too many wait for approval");
            return Verdict::Denied;
        };
        let asked = async {
            let _turn = self.turn.lock().await;
            Prompt::show(question.text()).answer().await
        };
        timeout(PATIENCE, asked).await.unwrap_or(Verdict::Denied)
    }
}

/// What the thread of a prompt hears.
enum Word {
    /// What the person said, or that the system could not ask.
    Said(Verdict),
    /// Nobody waits any more.
    Over,
}

/// A prompt on the screen; dropping it takes it away.
struct Prompt {
    over: mpsc::Sender<Word>,
    answer: oneshot::Receiver<Verdict>,
}

impl Prompt {
    /// Shows it from a thread of its own: what belongs to it must not be moved to another one.
    fn show(text: String) -> Self {
        let (say, words) = mpsc::channel();
        let (told, answer) = oneshot::channel();
        let over = say.clone();
        std::thread::spawn(move || {
            let reply = RcBlock::new(move |is_yes: Bool, _why_not: *mut NSError| {
                let verdict = if is_yes.as_bool() { Verdict::Approved } else { Verdict::Denied };
                // The prompt may have been taken away.
                let _over = say.send(Word::Said(verdict));
            });
            // SAFETY: the context is this thread's alone. The block, which the system calls on a thread of its own, holds
            // nothing but a sender, which may be sent; the system keeps a reference to it for as long as it needs it.
            let context = unsafe {
                let context = LAContext::new();
                context.evaluatePolicy_localizedReason_reply(POLICY, &NSString::from_str(&text), &reply);
                context
            };
            match words.recv() {
                // Whoever asked may have gone.
                Ok(Word::Said(verdict)) => drop(told.send(verdict)),
                // SAFETY: as above; the prompt goes, and its block is called with an error.
                Ok(Word::Over) | Err(mpsc::RecvError) => unsafe { context.invalidate() },
            }
        });
        Self { over, answer }
    }

    /// Waits for the answer. A thread that ended without one could not ask.
    async fn answer(mut self) -> Verdict {
        (&mut self.answer).await.unwrap_or(Verdict::Denied)
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // The thread has ended when there was an answer.
        let _ended = self.over.send(Word::Over);
    }
}
