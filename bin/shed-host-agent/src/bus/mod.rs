//! The agent's end of the plugin bus: one connection a server and namespace, and the answers to what comes through it.
//!
//! [`listen`](listen::run) keeps a connection, [`Desk`] answers: within bounds, side by side, and with a line in the audit
//! log before anything leaves.

mod backoff;
mod bounds;
mod desk;
mod links;
mod listen;

pub use desk::Desk;
pub use links::{Link, LinkState, Links};
pub use listen::run;
