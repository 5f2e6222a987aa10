//! macOS, where the machine monitor serves directories itself: there is none.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum InnerCommand {}

impl InnerCommand {
    /// Is never called.
    ///
    /// # Errors
    /// None.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match *self {}
    }
}
