//! Linux, where a process of its own serves each directory of a Firecracker shed.

use clap::Subcommand;
use shed_server::serve_share::{self, ServeShareArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum InnerCommand {
    /// Serve a host directory to the guest at the other end of the standard input; the server starts this itself
    #[command(hide = true)]
    ServeShare(ServeShareArgs),
}

impl InnerCommand {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::ServeShare(args) => Ok(serve_share::run(args)?),
        }
    }
}
