//! How long each kind of wait may take.

use std::time::Duration;

/// Limits of a client's waits. [`Timeouts::default`] has the values of spec K.3 and A.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a TCP connection stands.
    pub connect: Duration,
    /// Until the reply to a question (info, a list, disk usage) is there.
    pub reply: Duration,
    /// Until the agent in a guest has been reached for an exec, or a port in it for a tunnel; a guest under software
    /// emulation may be slow.
    pub guest: Duration,
    /// Until a create, start, stop, delete or prune is done.
    pub work: Duration,
    /// Between two signs of life on an event stream; the server sends one at least every 15 s.
    pub silence: Duration,
    /// Without anything of a transfer being taken, and from its end to the reply; longer than the server waits for a guest.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            reply: Duration::from_secs(30),
            guest: Duration::from_secs(60),
            work: Duration::from_secs(600),
            silence: Duration::from_secs(60),
            stall: Duration::from_secs(150),
        }
    }
}
