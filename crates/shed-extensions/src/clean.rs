//! Texts of others on their way to a person or into a message: to a log, a terminal, the error of a failure.

/// Returns the text with at most `most` characters, and none that ends a line, moves a cursor or turns the direction of
/// writing. What was left out shows as `…`.
#[must_use]
pub fn clean(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let mut cleaned: String =
        characters.by_ref().take(most).map(|c| if is_unsafe(c) { '\u{fffd}' } else { c }).collect();
    if characters.next().is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// Control characters, the line ends of Unicode, and characters that are not seen or that turn what follows around.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_cleaned_is_short_and_harmless(text: String, most in 0..40_usize) {
            let cleaned = clean(&text, most);
            prop_assert!(cleaned.chars().count() <= most + 1);
            prop_assert!(!cleaned.chars().any(is_unsafe));
            if text.chars().count() <= most && !text.chars().any(is_unsafe) {
                prop_assert_eq!(cleaned, text);
            }
        }
    }

    #[test]
    fn what_was_changed_shows() {
        assert_eq!(clean("a\nb\u{1b}[2J\u{202e}c", 20), "a\u{fffd}b\u{fffd}[2J\u{fffd}c");
        assert_eq!(clean("abcdef", 3), "abc…");
    }
}
