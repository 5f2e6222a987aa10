//! What machines have on the host's network, by the crate `shed-net`: from the lease in a record to the TAP that a machine
//! opens, and back to nothing.

use std::{collections::BTreeSet, error::Error, io, net::Ipv4Addr, sync::OnceLock};

use shed_net::{Host, Lease, LeaseIndex, NetSettings, TapOwner, dns_servers};
use shed_protocol::NetworkIdentity;
use shed_types::{NetworkLease, ShedName};
use tokio::sync::Mutex;

use crate::LeaseError;

/// The network of one server's machines.
#[derive(Debug)]
pub(super) struct Network {
    host: Host,
    /// The guests' name servers, if they are configured.
    dns: Vec<Ipv4Addr>,
    /// Held while the bridge is made or removed; whether it is there.
    bridge: Mutex<bool>,
    /// Largest packet, in bytes; known once there was a bridge.
    mtu: OnceLock<u16>,
}

type Failure = Box<dyn Error + Send + Sync>;

impl Network {
    pub(super) fn new(settings: NetSettings, dns: Vec<Ipv4Addr>) -> Self {
        Self { host: Host::new(settings), dns, bridge: Mutex::new(false), mtu: OnceLock::new() }
    }

    /// Makes the bridge and its rules, once.
    async fn ready(&self) -> Result<(), Failure> {
        let mut there = self.bridge.lock().await;
        if !*there {
            self.host.ensure_bridge().await?;
            let _same = self.mtu.set(Host::mtu().await?);
            *there = true;
        }
        Ok(())
    }

    /// Removes the bridge and its rules, unless a TAP is on it.
    pub(super) async fn release(&self) -> io::Result<()> {
        let mut there = self.bridge.lock().await;
        if !self.host.list().await.map_err(io::Error::other)?.is_empty() {
            return Ok(());
        }
        *there = false;
        self.host.remove_all().await.map_err(io::Error::other)
    }

    /// Returns the lowest lease that nobody has.
    pub(super) async fn lease(&self, taken: &[NetworkLease]) -> Result<NetworkLease, LeaseError> {
        let lease = async {
            self.ready().await?;
            let taken: BTreeSet<LeaseIndex> =
                taken.iter().filter_map(|lease| LeaseIndex::new(lease.index)).collect();
            Ok::<_, Failure>(self.host.lease(&taken).await?)
        };
        let lease = lease.await.map_err(LeaseError)?;
        Ok(NetworkLease {
            index: lease.index().number(),
            tap_device: lease.tap().as_str().to_owned(),
            ip_address: lease.address(),
        })
    }

    /// Makes the TAP of a machine that is about to be started, for whom its VMM runs as.
    pub(super) async fn make_tap(
        &self,
        shed: &ShedName,
        lease: &NetworkLease,
        owner: TapOwner,
    ) -> io::Result<()> {
        let make = async {
            self.ready().await?;
            let lease = Lease::of_tap(self.host.settings(), &lease.tap_device)?;
            Ok::<_, Failure>(self.host.create_tap(&lease, shed, owner).await?)
        };
        make.await.map_err(io::Error::other)
    }

    /// Whether a lease is what its TAP's name means in this network.
    pub(super) fn fits(&self, lease: &NetworkLease) -> bool {
        let now = Lease::of_tap(self.host.settings(), &lease.tap_device);
        now.is_ok_and(|now| now.address() == lease.ip_address && now.index().number() == lease.index)
    }

    /// Removes the TAPs of sheds that are none of `sheds`. While there are others, the bridge and its rules are made whole.
    pub(super) async fn remove_strays(&self, sheds: &BTreeSet<ShedName>) -> io::Result<()> {
        let taps = self.host.list().await.map_err(io::Error::other)?;
        let (known, strays): (Vec<_>, Vec<_>) = taps.iter().partition(|tap| sheds.contains(&tap.shed));
        for tap in strays {
            tracing::info!(shed = %tap.shed, tap = %tap.tap, "removing the TAP of a shed that is gone");
            self.host.delete_tap(&tap.tap, &tap.shed).await.map_err(io::Error::other)?;
        }
        if !known.is_empty() {
            self.ready().await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Removes every TAP of a shed, in use or not.
    pub(super) async fn remove_taps(&self, shed: &ShedName) -> io::Result<()> {
        let taps = self.host.list().await.map_err(io::Error::other)?;
        for tap in taps.iter().filter(|tap| tap.shed == *shed) {
            self.host.delete_tap(&tap.tap, shed).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Returns what a guest is told of its network.
    pub(super) fn identity(&self, lease: &NetworkLease) -> NetworkIdentity {
        let network = self.host.settings().network();
        let found = || {
            dns_servers().unwrap_or_else(|error| {
                tracing::warn!(%error, "guests are told of no name server");
                Vec::new()
            })
        };
        let dns = if self.dns.is_empty() { found() } else { self.dns.clone() };
        NetworkIdentity {
            address: format!("{}/{}", lease.ip_address, network.prefix()),
            gateway: network.gateway().to_string(),
            dns: dns.iter().map(ToString::to_string).collect(),
            mtu: self.mtu.get().copied(),
        }
    }
}
