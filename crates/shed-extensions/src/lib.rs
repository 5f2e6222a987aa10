//! What the extensions of Shed itself say over the plugin bus, as pure types (spec J.2).
//!
//! In the guest `shed-ext` asks, on the user's machine `shed-host-agent` answers; the bus between them carries payloads and
//! reads none. `operation` selects what is asked; a reply is the answer or a [`Failure`]. Both sides take the other for
//! hostile: texts are bounded, and types that hold a secret do not show it in debug texts.

mod answer;
pub mod aws;
mod binary;
mod clean;
pub mod docker;
mod failure;
mod secret;
pub mod ssh;

pub use answer::{Answer, operation, read_request};
pub use binary::{Binary, MAX_BINARY};
pub use clean::clean;
pub use failure::{Code, Failure, Reply};
pub use secret::Secret;

use serde::{Deserialize, Serialize};

/// The answer to a `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// `ok`.
    pub status: String,
}

impl Pong {
    /// Says that all is well.
    #[must_use]
    pub fn ok() -> Self {
        Self { status: "ok".to_owned() }
    }
}
