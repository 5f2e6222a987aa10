//! The network of the guests: the bridge's own address with the length of its prefix.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use crate::names::shortened;

/// Shortest prefix: a network of 16 million is more than any host has.
const PREFIX_MIN: u8 = 8;

/// Longest prefix: with 30 bits there are two addresses, one for the bridge and one for a guest (RFC 950; RFC 3021's networks of
/// two have neither a network nor a broadcast address).
const PREFIX_MAX: u8 = 30;

/// Says why a text is no network for guests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetworkError {
    #[error("{0:?} is not an IPv4 address with the length of a prefix, like 172.30.0.1/24")]
    Malformed(String),
    #[error("{text} has a prefix of {length} bits; it must have {PREFIX_MIN} to {PREFIX_MAX}")]
    Prefix { text: String, length: u8 },
    #[error("{0} is the network's own address; the bridge needs one in it, like the first")]
    NetworkAddress(String),
    #[error("{0} is the network's broadcast address; the bridge needs one in it, like the first")]
    BroadcastAddress(String),
    #[error("{0} leaves no address for guests: they have those that follow the bridge's own")]
    NoRoom(String),
    #[error("{0} is not for networks of one's own; take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")]
    NotForHosts(String),
}

/// The network of the guests, like `172.30.0.1/24`. The address is the bridge's, and the gateway of the guests; those that
/// follow it are the guests'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestNetwork {
    gateway: Ipv4Addr,
    prefix: u8,
}

impl GuestNetwork {
    /// Returns the bridge's own address.
    #[must_use]
    pub const fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Returns the length of the prefix in bits.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Returns the network's own address, its lowest.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() & self.mask())
    }

    /// Returns the network's broadcast address, its highest.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() | !self.mask())
    }

    /// Returns whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network().to_bits()
    }

    /// Returns whether it has an address in common with `address/prefix`. A prefix of more than 32 bits counts as 32.
    #[must_use]
    pub fn overlaps(&self, address: Ipv4Addr, prefix: u8) -> bool {
        let shorter = mask(prefix.min(self.prefix));
        address.to_bits() & shorter == self.gateway.to_bits() & shorter
    }

    /// Returns how many addresses follow the bridge's own.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.broadcast().to_bits() - self.gateway.to_bits() - 1
    }

    fn mask(&self) -> u32 {
        mask(self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0)
}

impl FromStr for GuestNetwork {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseNetworkError::Malformed(shortened(text));
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let gateway: Ipv4Addr = address.parse().map_err(|_no_address| malformed())?;
        if length.is_empty() || length.len() > 2 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let prefix: u8 = length.parse().map_err(|_no_number| malformed())?;
        if !(PREFIX_MIN..=PREFIX_MAX).contains(&prefix) {
            return Err(ParseNetworkError::Prefix { text: text.to_owned(), length: prefix });
        }
        let network = Self { gateway, prefix };
        // 0.0.0.0/8 and 240.0.0.0/4 mean no host (RFC 6890).
        let first = gateway.octets()[0];
        if gateway.is_loopback() || gateway.is_link_local() || first == 0 || first >= 224 {
            return Err(ParseNetworkError::NotForHosts(text.to_owned()));
        }
        if gateway == network.network() {
            return Err(ParseNetworkError::NetworkAddress(text.to_owned()));
        }
        if gateway == network.broadcast() {
            return Err(ParseNetworkError::BroadcastAddress(text.to_owned()));
        }
        if network.room() == 0 {
            return Err(ParseNetworkError::NoRoom(text.to_owned()));
        }
        Ok(network)
    }
}

impl fmt::Display for GuestNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gateway, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_has_room_for_253_guests() {
        let network: GuestNetwork = "172.30.0.1/24".parse().unwrap();
        assert_eq!(network.room(), 253);
        assert_eq!(network.network(), Ipv4Addr::new(172, 30, 0, 0));
        assert_eq!(network.broadcast(), Ipv4Addr::new(172, 30, 0, 255));
        assert_eq!(network.to_string(), "172.30.0.1/24");
        assert_eq!("10.0.0.1/30".parse::<GuestNetwork>().unwrap().room(), 1);
    }

    #[test]
    fn what_has_no_room_or_is_no_network_is_refused() {
        for text in [
            "",
            "172.30.0.1",
            "172.30.0.1/",
            "172.30.0.1/+4",
            "172.30.0.1/024",
            "172.30.0.1/33",
            "172.30.0.1/31",
            "172.30.0.1/7",
            "172.30.0.0/24",
            "172.30.0.255/24",
            "172.30.0.254/24",
            "10.0.0.2/30",
            "127.0.0.1/8",
            "169.254.1.1/16",
            "224.0.0.1/24",
            "0.0.0.1/8",
            "255.255.255.1/24",
            "::1/64",
            "172.30.0.1/24 ",
            "172.30.0.1/24/24",
            "172.030.0.1/24",
            "a/24",
        ] {
            assert!(text.parse::<GuestNetwork>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let network: GuestNetwork = "172.30.0.1/24".parse().unwrap();
        for (address, prefix) in
            [([172, 30, 0, 7], 32), ([172, 16, 0, 1], 12), ([172, 30, 0, 128], 25), ([1, 2, 3, 4], 0)]
        {
            assert!(network.overlaps(address.into(), prefix), "{address:?}/{prefix}");
        }
        for (address, prefix) in [([172, 30, 1, 1], 24), ([10, 0, 0, 1], 8), ([172, 29, 255, 255], 32)] {
            assert!(!network.overlaps(address.into(), prefix), "{address:?}/{prefix}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_network(text in "\\PC{0,24}") {
            let _parsed = text.parse::<GuestNetwork>();
        }

        #[test]
        fn what_is_taken_is_written_as_it_was(bits in any::<u32>(), prefix in 0_u8..40) {
            let text = format!("{}/{prefix}", Ipv4Addr::from_bits(bits));
            if let Ok(network) = text.parse::<GuestNetwork>() {
                prop_assert_eq!(network.to_string(), text);
                prop_assert!(network.contains(network.gateway()) && network.room() >= 1);
                prop_assert!(network.overlaps(network.gateway(), 32));
            }
        }
    }
}
