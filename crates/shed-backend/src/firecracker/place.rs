//! Where a machine's Firecracker runs and is reached: openly beside the server, or in a jail. The two differ in where its
//! sockets are, and in what is to be removed when it has ended.

use std::io;

use shed_types::{LaunchId, ShedName};

use super::{
    jail::{Jail, Jails},
    link::GuestLink,
    sockets::SocketPaths,
};

/// The place of one machine.
#[derive(Debug, Clone)]
pub(super) struct Place {
    sockets: SocketPaths,
    jail: Option<Jail>,
}

impl Place {
    /// The place of a machine that runs openly.
    pub(super) const fn open(sockets: SocketPaths) -> Self {
        Self { sockets, jail: None }
    }

    /// The place of a machine in a jail.
    pub(super) fn jailed(jail: Jail, shed: &ShedName) -> Self {
        Self { sockets: jail.sockets(shed), jail: Some(jail) }
    }

    /// The place of a launch that has one already, by whether there is a jail for it. `open` are the sockets otherwise.
    ///
    /// # Errors
    /// When the jails cannot be looked at.
    pub(super) fn find(
        jails: Option<&Jails>,
        shed: &ShedName,
        launch_id: LaunchId,
        open: SocketPaths,
    ) -> io::Result<Self> {
        let jail = jails.map(|jails| jails.find(shed, launch_id)).transpose()?.flatten();
        Ok(jail.map_or_else(|| Self::open(open), |jail| Self::jailed(jail, shed)))
    }

    pub(super) const fn sockets(&self) -> &SocketPaths {
        &self.sockets
    }

    /// Listens for the agent of the machine.
    ///
    /// # Errors
    /// When the socket for it cannot be made.
    pub(super) fn listen(&self) -> io::Result<GuestLink> {
        match &self.jail {
            None => GuestLink::listen(&self.sockets.vsock),
            Some(jail) => Ok(GuestLink::hear(jail.listen(&self.sockets)?, &self.sockets.vsock)),
        }
    }

    /// Removes all that there is of it; its machine must have ended. Blocks.
    ///
    /// # Errors
    /// When something stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        match &self.jail {
            None => self.sockets.remove(),
            Some(jail) => jail.remove(),
        }
    }

    /// Removes the jail of a launch that has no process. Its sockets, when it has none, may be another launch's. Blocks.
    pub(super) fn sweep(&self) {
        let Some(jail) = &self.jail else { return };
        if let Err(error) = jail.remove() {
            tracing::warn!(path = %jail.root(), %error, "the jail of an ended machine is left over");
        }
    }
}
