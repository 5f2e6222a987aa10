//! What a full-screen program has done to the terminal, so that it can be undone when the program cannot do it itself.
//!
//! Only what was switched on is switched off: the sequences do something else on a terminal that is as it should be
//! (leaving the alternate screen twice moves the cursor).

/// Private modes that are off on an idle terminal, and their effect on one that is left with them (ctlseqs of xterm).
const OFF: &[u16] = &[
    1, // arrow keys send other sequences
    9, 1000, 1001, 1002, 1003, 1005, 1006, 1015, 1016, // the mouse types
    1004, // focus types
    2004, // pastes are bracketed
    2026, // output is held back
    47, 1047, 1049, // the alternate screen; last, since the cursor goes with it
];

/// Private modes that are on on an idle terminal: lines wrap, the cursor is seen.
const ON: &[u16] = &[7, 25];

/// Longest sequence that is looked at, in bytes: a program sets a few modes at once.
const SEQUENCE_MAX: usize = 64;

/// Watches output for changes of modes.
#[derive(Debug, Default)]
pub(super) struct Modes {
    /// Modes that are not as they should be.
    changed: Vec<u16>,
    /// The keypad sends other sequences (DECKPAM).
    keypad: bool,
    /// Anything at all was switched, so colours may be left as well.
    full_screen: bool,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    /// Behind `ESC [`.
    Sequence(Vec<u8>),
}

impl Modes {
    /// Takes a piece of output.
    pub(super) fn see(&mut self, output: &[u8]) {
        let mut rest = output;
        while !rest.is_empty() {
            match &mut self.state {
                State::Text => match rest.iter().position(|&byte| byte == 0x1b) {
                    None => return,
                    Some(at) => {
                        rest = &rest[at + 1..];
                        self.state = State::Escape;
                    }
                },
                State::Escape => {
                    self.state = match rest[0] {
                        b'[' => State::Sequence(Vec::new()),
                        0x1b => State::Escape,
                        other => {
                            match other {
                                b'=' => self.keypad = true,
                                b'>' => self.keypad = false,
                                _ => {}
                            }
                            State::Text
                        }
                    };
                    rest = &rest[1..];
                }
                State::Sequence(parameters) => {
                    let byte = rest[0];
                    rest = &rest[1..];
                    match byte {
                        // Parameters and intermediates (ECMA-48 5.4).
                        0x20..=0x3f if parameters.len() < SEQUENCE_MAX => parameters.push(byte),
                        0x1b => self.state = State::Escape,
                        last => {
                            let parameters = std::mem::take(parameters);
                            self.state = State::Text;
                            self.apply(&parameters, last);
                        }
                    }
                }
            }
        }
    }

    fn apply(&mut self, parameters: &[u8], last: u8) {
        let set = match last {
            b'h' => true,
            b'l' => false,
            _ => return,
        };
        let Some(list) = parameters.strip_prefix(b"?").and_then(|list| std::str::from_utf8(list).ok()) else {
            return;
        };
        for mode in list.split(';').filter_map(|mode| mode.parse().ok()) {
            let odd = (set && OFF.contains(&mode)) || (!set && ON.contains(&mode));
            self.changed.retain(|changed| *changed != mode);
            if odd {
                self.changed.push(mode);
                self.full_screen = true;
            }
        }
    }

    /// Returns what makes the terminal as it was; nothing when it is.
    pub(super) fn undo(&self) -> Vec<u8> {
        if !self.full_screen && !self.keypad {
            return Vec::new();
        }
        let mut text = String::new();
        if self.keypad {
            text.push_str("\x1b>");
        }
        for mode in ON.iter().filter(|mode| self.changed.contains(mode)) {
            text.push_str(&format!("\x1b[?{mode}h"));
        }
        // Colours and the scrolling region; the latter moves the cursor, which is put back.
        text.push_str("\x1b[m\x1b7\x1b[r\x1b8");
        for mode in OFF.iter().filter(|mode| self.changed.contains(mode)) {
            text.push_str(&format!("\x1b[?{mode}l"));
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(pieces: &[&str]) -> String {
        let mut modes = Modes::default();
        pieces.iter().for_each(|piece| modes.see(piece.as_bytes()));
        String::from_utf8(modes.undo()).unwrap()
    }

    #[test]
    fn what_a_full_screen_program_set_is_undone_and_nothing_else() {
        assert_eq!(
            undo(&["\x1b[?1049h\x1b[22;0;0t\x1b[?1h\x1b=\x1b[?2004h\x1b[?25l\x1b[?1002;1006h"]),
            "\x1b>\x1b[?25h\x1b[m\x1b7\x1b[r\x1b8\x1b[?1l\x1b[?1002l\x1b[?1006l\x1b[?2004l\x1b[?1049l"
        );
    }

    #[test]
    fn a_program_that_has_cleaned_up_leaves_nothing_to_do_but_harmless_things() {
        let after = undo(&["\x1b[?1049h\x1b[?25lx", "\x1b[?25h\x1b[?1049l"]);
        assert!(!after.contains('?'), "{after:?}");
    }

    #[test]
    fn plain_output_and_colours_are_nothing_to_undo() {
        for text in
            ["hello\r\n", "\x1b[31mred\x1b[m", "\x1b[2J\x1b[H", "\x1b[4h", "\x1b[?h", "\x1b[?99999h", ""]
        {
            assert_eq!(undo(&[text]), "", "{text:?}");
        }
    }

    #[test]
    fn sequences_may_be_cut_anywhere() {
        let text = "ab\x1b\x1b[?1049hcd\x1b[31m\x1b[?25l";
        let whole = undo(&[text]);
        assert!(whole.contains("1049l") && whole.contains("25h"));
        for cut in 0..text.len() {
            assert_eq!(undo(&[&text[..cut], &text[cut..]]), whole, "{cut}");
        }
    }

    #[test]
    fn an_endless_sequence_takes_no_memory() {
        let mut modes = Modes::default();
        modes.see(b"\x1b[");
        modes.see(&vec![b'1'; 1 << 20]);
        modes.see(b"\x1b[?1049h");
        assert_eq!(modes.changed, [1049]);
    }
}
