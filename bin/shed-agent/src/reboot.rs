//! Tells the host that the guest reboots, so that a machine that ends with that is started anew.
//!
//! Called right before the end: by systemd through the unit that shed-init installs, and by the agent as PID 1. Over a
//! serial port there is nothing to tell, for such machines outlive a reset. It reboots nothing, and fails no reboot.

use std::{io, process::ExitCode, time::Duration};

use tokio::time::timeout;

use crate::{
    log,
    transport::{Link, tell_reboot},
};

/// How long a host may take to hear it. One that does not listen refuses at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says why the host was not told.
#[derive(Debug, thiserror::Error)]
enum TellRebootError {
    #[error("the host was not told that this is a reboot, and the shed will be stopped: no server listens")]
    Unheard(#[source] io::Error),
    #[error("the host has not heard within {} s that this is a reboot; the shed may be stopped", PATIENCE.as_secs())]
    Late,
    #[error("the host was not told that this is a reboot: cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// Tells the host; for the unit.
pub(crate) fn run() -> ExitCode {
    if tell() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells the host, where it has to be told, and waits until it has heard. Says whether there is nothing amiss.
pub(crate) fn tell() -> bool {
    match Link::of_this_boot() {
        Link::Serial => true,
        Link::Vsock => match tell_over_vsock() {
            Ok(()) => true,
            Err(error) => {
                log::failed(&error);
                false
            }
        },
    }
}

fn tell_over_vsock() -> Result<(), TellRebootError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let told = runtime
        .map_err(TellRebootError::Runtime)?
        .block_on(async { timeout(PATIENCE, tell_reboot()).await.map_err(|_| TellRebootError::Late) })?;
    told.map_err(TellRebootError::Unheard)
}
