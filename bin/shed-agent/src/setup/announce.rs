//! Tells the host of steps that end, beside the stream of the setup, which may have ended before.

use jiff::Timestamp;
use shed_protocol::{Envelope, GuestEvent, Occasion, SYSTEM_EVENT, Step, StepEnd};

use crate::state::State;

/// The setup stands otherwise than before.
pub(super) fn changed(state: &State) {
    state.outbox.health_has_changed();
}

/// A step has ended.
pub(super) fn ended(state: &State, occasion: Occasion, step: Step, end: &StepEnd) {
    let event = GuestEvent::StepEnded { occasion, step, end: end.clone(), at: Timestamp::now() };
    state.post(&Envelope::event(SYSTEM_EVENT, &event));
}
