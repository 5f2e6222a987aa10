//! What a command that fails says and returns: a message, its causes, hints, and an exit code by kind.
//!
//! Commands make these errors and nobody else; [`crate::ui`] prints them. `shed help` lists the exit codes.

use std::{error::Error, fmt, process::ExitCode};

use shed_api::ErrorCode;
use shed_client::ClientError;
use shed_types::ShedName;

use crate::{
    config::{ConfigError, KnownHostsError},
    servers::Server,
};

/// A boxed cause.
type Source = Box<dyn Error + Send + Sync>;

/// Exit code of a program that SIGPIPE ended, as shells report it: 128 + 13.
const BROKEN_PIPE: u8 = 141;

/// What sort of failure it is; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request was understood and could not be done.
    Failed,
    /// The command line or the config file is wrong.
    Usage,
    /// The server did not answer.
    Unreachable,
    /// There is no such shed, session, image or server.
    NotFound,
    /// `shed exec` itself failed, as opposed to the command it ran.
    Exec,
    /// A signal ended the command.
    Interrupted {
        /// Its number.
        signal: u8,
    },
    /// Nobody reads the output any more.
    BrokenPipe,
}

impl Kind {
    /// Returns the exit code, 1 to 255.
    const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
            Self::Exec => 255,
            Self::Interrupted { signal } => 128 + signal,
            Self::BrokenPipe => BROKEN_PIPE,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: Kind,
    message: String,
    source: Option<Source>,
    hints: Vec<String>,
}

impl CommandError {
    /// Makes an error with a message.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, hints: Vec::new() }
    }

    /// Adds what caused it.
    pub(crate) fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do; a command to type, where there is one.
    pub(crate) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Gives it another kind, and so another exit code.
    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Becomes the cause of an error that says more; kind and hints stay.
    pub(crate) fn behind(self, message: impl Into<String>) -> Self {
        let cause = self.whole();
        Self { kind: self.kind, message: message.into(), source: Some(cause.into()), hints: self.hints }
    }

    /// Makes the error of a call to a server.
    pub(crate) fn from_client(error: ClientError, server: &Server, shed: Option<&ShedName>) -> Self {
        let code = error.code();
        match error {
            ClientError::Unreachable { source, .. } => {
                Self::new(Kind::Unreachable, format!("cannot reach {server}"))
                    .caused_by(source)
                    .hinted(server.hint())
            }
            ClientError::Api { message, .. } => Self::refused(code, message, server, shed),
            other @ (ClientError::Broken { .. } | ClientError::TimedOut { .. }) => {
                Self::from_error(Kind::Unreachable, &other).hinted(server.hint())
            }
            other @ ClientError::Protocol { .. } => Self::from_error(Kind::Failed, &other)
                .hinted("compare the versions of client and server: shed version -v"),
        }
    }

    /// Makes the error of a server that says no, over HTTP or SSH.
    pub(crate) fn refused(
        code: Option<ErrorCode>,
        message: String,
        server: &Server,
        shed: Option<&ShedName>,
    ) -> Self {
        let kind = match code {
            Some(
                ErrorCode::ShedNotFound
                | ErrorCode::SessionNotFound
                | ErrorCode::UnitNotFound
                | ErrorCode::ImageNotFound
                | ErrorCode::UnknownImage,
            ) => Kind::NotFound,
            Some(_) | None => Kind::Failed,
        };
        let made = Self::new(kind, refusal(code, &server.to_string(), message));
        match code.and_then(|code| hint_for(code, shed.map_or("NAME", ShedName::as_str))) {
            Some(hint) => made.hinted(hint),
            None => made,
        }
    }

    /// Makes an error of another one, with its causes.
    pub(crate) fn from_error(kind: Kind, error: &dyn Error) -> Self {
        let made = Self::new(kind, error.to_string());
        match chain(error.source()) {
            None => made,
            Some(causes) => made.caused_by(causes),
        }
    }

    /// Returns the exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.exit_code())
    }

    /// Returns whether there is nothing to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.kind == Kind::BrokenPipe
    }

    /// Returns the kind.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the message.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Returns the causes, the nearest first. A cause that only repeats what was said is left out.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut said = self.message.clone();
        let mut causes = Vec::new();
        let mut next = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = next {
            let text = error.to_string();
            if !said.contains(&text) {
                said.push_str(&text);
                causes.push(text);
            }
            next = error.source();
        }
        causes
    }

    /// Returns the message and the causes as one text.
    pub(crate) fn whole(&self) -> String {
        let mut text = self.message.clone();
        for cause in self.causes() {
            text.push_str(": ");
            text.push_str(&cause);
        }
        text
    }

    /// Returns the hints.
    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// The causes of an error that cannot itself be kept, as an error of its own.
#[derive(Debug)]
struct Cause {
    text: String,
    source: Option<Box<Cause>>,
}

fn chain(error: Option<&(dyn Error + 'static)>) -> Option<Box<Cause>> {
    error.map(|error| Box::new(Cause { text: error.to_string(), source: chain(error.source()) }))
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

/// Returns what a server says when it refuses a request, put so that it fits what was asked for: the paths of a request
/// are nothing that a user has typed.
pub(crate) fn refusal(code: Option<ErrorCode>, server: &str, message: String) -> String {
    match code {
        Some(ErrorCode::NotFound | ErrorCode::MethodNotAllowed) => {
            format!("{server} does not know this request and may be older than this client: {message}")
        }
        Some(_) | None => message,
    }
}

/// Returns what to do about an error of the server.
fn hint_for(code: ErrorCode, shed: &str) -> Option<String> {
    match code {
        ErrorCode::InvalidRepoUrl => {
            Some("write a repository as owner/repo, https://HOST/PATH or git@HOST:PATH".to_owned())
        }
        ErrorCode::InvalidLocalDir => {
            Some("the directory must exist on the machine where the server runs".to_owned())
        }
        ErrorCode::BackendNotEnabled => {
            Some("see which backend each server has: shed server list".to_owned())
        }
        ErrorCode::ShedNotFound => Some("see which sheds there are: shed list --all".to_owned()),
        ErrorCode::ShedAlreadyExists => {
            Some(format!("choose another name, or delete that shed first: shed delete {shed}"))
        }
        ErrorCode::ShedAlreadyRunning => Some(format!("run a command in it: shed exec {shed} -- COMMAND")),
        ErrorCode::ShedAlreadyStopped | ErrorCode::ShedNotRunning => {
            Some(format!("start it: shed start {shed}"))
        }
        ErrorCode::ShedBusy => {
            Some("see what it is doing, and try again when it is done: shed list".to_owned())
        }
        ErrorCode::ImageNotFound => Some("see which images there are: shed image list".to_owned()),
        ErrorCode::ImageInUse => Some("take it out of server.yaml first, and restart the server".to_owned()),
        ErrorCode::SessionNotFound => Some(format!("see which sessions there are: shed sessions {shed}")),
        ErrorCode::UnitNotFound => {
            Some(format!("see which units there are: shed exec {shed} -- systemctl list-units --all"))
        }
        ErrorCode::LogsNotAvailable => Some(format!("see its console: shed logs --console {shed}")),
        ErrorCode::TmuxNotAvailable => {
            Some(format!("install it in the shed: shed exec {shed} -- sudo apt-get install tmux"))
        }
        ErrorCode::ConnectFailed => {
            Some(format!("if it hangs, restart it: shed stop {shed} && shed start {shed}"))
        }
        ErrorCode::InsufficientStorage => Some(format!("see what fills it: shed exec {shed} -- df -h")),
        ErrorCode::ShuttingDown => Some("try again when the server is back: shed server list".to_owned()),
        ErrorCode::ImagePullFailed => {
            Some("the server pulls with its own user's logins (docker login, on its host)".to_owned())
        }
        ErrorCode::BackendError | ErrorCode::InternalError | ErrorCode::HijackUnsupported => {
            Some("the server's log has the whole story".to_owned())
        }
        ErrorCode::NotFound | ErrorCode::MethodNotAllowed => {
            Some("compare the versions of client and server: shed version -v".to_owned())
        }
        ErrorCode::Forbidden => {
            Some("ask the server from its own host or another machine, not from a shed".to_owned())
        }
        // No command listens to messages of guests; those who do read the code itself.
        ErrorCode::InvalidNamespace
        | ErrorCode::InvalidBody
        | ErrorCode::MissingShed
        | ErrorCode::NamespaceReserved
        | ErrorCode::NamespaceAlreadyRegistered
        | ErrorCode::ShedNotConnected
        | ErrorCode::RequestNotPending
        | ErrorCode::PluginsDisabled => None,
        ErrorCode::InvalidShedName
        | ErrorCode::InvalidSessionName
        | ErrorCode::InvalidPort
        | ErrorCode::InvalidRequest
        | ErrorCode::RequestTimeout
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::HeadersTooLarge
        | ErrorCode::UnknownImage
        | ErrorCode::TargetUnusable
        | ErrorCode::BodyTooLarge => None,
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let kind = match &error {
            ConfigError::NoHome | ConfigError::Parse { .. } => Kind::Usage,
            ConfigError::Read { .. }
            | ConfigError::CreateDirectory { .. }
            | ConfigError::Lock { .. }
            | ConfigError::Serialise { .. }
            | ConfigError::Write(_) => Kind::Failed,
        };
        let hint = match &error {
            ConfigError::NoHome => Some("name the config file: shed --config FILE ...".to_owned()),
            ConfigError::Parse { path, .. } => Some(format!(
                "correct the file, or move it away and add the servers again: mv {path} {path}.old"
            )),
            ConfigError::Read { .. }
            | ConfigError::CreateDirectory { .. }
            | ConfigError::Lock { .. }
            | ConfigError::Serialise { .. }
            | ConfigError::Write(_) => None,
        };
        let made = Self::from_error(kind, &error);
        match hint {
            Some(hint) => made.hinted(hint),
            None => made,
        }
    }
}

impl From<KnownHostsError> for CommandError {
    fn from(error: KnownHostsError) -> Self {
        let made = Self::from_error(Kind::Failed, &error);
        match &error {
            KnownHostsError::Changed { place, path } => made
                .hinted("somebody may be between you and that server, or the server was set up anew")
                .hinted(format!(
                    "if it was, forget the old key and try again: ssh-keygen -f {path} -R '{place}'"
                )),
            KnownHostsError::Read { .. } | KnownHostsError::Write(_) => made,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io};

    use super::*;

    #[test]
    fn every_kind_has_its_own_exit_code() {
        let kinds = [
            Kind::Failed,
            Kind::Usage,
            Kind::Unreachable,
            Kind::NotFound,
            Kind::Exec,
            Kind::Interrupted { signal: 2 },
            Kind::BrokenPipe,
        ];
        let codes: HashSet<u8> = kinds.into_iter().map(Kind::exit_code).collect();
        assert_eq!(codes.len(), kinds.len());
        assert!(!codes.contains(&0));
    }

    #[test]
    fn causes_are_listed_once_each_and_in_order() {
        let inner = io::Error::other("the disk is full");
        let error = CommandError::new(Kind::Failed, "could not write x").caused_by(inner);
        assert_eq!(error.causes(), ["the disk is full"]);
        let repeated = CommandError::new(Kind::Failed, "no: the disk is full")
            .caused_by(io::Error::other("the disk is full"));
        assert!(repeated.causes().is_empty());
    }

    #[test]
    fn hints_name_the_shed() {
        assert_eq!(hint_for(ErrorCode::ShedNotRunning, "web").unwrap(), "start it: shed start web");
    }
}
