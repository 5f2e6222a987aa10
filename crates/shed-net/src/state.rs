//! How much of the network is there: what `shed-server setup` asks before it changes anything, so that a second run does nothing.

use crate::{
    error::LookError,
    host::Host,
    links::{Link, Netlink},
    nft::Nft,
    rules, sysctl,
};

/// How much of it there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// Nothing of this server's.
    Absent,
    /// Some of it, or not as it should be.
    Partial,
    /// All that [`Host::ensure_bridge`] makes. What the rules say is not compared: a server that starts applies its own.
    Ready,
}

impl Host {
    /// Looks at bridge, address, forwarding and rules, and changes nothing.
    ///
    /// # Errors
    /// When the kernel or `nft` does not tell, as it does to nobody without CAP_NET_ADMIN.
    pub async fn state(&self) -> Result<HostState, LookError> {
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        let bridge = links.iter().find(|link| self.is_our_bridge(link));
        let taps: Vec<&Link> = links.iter().filter(|link| self.is_our_tap(link)).collect();
        let chains = Nft::find()?.list(&["chains"]).await?;
        let of_bridge = rules::chains_of_bridge(self.settings(), &chains);
        let of_taps = rules::chains_of_taps(self.settings(), &chains);
        let Some(bridge) = bridge else {
            let nothing = taps.is_empty() && of_bridge.is_empty() && of_taps.is_empty();
            return Ok(if nothing { HostState::Absent } else { HostState::Partial });
        };
        let network = self.settings().network();
        let has_address = netlink.addresses().await?.iter().any(|found| {
            found.link == bridge.index
                && found.address == network.gateway()
                && found.prefix == network.prefix()
        });
        let held = taps.iter().all(|tap| of_taps.contains(&tap.name));
        let forwards = sysctl::is_on(sysctl::IP_FORWARD).unwrap_or(false);
        let whole = bridge.up && has_address && held && !of_bridge.is_empty() && forwards;
        Ok(if whole { HostState::Ready } else { HostState::Partial })
    }
}
