//! Words of a unit file, written so that systemd reads each as one word again (systemd.syntax(7), systemd.unit(5) on
//! specifiers).

use std::fmt::Write as _;

/// Writes a text as one word: in double quotes, with C's escapes, and with `%` doubled, which otherwise begins a specifier.
pub(super) fn word(text: &str) -> String {
    let mut word = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => word.push_str("\\\""),
            '\\' => word.push_str("\\\\"),
            '%' => word.push_str("%%"),
            '\n' => word.push_str("\\n"),
            '\t' => word.push_str("\\t"),
            // No text that a file name can have in it holds NUL; all others are two digits.
            control if u32::from(control) < 0x20 || control == '\u{7f}' => {
                let _infallible = write!(word, "\\x{:02x}", u32::from(control));
            }
            // C1 controls are two bytes of UTF-8, and systemd takes them as they are; written out they harm no terminal.
            control if control.is_control() => {
                let _infallible = write!(word, "\\u{:04x}", u32::from(control));
            }
            other => word.push(other),
        }
    }
    word.push('"');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_whatever_is_in_them() {
        for (text, written) in [
            ("/etc/shed/server.yaml", r#""/etc/shed/server.yaml""#),
            ("/a b/ü", r#""/a b/ü""#),
            ("/100%/%h", r#""/100%%/%%h""#),
            ("/it's \"q\"", r#""/it's \"q\"""#),
            ("/a\\b", r#""/a\\b""#),
            ("/a\nExecStartPre=/bin/x", r#""/a\nExecStartPre=/bin/x""#),
            ("\t\r\u{1b}\u{7f}", r#""\t\x0d\x1b\x7f""#),
            ("\u{85}", r#""\u0085""#),
            ("$HOME ${x}", r#""$HOME ${x}""#),
        ] {
            assert_eq!(word(text), written);
        }
    }

    /// Reads a word as systemd does: quotes, then escapes, then specifiers.
    fn read(written: &str) -> Option<String> {
        let inner = written.strip_prefix('"')?.strip_suffix('"')?;
        let mut text = String::new();
        let mut rest = inner.chars();
        let digits = |rest: &mut std::str::Chars<'_>, count| {
            let digits: String = rest.by_ref().take(count).collect();
            char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
        };
        while let Some(character) = rest.next() {
            text.push(match character {
                '"' | '\n' => return None,
                '%' => rest.next().filter(|&next| next == '%')?,
                '\\' => match rest.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'x' => digits(&mut rest, 2)?,
                    'u' => digits(&mut rest, 4)?,
                    quoted @ ('"' | '\\') => quoted,
                    _other => return None,
                },
                other => other,
            });
        }
        Some(text)
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_one_line_and_reads_back(text in "[^\\x00]{0,60}") {
            let written = word(&text);
            proptest::prop_assert!(!written.chars().any(char::is_control));
            proptest::prop_assert_eq!(read(&written), Some(text));
        }
    }
}
