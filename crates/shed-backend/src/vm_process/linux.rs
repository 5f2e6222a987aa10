//! What Firecracker, which only Linux has, asks of a machine's process besides.

use tokio_util::sync::CancellationToken;

use super::VmProcess;

impl VmProcess {
    /// Returns what is cancelled when the machine has ended.
    pub(crate) const fn end_token(&self) -> &CancellationToken {
        &self.ended
    }

    /// Resolves when the process is dead, which is before the machine has ended.
    pub(crate) async fn dead(&self) {
        // What cannot be watched is logged by who waits for the end.
        let _watched = self.process.dead().await;
    }
}
