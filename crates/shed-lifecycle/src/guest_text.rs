//! Makes the output of programs in guests fit for terminals, as it comes: clones and hooks, shown while they run.
//!
//! [`Progress`](crate::Progress) calls it, so that no client of the API needs to; `console` does for whole lines. Line feeds,
//! tabs and carriage returns (of programs that draw over a line) stay. Escape sequences and every other control character go:
//! they could move the cursor, retitle the window or answer in the user's name.

/// Longest begin of a UTF-8 character that is kept until the rest of it comes, in bytes.
const PARTIAL: usize = 3;

/// Cleans one program's output, piece by piece; pieces may cut characters and escape sequences anywhere.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    partial: Vec<u8>,
    state: State,
}

/// Where in an escape sequence (ECMA-48, 5.4 and 5.6) the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// In none.
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence, which ends with a byte from `@` to `~`.
    Control,
    /// In a string (OSC, DCS, APC, PM, SOS), which ends with BEL or ESC `\`.
    String,
    /// After ESC in a string.
    StringEscape,
}

impl Cleaner {
    /// Returns what may be shown of the next piece.
    pub(crate) fn clean(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(piece);
        let mut out = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push(chunk.valid(), &mut out);
            let invalid = chunk.invalid();
            // At the end of a piece, what is no character may become one.
            if chunks.peek().is_none() && is_beginning(invalid) {
                self.partial = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.push("\u{fffd}", &mut out);
            }
        }
        out
    }

    /// Forgets what was begun: the next piece is another program's, or comes after a gap.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    fn push(&mut self, text: &str, out: &mut String) {
        for c in text.chars() {
            self.state = match (self.state, c) {
                (State::Text | State::Escape | State::Control, '\u{1b}') => State::Escape,
                (State::Text, '\u{9b}') => State::Control,
                (State::Text, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}') => State::String,
                (State::Text, _) => {
                    if !c.is_control() || matches!(c, '\n' | '\r' | '\t') {
                        out.push(c);
                    }
                    State::Text
                }
                (State::Escape, '[') => State::Control,
                (State::Escape, ']' | 'P' | '_' | '^' | 'X') => State::String,
                // Intermediate bytes, of which sequences like the choice of a character set have one or more.
                (State::Escape, ' '..='/') => State::Escape,
                (State::Control, ' '..='?') => State::Control,
                // A line feed ends what was begun, or a program that dies in a sequence would hide all that follows.
                (State::Escape | State::Control | State::String | State::StringEscape, '\n') => {
                    out.push('\n');
                    State::Text
                }
                (State::String, '\u{7}' | '\u{9c}') | (State::StringEscape, '\\') => State::Text,
                (State::String | State::StringEscape, '\u{1b}') => State::StringEscape,
                (State::String | State::StringEscape, _) => State::String,
                // The final byte, or one that belongs in no sequence.
                (State::Escape | State::Control, _) => State::Text,
            };
        }
    }
}

/// Whether bytes that are no character may be the begin of one.
fn is_beginning(bytes: &[u8]) -> bool {
    (1..=PARTIAL).contains(&bytes.len())
        && str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ESCAPE: char = '\u{1b}';

    fn clean(text: &[u8]) -> String {
        Cleaner::default().clean(text)
    }

    #[test]
    fn what_steers_a_terminal_goes_and_lines_stay() {
        for (text, shown) in [
            (&b"plain\ttext\r\n"[..], "plain\ttext\r\n"),
            (b"10%\r20%\r", "10%\r20%\r"),
            (b"\x1b[31mred\x1b[0m \x1b[38;2;1;2;3mtrue\x1b[m", "red true"),
            (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
            (b"\x1b(Ba\x1b=b\x1bcc\x1b7d", "abcd"),
            (b"a\x00\x07\x08\x0b\x7fb", "ab"),
            ("\u{9b}2Jx\u{9d}0;t\u{9c}y\u{85}z".as_bytes(), "xyz"),
            (b"\x1bPdevice\x1b\x1bstring\x1b\\a", "a"),
            (b"\x1b]never ended\nnext", "\nnext"),
            (b"\x1b[3\nnext", "\nnext"),
            (b"\xff\xc3(", "\u{fffd}\u{fffd}("),
            ("größe 名前 🦀".as_bytes(), "größe 名前 🦀"),
        ] {
            assert_eq!(clean(text), shown, "{text:?}");
        }
    }

    #[test]
    fn a_character_that_is_cut_in_two_is_one_and_a_gap_makes_none() {
        let mut cleaner = Cleaner::default();
        let crab = "🦀".as_bytes();
        assert_eq!(cleaner.clean(&crab[..3]), "");
        assert_eq!(cleaner.clean(&crab[3..]), "🦀");
        assert_eq!(cleaner.clean(&crab[..2]), "");
        cleaner.reset();
        assert_eq!(cleaner.clean(b"x"), "x");
    }

    proptest! {
        #[test]
        fn cuts_change_nothing_and_nothing_harmful_is_left(
            pieces in prop::collection::vec(prop_oneof!["\\PC{0,5}", "(\u{1b}(\\[|\\]|P|\\(|\\\\)[0-9;]{0,3}[a-z]?){0,3}", "[\u{0}-\u{9f}\n]{0,4}"], 0..8),
            cut in 1usize..7,
        ) {
            let text = pieces.concat();
            let whole = clean(text.as_bytes());
            let mut cleaner = Cleaner::default();
            let parts: String = text.as_bytes().chunks(cut).map(|piece| cleaner.clean(piece)).collect();
            prop_assert_eq!(&parts, &whole);
            prop_assert!(!whole.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')));
        }

        #[test]
        fn fuzz_guest_text(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..9) {
            let mut cleaner = Cleaner::default();
            for piece in bytes.chunks(cut) {
                let shown = cleaner.clean(piece);
                prop_assert!(!shown.contains(ESCAPE));
                prop_assert!(cleaner.partial.len() <= PARTIAL);
            }
        }
    }
}
