//! How the host reaches the agent.
//!
//! One way so far: a virtio-serial port, one pipe for everything, with a mux in it. Where the VMM has vsock each port
//! is accepted by itself, and what comes goes to `serve::serve_stream` directly.

mod virtio;

pub(crate) use virtio::VirtioPort;
