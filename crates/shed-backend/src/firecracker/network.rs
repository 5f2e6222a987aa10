//! What machines have on the host's network, by the crate `shed-net`: from the lease in a record to the TAP that a machine
//! opens, and back to nothing.

use std::{collections::BTreeSet, error::Error, io};

use shed_net::{Host, Lease, LeaseIndex, NetSettings, TapOwner, dns_servers};
use shed_protocol::NetworkIdentity;
use shed_types::{NetworkLease, ShedName};
use tokio::sync::OnceCell;

use crate::LeaseError;

/// The network of one server's machines.
#[derive(Debug)]
pub(super) struct Network {
    host: Host,
    /// Largest packet, in bytes; known once the bridge is there.
    ready: OnceCell<u16>,
}

type Failure = Box<dyn Error + Send + Sync>;

impl Network {
    pub(super) fn new(settings: NetSettings) -> Self {
        Self { host: Host::new(settings), ready: OnceCell::new() }
    }

    /// Makes the bridge and its rules, once.
    async fn ready(&self) -> Result<u16, Failure> {
        let make = || async {
            self.host.ensure_bridge().await?;
            Ok::<_, Failure>(Host::mtu().await?)
        };
        self.ready.get_or_try_init(make).await.copied()
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
        let dns = dns_servers().unwrap_or_else(|error| {
            tracing::warn!(%error, "guests are told of no name server");
            Vec::new()
        });
        NetworkIdentity {
            address: format!("{}/{}", lease.ip_address, network.prefix()),
            gateway: network.gateway().to_string(),
            dns: dns.iter().map(ToString::to_string).collect(),
            mtu: self.ready.get().copied(),
        }
    }
}
