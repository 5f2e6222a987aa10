//! Values of the flags of `shed system prune`.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use shed_api::PruneScope;

use crate::sizes::{self, ParseSizeError};

/// Longest end of a console log that a server keeps (spec A.7).
const LOG_TAIL_MAX: u64 = 64 << 20;

/// Longest time that a Go program can hold: 2^63 - 1 nanoseconds, in whole seconds. Servers take no more (spec A.7).
const AGE_MAX: SignedDuration = SignedDuration::from_secs(i64::MAX / 1_000_000_000);

const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// Says why a text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scopes are images, instances, logs and orphans")]
pub(super) struct ParseScopeError;

/// Reads a scope.
pub(super) fn parse_scope(text: &str) -> Result<PruneScope, ParseScopeError> {
    PruneScope::from_wire(text).ok_or(ParseScopeError)
}

/// Says why a text is not an age.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseAgeError {
    #[error("write a number with a unit, or several: 0s, 90m, 72h, 3d, 1d12h")]
    Malformed,
    #[error("an age is not negative")]
    Negative,
    #[error("an age is at most 292 years")]
    TooLong,
}

/// How long a shed has been stopped. Displayed as Go writes durations, since that is what servers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age(SignedDuration);

impl FromStr for Age {
    type Err = ParseAgeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Days are for people: Go has none, and jiff has none without a calendar.
        let (days, rest) = match text.split_once('d') {
            Some((days, rest)) if !days.is_empty() && days.bytes().all(|b| b.is_ascii_digit()) => {
                (days.parse::<i64>().map_err(|_| ParseAgeError::TooLong)?, rest)
            }
            Some(_) | None => (0, text),
        };
        let days = days.checked_mul(SECONDS_A_DAY).ok_or(ParseAgeError::TooLong)?;
        let rest = match rest {
            "" if rest.len() < text.len() => SignedDuration::ZERO,
            "0" => SignedDuration::ZERO,
            rest => rest.parse().map_err(|_| ParseAgeError::Malformed)?,
        };
        if rest.is_negative() {
            return Err(ParseAgeError::Negative);
        }
        let age = SignedDuration::from_secs(days).checked_add(rest).ok_or(ParseAgeError::TooLong)?;
        if age > AGE_MAX { Err(ParseAgeError::TooLong) } else { Ok(Self(age)) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let nanos = self.0.subsec_nanos();
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if nanos == 0 {
            write!(f, "{seconds}s")
        } else {
            let fraction = format!("{nanos:09}");
            write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
        }
    }
}

/// Says why a text is not how much of a log to keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseLogTailError {
    #[error(transparent)]
    Size(#[from] ParseSizeError),
    #[error("servers keep at most 64m of a log")]
    TooMuch,
}

/// Reads how many bytes of a log to keep.
pub(super) fn parse_log_tail(text: &str) -> Result<u64, ParseLogTailError> {
    let bytes = sizes::parse(text)?;
    if bytes > LOG_TAIL_MAX { Err(ParseLogTailError::TooMuch) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_go_does() {
        for (text, wire) in [
            ("0s", "0s"),
            ("0", "0s"),
            ("72h", "72h0m0s"),
            ("3d", "72h0m0s"),
            ("1d12h", "36h0m0s"),
            ("90m", "1h30m0s"),
            ("45s", "45s"),
            ("1m5s", "1m5s"),
            ("1500ms", "1.5s"),
            ("106751d", "2562024h0m0s"),
        ] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), wire, "{text}");
        }
    }

    #[test]
    fn ages_that_are_none_are_refused() {
        for (text, error) in [
            ("", ParseAgeError::Malformed),
            ("72", ParseAgeError::Malformed),
            ("soon", ParseAgeError::Malformed),
            ("d", ParseAgeError::Malformed),
            ("1d-", ParseAgeError::Malformed),
            ("-1h", ParseAgeError::Negative),
            ("1d-2h", ParseAgeError::Negative),
            ("106752d", ParseAgeError::TooLong),
            ("99999999999999999999d", ParseAgeError::TooLong),
            ("999999999999999999d", ParseAgeError::TooLong),
        ] {
            assert_eq!(text.parse::<Age>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_log_tail_is_at_most_what_servers_keep() {
        assert_eq!(parse_log_tail("64m"), Ok(64 << 20));
        assert_eq!(parse_log_tail("0"), Ok(0));
        assert_eq!(parse_log_tail("67108865"), Err(ParseLogTailError::TooMuch));
        assert!(matches!(parse_log_tail("x"), Err(ParseLogTailError::Size(_))));
    }

    #[test]
    fn scopes_are_those_of_the_wire() {
        for scope in PruneScope::ALL {
            assert_eq!(parse_scope(scope.as_str()), Ok(scope));
        }
        assert_eq!(parse_scope("all"), Err(ParseScopeError));
        assert_eq!(parse_scope(""), Err(ParseScopeError));
    }
}
