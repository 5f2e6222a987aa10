//! Why there is no answer, and what to do about it.

use std::{io, time::Duration};

use shed_extensions::{Code, Failure};
use shed_protocol::publish::PublishErrorCode;

use crate::say::one_line;

/// Why an extension's other side gave no answer. Each is one line that says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    #[error(
        "{namespace}: cannot reach shed-agent at {url} ({source}): outside a shed there is none; in one see `systemctl \
         status shed-agent`."
    )]
    Unreachable { namespace: &'static str, url: String, source: io::Error },
    #[error("{namespace}: shed-agent broke off the request ({source}): see `systemctl status shed-agent`.")]
    Broken { namespace: &'static str, source: hyper::Error },
    #[error("{namespace}: the response broke off or is too long: try again.")]
    Cut { namespace: &'static str },
    #[error("{namespace}: the request is too long for the bus, which takes at most 1 MiB.")]
    TooLong { namespace: &'static str },
    #[error(
        "{namespace}: nobody answered within {} s: is shed-host-agent running on your machine? See `shed-host-agent \
         status` there.",
        limit.as_secs()
    )]
    Late { namespace: &'static str, limit: Duration },
    #[error("{namespace}: {}", refused(*status, *code, message))]
    Refused { namespace: &'static str, status: u16, code: Option<PublishErrorCode>, message: String },
    #[error(
        "{namespace}: the response is not understood ({place}): are Shed in this shed and shed-host-agent of one \
         version? See `shed-host-agent status` on your machine."
    )]
    Odd { namespace: &'static str, place: String },
    #[error("{namespace}: {}", failed(failure))]
    Failed { namespace: &'static str, failure: Failure },
}

impl BusError {
    /// Returns the extension's own code, when it was the extension that failed.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Failed { failure, .. } => Some(failure.code),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Cut { .. }
            | Self::TooLong { .. }
            | Self::Late { .. }
            | Self::Refused { .. }
            | Self::Odd { .. } => None,
        }
    }

    /// Tells whether the bus was the reason, rather than what came over it.
    pub(crate) fn is_of_bus(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Late { .. } | Self::Refused { .. } => true,
            Self::Cut { .. } | Self::TooLong { .. } | Self::Odd { .. } | Self::Failed { .. } => false,
        }
    }
}

fn refused(status: u16, code: Option<PublishErrorCode>, message: &str) -> String {
    use PublishErrorCode as Code;
    match code {
        Some(Code::Timeout) => {
            "nobody answered on the host: is shed-host-agent running on your machine? See `shed-host-agent status` there."
                .to_owned()
        }
        Some(Code::NoConnection | Code::ConnectionLost) => {
            "shed-server is not connected to this shed: it may be restarting; see `shed status` on your machine and try again."
                .to_owned()
        }
        Some(Code::ShuttingDown) => "this shed is shutting down: start it again.".to_owned(),
        Some(Code::TooManyRequests) => {
            "too many requests of this shed wait for answers already: try again when they are answered.".to_owned()
        }
        Some(Code::SendFailed) => "shed-agent could not send the request: try again.".to_owned(),
        Some(Code::InvalidBody | Code::MissingNamespace | Code::InvalidType) | None => {
            let said = if message.is_empty() { "without a reason".to_owned() } else { one_line(message) };
            format!("shed-agent refused the request with status {status} ({said}): is SHED_PUBLISH_URL right?")
        }
    }
}

fn failed(failure: &Failure) -> String {
    let said = one_line(&failure.error);
    let next = match failure.code {
        Code::KeyNotFound => "see `ssh-add -l` for the keys there are.",
        Code::SignFailed => "approve the request on your machine, or see the log of shed-host-agent there.",
        Code::RoleNotFound => "give this shed a role in ~/.config/shed/extensions.yaml on your machine.",
        Code::AssumeRoleFailed => "see the log of shed-host-agent on your machine.",
        Code::CredentialsNotFound => "log in to the registry on your own machine.",
        Code::RegistryNotAllowed => {
            "add the registry to docker.registries in ~/.config/shed/extensions.yaml on your machine."
        }
        Code::ReadOnly => "log in and out on your own machine.",
        Code::HelperFailed => "see whether `docker login` works on your own machine.",
        Code::InternalError => "see the log of shed-host-agent on your machine.",
    };
    format!("{said}: {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_names_its_namespace_and_what_to_do_on_one_line() {
        let failure = Failure::new(Code::SignFailed, "approval\ndenied");
        let errors = [
            BusError::Late { namespace: "ssh-agent", limit: Duration::from_secs(3) },
            BusError::Refused {
                namespace: "ssh-agent",
                status: 504,
                code: Some(PublishErrorCode::Timeout),
                message: String::new(),
            },
            BusError::Failed { namespace: "ssh-agent", failure },
        ];
        for error in errors {
            let line = error.to_string();
            assert!(line.starts_with("ssh-agent: ") && line.ends_with('.') && !line.contains('\n'), "{line}");
            assert!(line.contains("on your machine"), "{line}");
        }
    }
}
