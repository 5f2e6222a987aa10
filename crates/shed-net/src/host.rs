//! The network of one server's machines, as it is on this host: made, looked at, and taken away.
//!
//! Each operation looks at what is there, compares it with what is wanted, and does the difference; so it can be done again after
//! whatever happened. A device is ours when it bears this server's mark, and not by its name.

use std::{io, net::Ipv4Addr};

use nftables::schema::Nftables;
use shed_types::ShedName;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    error::{BridgeError, ListError, MtuError, RemoveError},
    lease::Lease,
    links::{Kind, Link, Netlink, NetlinkError},
    mark::Mark,
    nft::Nft,
    overlap::overlapping,
    rules,
    settings::NetSettings,
    sysctl,
};

/// Largest packet in bytes where nothing asks for less (RFC 894).
pub(crate) const MTU_MAX: u16 = 1500;

/// Smallest packet that every IPv4 host must take (RFC 791 §3.1: 576); with less, something is wrong with the interface that was
/// looked at.
const MTU_MIN: u16 = 576;

/// An address of the internet. Nothing is sent to it: the kernel is asked which way it would take.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// A TAP of this server that is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTap {
    /// The device.
    pub tap: String,
    /// The shed that it was made for.
    pub shed: ShedName,
    /// Its lease; nothing when the settings have changed since.
    pub lease: Option<Lease>,
    /// Whether a machine has it open.
    pub in_use: bool,
}

/// The host's network. Its operations wait for each other.
#[derive(Debug)]
pub struct Host {
    settings: NetSettings,
    one_at_a_time: Mutex<()>,
}

impl Host {
    /// Takes the settings, and does nothing yet.
    #[must_use]
    pub fn new(settings: NetSettings) -> Self {
        Self { settings, one_at_a_time: Mutex::new(()) }
    }

    /// Returns the settings.
    #[must_use]
    pub const fn settings(&self) -> &NetSettings {
        &self.settings
    }

    /// Makes the bridge with its address, turns forwarding on, and applies all rules, those of the TAPs that are there included.
    /// What is right already stays as it is: running sheds notice nothing.
    ///
    /// # Errors
    /// When the bridge is somebody else's, its network overlaps with another, or the kernel refuses. Then it is done again
    /// by calling this again.
    pub async fn ensure_bridge(&self) -> Result<(), BridgeError> {
        let _turn = self.turn().await;
        let netlink = Netlink::open().map_err(|error| self.bridge_error(error))?;
        self.refuse_conflicts(&netlink).await?;
        forward()?;
        let bridge = self.own_bridge(&netlink).await?;
        let mtu = mtu(&netlink).await.map_err(|error| self.bridge_error(error))?;
        let set_up = async {
            netlink.mark(bridge, &self.bridge_mark()).await?;
            netlink.set_mtu(bridge, mtu).await?;
            netlink.set_address(bridge, self.settings.network()).await
        };
        set_up.await.map_err(|error| self.bridge_error(error))?;
        without_ipv6(self.settings.bridge().as_str());
        self.apply_all(&netlink).await?;
        netlink.up(bridge).await.map_err(|error| self.bridge_error(error))
    }

    /// Returns this server's TAPs, for a start to sweep those that no record names.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn list(&self) -> Result<Vec<HostTap>, ListError> {
        let error = |source| ListError { server: self.settings.server().clone(), source };
        let netlink = Netlink::open().map_err(error)?;
        let links = netlink.links().await.map_err(error)?;
        Ok(links.iter().filter_map(|link| self.host_tap(link)).collect())
    }

    /// Returns the largest packet that leaves this host whole, in bytes, 1500 at most: that of the default route's interface,
    /// which a VPN makes smaller. Bridge and guests have the same.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn mtu() -> Result<u16, MtuError> {
        mtu(&Netlink::open().map_err(MtuError)?).await.map_err(MtuError)
    }

    /// Removes this server's TAPs, rules and bridge, and nothing else. Forwarding stays on: others may rely on it.
    ///
    /// # Errors
    /// When the kernel refuses. Then it is done again by calling this again: the bridge goes last.
    pub async fn remove_all(&self) -> Result<(), RemoveError> {
        let _turn = self.turn().await;
        let bridge = self.settings.bridge();
        let failed = |source| RemoveError::Netlink { bridge: bridge.clone(), source };
        let netlink = Netlink::open().map_err(failed)?;
        let links = netlink.links().await.map_err(failed)?;
        for link in links.iter().filter(|link| self.is_our_tap(link)) {
            netlink.delete(link.index).await.map_err(failed)?;
        }
        let there = links.iter().find(|link| link.name == bridge.as_str());
        if there.is_some_and(|link| !self.is_our_bridge(link)) {
            // Then the tables are theirs, too: they are named after the bridge.
            return Ok(());
        }
        let rules = async { Nft::find()?.apply(&rules::no_rules(&self.settings)).await };
        rules.await.map_err(|source| RemoveError::Rules { bridge: bridge.clone(), source })?;
        match there {
            Some(link) => netlink.delete(link.index).await.map_err(failed),
            None => Ok(()),
        }
    }

    /// Returns whether a link is the bridge of this server: by its mark, or, when whoever made it was killed before marking it, by
    /// the hardware address that it was made with.
    pub(crate) fn is_our_bridge(&self, link: &Link) -> bool {
        let unmarked = || {
            link.alias.is_none()
                && link.mac == self.settings.bridge_mac().bytes()
                && link.controller.is_none()
        };
        link.name == self.settings.bridge().as_str()
            && link.kind == Kind::Bridge
            && (link.mark() == Some(self.bridge_mark()) || unmarked())
    }

    /// Waits until no other operation is under way.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.one_at_a_time.lock().await
    }

    fn bridge_mark(&self) -> Mark {
        Mark::Bridge(self.settings.server().clone())
    }

    pub(crate) fn is_our_tap(&self, link: &Link) -> bool {
        self.host_tap(link).is_some()
    }

    pub(crate) fn host_tap(&self, link: &Link) -> Option<HostTap> {
        match link.mark()? {
            Mark::Tap(server, shed) if server == *self.settings.server() => Some(HostTap {
                tap: link.name.clone(),
                shed,
                lease: Lease::of_tap(&self.settings, &link.name).ok(),
                in_use: link.carrier,
            }),
            Mark::Tap(..) | Mark::Bridge(_) => None,
        }
    }

    /// Refuses what would have to be refused later, before anything is changed.
    async fn refuse_conflicts(&self, netlink: &Netlink) -> Result<(), BridgeError> {
        let bridge = self.settings.bridge();
        let links = self.links(netlink).await?;
        if let Some(link) =
            links.iter().find(|link| link.name == bridge.as_str() && !self.is_our_bridge(link))
        {
            return Err(self.not_ours(link));
        }
        let addresses = netlink.addresses().await.map_err(|error| self.bridge_error(error))?;
        let others = overlapping(self.settings.network(), bridge, &links, &addresses);
        if others.is_empty() {
            return Ok(());
        }
        Err(BridgeError::Overlap {
            bridge: bridge.clone(),
            network: self.settings.network().to_string(),
            others: others.join(", "),
        })
    }

    fn not_ours(&self, link: &Link) -> BridgeError {
        BridgeError::NotOurs { bridge: self.settings.bridge().clone(), found: described(link) }
    }

    /// Returns the number of the bridge, which is made when there is none.
    async fn own_bridge(&self, netlink: &Netlink) -> Result<u32, BridgeError> {
        let bridge = self.settings.bridge();
        let find = || async { netlink.link(bridge.as_str()).await.map_err(|error| self.bridge_error(error)) };
        if find().await?.is_none() {
            match netlink.add_bridge(bridge, self.settings.bridge_mac()).await {
                // Somebody else was quicker, and is looked at below.
                Err(error) if error.code() == Some(libc::EEXIST) => {}
                other => other.map_err(|error| self.bridge_error(error))?,
            }
        }
        match find().await? {
            Some(link) if self.is_our_bridge(&link) => Ok(link.index),
            Some(link) => Err(self.not_ours(&link)),
            None => {
                let gone =
                    NetlinkError::io("finding the bridge that was just made", io::ErrorKind::NotFound.into());
                Err(self.bridge_error(gone))
            }
        }
    }

    /// Applies the rules of the bridge and of every TAP that is there, and removes those of TAPs that are not.
    async fn apply_all(&self, netlink: &Netlink) -> Result<(), BridgeError> {
        let failed = |source| BridgeError::Rules { bridge: self.settings.bridge().clone(), source };
        let nft = Nft::find().map_err(failed)?;
        loop {
            // The chains first: one of a TAP that is made after this is not seen, and so not removed.
            let chains = nft.list(&["chains", "netdev"]).await.map_err(failed)?;
            let links = self.links(netlink).await?;
            let leases: Vec<Lease> = links.iter().filter_map(|link| self.host_tap(link)?.lease).collect();
            let gone: Vec<String> = rules::chains_of_taps(&self.settings, &chains)
                .into_iter()
                .filter(|chain| !links.iter().any(|link| link.name == *chain))
                .collect();
            let parts = [
                rules::bridge_rules(&self.settings),
                rules::no_tap_rules(&self.settings, &gone),
                rules::tap_rules(&self.settings, &leases),
            ];
            let objects: Vec<_> = parts.into_iter().flat_map(|part| part.objects.into_owned()).collect();
            let error = match nft.apply(&Nftables { objects: objects.into() }).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Another process of this server's may have deleted a TAP since it was listed; then it is one less.
            let now = self.links(netlink).await?;
            let is_there = |lease: &Lease| now.iter().any(|link| link.name == lease.tap().as_str());
            if leases.iter().all(is_there) {
                return Err(failed(error));
            }
        }
    }

    async fn links(&self, netlink: &Netlink) -> Result<Vec<Link>, BridgeError> {
        netlink.links().await.map_err(|error| self.bridge_error(error))
    }

    fn bridge_error(&self, source: NetlinkError) -> BridgeError {
        BridgeError::Netlink { bridge: self.settings.bridge().clone(), source }
    }
}

async fn mtu(netlink: &Netlink) -> Result<u16, NetlinkError> {
    let found = netlink.mtu_towards(ELSEWHERE).await?.and_then(|mtu| u16::try_from(mtu).ok());
    Ok(found.unwrap_or(MTU_MAX).clamp(MTU_MIN, MTU_MAX))
}

/// Turns forwarding on where it is off. The kernel lets CAP_NET_ADMIN; a service manager may not (ProtectKernelTunables).
fn forward() -> Result<(), BridgeError> {
    let on = || match sysctl::is_on(sysctl::IP_FORWARD)? {
        true => Ok(()),
        false => sysctl::turn_on(sysctl::IP_FORWARD),
    };
    on().map_err(|source| BridgeError::Forwarding { source })
}

/// Keeps the host from talking IPv6 to guests. Nothing depends on it: the rules let no IPv6 of theirs pass.
pub(crate) fn without_ipv6(device: &str) {
    if let Err(error) = sysctl::no_ipv6(device) {
        tracing::warn!(%error, device, "IPv6 could not be turned off; guests have none all the same");
    }
}

/// Says what a device is that is not ours.
pub(crate) fn described(link: &Link) -> String {
    match link.mark() {
        Some(Mark::Bridge(server) | Mark::Tap(server, _)) => format!("it is that of server `{server}`"),
        None => match link.kind {
            Kind::Bridge => "it is a bridge without a mark of this server's".to_owned(),
            Kind::Tun | Kind::Other => "it is no bridge".to_owned(),
        },
    }
}
