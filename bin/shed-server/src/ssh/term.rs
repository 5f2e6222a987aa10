//! Which terminal type a guest is told: one that its terminfo knows.
//!
//! A client sends the type of the user's terminal, and guests know what their images have. Debian's `ncurses-base`,
//! which is in every image that has `bash`, knows the types in [`KNOWN`]; an image may have no more. A program that finds
//! its type unknown does not run at all (`vim`, `less`, `tmux`: "unknown terminal"), one that gets a compatible type does.

use std::collections::BTreeMap;

/// What a terminal is called when nobody has a better name (spec K.1).
pub const DEFAULT_TERM: &str = "xterm-256color";

/// Longest type that is looked at, in bytes; terminfo's names are shorter.
const MAX_TERM: usize = 64;

/// The types of `ncurses-base` that terminals of today have.
const KNOWN: [&str; 23] = [
    "ansi",
    "cygwin",
    "dumb",
    "linux",
    "rxvt",
    "rxvt-basic",
    "rxvt-unicode",
    "rxvt-unicode-256color",
    "screen",
    "screen-256color",
    "screen-256color-bce",
    "screen-bce",
    "sun",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt102",
    "vt220",
    "vt52",
    "xterm",
    "xterm-256color",
    "xterm-color",
    "xterm-mono",
];

/// Terminals with a type of their own that understand everything of another one.
const BUILT_IN: [(&str, &str); 21] = [
    ("alacritty", DEFAULT_TERM),
    ("alacritty-direct", DEFAULT_TERM),
    ("contour", DEFAULT_TERM),
    ("foot", DEFAULT_TERM),
    ("foot-extra", DEFAULT_TERM),
    ("ghostty", DEFAULT_TERM),
    ("gnome-256color", DEFAULT_TERM),
    ("iterm2", DEFAULT_TERM),
    ("konsole-256color", DEFAULT_TERM),
    ("ms-terminal", DEFAULT_TERM),
    ("nsterm-256color", DEFAULT_TERM),
    ("putty-256color", DEFAULT_TERM),
    ("rio", DEFAULT_TERM),
    ("screen.xterm-256color", "screen-256color"),
    ("st-256color", DEFAULT_TERM),
    ("vte-256color", DEFAULT_TERM),
    ("wezterm", DEFAULT_TERM),
    ("xterm-direct", DEFAULT_TERM),
    ("xterm-ghostty", DEFAULT_TERM),
    ("xterm-kitty", DEFAULT_TERM),
    ("xterm-truecolor", DEFAULT_TERM),
];

/// What terminals are called in guests (`terminal:` in server.yaml).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The name of every terminal that has no better one.
    pub fallback: String,
    /// Names by the client's type; they win over what is built in.
    pub mappings: BTreeMap<String, String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { fallback: DEFAULT_TERM.to_owned(), mappings: BTreeMap::new() }
    }
}

impl Terms {
    /// Returns what a guest is told of a terminal that its client calls `term`.
    #[must_use]
    pub fn in_guest<'a>(&'a self, term: &str) -> &'a str {
        if let Some(mapped) = self.mappings.get(term) {
            return mapped;
        }
        if let Some(known) = KNOWN.into_iter().find(|known| *known == term) {
            return known;
        }
        BUILT_IN.into_iter().find(|(name, _)| *name == term).map_or(&self.fallback, |(_, meaning)| meaning)
    }
}

/// Tells whether a text can be the name of a terminal type: the characters of terminfo's file names.
#[must_use]
pub fn is_term(text: &str) -> bool {
    (1..=MAX_TERM).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_terminal_gets_a_name_that_images_know() {
        let terms = Terms::default();
        for (given, expected) in [
            ("xterm-256color", "xterm-256color"),
            ("xterm", "xterm"),
            ("dumb", "dumb"),
            ("tmux-256color", "tmux-256color"),
            ("xterm-ghostty", "xterm-256color"),
            ("screen.xterm-256color", "screen-256color"),
            ("", "xterm-256color"),
            ("nobody-has-this", "xterm-256color"),
            ("../../etc/passwd", "xterm-256color"),
            ("a\0b", "xterm-256color"),
        ] {
            assert_eq!(terms.in_guest(given), expected, "{given:?}");
        }
        for (name, meaning) in BUILT_IN {
            assert!(!KNOWN.contains(&name) && KNOWN.contains(&meaning), "{name}");
        }
    }

    #[test]
    fn the_owners_names_win() {
        let mappings = [("xterm-kitty", "xterm-kitty"), ("xterm", "vt100")];
        let mappings = mappings.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let terms = Terms { fallback: "linux".into(), mappings };
        assert_eq!(terms.in_guest("xterm-kitty"), "xterm-kitty");
        assert_eq!(terms.in_guest("xterm"), "vt100");
        assert_eq!(terms.in_guest("xterm-ghostty"), "xterm-256color");
        assert_eq!(terms.in_guest("unheard-of"), "linux");
    }
}
