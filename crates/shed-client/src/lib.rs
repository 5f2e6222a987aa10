//! The typed client of the HTTP API: what `shed`, tests and other programs call a shed-server with.
//!
//! One [`Client`] stands for one server. Each call opens one TCP connection and sends one request, so nothing is
//! pooled, shared or kept, and a call that is dropped takes its connection along: that is how a create is
//! cancelled. Plain HTTP/1.1 only; proxies of the environment are never asked, because a shed-server is on this
//! machine or in a private network.
//!
//! The server is not trusted to be well: replies and events are bounded, and every wait has a limit.

mod address;
mod client;
mod connection;
mod error;
mod events;
mod exec;
mod files;
mod plugin;
mod sessions;
pub mod sse;
mod status;
mod storage;
mod timeouts;
mod tunnel;

pub use address::{ParseAddressError, ServerAddress};
pub use client::Client;
pub use error::ClientError;
pub use events::{EventStream, Events, LogEvents, ShedEvents, StreamedEvent};
pub use exec::{ExecStream, FrameReader, FrameWriter};
pub use plugin::{BusEvent, PluginMessages};
pub use status::LogsQuery;
pub use storage::PruneQuery;
pub use timeouts::Timeouts;
pub use tunnel::TcpTunnel;
