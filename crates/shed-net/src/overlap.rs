//! Interfaces whose networks overlap with that of the guests. Pure.
//!
//! An overlap breaks both: packets for one network go to the other.

use crate::{
    links::{InterfaceAddress, Link},
    names::BridgeName,
    network::GuestNetwork,
};

/// Returns the interfaces, other than the bridge, that have an address in a network that overlaps; as text, like
/// `eth0 (172.30.0.5/16)`.
pub(crate) fn overlapping(
    network: &GuestNetwork,
    bridge: &BridgeName,
    links: &[Link],
    addresses: &[InterfaceAddress],
) -> Vec<String> {
    let mut found = Vec::new();
    for address in addresses.iter().filter(|address| network.overlaps(address.address, address.prefix)) {
        let link = links.iter().find(|link| link.index == address.link);
        let name = link.map_or("an interface", |link| link.name.as_str());
        if name != bridge.as_str() {
            found.push(format!("{name} ({}/{})", address.address, address.prefix));
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Kind;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            alias: None,
            kind: Kind::Other,
            mac: Vec::new(),
            mtu: 1500,
            up: true,
            carrier: true,
            controller: None,
        }
    }

    #[test]
    fn the_interfaces_that_overlap_are_named_and_the_bridge_is_not() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "shed-br0"), link(4, "wg0")];
        let address =
            |link, address: [u8; 4], prefix| InterfaceAddress { link, address: address.into(), prefix };
        let addresses = [
            address(1, [127, 0, 0, 1], 8),
            address(2, [172, 30, 5, 5], 16),
            address(3, [172, 30, 0, 1], 24),
            address(4, [172, 30, 0, 9], 32),
            address(2, [192, 168, 1, 2], 24),
        ];
        let network = "172.30.0.1/24".parse().unwrap();
        let found = overlapping(&network, &"shed-br0".parse().unwrap(), &links, &addresses);
        assert_eq!(found, ["eth0 (172.30.5.5/16)", "wg0 (172.30.0.9/32)"]);
    }
}
