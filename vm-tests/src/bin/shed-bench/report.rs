//! The table that is printed, and the same as JSON.

use serde::Serialize;

use crate::stats::Times;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    figure: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Says on stderr what is being measured, since it takes minutes.
    #[expect(clippy::print_stderr, reason = "progress of a program for the terminal")]
    pub(crate) fn progress(&self, what: &str) {
        eprintln!("bench: {what}");
    }

    /// Adds the median and 95th percentile of some times.
    pub(crate) fn times(&mut self, what: &str, times: &Times) {
        let figure = format!("p50 {:.1} ms   p95 {:.1} ms", times.p50(), times.p95());
        self.lines.push(Line {
            what: what.to_owned(),
            figure,
            value: Some(times.p50()),
            target: None,
            met: None,
        });
    }

    /// Adds a figure without a target.
    pub(crate) fn figure(&mut self, what: &str, value: f64, unit: &str) {
        let figure = format!("{value:.1} {unit}");
        self.lines.push(Line { what: what.to_owned(), figure, value: Some(value), target: None, met: None });
    }

    /// Adds a figure that should be at most `target`.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, target: f64, unit: &str) {
        let met = value <= target;
        let figure = format!("{value:.2} {unit}   (at most {target} {unit})");
        let (value, target, met) = (Some(value), Some(target), Some(met));
        self.lines.push(Line { what: what.to_owned(), figure, value, target, met });
    }

    /// Adds a figure that should be at least `target`.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, target: f64, unit: &str) {
        let met = value >= target;
        let figure = format!("{value:.2} {unit}   (at least {target} {unit})");
        let (value, target, met) = (Some(value), Some(target), Some(met));
        self.lines.push(Line { what: what.to_owned(), figure, value, target, met });
    }

    /// Adds a count that should be `target` and nothing else.
    #[expect(clippy::cast_precision_loss, reason = "a count for people")]
    pub(crate) fn exactly(&mut self, what: &str, value: usize, target: usize) {
        let met = Some(value == target);
        let figure = format!("{value}   (exactly {target})");
        let (value, target) = (Some(value as f64), Some(target as f64));
        self.lines.push(Line { what: what.to_owned(), figure, value, target, met });
    }

    /// How many targets were missed.
    pub(crate) fn missed(&self) -> usize {
        self.lines.iter().filter(|line| line.met == Some(false)).count()
    }

    /// Returns everything as JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain numbers and text");
        text.push('\n');
        text
    }

    /// Prints the table.
    #[expect(clippy::print_stdout, reason = "the result of a program for the terminal")]
    pub(crate) fn print(&self) {
        let width = self.lines.iter().map(|line| line.what.chars().count()).max().unwrap_or(0);
        for line in &self.lines {
            let verdict = match line.met {
                Some(true) => "ok    ",
                Some(false) => "MISSED",
                None => "      ",
            };
            println!("{verdict}  {:width$}  {}", line.what, line.figure);
        }
        match self.missed() {
            0 => println!("every target is met"),
            count => println!("{count} target(s) MISSED"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_counted_and_in_the_json() {
        let mut report = Report::new();
        report.at_most("ratio", 1.2, 1.15, "x");
        report.at_most("other", 1.0, 1.15, "x");
        report.at_most("not a number", f64::NAN, 1.15, "x");
        report.at_least("speed", 0.9, 0.8, "x");
        report.at_least("speed", 0.7, 0.8, "x");
        report.at_least("not a number", f64::NAN, 0.8, "x");
        report.exactly("count", 3, 3);
        report.exactly("count", 4, 3);
        assert_eq!(report.missed(), 5);
        assert!(report.to_json().contains("\"met\": false"));
    }
}
