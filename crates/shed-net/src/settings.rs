//! What the configuration says of the network, checked.

use sha2::{Digest as _, Sha256};
use shed_types::TcpPort;

use crate::{
    lease::Mac,
    names::{BridgeName, ServerId, TapPrefix},
    network::GuestNetwork,
};

/// Says why settings do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("the bridge {bridge} has a name that a TAP can have, too (bridge_name, tap_prefix {prefix})")]
    BridgeIsTap { bridge: BridgeName, prefix: TapPrefix },
}

/// The network of one server's machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSettings {
    bridge: BridgeName,
    network: GuestNetwork,
    tap_prefix: TapPrefix,
    server: ServerId,
    protect_ports: Vec<TcpPort>,
}

impl NetSettings {
    /// Puts settings together. Guests reach no TCP port of the host that is one of `protect_ports`, whatever its address.
    ///
    /// # Errors
    /// When the bridge could be a TAP.
    pub fn new(
        bridge: BridgeName,
        network: GuestNetwork,
        tap_prefix: TapPrefix,
        server: ServerId,
        protect_ports: impl IntoIterator<Item = TcpPort>,
    ) -> Result<Self, SettingsError> {
        if tap_prefix.index_of(bridge.as_str()).is_some() {
            return Err(SettingsError::BridgeIsTap { bridge, prefix: tap_prefix });
        }
        let mut protect_ports: Vec<TcpPort> = protect_ports.into_iter().collect();
        protect_ports.sort_unstable_by_key(|port| port.get());
        protect_ports.dedup();
        Ok(Self { bridge, network, tap_prefix, server, protect_ports })
    }

    /// Returns the bridge's name.
    #[must_use]
    pub const fn bridge(&self) -> &BridgeName {
        &self.bridge
    }

    /// Returns the guests' network.
    #[must_use]
    pub const fn network(&self) -> &GuestNetwork {
        &self.network
    }

    /// Returns what the names of TAPs begin with.
    #[must_use]
    pub const fn tap_prefix(&self) -> &TapPrefix {
        &self.tap_prefix
    }

    /// Returns whose devices these are.
    #[must_use]
    pub const fn server(&self) -> &ServerId {
        &self.server
    }

    /// Returns the ports that guests do not reach, ascending.
    #[must_use]
    pub fn protect_ports(&self) -> &[TcpPort] {
        &self.protect_ports
    }

    /// The bridge's own hardware address: locally administered, and made of the server's id. It is given when the bridge is
    /// made, so a bridge that somebody was killed before marking is recognised; and it never changes, as that of a bridge
    /// without one of its own does with each port that comes or goes.
    #[must_use]
    pub fn bridge_mac(&self) -> Mac {
        let digest = Sha256::digest(self.server.as_str().as_bytes());
        Mac::new([0x02, 0xfc, 0x01, digest[0], digest[1], digest[2]])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings(network: &str) -> NetSettings {
        let port = |number: u16| number.to_string().parse::<TcpPort>().unwrap();
        NetSettings::new(
            "shed-br0".parse().unwrap(),
            network.parse().unwrap(),
            "shed-tap".parse().unwrap(),
            "test".parse().unwrap(),
            [port(8080), port(2222), port(8080)],
        )
        .unwrap()
    }

    #[test]
    fn ports_are_named_once_and_in_order() {
        let ports: Vec<u16> =
            settings("172.30.0.1/24").protect_ports().iter().map(|port| port.get()).collect();
        assert_eq!(ports, [2222, 8080]);
    }

    #[test]
    fn a_bridge_that_could_be_a_tap_is_refused() {
        let result = NetSettings::new(
            "shed-tap7".parse().unwrap(),
            "172.30.0.1/24".parse().unwrap(),
            "shed-tap".parse().unwrap(),
            "test".parse().unwrap(),
            [],
        );
        assert!(matches!(result, Err(SettingsError::BridgeIsTap { .. })));
    }

    #[test]
    fn a_bridge_has_an_address_of_its_own_for_each_server() {
        let mac = settings("172.30.0.1/24").bridge_mac().bytes();
        assert_eq!(mac[..3], [0x02, 0xfc, 0x01]);
        assert_ne!(mac[3..], [0, 0, 0]);
    }
}
