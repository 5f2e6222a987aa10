//! Values of command-line flags, parsed where they enter.
//!
//! `cli` and the commands name these types in their flags, so a wrong value is a usage error with the flag's name
//! before anything else happens. Nothing here does I/O.

use std::{fmt, str::FromStr, time::Duration};

use camino::{Utf8Component, Utf8PathBuf};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use shed_types::{CpuCount, MemoryMb, SizeError};

/// Longest time a command may be told to wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Says why a text is not an amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseMemoryError {
    #[error("write megabytes as a whole number, or a number with `m` or `g`: 4096, 512m, 4g")]
    Malformed,
    #[error(transparent)]
    Range(#[from] SizeError),
}

/// Reads an amount of memory: `4096` and `4096m` are megabytes, `4g` gigabytes.
pub(crate) fn parse_memory(text: &str) -> Result<MemoryMb, ParseMemoryError> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i64 = match &lower[digits.len()..] {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        _ => return Err(ParseMemoryError::Malformed),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseMemoryError::Malformed);
    }
    // What does not fit an i64 is above the range in any case.
    let amount = digits.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(factor);
    Ok(MemoryMb::try_from(amount)?)
}

/// Says why a text is not a number of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseCpusError {
    #[error("write a whole number from {} to {}", CpuCount::MIN, CpuCount::MAX)]
    Malformed,
    #[error(transparent)]
    Range(#[from] SizeError),
}

/// Reads a number of CPUs.
pub(crate) fn parse_cpus(text: &str) -> Result<CpuCount, ParseCpusError> {
    let count = text.parse::<i64>().map_err(|_| ParseCpusError::Malformed)?;
    Ok(CpuCount::try_from(count)?)
}

/// Says why a text names no directory of a server's host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParseLocalDirError {
    #[error("it is empty")]
    Empty,
    #[error("`~` stands for the home directory, and HOME is not set")]
    NoHome,
    #[error("a relative path is counted from the current directory, which cannot be told: {0}")]
    NoCurrentDir(std::io::Error),
    #[error("the current directory's name is no UTF-8")]
    NotUtf8,
}

/// Reads a directory: `~` and relative paths become absolute ones of this machine. Whether it is there is the server's to
/// say, which may run elsewhere.
pub(crate) fn parse_local_dir(text: &str) -> Result<Utf8PathBuf, ParseLocalDirError> {
    let current = || {
        let dir = std::env::current_dir().map_err(ParseLocalDirError::NoCurrentDir)?;
        Utf8PathBuf::from_path_buf(dir).map_err(|_| ParseLocalDirError::NotUtf8)
    };
    absolute(text, std::env::var("HOME").ok().as_deref(), current)
}

fn absolute(
    text: &str,
    home: Option<&str>,
    current: impl FnOnce() -> Result<Utf8PathBuf, ParseLocalDirError>,
) -> Result<Utf8PathBuf, ParseLocalDirError> {
    if text.is_empty() {
        return Err(ParseLocalDirError::Empty);
    }
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = home.filter(|home| home.starts_with('/')).ok_or(ParseLocalDirError::NoHome)?;
            Utf8PathBuf::from(home).join(rest.trim_start_matches('/'))
        }
        Some(_) | None if text.starts_with('/') => Utf8PathBuf::from(text),
        Some(_) | None => current()?.join(text),
    };
    // `.` says nothing. What `..` means is for the host to say: it may lead through a symbolic link.
    Ok(path.components().filter(|part| !matches!(part, Utf8Component::CurDir)).collect())
}

/// Says why a text is not a time to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseTimeoutError {
    #[error("{0:?} is not a time: write seconds, or a number with a unit: 90, 90s, 10m, 1h30m")]
    Malformed(String),
    #[error("a timeout must be more than nothing and at most 24 hours")]
    Range,
}

/// How long to wait: more than nothing, at most 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Timeout(Duration);

impl Timeout {
    /// How long a create or start may take unless told otherwise (spec G.1).
    pub(crate) const DEFAULT: Self = Self(Duration::from_secs(600));

    /// Returns the time.
    pub(crate) const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Timeout {
    type Err = ParseTimeoutError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseTimeoutError::Malformed(text.to_owned());
        let time = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            Duration::from_secs(text.parse().map_err(|_| ParseTimeoutError::Range)?)
        } else {
            let signed: SignedDuration = text.parse().map_err(|_| malformed())?;
            Duration::try_from(signed).map_err(|_| ParseTimeoutError::Range)?
        };
        if time.is_zero() || time > TIMEOUT_MAX { Err(ParseTimeoutError::Range) } else { Ok(Self(time)) }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SignedDuration::try_from(self.0) {
            Ok(time) => write!(f, "{time:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl TryFrom<String> for Timeout {
    type Error = ParseTimeoutError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Timeout> for String {
    fn from(timeout: Timeout) -> Self {
        timeout.to_string()
    }
}

/// Says why a text is not an environment entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseEnvError {
    #[error("write NAME=VALUE, with a name before the `=`")]
    Malformed,
}

/// Reads an environment entry, `NAME=VALUE`.
pub(crate) fn parse_env(text: &str) -> Result<String, ParseEnvError> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err(ParseEnvError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_absolute_on_this_machine() {
        let read = |text: &str| absolute(text, Some("/home/ann"), || Ok("/here".into())).unwrap();
        for (text, path) in [
            ("/srv/web/", "/srv/web"),
            (".", "/here"),
            ("./web", "/here/web"),
            ("../web", "/here/../web"),
            ("~", "/home/ann"),
            ("~/web", "/home/ann/web"),
            ("~bob", "/here/~bob"),
        ] {
            assert_eq!(read(text), path, "{text}");
        }
        assert!(absolute("", None, || Ok("/".into())).is_err());
        assert!(absolute("~/x", None, || Ok("/".into())).is_err());
    }

    #[test]
    fn memory_is_megabytes_unless_a_unit_says_otherwise() {
        for (text, mb) in [("4096", 4096), ("512m", 512), ("512MB", 512), ("4g", 4096), ("1GiB", 1024)] {
            assert_eq!(parse_memory(text).unwrap().get(), mb, "{text}");
        }
    }

    #[test]
    fn memory_that_is_no_number_or_out_of_range_is_refused() {
        for text in ["", "g", "4t", "-4g", "4 g", "1.5g", "+4g", "m4", "4gg", "ü", "4ü"] {
            assert_eq!(parse_memory(text), Err(ParseMemoryError::Malformed), "{text:?}");
        }
        for text in ["0", "127", "99999999999999999999999g", "257g"] {
            assert!(matches!(parse_memory(text), Err(ParseMemoryError::Range(_))), "{text:?}");
        }
    }

    #[test]
    fn cpus_outside_the_range_are_refused() {
        assert_eq!(parse_cpus("32").unwrap().get(), 32);
        for text in ["0", "-1", "33", "1000", "", "2.5", "two"] {
            assert!(parse_cpus(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn timeouts_are_seconds_or_have_units_and_read_back() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("24h", 86_400)] {
            let timeout: Timeout = text.parse().unwrap();
            assert_eq!(timeout.get(), Duration::from_secs(seconds), "{text}");
            assert_eq!(timeout.to_string().parse::<Timeout>().unwrap(), timeout, "{text}");
        }
        assert_eq!(Timeout::DEFAULT.to_string(), "10m");
    }

    #[test]
    fn timeouts_of_nothing_of_days_and_of_nonsense_are_refused() {
        for text in ["", "0", "0s", "-5m", "25h", "99999999999999999999", "soon", "10 bananas"] {
            assert!(text.parse::<Timeout>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_environment_entry_needs_a_name() {
        assert_eq!(parse_env("A=b=c").unwrap(), "A=b=c");
        assert_eq!(parse_env("A=").unwrap(), "A=");
        assert!(parse_env("A").is_err() && parse_env("=b").is_err() && parse_env("").is_err());
    }
}
