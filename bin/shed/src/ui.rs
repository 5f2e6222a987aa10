//! All that the client writes, except what a command run in a shed writes.
//!
//! Results go to stdout, everything else to stderr. Text from a server is stripped of control characters, since
//! part of it (the console of a guest, say) comes from machines that are not trusted. Colour only on a terminal,
//! and not with `--no-color` or NO_COLOR (no-color.org).

use std::io::{self, IsTerminal, Write};

use owo_colors::Style;
use serde::Serialize;

use crate::command_error::{CommandError, Kind};

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether the user allows colour where there is a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// On terminals.
    Auto,
    /// Nowhere.
    Never,
}

/// The mouth of the client.
#[derive(Debug)]
pub(crate) struct Ui {
    format: Format,
    stdout_colour: bool,
    stderr_colour: bool,
    stderr_terminal: bool,
}

/// Result of a command that changed something (spec G.1).
#[derive(Debug, Serialize)]
pub(crate) struct Done<'a, D> {
    status: &'static str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<D>,
}

impl<'a, D> Done<'a, D> {
    /// Makes the result of an action on `name`.
    pub(crate) fn new(action: &'static str, name: &'a str, server: String, details: Option<D>) -> Self {
        Self { status: "ok", action, name: Some(name), server: Some(server), details }
    }

    /// Makes the result of an action on a server as a whole.
    pub(crate) fn on_server(action: &'static str, server: String, details: Option<D>) -> Self {
        Self { status: "ok", action, name: None, server: Some(server), details }
    }

    /// Makes the result of an action on files of this machine.
    pub(crate) fn of_this_machine(action: &'static str, details: D) -> Self {
        Self { status: "ok", action, name: None, server: None, details: Some(details) }
    }

    /// Says that not all of it could be done; the command fails then.
    pub(crate) fn partly(mut self) -> Self {
        self.status = "partial";
        self
    }
}

impl Ui {
    /// Looks at the terminal and the environment.
    pub(crate) fn new(format: Format, colour: Colour) -> Self {
        let wanted = colour == Colour::Auto
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        let stderr_terminal = io::stderr().is_terminal();
        Self {
            format,
            stdout_colour: wanted && io::stdout().is_terminal(),
            stderr_colour: wanted && stderr_terminal,
            stderr_terminal,
        }
    }

    /// Returns how results are written.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// Returns whether someone may be looking at stderr.
    pub(crate) const fn stderr_is_terminal(&self) -> bool {
        self.stderr_terminal
    }

    /// Writes a part of the result to stdout, as it is.
    pub(crate) fn print(&self, text: &str) -> Result<(), CommandError> {
        self.print_bytes(text.as_bytes())
    }

    /// Writes a part of the result to stdout, as it is.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                CommandError::new(Kind::BrokenPipe, "nobody reads the output")
            } else {
                CommandError::new(Kind::Failed, "could not write the result").caused_by(error)
            }
        })
    }

    /// Writes an API object as JSON over several lines.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string_pretty(value).expect("results are plain JSON");
        self.print(&format!("{text}\n"))
    }

    /// Writes the result of an action as JSON on one line, so that several in a row stay apart.
    pub(crate) fn print_done<D: Serialize>(&self, done: &Done<'_, D>) -> Result<(), CommandError> {
        let text = serde_json::to_string(done).expect("results are plain JSON");
        self.print(&format!("{text}\n"))
    }

    /// Writes a table to stdout.
    pub(crate) fn print_table(&self, table: &Table) -> Result<(), CommandError> {
        self.print(&table.render(self.stdout_colour))
    }

    /// Writes an error with its causes and hints to stderr.
    pub(crate) fn error(&self, error: &CommandError) {
        if error.is_silent() {
            return;
        }
        match self.format {
            Format::Json => {
                let mut text = error.message().to_owned();
                for cause in error.causes() {
                    text.push_str(": ");
                    text.push_str(&cause);
                }
                self.json_error(&text);
            }
            Format::Text => {
                self.line(Style::new().red().bold(), "error:", error.message());
                for cause in error.causes() {
                    self.say(&format!("  caused by: {}", clean(&cause)));
                }
                for hint in error.hints() {
                    self.hint(hint);
                }
            }
        }
    }

    /// Writes a failure as JSON to stderr (spec G.1).
    pub(crate) fn json_error(&self, text: &str) {
        self.say(&serde_json::json!({ "error": text }).to_string());
    }

    /// Writes what did not fail the command, but should be known.
    pub(crate) fn warning(&self, text: &str) {
        match self.format {
            Format::Json => self.say(&serde_json::json!({ "warning": text }).to_string()),
            Format::Text => self.line(Style::new().yellow().bold(), "warning:", text),
        }
    }

    /// Writes what the user may want to do next; nothing for programs.
    pub(crate) fn hint(&self, text: &str) {
        match self.format {
            Format::Json => {}
            Format::Text => self.line(Style::new().cyan().bold(), "hint:", text),
        }
    }

    /// Writes a remark to stderr; nothing for programs.
    pub(crate) fn note(&self, text: &str) {
        match self.format {
            Format::Json => {}
            Format::Text => self.say(&clean(text)),
        }
    }

    /// Writes a question that is answered with yes or no, and leaves the cursor behind it.
    pub(crate) fn question(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // When even that fails, there is nobody to answer.
        let _unread = write!(stderr, "{} [y/N] ", clean(text)).and_then(|()| stderr.flush());
    }

    fn line(&self, style: Style, label: &str, text: &str) {
        let text = clean(text);
        if self.stderr_colour {
            self.say(&format!("{} {text}", style.style(label)));
        } else {
            self.say(&format!("{label} {text}"));
        }
    }

    /// Writes a line to stderr. When even that fails, there is nobody left to tell.
    fn say(&self, line: &str) {
        let _unread = writeln!(io::stderr().lock(), "{line}");
    }
}

/// Replaces control characters other than line feed and tab, which could move the cursor or rewrite the screen.
pub(crate) fn clean(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// How a cell looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// As it is.
    Plain,
    /// All is well.
    Good,
    /// On its way.
    Busy,
    /// Needs attention.
    Bad,
    /// Of less interest.
    Dim,
}

/// Which edge the cells of a column keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Columns of text under a header, two spaces apart, without borders.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Look)>>,
}

impl Table {
    /// Makes a table of columns that keep to the left.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.iter().map(|name| (*name, Align::Left)).collect(), rows: Vec::new() }
    }

    /// Lets a column keep to the right.
    pub(crate) fn right(mut self, column: &'static str) -> Self {
        for (name, align) in &mut self.columns {
            if *name == column {
                *align = Align::Right;
            }
        }
        self
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<(String, Look)>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        let one_line = |text: String| clean(&text).replace(['\n', '\t'], " ");
        self.rows.push(cells.into_iter().map(|(text, look)| (one_line(text), look)).collect());
    }

    /// Returns the table without colour, for tests.
    #[cfg(test)]
    pub(crate) fn plain(&self) -> String {
        self.render(false)
    }

    /// Writes the table out; padding is counted before colour is added.
    fn render(&self, colour: bool) -> String {
        let header = self.columns.iter().map(|(name, _)| ((*name).to_owned(), Look::Plain)).collect();
        let lines: Vec<&Vec<(String, Look)>> = std::iter::once(&header).chain(&self.rows).collect();
        let width =
            |column: usize| lines.iter().map(|line| line[column].0.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = String::new();
        for line in lines {
            let mut text = String::new();
            for (column, (cell, look)) in line.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                let cell = if colour { look.paint(cell) } else { cell.clone() };
                let (before, after) = match self.columns[column].1 {
                    Align::Left => ("", pad.as_str()),
                    Align::Right => (pad.as_str(), ""),
                };
                let gap = if column == 0 { "" } else { "  " };
                text.push_str(&format!("{gap}{before}{cell}{after}"));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

impl Look {
    fn paint(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Good => Style::new().green().style(text).to_string(),
            Self::Busy => Style::new().yellow().style(text).to_string(),
            Self::Bad => Style::new().red().style(text).to_string(),
            Self::Dim => Style::new().dimmed().style(text).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> (String, Look) {
        (text.to_owned(), Look::Plain)
    }

    #[test]
    fn a_table_has_columns_two_spaces_apart_and_no_trailing_spaces() {
        let mut table = Table::new(&["NAME", "MS", "STATUS"]).right("MS");
        table.row(vec![plain("web"), plain("7"), ("running".to_owned(), Look::Good)]);
        table.row(vec![plain("a-long-name"), plain("1234"), ("stopped".to_owned(), Look::Dim)]);
        insta::assert_snapshot!(table.render(false), @r"
        NAME           MS  STATUS
        web             7  running
        a-long-name  1234  stopped
        ");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::new(&["STATUS", "NAME"]);
        table.row(vec![("ok".to_owned(), Look::Good), plain("x")]);
        let painted = table.render(true);
        assert!(painted.contains("\u{1b}[32mok\u{1b}[0m      x"), "{painted:?}");
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal_or_break_a_table() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\u{7}"), "a\u{fffd}[2Jb\nc\u{fffd}");
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![plain("x\ny"), plain("z")]);
        assert_eq!(table.render(false).lines().count(), 2);
    }
}
