//! Asks every server the same at once, for `--all`. A server that does not answer costs its part of the result and
//! nothing else; it is named, with the reason.

use futures::future::join_all;
use serde::Serialize;
use shed_client::{Client, ClientError, Timeouts};
use shed_types::error_chain;

use crate::{
    command_error::{CommandError, refusal},
    servers::{Server, Servers},
    ui::Ui,
};

/// Whether a table needs to say which server something is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of it is on one server.
    One,
    /// It may be on any.
    All,
}

/// What came back from all servers.
#[derive(Debug)]
pub(super) struct Answers<T> {
    /// The servers that answered, by name.
    pub(super) found: Vec<(Server, T)>,
    /// Those that did not, or refused.
    pub(super) missing: Vec<Missing>,
}

/// A server without an answer.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) server: Server,
    pub(super) error: ClientError,
}

/// The same in JSON.
#[derive(Debug, Serialize)]
pub(super) struct Offline {
    server: String,
    error: String,
}

/// Asks all servers.
pub(super) async fn ask<T>(
    servers: &Servers,
    call: impl AsyncFn(&Client) -> Result<T, ClientError>,
) -> Answers<T> {
    let asked = join_all(servers.all().into_iter().map(async |server| {
        let answer = call(&server.client(Timeouts::default())).await;
        (server, answer)
    }))
    .await;
    Answers::sort(asked)
}

impl<T> Answers<T> {
    /// Tells the servers that answered from those that did not.
    pub(super) fn sort(asked: impl IntoIterator<Item = (Server, Result<T, ClientError>)>) -> Self {
        let mut answers = Self { found: Vec::new(), missing: Vec::new() };
        for (server, answer) in asked {
            match answer {
                Ok(value) => answers.found.push((server, value)),
                Err(error) => answers.missing.push(Missing { server, error }),
            }
        }
        answers
    }

    /// Passes the answers on when there is one.
    ///
    /// # Errors
    /// What the last server says, when none has answered.
    pub(super) fn at_least_one(mut self) -> Result<Self, CommandError> {
        if self.found.is_empty()
            && let Some(Missing { server, error }) = self.missing.pop()
        {
            return Err(CommandError::from_client(error, &server, None));
        }
        Ok(self)
    }

    /// Returns the servers that are missing, for JSON.
    pub(super) fn offline(&self) -> Vec<Offline> {
        self.missing
            .iter()
            .map(|missing| Offline { server: missing.server.name.to_string(), error: missing.reason() })
            .collect()
    }

    /// Says which servers' `things` are missing, and why.
    pub(super) fn warn(&self, ui: &Ui, things: &str) {
        for missing in &self.missing {
            ui.warning(&format!("the {things} of {} are missing: {}", missing.server.name, missing.reason()));
        }
    }
}

impl Missing {
    /// Returns why there is no answer, on one line.
    pub(super) fn reason(&self) -> String {
        let text = match &self.error {
            ClientError::Api { message, .. } => {
                refusal(self.error.code(), &self.server.to_string(), message.clone())
            }
            other @ (ClientError::Unreachable { .. }
            | ClientError::Broken { .. }
            | ClientError::Protocol { .. }
            | ClientError::TimedOut { .. }) => error_chain(other),
        };
        text.replace('\n', " ")
    }
}
