//! Texts for people: sentences and last lines, without what would move a terminal's cursor, and no longer than agreed.

use std::collections::VecDeque;

/// Most characters of a message (shed-protocol, `Failure::message`).
const SENTENCE: usize = 1000;

/// Most last lines, and most characters of one (spec D).
const LINES: usize = 5;
const LINE: usize = 400;

/// Bytes of output that are kept for last lines: five of the longest in four-byte characters, twice over for the
/// sequences that colour them.
const KEPT: usize = 16 * 1024;

/// Makes a message of a text.
pub(super) fn sentence(text: &str) -> String {
    plain(text).chars().take(SENTENCE).collect()
}

/// The end of an output.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<u8>);

impl Tail {
    /// Takes the next bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let too_many = (self.0.len() + bytes.len()).saturating_sub(KEPT);
        self.0.drain(..too_many);
        self.0.extend(bytes);
    }

    /// Returns the last lines that say something. What a carriage return writes over is a line as well.
    pub(super) fn lines(&self) -> Vec<String> {
        let (front, back) = self.0.as_slices();
        let text = [front, back].concat();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<String> = text
            .rsplit(['\n', '\r'])
            .map(|line| plain(line).trim_end().chars().take(LINE).collect::<String>())
            .filter(|line| !line.is_empty())
            .take(LINES)
            .collect();
        lines.reverse();
        lines
    }
}

/// Leaves out escape sequences; other control characters become spaces.
fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                // Of ECMA-48 only control sequences are known here; of others the rest stays, which is harmless.
                if characters.clone().next() == Some('[') {
                    characters.next();
                    let _final = characters.find(|c| matches!(c, '\u{40}'..='\u{7e}'));
                }
            }
            // The characters that turn the direction of text could make a line look like another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.push(' '),
            character if character.is_control() => shown.push(' '),
            character => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut tail = Tail::default();
        for piece in text.chunks(7) {
            tail.add(piece);
        }
        tail.lines()
    }

    #[test]
    fn the_last_lines_are_those_that_say_something() {
        assert_eq!(lines(b"1\n2\n3\n4\n\n5\n  \n6\r7\n"), ["3", "4", "5", "6", "7"]);
        assert_eq!(lines(b""), Vec::<String>::new());
        assert_eq!(lines(b"no end"), ["no end"]);
        assert_eq!(lines(b"\x1b[31mred\x1b[0m \x07bell\xff\n"), ["red  bell\u{fffd}"]);
        assert_eq!(lines(b"\x1b["), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_longer_than_agreed() {
        let many = lines("é".repeat(100_000).as_bytes());
        assert_eq!(many.len(), 1);
        assert!(many[0].chars().count() <= LINE);
        let rows = lines(format!("{}\n", "x".repeat(LINE)).repeat(50).as_bytes());
        assert_eq!((rows.len(), rows[0].len(), rows[4].len()), (LINES, LINE, LINE));
        assert_eq!(sentence(&"x".repeat(5000)).len(), SENTENCE);
        assert_eq!(sentence("a\nb\u{1b}[2Jc\u{202e}d"), "a bc d");
    }
}
