//! Requests that leave HTTP behind: `GET` with `Connection: Upgrade`, answered by `101 Switching Protocols`.

/// Value of the `Upgrade` header of `GET /api/sheds/{name}/exec`.
///
/// After the upgrade the connection carries the frames of `shed-protocol` (spec B.2) in both directions: the
/// client sends an exec request first, then stdin, resizes and signals; the server answers with output and, last,
/// the exit status.
pub const UPGRADE_EXEC: &str = "shed-exec";

/// Value of the `Upgrade` header of `GET /api/sheds/{name}/connect/{port}` (spec A.8).
///
/// After the upgrade the connection is one to the port in the guest: bytes both ways, with half-close.
pub const UPGRADE_TCP: &str = "shed-tcp";
