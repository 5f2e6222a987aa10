//! The escape that leaves a connection which answers no key any more: `~.` at the start of a line, as in ssh(1).

/// Looks for the escape in what is typed. `~~` at the start of a line is one `~`.
#[derive(Debug)]
pub(super) struct Escape {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing typed yet, or only the return key since.
    LineStart,
    /// A `~` there, which is kept back until it is known what it means.
    Tilde,
    /// Anywhere else.
    Within,
}

/// What typed keys mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// They are for the command; none when the last one is kept back.
    Keys(Vec<u8>),
    /// The user wants to leave.
    Leave,
}

impl Escape {
    pub(super) fn new() -> Self {
        Self { state: State::LineStart }
    }

    /// Takes keys. What was typed before an escape in the same piece is of no use any more.
    pub(super) fn read(&mut self, typed: &[u8]) -> Typed {
        let mut keys = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            self.state = match (self.state, key) {
                (State::LineStart, b'~') => State::Tilde,
                (State::Tilde, b'.') => return Typed::Leave,
                (State::Tilde, b'~') => {
                    keys.push(b'~');
                    State::Within
                }
                (before, key) => {
                    if before == State::Tilde {
                        keys.push(b'~');
                    }
                    keys.push(key);
                    if matches!(key, b'\r' | b'\n') { State::LineStart } else { State::Within }
                }
            };
        }
        Typed::Keys(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&str]) -> Option<String> {
        let mut escape = Escape::new();
        let mut all = Vec::new();
        for piece in pieces {
            match escape.read(piece.as_bytes()) {
                Typed::Keys(keys) => all.extend(keys),
                Typed::Leave => return None,
            }
        }
        Some(String::from_utf8(all).unwrap())
    }

    #[test]
    fn a_tilde_and_a_dot_leave_at_the_start_of_a_line_only() {
        for left in [&["~."][..], &["~", "."], &["ls\r~."], &["ls", "\r", "~", "."], &["~x\r~."]] {
            assert_eq!(read(left), None, "{left:?}");
        }
        for (typed, seen) in [
            (&["a~."][..], "a~."),
            (&["~~."], "~."),
            (&["~/bin/x\r"], "~/bin/x\r"),
            (&["~", "x"], "~x"),
            (&["~\r", "~~"], "~\r~"),
            (&["cd ~\r", "~"], "cd ~\r"),
        ] {
            assert_eq!(read(typed).as_deref(), Some(seen), "{typed:?}");
        }
    }
}
