//! The fake agent's setup service: plays what a test has written down, and keeps what it was asked for.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use shed_protocol::{Frame, FrameError, FrameKind, SetupEvent, SetupReply, SetupRequest, Step, StepEnd};
use tokio_util::sync::CancellationToken;

use super::{Machine, agent::Frames};

/// Something that a fake guest does in a setup.
#[derive(Debug, Clone)]
pub enum FakeStep {
    /// It tells an event.
    Tells(SetupEvent),
    /// What runs writes this.
    Writes(Vec<u8>),
    /// It sends a frame as it is.
    Sends(FrameKind, Vec<u8>),
    /// It waits until the test goes on.
    Waits(CancellationToken),
    /// It says that it has ended, or why it has not begun.
    Replies(SetupReply),
    /// It says nothing any more.
    Hangs,
}

impl FakeStep {
    /// A step that begins.
    #[must_use]
    pub const fn began(step: Step) -> Self {
        Self::Tells(SetupEvent::Began { step })
    }

    /// A step that ends.
    #[must_use]
    pub const fn ended(step: Step, end: StepEnd) -> Self {
        Self::Tells(SetupEvent::Ended { step, end })
    }

    /// The end.
    #[must_use]
    pub const fn done() -> Self {
        Self::Replies(SetupReply { error: None })
    }
}

/// Serves one stream; it is closed when what was written down is at its end.
pub(super) async fn serve(mut frames: Frames, machine: Arc<Machine>) -> Result<(), FrameError> {
    let Some(first) = frames.next().await else { return Ok(()) };
    let request: SetupRequest = first?.parse()?;
    let shed = machine.spec.shed.clone();
    let steps = {
        let mut host = machine.world.host();
        host.setups.entry(shed.clone()).or_default().push(request.clone());
        host.setup_steps.get(&(shed, request.occasion)).cloned()
    };
    for step in steps.unwrap_or_else(|| nothing_to_do(&request)) {
        let frame = match step {
            FakeStep::Tells(event) => Frame::json(FrameKind::SetupEvent, &event),
            FakeStep::Writes(bytes) => Frame::new(FrameKind::Data, bytes.into()),
            FakeStep::Sends(kind, bytes) => Frame::new(kind, bytes.into()),
            FakeStep::Replies(reply) => Frame::json(FrameKind::SetupReply, &reply),
            FakeStep::Waits(until) => {
                until.cancelled().await;
                continue;
            }
            FakeStep::Hangs => return std::future::pending().await,
        };
        frames.send(frame).await?;
    }
    Ok(())
}

/// What a guest does whose project has no hooks.
fn nothing_to_do(request: &SetupRequest) -> Vec<FakeStep> {
    let mut steps = Vec::new();
    if request.clone.is_some() {
        steps.extend([FakeStep::began(Step::Clone), FakeStep::ended(Step::Clone, StepEnd::Done)]);
    }
    if request.hooks {
        steps.extend([FakeStep::began(Step::Provision), FakeStep::ended(Step::Provision, StepEnd::Skipped)]);
    }
    steps.push(FakeStep::done());
    steps
}
