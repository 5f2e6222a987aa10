//! The lines by which both ends of a pipe agree on a fresh start, as pure functions over bytes.
//!
//! Each end may find the other in any state: not running, waiting, or in the middle of an older connection; and any
//! amount of stale bytes may lie in the pipe. Four lines settle it:
//!
//! ```text
//! guest: SHED-LINK guest <generation>     I have just started and read lines now
//! host:  SHED-LINK host <nonce>           I have just connected; throw away what came before
//! guest: SHED-LINK ready <nonce>          I have thrown it away; nothing but the new mux follows from me
//! host:  SHED-LINK go <nonce>             neither does anything else from me
//! ```
//!
//! Host lines may be repeated, because the first one may fall into the guest's old mux; `go` is what tells the guest
//! that no repetition follows. The lines hold no zero byte, and a yamux header begins with one (its version, yamux
//! specification "Framing"), so a line inside a mux breaks the mux and never passes for data outside a frame.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Begins each line.
const TAG: &[u8] = b"SHED-LINK ";

/// Bytes of a line that are looked at, more than the longest line has. Whatever stands before them is discarded.
const WINDOW: usize = 64;

/// Names one connection of the host; never used twice, so that an answer to an older one is not mistaken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(Uuid);

impl Nonce {
    /// Makes a new, unpredictable one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        let strict = digits.len() == 32 && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        strict.then(|| Uuid::try_parse_ascii(digits).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_simple().fmt(f)
    }
}

/// What the guest says before the mux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestLine {
    /// The guest has just started and reads lines.
    Hello {
        /// Counts the guest's fresh starts since the agent's own; for logs.
        generation: u32,
    },
    /// The guest has read the host's line with this nonce; its mux follows.
    Ready(Nonce),
}

/// What the host says before the mux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostLine {
    /// The host has just connected.
    Host(Nonce),
    /// The host has read the guest's [`GuestLine::Ready`]; its mux follows.
    Go(Nonce),
}

impl GuestLine {
    /// Returns the line's bytes, line feed included.
    #[must_use]
    pub fn to_line(self) -> String {
        match self {
            Self::Hello { generation } => format!("SHED-LINK guest {generation}\n"),
            Self::Ready(nonce) => format!("SHED-LINK ready {nonce}\n"),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        if let Some(digits) = text.strip_prefix(b"guest ") {
            let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let generation = plain.then(|| u32::from_str(str::from_utf8(digits).ok()?).ok()).flatten()?;
            return Some(Self::Hello { generation });
        }
        Nonce::parse(text.strip_prefix(b"ready ")?).map(Self::Ready)
    }
}

impl HostLine {
    /// Returns the line's bytes, line feed included.
    #[must_use]
    pub fn to_line(self) -> String {
        match self {
            Self::Host(nonce) => format!("SHED-LINK host {nonce}\n"),
            Self::Go(nonce) => format!("SHED-LINK go {nonce}\n"),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        if let Some(digits) = text.strip_prefix(b"host ") {
            return Nonce::parse(digits).map(Self::Host);
        }
        Nonce::parse(text.strip_prefix(b"go ")?).map(Self::Go)
    }
}

/// Finds the guest's lines among any other bytes; used by the host.
#[derive(Debug, Default)]
pub struct GuestScanner(Tail);

/// Finds the host's lines among any other bytes; used by the guest.
#[derive(Debug, Default)]
pub struct HostScanner(Tail);

impl GuestScanner {
    /// Looks at the bytes that came next. Returns the first line among them and what stands behind it, or nothing
    /// when all of `input` is discarded.
    pub fn scan<'a>(&mut self, input: &'a [u8]) -> Option<(GuestLine, &'a [u8])> {
        self.0.scan(input, GuestLine::parse)
    }
}

impl HostScanner {
    /// Looks at the bytes that came next. Returns the first line among them and what stands behind it, or nothing
    /// when all of `input` is discarded.
    pub fn scan<'a>(&mut self, input: &'a [u8]) -> Option<(HostLine, &'a [u8])> {
        self.0.scan(input, HostLine::parse)
    }
}

/// The last bytes seen since a line feed, at most `2 * WINDOW` of them.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn scan<'a, L>(
        &mut self,
        mut input: &'a [u8],
        parse: impl Fn(&[u8]) -> Option<L>,
    ) -> Option<(L, &'a [u8])> {
        while let Some(end) = input.iter().position(|&b| b == b'\n') {
            self.push(&input[..end]);
            input = &input[end + 1..];
            let line = self.text().and_then(&parse);
            self.0.clear();
            if let Some(line) = line {
                return Some((line, input));
            }
        }
        self.push(input);
        None
    }

    /// What follows the last tag: stale bytes without a line feed may stand before it.
    fn text(&self) -> Option<&[u8]> {
        let at = self.0.windows(TAG.len()).rposition(|window| window == TAG)?;
        self.0.get(at + TAG.len()..)
    }

    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(WINDOW)..];
        if self.0.len() + bytes.len() > 2 * WINDOW {
            let keep_from = self.0.len().saturating_sub(WINDOW);
            self.0.drain(..keep_from);
        }
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `wire` in pieces of the given sizes and returns the first line that satisfies `want`, and the rest.
    fn find_host(wire: &[u8], cuts: &[usize], want: HostLine) -> Option<Vec<u8>> {
        let mut scanner = HostScanner::default();
        let mut cuts = cuts.iter().copied().cycle();
        let mut rest = wire;
        while !rest.is_empty() {
            let (mut piece, after) = rest.split_at(cuts.next().unwrap_or(1).clamp(1, rest.len()));
            while let Some((line, behind)) = scanner.scan(piece) {
                if line == want {
                    return Some([behind, after].concat());
                }
                piece = behind;
            }
            rest = after;
        }
        None
    }

    #[test]
    fn every_line_reads_back() {
        let nonce = Nonce::random();
        for line in [HostLine::Host(nonce), HostLine::Go(nonce)] {
            assert_eq!(HostScanner::default().scan(line.to_line().as_bytes()), Some((line, &b""[..])));
        }
        for line in [GuestLine::Hello { generation: 7 }, GuestLine::Ready(nonce)] {
            assert_eq!(GuestScanner::default().scan(line.to_line().as_bytes()), Some((line, &b""[..])));
            assert!(!line.to_line().contains('\0') && line.to_line().len() < WINDOW);
        }
    }

    #[test]
    fn lines_that_are_nearly_right_are_discarded() {
        let nonce = "0123456789abcdef0123456789abcdef";
        for line in [
            format!("SHED-LINK host {nonce}0\n"),
            format!("SHED-LINK host {}\n", &nonce[1..]),
            format!("SHED-LINK host {}\n", nonce.to_uppercase()),
            format!("SHED-LINK host {nonce} \n"),
            format!("SHED-LINK host {nonce}\r\n"),
            format!("SHED-LINK hosts {nonce}\n"),
            format!("shed-link host {nonce}\n"),
            "SHED-LINK \n".to_owned(),
            "\n".to_owned(),
        ] {
            assert_eq!(HostScanner::default().scan(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(GuestScanner::default().scan(b"SHED-LINK guest +1\n"), None);
        assert_eq!(GuestScanner::default().scan(b"SHED-LINK guest 99999999999\n"), None);
    }

    #[test]
    fn garbage_without_a_line_feed_takes_no_memory() {
        let mut scanner = HostScanner::default();
        for _ in 0..100 {
            assert_eq!(scanner.scan(&[b'x'; 4096]), None);
        }
        assert!(scanner.0.0.capacity() <= 4 * WINDOW);
    }

    proptest! {
        #[test]
        fn a_line_is_found_behind_any_garbage_and_the_rest_is_kept(
            garbage in prop::collection::vec(any::<u8>(), 0..400),
            half_line in 0usize..49,
            behind in prop::collection::vec(any::<u8>(), 0..100),
            cuts in prop::collection::vec(1usize..80, 1..6),
        ) {
            let line = HostLine::Host(Nonce::random());
            let stale = HostLine::Host(Nonce::random()).to_line();
            let wire = [&garbage[..], &stale.as_bytes()[..half_line.min(stale.len())], line.to_line().as_bytes(), &behind].concat();
            prop_assert_eq!(find_host(&wire, &cuts, line), Some(behind));
        }

        #[test]
        fn no_bytes_make_the_scanner_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10)) {
            let mut scanner = GuestScanner::default();
            for piece in &pieces {
                let mut rest = &piece[..];
                while let Some((_, behind)) = scanner.scan(rest) {
                    rest = behind;
                }
                prop_assert!(scanner.0.0.len() <= 2 * WINDOW);
            }
        }
    }
}
