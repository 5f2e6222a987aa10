//! One byte pipe to the guest, many streams in it.
//!
//! A virtio-serial port is a single pipe that outlives the programs on both of its ends: it keeps bytes of an
//! earlier connection, and neither end sees the other open or close it for certain. So two layers are needed, and
//! both ends of Shed use the same ones: [`host_handshake`] and [`guest_handshake`] agree on the byte where a fresh
//! start begins, then a [`mux`] carries one stream for each connection to a [`GuestPort`](shed_types::GuestPort).
//!
//! Callers: the agent (guest end) and the backends (host end). Over vsock a fresh connection needs no handshake, but a mux:
//! not every VMM passes on the end of one direction ([`Synced::fresh`]). Nothing here knows what the streams carry, opens devices or
//! sockets, or retries: a broken pipe is reported and the caller connects again.
//!
//! Where a stream ends in a TCP connection, at either end, [`relay`] moves the bytes between the two.

mod connect;
mod handshake;
pub mod mux;
mod pipe;
pub mod relay;
mod stream;
mod sync;

pub use connect::{AcceptError, Incoming, OpenError, open_stream, read_line};
pub use handshake::{HandshakeError, Synced, guest_handshake, host_handshake};
pub use mux::{Acceptor, MuxClosed, MuxHandle};
pub use stream::MuxStream;
pub use sync::{GuestLine, GuestScanner, HostLine, HostScanner, Nonce};
