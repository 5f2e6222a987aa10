//! macOS: nothing tells whose a socket is, so nobody is taken for a guest.

use std::net::SocketAddr;

use super::Origin;

/// Returns who made a connection.
pub(crate) async fn origin(_peer: SocketAddr, _local: SocketAddr, _machines: &[u32]) -> Origin {
    Origin::of(false)
}
