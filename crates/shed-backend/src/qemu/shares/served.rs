//! What serves host directories on Linux: virtiofsd, looked for when it is first needed.

use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::OnceCell;

use super::{
    ShareCache,
    program::{find, is_there},
};
use crate::CheckHostError;

/// What serves directories on this host.
#[derive(Debug)]
pub(in super::super) struct Shares {
    pub(super) configured: Option<Utf8PathBuf>,
    pub(super) cache: ShareCache,
    program: OnceCell<Utf8PathBuf>,
}

impl Shares {
    pub(in super::super) fn new(configured: Option<Utf8PathBuf>, cache: ShareCache) -> Self {
        Self { configured, cache, program: OnceCell::new() }
    }

    /// Whether there is a program that might do.
    pub(in super::super) fn are_possible(&self) -> bool {
        is_there(self.configured.as_deref())
    }

    /// Whether there is one that does.
    ///
    /// # Errors
    /// When there is none.
    pub(in super::super) async fn check(&self) -> Result<(), CheckHostError> {
        self.program().await.map(|_| ())
    }

    /// Finds the program. A failure is not remembered: somebody may install it.
    pub(super) async fn program(&self) -> Result<&Utf8Path, CheckHostError> {
        let found = self.program.get_or_try_init(|| find(self.configured.as_deref())).await?;
        Ok(found)
    }
}
