//! Which extensions the agent offers: the one place that names them all.

use std::sync::Arc;

use shed_extensions::{aws, docker};

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
pub async fn offer(
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
    let mut offer =
        Offer { extensions: vec![Arc::clone(&ssh) as Arc<dyn Extension>], ssh, not_offered: Vec::new() };
    offer.add(aws::NAMESPACE, crate::aws::extension(&config.aws, surroundings).await);
    offer.add(docker::NAMESPACE, crate::docker::extension(&config.docker, surroundings).await);
    Ok(offer)
}

impl Offer {
    fn add(&mut self, namespace: &str, extension: Result<impl Extension + 'static, String>) {
        match extension {
            Ok(extension) => self.extensions.push(Arc::new(extension)),
            Err(reason) => self.not_offered.push(NotOffered { namespace: namespace.to_owned(), reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn approval_without_anybody_to_ask_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = camino::Utf8Path::from_path(dir.path()).unwrap();
        let surroundings = Surroundings::of_home(home);
        let mut config = config::load(None, &surroundings).unwrap();
        assert!(offer(&config, &surroundings, None).await.is_ok());
        config.ssh.approval = Some(config::ApprovalConfig {
            policy: config::Policy::PerShed,
            session_ttl: std::time::Duration::from_secs(1),
        });
        assert!(offer(&config, &surroundings, None).await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_configured_is_not_offered_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let home = camino::Utf8Path::from_path(dir.path()).unwrap();
        let surroundings = Surroundings::of_home(home);
        let mut config = config::load(None, &surroundings).unwrap();
        config.docker.config_path = Some(home.join("config.json"));
        let reasons: Vec<_> = offer(&config, &surroundings, None).await.unwrap().not_offered;
        let names: Vec<_> = reasons.iter().map(|reason| reason.namespace.as_str()).collect();
        assert_eq!(names, [aws::NAMESPACE, docker::NAMESPACE]);
        assert!(reasons[0].reason.contains("aws.default_role"), "{reasons:?}");
        assert!(reasons[1].reason.contains("docker.registries"), "{reasons:?}");

        std::fs::write(home.join("config.json"), "{}").unwrap();
        config.docker.allow_all = true;
        let offered = offer(&config, &surroundings, None).await.unwrap();
        assert_eq!(offered.extensions.len(), 2);
        assert_eq!(offered.not_offered.len(), 1);
    }
}
