//! Which extensions the agent offers: the one place that names them all.

use std::sync::Arc;

use crate::{
    answer::Extension,
    approval::{Approver, Gate},
    config::Config,
    control::NotOffered,
    places::Surroundings,
    ssh::Ssh,
};

/// What the agent offers, and what it does not.
pub struct Offer {
    /// The extensions, each with a namespace of its own.
    pub extensions: Vec<Arc<dyn Extension>>,
    /// The keys, for the status.
    pub ssh: Arc<Ssh>,
    /// Those that are left out, and why.
    pub not_offered: Vec<NotOffered>,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let namespaces: Vec<_> = self.extensions.iter().map(|extension| extension.namespace()).collect();
        f.debug_struct("Offer").field("namespaces", &namespaces).finish_non_exhaustive()
    }
}

/// Approval is on, but there is no way to ask anybody.
#[derive(Debug, thiserror::Error)]
#[error(
    "ssh.approval is enabled, but there is no way to ask anybody, so every signature would be denied; turn it off in extensions.yaml, or make the control socket possible"
)]
pub struct NoGate;

/// Makes the extensions. The gate is who is asked where the configuration wants approval.
///
/// # Errors
/// When it does and there is none.
pub fn offer(
    config: &Config,
    surroundings: &Surroundings,
    gate: Option<Arc<dyn Gate>>,
) -> Result<Offer, NoGate> {
    let approver = match config.ssh.approval {
        None => None,
        Some(approval) => Some(Arc::new(Approver::new(approval, gate.ok_or(NoGate)?))),
    };
    let (socket, home) = (surroundings.ssh_auth_sock.clone(), surroundings.home.clone());
    let ssh = Arc::new(Ssh::new(config.ssh.mode, socket, home, approver));
    Ok(Offer { extensions: vec![Arc::clone(&ssh) as Arc<dyn Extension>], ssh, not_offered: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn approval_without_anybody_to_ask_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = camino::Utf8Path::from_path(dir.path()).unwrap();
        let surroundings = Surroundings::of_home(home);
        let mut config = config::load(None, &surroundings).unwrap();
        assert_eq!(offer(&config, &surroundings, None).map(|offer| offer.extensions.len()).ok(), Some(1));
        config.ssh.approval = Some(config::ApprovalConfig {
            policy: config::Policy::PerShed,
            session_ttl: std::time::Duration::from_secs(1),
        });
        assert!(offer(&config, &surroundings, None).is_err());
    }
}
