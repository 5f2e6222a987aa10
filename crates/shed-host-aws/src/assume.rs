//! One AssumeRole, and what is said when it fails: to the guest what AWS says, to the user's own log also why nothing was heard.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sts::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::assume_role::{AssumeRoleError, AssumeRoleOutput},
};
use jiff::Timestamp;
use shed_extensions::clean;
use shed_types::error_chain;

use crate::{Options, lease::Lease, options::session_name, source::SourceError};

/// Longest word of AWS that goes to a guest, in characters; its own longest are refusals with two ARNs.
const WORDS: usize = 600;

/// Why a role was not assumed. `Display` is what a guest may read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssumeError {
    /// AWS refused.
    #[error("AWS refuses to assume {role}: {words}")]
    Refused { role: String, words: String, by_policy: bool },
    /// There is nothing to begin with.
    #[error(
        "the host has no AWS credentials to assume {role} with; its user finds the reason in the log of shed-host-agent"
    )]
    NoSource { role: String, why: String },
    /// Nothing came from AWS that could be understood.
    #[error(
        "the host could not ask AWS to assume {role}; its user finds the reason in the log of shed-host-agent"
    )]
    Unanswered { role: String, why: String },
    /// It took too long.
    #[error("AWS did not let {role} be assumed within {} s; try again", limit.as_secs())]
    Slow { role: String, limit: Duration },
    /// Credentials that are over.
    #[error("AWS gave credentials of {role} that ended at {end}; the clock of the host is wrong")]
    Ended { role: String, end: Timestamp },
    /// More sheds ask at once than are answered.
    #[error("too many sheds ask for AWS credentials at once; try again")]
    Busy,
    /// What asked has died.
    #[error("the host agent failed while it asked for {role}; try again")]
    Lost { role: String },
}

impl AssumeError {
    pub(crate) fn no_source(role: &str, error: &SourceError) -> Self {
        Self::NoSource { role: name(role), why: clean(&error_chain(error), WORDS) }
    }

    /// Whether other credentials of the user's might do better.
    pub(crate) fn may_be_the_source(&self) -> bool {
        match self {
            Self::Refused { by_policy, .. } => !by_policy,
            Self::NoSource { .. } | Self::Unanswered { .. } | Self::Slow { .. } => true,
            Self::Ended { .. } | Self::Busy | Self::Lost { .. } => false,
        }
    }

    /// For the audit log: the text, and what only the user may read.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::NoSource { role, why } => format!("no AWS credentials to assume {role} with: {why}"),
            Self::Unanswered { role, why } => format!("could not ask AWS to assume {role}: {why}"),
            Self::Refused { .. }
            | Self::Slow { .. }
            | Self::Ended { .. }
            | Self::Busy
            | Self::Lost { .. } => self.to_string(),
        }
    }
}

/// A role for texts: the file that names it is the user's, but nobody has checked its length.
pub(crate) fn name(role: &str) -> String {
    clean(role, 200)
}

/// Assumes a role for a shed.
pub(crate) async fn assume(
    config: &SdkConfig,
    options: &Options,
    role: &str,
    shed: &str,
) -> Result<Lease, AssumeError> {
    let now = Timestamp::now();
    let seconds = i32::try_from(options.session_duration.as_secs()).unwrap_or(i32::MAX);
    let asked = Client::new(config)
        .assume_role()
        .role_arn(role)
        .role_session_name(session_name(shed, now.as_second()))
        .duration_seconds(seconds);
    let output = asked.send().await.map_err(|error| refused(role, &error))?;
    read(output, role)
}

fn read(output: AssumeRoleOutput, role: &str) -> Result<Lease, AssumeError> {
    let strange = |why: &str| AssumeError::Unanswered { role: name(role), why: why.to_owned() };
    let given = output.credentials.ok_or_else(|| strange("the answer has no credentials"))?;
    // The SDK makes an empty text of a part that is not there, and a time of 1970.
    if given.access_key_id.is_empty() || given.secret_access_key.is_empty() || given.session_token.is_empty()
    {
        return Err(strange("the answer has credentials with an empty part"));
    }
    let end = Timestamp::from_second(given.expiration.secs())
        .map_err(|_out_of_range| strange("the answer has an expiration that is no time"))?;
    if end <= Timestamp::now() {
        return Err(AssumeError::Ended { role: name(role), end });
    }
    Ok(Lease::new(role, given.access_key_id, given.secret_access_key, given.session_token, end))
}

fn refused<R: std::fmt::Debug>(role: &str, error: &SdkError<AssumeRoleError, R>) -> AssumeError {
    let role = name(role);
    let words = error.as_service_error().and_then(|service| {
        let words = match (service.code(), service.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => return None,
        };
        Some(clean(&words, WORDS))
    });
    let by_policy = error.code() == Some("AccessDenied");
    match words {
        Some(words) => AssumeError::Refused { role, words, by_policy },
        None => AssumeError::Unanswered { role, why: clean(&error_chain(error), WORDS) },
    }
}
