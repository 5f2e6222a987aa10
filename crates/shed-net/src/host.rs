//! The network of one server's machines, as it is on this host: made, looked at, and taken away.
//!
//! Each operation looks at what is there, compares it with what is wanted, and does the difference; so it can be done again after
//! whatever happened. A device is ours when it bears this server's mark, and not by its name.

use std::{collections::BTreeSet, io, net::Ipv4Addr, time::Duration};

use nftables::schema::Nftables;
use shed_types::ShedName;
use tokio::{sync::Mutex, time::sleep};

use crate::{
    error::{BridgeError, ListError, MtuError, NftError, RemoveError, TapError},
    lease::{Lease, LeaseIndex, choose},
    links::{Kind, Link, Netlink, NetlinkError},
    mark::Mark,
    names::shortened,
    neighbours,
    nft::Nft,
    overlap::overlapping,
    rules,
    settings::NetSettings,
    sysctl,
    tun::{NewTap, TapOwner},
};

/// Largest packet in bytes where nothing asks for less (RFC 894).
const MTU_MAX: u16 = 1500;

/// Smallest packet that every IPv4 host must take (RFC 791 §3.1: 576); with less, something is wrong with the interface that was
/// looked at.
const MTU_MIN: u16 = 576;

/// An address of the internet. Nothing is sent to it: the kernel is asked which way it would take.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// Waits before a TAP that the kernel has not made is tried again (spec C.2).
const RETRIES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(150)];

/// How often the rules are made anew when TAPs vanish meanwhile.
const ATTEMPTS: usize = 5;

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
        let _turn = self.one_at_a_time.lock().await;
        let netlink = Netlink::open().map_err(|error| self.bridge_error(error))?;
        self.refuse_overlap(&netlink).await?;
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

    /// Chooses a lease: the lowest that no shed of `taken`, no device and nobody on the bridge has. It is not reserved: the
    /// caller records it before it asks for another.
    ///
    /// # Errors
    /// When all are taken, the bridge is not there, or the kernel does not tell.
    pub async fn lease(&self, taken: &BTreeSet<LeaseIndex>) -> Result<Lease, TapError> {
        let netlink = Netlink::open().map_err(TapError::Look)?;
        let links = netlink.links().await.map_err(TapError::Look)?;
        let bridge = links.iter().find(|link| self.is_our_bridge(link)).ok_or_else(|| self.no_bridge())?;
        let strangers =
            links.iter().any(|link| link.controller == Some(bridge.index) && !self.is_our_tap(link));
        let devices = links.iter().map(|link| link.name.clone()).collect();
        let mut answering = BTreeSet::new();
        loop {
            let lease = choose(&self.settings, taken, &devices, &answering)?;
            if !strangers {
                return Ok(lease);
            }
            let address = BTreeSet::from([lease.address()]);
            let answered = neighbours::answering(bridge.index, &address).await.map_err(TapError::Look)?;
            if answered.is_empty() {
                return Ok(lease);
            }
            answering.extend(answered);
        }
    }

    /// Makes a shed's TAP for `owner` to open, with the rules that hold the guest to its lease, and attaches it to the bridge.
    /// One that is left of this shed is made anew. When this fails, or whoever calls it ends, there is none.
    ///
    /// # Errors
    /// When the device is somebody else's or another shed's, is in use, or the kernel refuses.
    pub async fn create_tap(&self, lease: &Lease, shed: &ShedName, owner: TapOwner) -> Result<(), TapError> {
        let _turn = self.one_at_a_time.lock().await;
        let errors = TapErrors { tap: lease.tap().as_str(), shed };
        let netlink = Netlink::open().map_err(|source| errors.netlink(source))?;
        let name = self.settings.bridge().as_str();
        let bridge = netlink.link(name).await.map_err(|source| errors.netlink(source))?;
        let bridge = bridge.filter(|link| self.is_our_bridge(link)).ok_or_else(|| self.no_bridge())?;
        self.delete_left_over(&netlink, &errors).await?;
        let new = make(lease).await.map_err(|source| errors.make(source))?;
        match self.set_up(&netlink, lease, shed, &bridge).await {
            Ok(()) => match new.keep(owner) {
                Ok(()) => Ok(()),
                Err(source) => {
                    self.drop_rules(lease.tap().as_str()).await;
                    Err(errors.make(source))
                }
            },
            Err(problem) => {
                drop(new);
                self.drop_rules(lease.tap().as_str()).await;
                Err(match problem {
                    SetUpProblem::Netlink(source) => errors.netlink(source),
                    SetUpProblem::Rules(source) => errors.rules(source),
                })
            }
        }
    }

    /// Deletes a shed's TAP and its rules, in use or not; one that is not there is no error. The name may come from a record of
    /// whatever content: a device that this server did not make for this shed is never touched.
    ///
    /// # Errors
    /// When the device is somebody else's, or another shed's, or the kernel refuses.
    pub async fn delete_tap(&self, tap: &str, shed: &ShedName) -> Result<(), TapError> {
        let _turn = self.one_at_a_time.lock().await;
        let errors = TapErrors { tap, shed };
        // What cannot be a device of ours cannot be one of the kernel's, either, or is none of our business.
        if self.settings.tap_prefix().index_of(tap).is_none() && !self.lists(tap, &errors).await? {
            return Ok(());
        }
        let netlink = Netlink::open().map_err(|source| errors.netlink(source))?;
        if let Some(link) = netlink.link(tap).await.map_err(|source| errors.netlink(source))? {
            self.check_ours(&link, &errors)?;
            netlink.delete(link.index).await.map_err(|source| errors.netlink(source))?;
        }
        let nft = Nft::find().map_err(|source| errors.rules(source))?;
        let rules = rules::no_tap_rules(&self.settings, &[tap.to_owned()]);
        nft.apply(&rules).await.map_err(|source| errors.rules(source))
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
        let _turn = self.one_at_a_time.lock().await;
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

    fn bridge_mark(&self) -> Mark {
        Mark::Bridge(self.settings.server().clone())
    }

    fn is_our_tap(&self, link: &Link) -> bool {
        self.host_tap(link).is_some()
    }

    fn host_tap(&self, link: &Link) -> Option<HostTap> {
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

    async fn refuse_overlap(&self, netlink: &Netlink) -> Result<(), BridgeError> {
        let look = async { Ok((netlink.links().await?, netlink.addresses().await?)) };
        let (links, addresses) = look.await.map_err(|error| self.bridge_error(error))?;
        let others = overlapping(self.settings.network(), self.settings.bridge(), &links, &addresses);
        if others.is_empty() {
            return Ok(());
        }
        Err(BridgeError::Overlap {
            bridge: self.settings.bridge().clone(),
            network: self.settings.network().to_string(),
            others: others.join(", "),
        })
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
            Some(link) => Err(BridgeError::NotOurs { bridge: bridge.clone(), found: described(&link) }),
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
        let mut refused = None;
        for _ in 0..ATTEMPTS {
            // The chains first: one of a TAP that is made after this is not seen, and so not removed.
            let chains = nft.list(&["chains", "netdev"]).await.map_err(failed)?;
            let links = netlink.links().await.map_err(|error| self.bridge_error(error))?;
            let leases: Vec<Lease> = links.iter().filter_map(|link| self.host_tap(link)?.lease).collect();
            let gone: Vec<String> = rules::chains_of(&self.settings, &chains)
                .into_iter()
                .filter(|chain| !links.iter().any(|link| link.name == *chain))
                .collect();
            let parts = [
                rules::bridge_rules(&self.settings),
                rules::no_tap_rules(&self.settings, &gone),
                rules::tap_rules(&self.settings, &leases),
            ];
            let objects: Vec<_> = parts.into_iter().flat_map(|part| part.objects.into_owned()).collect();
            match nft.apply(&Nftables { objects: objects.into() }).await {
                Ok(()) => return Ok(()),
                // A TAP may have gone since it was listed.
                Err(error @ NftError::Refused { .. }) => refused = Some(error),
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(refused.unwrap_or(NftError::Missing)))
    }

    async fn delete_left_over(&self, netlink: &Netlink, errors: &TapErrors<'_>) -> Result<(), TapError> {
        let Some(link) = netlink.link(errors.tap).await.map_err(|source| errors.netlink(source))? else {
            return Ok(());
        };
        self.check_ours(&link, errors)?;
        if link.carrier {
            return Err(TapError::InUse { tap: errors.tap.to_owned(), shed: errors.shed.clone() });
        }
        netlink.delete(link.index).await.map_err(|source| errors.netlink(source))
    }

    /// Refuses a device that is not this server's TAP of this shed.
    fn check_ours(&self, link: &Link, errors: &TapErrors<'_>) -> Result<(), TapError> {
        let tap = link.name.clone();
        match self.host_tap(link) {
            None => Err(TapError::NotOurs { tap }),
            Some(found) if found.shed != *errors.shed => {
                Err(TapError::OtherShed { tap, shed: errors.shed.clone(), other: found.shed })
            }
            Some(_ours) => Ok(()),
        }
    }

    /// Returns whether a TAP of this server has this name, which may be from older settings.
    async fn lists(&self, tap: &str, errors: &TapErrors<'_>) -> Result<bool, TapError> {
        let taps = self.list().await.map_err(|error| errors.netlink(error.source))?;
        Ok(taps.iter().any(|found| found.tap == tap))
    }

    async fn set_up(
        &self,
        netlink: &Netlink,
        lease: &Lease,
        shed: &ShedName,
        bridge: &Link,
    ) -> Result<(), SetUpProblem> {
        let tap = lease.tap().as_str();
        let Some(link) = netlink.link(tap).await? else {
            return Err(NetlinkError::io(
                "finding the TAP that was just made",
                io::ErrorKind::NotFound.into(),
            )
            .into());
        };
        netlink.mark(link.index, &Mark::Tap(self.settings.server().clone(), shed.clone())).await?;
        netlink.set_mtu(link.index, u16::try_from(bridge.mtu).unwrap_or(MTU_MAX)).await?;
        without_ipv6(tap);
        let nft = Nft::find()?;
        nft.apply(&rules::tap_rules(&self.settings, std::slice::from_ref(lease))).await?;
        // From here on frames pass.
        netlink.join(link.index, bridge.index).await?;
        Ok(())
    }

    /// Removes the rules of a TAP that did not come to be. What stays after a failure of this, too, hurts nobody: rules without
    /// a device, which the next TAP of this name or the next start replaces.
    async fn drop_rules(&self, tap: &str) {
        let rules = rules::no_tap_rules(&self.settings, &[tap.to_owned()]);
        let dropped = async { Nft::find()?.apply(&rules).await };
        if let Err(error) = dropped.await {
            tracing::warn!(%error, tap, "rules of a TAP that could not be made are left");
        }
    }

    fn bridge_error(&self, source: NetlinkError) -> BridgeError {
        BridgeError::Netlink { bridge: self.settings.bridge().clone(), source }
    }

    fn no_bridge(&self) -> TapError {
        TapError::NoBridge { bridge: self.settings.bridge().clone() }
    }
}

/// What a TAP's errors name.
struct TapErrors<'a> {
    tap: &'a str,
    shed: &'a ShedName,
}

impl TapErrors<'_> {
    fn netlink(&self, source: NetlinkError) -> TapError {
        TapError::Netlink { tap: shortened(self.tap), shed: self.shed.clone(), source }
    }

    fn rules(&self, source: NftError) -> TapError {
        TapError::Rules { tap: shortened(self.tap), shed: self.shed.clone(), source }
    }

    fn make(&self, source: io::Error) -> TapError {
        TapError::Make { tap: shortened(self.tap), shed: self.shed.clone(), source }
    }
}

/// Why a TAP could not be set up.
#[derive(Debug)]
enum SetUpProblem {
    Netlink(NetlinkError),
    Rules(NftError),
}

impl From<NetlinkError> for SetUpProblem {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

impl From<NftError> for SetUpProblem {
    fn from(error: NftError) -> Self {
        Self::Rules(error)
    }
}

/// Makes a TAP; what may pass by itself is tried again.
async fn make(lease: &Lease) -> io::Result<NewTap> {
    let mut waits = RETRIES.into_iter();
    loop {
        let error = match NewTap::make(lease.tap()) {
            Ok(tap) => return Ok(tap),
            Err(error) => error,
        };
        let passes = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR));
        match waits.next().filter(|_wait| passes) {
            // There is no event for it: the kernel is still letting go of the name.
            Some(wait) => sleep(wait).await,
            None => return Err(error),
        }
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
fn without_ipv6(device: &str) {
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
