//! What a step of `setup`, `install` and their opposites came to, and how that is told.

use std::fmt;

use crate::report::OneLine;

/// Width of the column that names the step.
const WIDTH: usize = 16;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Something was changed.
    Done,
    /// Nothing was to be done.
    WasSo,
    /// It is not as it should be.
    Failed,
}

/// A step, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is about, in two words.
    pub item: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// How it is now.
    pub text: String,
    /// What to do, after a failure or where there is more to do.
    pub hint: Option<String>,
}

impl Step {
    pub(crate) fn done(item: &'static str, text: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::Done, text: text.into(), hint: None }
    }

    pub(crate) fn was_so(item: &'static str, text: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::WasSo, text: text.into(), hint: None }
    }

    pub(crate) fn failed(item: &'static str, text: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::Failed, text: text.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Done => "done  ",
            Outcome::WasSo => "was so",
            Outcome::Failed => "FAILED",
        };
        writeln!(f, "{outcome}  {:<WIDTH$} {}", self.item, OneLine(&self.text))?;
        if let Some(hint) = &self.hint {
            writeln!(f, "        {:<WIDTH$} -> {}", "", OneLine(hint))?;
        }
        Ok(())
    }
}

/// Tells each step as soon as it is over, and remembers whether any failed.
pub(crate) struct Teller<'a> {
    tell: &'a mut dyn FnMut(&Step),
    failed: bool,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(tell: &'a mut dyn FnMut(&Step)) -> Self {
        Self { tell, failed: false }
    }

    /// Tells one; returns whether it did not fail.
    pub(crate) fn tell(&mut self, step: &Step) -> bool {
        (self.tell)(step);
        self.failed |= step.outcome == Outcome::Failed;
        step.outcome != Outcome::Failed
    }

    /// Whether no step failed.
    pub(crate) const fn is_good(&self) -> bool {
        !self.failed
    }
}

impl fmt::Debug for Teller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("failed", &self.failed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line_and_a_hint_below() {
        let step = Step::failed("KVM", "there is none\u{1b}[1m").hint("turn it on");
        insta::assert_snapshot!(step, @r"
        FAILED  KVM              there is none\u{1b}[1m
                                 -> turn it on
        ");
        assert_eq!(Step::was_so("KVM", "real").to_string(), "was so  KVM              real\n");
    }

    #[test]
    fn one_failure_is_remembered() {
        let mut told = Vec::new();
        let mut tell = |step: &Step| told.push(step.clone());
        let mut teller = Teller::new(&mut tell);
        assert!(teller.tell(&Step::was_so("a", "")));
        assert!(!teller.tell(&Step::failed("b", "")) && teller.tell(&Step::done("c", "")));
        assert!(!teller.is_good());
        assert_eq!(told.len(), 3);
    }
}
