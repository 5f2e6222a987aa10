//! Ports: of the guest link and of TCP services.

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

/// A service of the agent, reached over the guest link.
///
/// The numbers are vsock ports where the backend has vsock, and the header of a multiplexed stream where it has
/// one pipe (spec B.1, design §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestPort {
    /// Runs commands, one stream a command.
    Exec,
    /// Answers a one-byte health probe.
    Health,
    /// The message channel: hello, identity, health events, shutdown, later the plugin bus.
    Messages,
    /// Brings a shed's project up, and down: clone and hooks.
    Setup,
    /// Proxies TCP to the guest's loopback.
    Tcp,
    /// Moves files as tar streams.
    Files,
    /// Serves host directories by 9P.
    NineP,
}

impl GuestPort {
    /// Every port, for tables and tests.
    pub const ALL: [Self; 7] =
        [Self::Exec, Self::Health, Self::Messages, Self::Setup, Self::Tcp, Self::Files, Self::NineP];

    /// Returns the port's number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Exec => 1024,
            Self::Health => 1025,
            Self::Messages => 1026,
            Self::Setup => 1027,
            Self::Tcp => 1028,
            Self::Files => 1029,
            Self::NineP => 1030,
        }
    }

    /// Returns the port with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|port| port.number() == number)
    }
}

impl fmt::Display for GuestPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Says why a text is not a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port: it must be a number from 1 to 65535")]
pub struct ParsePortError(String);

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TcpPort(NonZeroU16);

impl TcpPort {
    /// Returns the port, or nothing for 0.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl FromStr for TcpPort {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| text.parse().ok().and_then(Self::new))
            .flatten()
            .ok_or_else(|| ParsePortError(text.to_owned()))
    }
}

impl fmt::Display for TcpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_outside_the_range_or_with_decoration_are_refused() {
        for text in ["0", "65536", "-1", "+80", " 80", "80x", "", "99999999999"] {
            assert!(text.parse::<TcpPort>().is_err(), "{text:?}");
        }
        assert_eq!("65535".parse::<TcpPort>().unwrap().get(), 65535);
    }

    #[test]
    fn guest_port_numbers_are_unique_and_reversible() {
        for port in GuestPort::ALL {
            assert_eq!(GuestPort::from_number(port.number()), Some(port));
        }
        assert_eq!(GuestPort::from_number(1031), None);
    }
}
