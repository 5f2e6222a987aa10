//! The bare link to a shed's agent, without server and HTTP: the yardstick of what goes through them.
//!
//! The machine's socket takes one connection, so no server may run meanwhile.

use anyhow::Context as _;
use shed_link::{MuxHandle, host_handshake, mux};
use tokio::{net::UnixStream, task::JoinHandle};
use vm_tests::Stage;

/// A connection to an agent.
pub(crate) struct Bare {
    /// Opens streams.
    pub(crate) agent: MuxHandle,
    driver: JoinHandle<()>,
}

impl Bare {
    /// Connects to the machine of `shed`.
    pub(crate) async fn connect(stage: &Stage, shed: &str) -> anyhow::Result<Self> {
        let socket = stage.socket_dir().join(format!("{shed}.link"));
        let pipe =
            UnixStream::connect(&socket).await.with_context(|| format!("cannot connect to {socket}"))?;
        let (agent, driver) = mux::host(host_handshake(pipe).await?);
        let driver = tokio::spawn(async move {
            let _ended = driver.await;
        });
        Ok(Self { agent, driver })
    }

    /// Ends it. Its streams must have ended before.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        drop(self.agent);
        self.driver.await.context("the link's driver panicked")
    }
}
