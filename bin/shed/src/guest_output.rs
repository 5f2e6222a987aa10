//! Turns the output of programs in sheds into lines for a display that has a moving line of its own.
//!
//! Programs that draw over a line (git's counters, installers) end it with a carriage return: of such a line only what it
//! says last is shown, and what it says meanwhile moves. The server has taken out what steers terminals.

/// Longest line in bytes; a longer one is shown in parts.
const MAX_LINE: usize = 4096;

/// The output of one shed's programs, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct GuestOutput {
    /// The line that has begun.
    line: String,
}

/// What a piece of output comes to.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    /// Lines that are whole.
    pub(crate) lines: Vec<String>,
    /// What the line that has begun says at the moment.
    pub(crate) moving: Option<String>,
}

impl GuestOutput {
    /// Takes the next piece.
    pub(crate) fn take(&mut self, piece: &str) -> Shown {
        let mut lines = Vec::new();
        for part in piece.split_inclusive('\n') {
            self.line.push_str(part);
            if part.ends_with('\n') {
                lines.extend(self.end());
            } else if self.line.len() > MAX_LINE {
                // What was drawn over is gone from a terminal, too.
                self.line = last_state(&self.line).to_owned();
                if self.line.len() > MAX_LINE {
                    lines.extend(self.end());
                }
            }
        }
        let moving = last_state(&self.line);
        Shown { lines, moving: (!moving.is_empty()).then(|| moving.to_owned()) }
    }

    /// Ends the line that has begun, if it says something.
    pub(crate) fn end(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let shown = last_state(line.trim_end_matches('\n')).trim_end();
        (!shown.is_empty() || line == "\n").then(|| shown.to_owned())
    }
}

/// Returns what a line says after everything that was drawn over.
fn last_state(line: &str) -> &str {
    line.rsplit('\r').find(|state| !state.trim().is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut output = GuestOutput::default();
        let mut lines: Vec<String> = pieces.iter().flat_map(|piece| output.take(piece).lines).collect();
        let moving = output.take("").moving;
        lines.extend(output.end());
        (lines, moving)
    }

    #[test]
    fn lines_come_whole_and_those_that_are_drawn_over_once() {
        for (pieces, lines, moving) in [
            (&["a\nb", "c\n"][..], &["a", "bc"][..], None),
            (&["10%\r20", "%\r100%, done.\nnext\r\n"], &["100%, done.", "next"], None),
            (&["10%\r", "20%\r"], &["20%"], Some("20%")),
            (&["a\n\n\nb"], &["a", "", "", "b"], Some("b")),
            (&["\r   \r\n"], &[], None),
            (&["no end"], &["no end"], Some("no end")),
        ] {
            let expected: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            assert_eq!(all(pieces), (expected, moving.map(str::to_owned)), "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_does_not_grow() {
        let mut output = GuestOutput::default();
        let mut shown = 0;
        for _ in 0..1000 {
            shown += output.take(&"x".repeat(100)).lines.iter().map(String::len).sum::<usize>();
            assert!(output.line.len() <= MAX_LINE);
            assert!(output.take("\r10%").lines.is_empty() || shown > 0);
        }
    }

    proptest! {
        #[test]
        fn cuts_change_no_line(text in "([a-c]{0,3}|\r|\n|\r\n){0,20}", cut in 1usize..5) {
            let whole = all(&[&text]);
            let letters: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = letters.chunks(cut).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(all(&pieces).0, whole.0);
        }
    }
}
