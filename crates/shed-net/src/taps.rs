//! A shed's lease and its TAP: chosen, made, deleted.
//!
//! A TAP that is made vanishes by itself until the last step, so an error or the end of the process on the way leaves no device. A
//! device is never deleted by its name alone: it must bear this server's mark, for this shed.

use std::{collections::BTreeSet, io, time::Duration};

use shed_types::ShedName;
use tokio::time::sleep;

use crate::{
    error::{NftError, TapError},
    host::{Host, MTU_MAX, without_ipv6},
    lease::{Lease, LeaseIndex, choose},
    links::{Link, Netlink, NetlinkError},
    mark::Mark,
    names::shortened,
    neighbours,
    nft::Nft,
    rules,
    tun::{NewTap, TapOwner},
};

/// Waits before a TAP that the kernel has not made is tried again (spec C.2).
const RETRIES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(150)];

impl Host {
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
            let lease = choose(self.settings(), taken, &devices, &answering)?;
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
        let _turn = self.turn().await;
        let errors = TapErrors { tap: lease.tap().as_str(), shed };
        let netlink = Netlink::open().map_err(|source| errors.netlink(source))?;
        let bridge = self.find_bridge(&netlink, &errors).await?.ok_or_else(|| self.no_bridge())?;
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
        let _turn = self.turn().await;
        let errors = TapErrors { tap, shed };
        // What cannot be a device of ours cannot be one of the kernel's, either, or is none of our business.
        if self.settings().tap_prefix().index_of(tap).is_none() && !self.lists(tap, &errors).await? {
            return Ok(());
        }
        let netlink = Netlink::open().map_err(|source| errors.netlink(source))?;
        if let Some(link) = netlink.link(tap).await.map_err(|source| errors.netlink(source))? {
            self.check_ours(&link, &errors)?;
            netlink.delete(link.index).await.map_err(|source| errors.netlink(source))?;
        }
        if self.find_bridge(&netlink, &errors).await?.is_none() {
            // No table is ours, then, or the next start or the removal takes it away.
            return Ok(());
        }
        let nft = Nft::find().map_err(|source| errors.rules(source))?;
        let rules = rules::no_tap_rules(self.settings(), &[tap.to_owned()]);
        nft.apply(&rules).await.map_err(|source| errors.rules(source))
    }

    /// Returns this server's bridge, if it is there.
    async fn find_bridge(&self, netlink: &Netlink, errors: &TapErrors<'_>) -> Result<Option<Link>, TapError> {
        let name = self.settings().bridge().as_str();
        let link = netlink.link(name).await.map_err(|source| errors.netlink(source))?;
        Ok(link.filter(|link| self.is_our_bridge(link)))
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
        netlink.mark(link.index, &Mark::Tap(self.settings().server().clone(), shed.clone())).await?;
        netlink.set_mtu(link.index, u16::try_from(bridge.mtu).unwrap_or(MTU_MAX)).await?;
        without_ipv6(tap);
        let nft = Nft::find()?;
        nft.apply(&rules::tap_rules(self.settings(), std::slice::from_ref(lease))).await?;
        // From here on frames pass.
        netlink.join(link.index, bridge.index).await?;
        Ok(())
    }

    /// Removes the rules of a TAP that did not come to be. What stays after a failure of this, too, hurts nobody: rules without
    /// a device, which the next TAP of this name or the next start replaces.
    async fn drop_rules(&self, tap: &str) {
        let rules = rules::no_tap_rules(self.settings(), &[tap.to_owned()]);
        let dropped = async { Nft::find()?.apply(&rules).await };
        if let Err(error) = dropped.await {
            tracing::warn!(%error, tap, "rules of a TAP that could not be made are left");
        }
    }

    fn no_bridge(&self) -> TapError {
        TapError::NoBridge { bridge: self.settings().bridge().clone() }
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
