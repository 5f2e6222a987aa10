//! Linux, where no prompt is the same on every desktop: the queue is asked.

use std::sync::Arc;

use super::{Gate, Queue};

/// Returns who is asked.
#[must_use]
pub fn gate(queue: &Queue) -> Arc<dyn Gate> {
    Arc::new(queue.clone())
}
