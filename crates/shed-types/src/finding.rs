//! What was found of a host, as `shed-server doctor` and `setup` tell it to a person: how a thing is, and what to do about it.

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All right.
    Pass,
    /// Something may not work, or not as well as it could.
    Warn,
    /// No shed can run, or none can be made.
    Fail,
}

impl Verdict {
    /// Returns the word at the begin of a line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, in two words.
    pub item: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do about it, where the text does not say that already.
    pub remedy: Option<String>,
}

impl Finding {
    /// Says that a thing is all right.
    pub fn pass(item: &'static str, text: impl Into<String>) -> Self {
        Self { item, verdict: Verdict::Pass, text: text.into(), remedy: None }
    }

    /// Says that a thing may not work.
    pub fn warn(item: &'static str, text: impl Into<String>) -> Self {
        Self { item, verdict: Verdict::Warn, text: text.into(), remedy: None }
    }

    /// Says that a thing does not work.
    pub fn fail(item: &'static str, text: impl Into<String>) -> Self {
        Self { item, verdict: Verdict::Fail, text: text.into(), remedy: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}
