//! Running commands over HTTP: `GET /api/sheds/{name}/exec`.
//!
//! After the upgrade the connection carries the frames of `shed-protocol` (spec B.2) in both directions: the
//! client sends an exec request first, then stdin, resizes and signals; the server answers with output and, last,
//! the exit status.

/// Value of the `Upgrade` header of an exec request.
pub const UPGRADE_EXEC: &str = "shed-exec";
