//! One running machine: its vfkit process, the way to its guest, and its sockets.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use shed_types::{GuestPort, LaunchId, ShedName};
use tokio::sync::watch;

use super::{
    command_line::last_port,
    link::GuestLink,
    rest::{self, State},
    sockets::SocketPaths,
};
use crate::{
    ConnectGuestError, EndVmError, GuestStream, Vm, VmIdentity,
    appear::appears,
    launch::is_crash,
    process::{Signal, WatchedProcess},
    vm_process::{HasProcess, VmProcess},
};

/// The exit code of a Go program, as vfkit is, that ends by a fault of its own (Go's package runtime, `GOTRACEBACK`).
const PANIC: i32 = 2;

/// A machine run by vfkit. Dropping it lets go of its sockets and leaves it running.
#[derive(Debug)]
pub(super) struct VzVm {
    process: VmProcess,
    link: GuestLink,
    sockets: SocketPaths,
}

impl VzVm {
    /// Takes a machine's process in hand.
    pub(super) fn attach(
        shed: ShedName,
        launch_id: LaunchId,
        process: WatchedProcess,
        link: GuestLink,
        sockets: SocketPaths,
    ) -> Self {
        let behind = clear_away(shed.clone(), sockets.clone());
        Self { process: VmProcess::watch(shed, launch_id, process, behind), link, sockets }
    }

    /// Lets the machine say how its process ended.
    pub(super) fn reporting(self, exit: watch::Receiver<Option<ExitStatus>>) -> Self {
        Self { process: self.process.reporting(exit), ..self }
    }

    /// Returns when the machine runs and can be reached: vfkit makes the sockets of its ports then, one after the other.
    ///
    /// # Errors
    /// When vfkit's REST interface does not answer then, or says that it does not run.
    pub(super) async fn made(self: Arc<Self>) -> io::Result<()> {
        appears(&self.sockets.port(last_port())).await?;
        match rest::state(&self.sockets.rest()).await? {
            State::Running | State::Starting => Ok(()),
            State::Other(state) => Err(io::Error::other(format!("vfkit says that the machine is {state}"))),
        }
    }

    /// Asks vfkit to switch the machine off and end. Where it does not answer, a signal asks, on which it presses the power
    /// button and switches the machine off five seconds later.
    async fn ask_to_end(&self) -> Result<(), EndVmError> {
        match rest::switch_off(&self.sockets.rest()).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let shed = self.process.shed();
                tracing::debug!(%shed, %error, "vfkit could not be asked to switch the machine off");
                self.process.signal(Signal::TERM)
            }
        }
    }
}

impl HasProcess for VzVm {
    fn process(&self) -> &VmProcess {
        &self.process
    }
}

/// Clears away what an ended machine had; vfkit itself removes its sockets when it is not killed.
async fn clear_away(shed: ShedName, sockets: SocketPaths) {
    if let Err(error) = sockets.remove() {
        tracing::warn!(%shed, %error, path = %sockets.rest(), "a socket of an ended machine is left over");
    }
}

#[async_trait::async_trait]
impl Vm for VzVm {
    fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    async fn has_crashed(&self) -> bool {
        self.process
            .exit_status()
            .await
            .is_some_and(|status| is_crash(status) || status.code() == Some(PANIC))
    }

    async fn was_reboot(&self) -> bool {
        // The framework boots a guest again in the same machine. One that ends instead has said so first.
        self.link.reboot_is_due() && self.process.ended_well().await
    }

    async fn ended(&self) {
        self.process.ended().await;
    }

    fn agent_came(&self) -> watch::Receiver<u64> {
        self.link.agent_came()
    }

    async fn connect_guest(&self, port: GuestPort) -> Result<GuestStream, ConnectGuestError> {
        self.process.stream(port, self.link.open(port)).await
    }

    async fn press_power_button(&self) -> Result<(), EndVmError> {
        self.process.ask(rest::press_power_button(&self.sockets.rest())).await
    }

    fn identity(&self) -> VmIdentity {
        self.process.identity()
    }

    async fn kill(&self, grace: Duration) -> Result<(), EndVmError> {
        self.process.end(grace, self.ask_to_end()).await
    }
}
