//! The tmux sessions of sheds: list those of one or of all, and end one.
//!
//! The server calls it; `tmux` decides what is asked and what the answers mean, `guest_command` carries both. It
//! makes no sessions: a client does that with a command on a terminal.

use shed_types::{SessionName, ShedName, error_chain};

use crate::{
    GuestCommandError, ParseSessionsError, ReachGuestError, ShedStatus, Sheds, TmuxSession,
    guest_command::{GuestCommand, GuestOutput},
    tmux::{self, Answer},
};

/// Why the sessions of a shed are not known.
#[derive(Debug, thiserror::Error)]
pub enum ListSessionsError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error("{}", no_sessions(.shed, *.status))]
    NotRunning { shed: ShedName, status: ShedStatus },
    #[error(transparent)]
    Tmux(#[from] TmuxError),
    #[error("the list that tmux wrote in shed `{shed}` cannot be read")]
    Unreadable {
        shed: ShedName,
        #[source]
        source: ParseSessionsError,
    },
}

/// Why a session was not ended.
#[derive(Debug, thiserror::Error)]
pub enum KillSessionError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error("{}", no_sessions(.shed, *.status))]
    NotRunning { shed: ShedName, status: ShedStatus },
    #[error("shed `{shed}` has no tmux session named `{session}`")]
    SessionNotFound { shed: ShedName, session: SessionName },
    #[error(transparent)]
    Tmux(#[from] TmuxError),
}

/// Why tmux in a running shed did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TmuxError {
    #[error(
        "shed `{shed}` has no tmux that runs ({reason}); install tmux in it, or use an image that has it"
    )]
    NotAvailable { shed: ShedName, reason: String },
    #[error("tmux failed in shed `{shed}`: {reason}")]
    Failed { shed: ShedName, reason: String },
    #[error(transparent)]
    Guest(#[from] GuestCommandError),
}

/// The sessions of all running sheds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllSessions {
    /// Sorted by shed and name.
    pub sessions: Vec<(ShedName, TmuxSession)>,
    /// The running sheds whose sessions are missing, each with the reason, sorted by shed.
    pub warnings: Vec<String>,
}

impl Sheds {
    /// Returns the tmux sessions of a running shed, sorted by name.
    ///
    /// # Errors
    /// When the shed does not run, its agent or tmux does not answer within fifteen seconds, or has no tmux.
    pub async fn sessions(&self, shed: &ShedName) -> Result<Vec<TmuxSession>, ListSessionsError> {
        let output = match self.ask_tmux(shed, tmux::list()).await {
            Ok(output) => output,
            Err(Unasked::NotFound) => return Err(ListSessionsError::NotFound { shed: shed.clone() }),
            Err(Unasked::NotRunning(status)) => {
                return Err(ListSessionsError::NotRunning { shed: shed.clone(), status });
            }
            Err(Unasked::Failed(error)) => return Err(TmuxError::Guest(error).into()),
        };
        match tmux::answer(&output.status, &output.stderr) {
            Answer::Done => tmux::parse(&output.stdout)
                .map_err(|source| ListSessionsError::Unreadable { shed: shed.clone(), source }),
            Answer::NoSessions => Ok(Vec::new()),
            Answer::NotAvailable(reason) => {
                Err(TmuxError::NotAvailable { shed: shed.clone(), reason }.into())
            }
            // No session was named, so this makes no sense here.
            Answer::NoSuchSession => {
                let reason = "it does not find a session that it was not asked for".to_owned();
                Err(TmuxError::Failed { shed: shed.clone(), reason }.into())
            }
            Answer::Failed(reason) => Err(TmuxError::Failed { shed: shed.clone(), reason }.into()),
        }
    }

    /// Returns the tmux sessions of all running sheds, which are asked at the same time.
    ///
    /// A shed whose sessions cannot be found out is left out and named in a warning. One that stops meanwhile, or has
    /// no tmux, has no sessions: there is nothing to warn of.
    pub async fn all_sessions(&self) -> AllSessions {
        let running = self.list().into_iter().filter(|view| view.status == ShedStatus::Running);
        let asked = running.map(|view| async move { (self.sessions(&view.name).await, view.name) });
        let mut all = AllSessions::default();
        // In the order of the list, which is sorted.
        for (result, shed) in futures::future::join_all(asked).await {
            match result {
                Ok(sessions) => {
                    all.sessions.extend(sessions.into_iter().map(|session| (shed.clone(), session)));
                }
                Err(ListSessionsError::NotFound { .. } | ListSessionsError::NotRunning { .. }) => {}
                Err(error @ (ListSessionsError::Tmux(_) | ListSessionsError::Unreadable { .. })) => {
                    let warning = error_chain(&error);
                    tracing::warn!(%shed, error = %warning, "a shed is left out of the list of all sessions");
                    all.warnings.push(warning);
                }
            }
        }
        all
    }

    /// Ends a tmux session of a running shed, and with it what runs in it.
    ///
    /// # Errors
    /// When there is no such session, the shed does not run, its agent or tmux does not answer within fifteen
    /// seconds, or has no tmux.
    pub async fn kill_session(&self, shed: &ShedName, session: &SessionName) -> Result<(), KillSessionError> {
        let output = match self.ask_tmux(shed, tmux::kill(session)).await {
            Ok(output) => output,
            Err(Unasked::NotFound) => return Err(KillSessionError::NotFound { shed: shed.clone() }),
            Err(Unasked::NotRunning(status)) => {
                return Err(KillSessionError::NotRunning { shed: shed.clone(), status });
            }
            Err(Unasked::Failed(error)) => return Err(TmuxError::Guest(error).into()),
        };
        match tmux::answer(&output.status, &output.stderr) {
            Answer::Done => {
                tracing::info!(%shed, %session, "tmux session ended");
                Ok(())
            }
            Answer::NoSessions | Answer::NoSuchSession => {
                Err(KillSessionError::SessionNotFound { shed: shed.clone(), session: session.clone() })
            }
            Answer::NotAvailable(reason) => {
                Err(TmuxError::NotAvailable { shed: shed.clone(), reason }.into())
            }
            Answer::Failed(reason) => Err(TmuxError::Failed { shed: shed.clone(), reason }.into()),
        }
    }

    async fn ask_tmux(&self, shed: &ShedName, command: GuestCommand) -> Result<GuestOutput, Unasked> {
        let error = match self.run_in_guest(shed, command).await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        match &error {
            GuestCommandError::Reach(ReachGuestError::NotFound { .. }) => Err(Unasked::NotFound),
            GuestCommandError::Reach(ReachGuestError::NotRunning { status, .. }) => {
                Err(Unasked::NotRunning(*status))
            }
            // When the shed was stopped meanwhile, that is the reason, and not a fault of its agent.
            GuestCommandError::Reach(ReachGuestError::NoAnswer { .. } | ReachGuestError::Connect { .. })
            | GuestCommandError::NoEnd { .. }
            | GuestCommandError::HungUp { .. }
            | GuestCommandError::Broken { .. } => match self.get(shed).map(|view| view.status) {
                None => Err(Unasked::NotFound),
                Some(ShedStatus::Running) => Err(Unasked::Failed(error)),
                Some(status) => Err(Unasked::NotRunning(status)),
            },
            GuestCommandError::Unreadable { .. } | GuestCommandError::TooMuchOutput { .. } => {
                Err(Unasked::Failed(error))
            }
        }
    }
}

/// Why there is no answer of tmux.
enum Unasked {
    NotFound,
    NotRunning(ShedStatus),
    Failed(GuestCommandError),
}

fn no_sessions(shed: &ShedName, status: ShedStatus) -> String {
    match status {
        ShedStatus::Starting => {
            format!("shed `{shed}` is starting and has no tmux sessions yet; try again when it runs")
        }
        ShedStatus::Running => format!("shed `{shed}` runs only since this moment; try again"),
        ShedStatus::Stopping => format!("shed `{shed}` is stopping, and its tmux sessions end with it"),
        ShedStatus::Stopped => {
            format!("shed `{shed}` is stopped and has no tmux sessions; start it with `shed start {shed}`")
        }
        ShedStatus::Broken => format!("shed `{shed}` is broken and has no tmux sessions"),
    }
}
