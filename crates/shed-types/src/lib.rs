//! Names, ids and sizes that every room of Shed agrees on.
//!
//! A value of one of these types has been checked; code that holds one never checks again. The edges (HTTP, CLI,
//! config, state files) parse into them, everything below passes them on. Nothing here does I/O or knows a
//! backend, and everything may depend on this crate.

mod backend_kind;
mod digest;
mod error_chain;
mod finding;
mod go_duration;
mod guest_path;
mod ids;
mod image_reference;
mod known_host;
mod names;
mod namespace;
mod network_lease;
mod port;
mod repo;
mod sizes;

pub use backend_kind::{BackendChoice, BackendKind, ParseBackendError};
pub use digest::{Digest, DigestAlgorithm, ParseDigestError};
pub use error_chain::error_chain;
pub use finding::{Finding, Verdict};
pub use go_duration::{GoDuration, ParseGoDurationError};
pub use guest_path::{GuestPath, ParseGuestPathError};
pub use ids::LaunchId;
pub use image_reference::{ImageReference, ParseReferenceError};
pub use known_host::{KnownHost, ParseKnownHostError};
pub use names::{CredentialName, ImageName, ParseNameError, SessionName, ShedName, UnitName};
pub use namespace::{Namespace, ParseNamespaceError};
pub use network_lease::NetworkLease;
pub use port::{GuestPort, ParsePortError, TcpPort};
pub use repo::{ParseRepoError, Repo};
pub use sizes::{CpuCount, DiskGb, MemoryMb, SizeError};
