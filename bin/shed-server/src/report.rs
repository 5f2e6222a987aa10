//! What `doctor` and `setup` tell a person: one line a thing, how it is, and what to do about it.
//!
//! Nothing here looks at the host. What is told may come from files and other programs, so it is shown on one line and
//! without anything that a terminal acts on.

use std::fmt::{self, Write as _};

use serde_json::json;
use shed_types::{Finding, Verdict};

/// Width of the column that names the item.
const ITEM_WIDTH: usize = 16;

/// All that was looked at, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.count(Verdict::Fail) == 0
    }

    /// Returns how many there are of this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Returns all of it for programs: a JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|Finding { item, verdict, text, remedy }| {
                json!({ "item": item, "verdict": verdict.as_str(), "text": text, "remedy": remedy })
            })
            .collect();
        json!({ "ok": self.is_good(), "findings": findings }).to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { item, verdict, text, remedy } in &self.findings {
            writeln!(f, "{}  {item:<ITEM_WIDTH$} {}", verdict.as_str(), OneLine(text))?;
            if let Some(remedy) = remedy {
                writeln!(f, "      {:<ITEM_WIDTH$} -> {}", "", OneLine(remedy))?;
            }
        }
        let [pass, warn, fail] = [Verdict::Pass, Verdict::Warn, Verdict::Fail].map(|all| self.count(all));
        writeln!(f, "{pass} PASS, {warn} WARN, {fail} FAIL")
    }
}

/// A text without line ends and other characters that a terminal acts on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                // Quotes and backslashes are harmless, and stand in commands to be copied.
                '"' | '\'' | '\\' => f.write_char(character)?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add(Finding::pass("kernel", "/k"));
        report.add(Finding::warn("free space", "2 GiB\nleft\u{1b}[2J").remedy("rm \"$x\""));
        report
    }

    #[test]
    fn a_report_is_a_line_a_thing_with_what_to_do_below() {
        insta::assert_snapshot!(report(), @r#"
        PASS  kernel           /k
        WARN  free space       2 GiB\nleft\u{1b}[2J
                               -> rm "$x"
        1 PASS, 1 WARN, 0 FAIL
        "#);
    }

    #[test]
    fn only_a_failure_makes_it_bad() {
        let mut report = report();
        assert!(report.is_good());
        report.add(Finding::fail("kernel", "gone"));
        assert!(!report.is_good());
    }

    #[test]
    fn programs_get_the_same() {
        let value: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(
            value["findings"][0],
            json!({"item": "kernel", "verdict": "PASS", "text": "/k", "remedy": null})
        );
        assert_eq!(value["findings"][1]["text"], "2 GiB\nleft\u{1b}[2J");
    }
}
