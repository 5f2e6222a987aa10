//! A client's words on their way into the log: bounded, on one line, and without anything that a terminal acts on.

use std::fmt::{self, Write};

/// Shows at most this many characters of a text, escaped; what is left out leaves an ellipsis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a str, pub(crate) usize);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(self.1) {
            // Quotes are harmless in a path; control characters, line ends of all kinds and marks that turn the direction
            // of writing are not.
            match character {
                '"' | '\'' => f.write_char(character)?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        if characters.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_shown_as_it_is_and_the_rest_is_escaped_or_left_out() {
        let shown = |text, most| Shown(text, most).to_string();
        assert_eq!(shown("/api/sheds?x='1'&y=\"2\"", 100), "/api/sheds?x='1'&y=\"2\"");
        assert_eq!(shown("/ü/名", 100), "/ü/名");
        assert_eq!(shown("a\r\nb\u{1b}[31m\u{0}", 100), r"a\r\nb\u{1b}[31m\0");
        assert_eq!(shown("\u{202e}\u{2028}\u{9b}\u{7f}", 100), r"\u{202e}\u{2028}\u{9b}\u{7f}");
        assert_eq!((shown("abcd", 4).as_str(), shown("abcde", 4).as_str()), ("abcd", "abcd…"));
        assert_eq!(shown("", 0), "");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_shown_can_end_a_line_or_begin_an_escape(text: String, most in 0usize..50) {
            let shown = Shown(&text, most).to_string();
            proptest::prop_assert!(!shown.chars().any(char::is_control));
            proptest::prop_assert!(shown.chars().count() <= most * 10 + 1);
        }
    }
}
