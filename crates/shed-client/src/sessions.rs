//! The calls about tmux sessions (spec A.5).

use hyper::Method;
use shed_api::SessionList;
use shed_types::{SessionName, ShedName};

use crate::{Client, ClientError, connection::Call};

impl Client {
    /// Lists the tmux sessions of one shed, sorted by name.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_ALREADY_STOPPED`, `TMUX_NOT_AVAILABLE`, and see [`ClientError`].
    pub async fn sessions(&self, shed: &ShedName) -> Result<SessionList, ClientError> {
        self.ask(Call::new(Method::GET, format!("/api/sheds/{shed}/sessions"))).await
    }

    /// Lists the tmux sessions of all running sheds; its warnings name the sheds that could not be asked.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn all_sessions(&self) -> Result<SessionList, ClientError> {
        self.ask(Call::new(Method::GET, "/api/sessions")).await
    }

    /// Ends a tmux session with all that runs in it.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SESSION_NOT_FOUND`, `SHED_ALREADY_STOPPED`, `TMUX_NOT_AVAILABLE`, and see
    /// [`ClientError`].
    pub async fn kill_session(&self, shed: &ShedName, session: &SessionName) -> Result<(), ClientError> {
        self.delete_at(format!("/api/sheds/{shed}/sessions/{session}")).await
    }
}
