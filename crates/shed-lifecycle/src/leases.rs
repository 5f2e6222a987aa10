//! What sheds have on the host's network. A lease is a shed's from its first boot until the shed is gone, whether it runs
//! or not, and is in its record before anything of it is made.

use std::collections::HashMap;

use shed_backend::{Backend, LeaseError};
use shed_state::ShedRecord;
use shed_types::{NetworkLease, ShedName, error_chain};
use tokio::sync::Mutex;

/// The leases of all sheds.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<ShedName, NetworkLease>>);

impl Leases {
    /// Takes over what records say.
    pub(crate) async fn know<'a>(&self, records: impl Iterator<Item = &'a ShedRecord>) {
        let leases = records.filter_map(|record| Some((record.name.clone(), record.network.clone()?)));
        self.0.lock().await.extend(leases);
    }

    /// Returns the lease of a shed, which gets one if it has none; nothing where the backend's machines need none.
    ///
    /// # Errors
    /// When there is none left.
    pub(crate) async fn get(
        &self,
        backend: &dyn Backend,
        shed: &ShedName,
    ) -> Result<Option<NetworkLease>, LeaseError> {
        // Held meanwhile: two sheds must not get the same.
        let mut leases = self.0.lock().await;
        // Only whoever boots asks, so no machine uses one that does not fit any more.
        if let Some(lease) = leases.get(shed).filter(|lease| backend.lease_fits(lease)) {
            return Ok(Some(lease.clone()));
        }
        let taken: Vec<NetworkLease> = leases.values().cloned().collect();
        let lease = backend.lease(&taken).await?;
        if let Some(lease) = &lease {
            let _one_that_does_not_fit = leases.insert(shed.clone(), lease.clone());
        }
        Ok(lease)
    }

    /// Returns the lease that a shed has, if it has one.
    pub(crate) async fn of(&self, shed: &ShedName) -> Option<NetworkLease> {
        self.0.lock().await.get(shed).cloned()
    }

    /// Gives back what a shed had that is gone. With the last one goes what all of them had together.
    pub(crate) async fn forget(&self, backend: &dyn Backend, shed: &ShedName) {
        // Held meanwhile: the next lease makes anew what goes here.
        let mut leases = self.0.lock().await;
        let lease = leases.remove(shed);
        if lease.is_some()
            && leases.is_empty()
            && let Err(error) = backend.release_network().await
        {
            tracing::warn!(error = %error_chain(&error), "the network of sheds stays on this host though there are none");
        }
    }
}
