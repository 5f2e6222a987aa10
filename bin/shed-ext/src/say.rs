//! What is told: answers on standard output, everything else on standard error, which systemd puts into the journal.

use std::io::Write;

/// Writes an answer and a newline.
pub(crate) fn answer(text: &str) {
    // Whoever has closed it does not want to know.
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// Notes what a service does.
pub(crate) fn note(name: &str, text: &str) {
    let _closed = writeln!(std::io::stderr(), "{name}: {}", one_line(text));
}

/// Says what failed.
pub(crate) fn error(name: &str, text: &str) {
    let _closed = writeln!(std::io::stderr(), "{name}: error: {}", one_line(text));
}

/// Makes one line of a text that others have written, without what would move a terminal's cursor.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// Longest line in characters.
const LONGEST: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_stays_one_line_and_moves_no_cursor() {
        assert_eq!(one_line("a\n\u{1b}[2Jb\u{9b}c"), "a  [2Jb c");
        assert_eq!(one_line(&"x".repeat(5000)).len(), LONGEST);
    }
}
