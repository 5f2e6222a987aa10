//! What the agent says to its host unasked, over a vsock connection of its own to the host's port for it.
//!
//! One connection is one word. The agent writes it, the host that listens for it (backends whose machines have a vsock
//! device) reads it and closes the connection, which tells the agent that it was heard. The guest is not trusted: a word
//! is short, and what is none is nothing.

/// A word of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentWord {
    /// It can be reached from now on. It is the empty word.
    Ready,
    /// The guest ends its machine now and wants to be booted again.
    Reboot,
}

impl AgentWord {
    /// Room for the longest word, in bytes, and for what shows that a longer one is none.
    pub const ROOM: usize = 16;

    /// Returns what is written.
    #[must_use]
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Ready => b"",
            Self::Reboot => b"reboot\n",
        }
    }

    /// Returns whether nothing that follows `bytes` belongs to the word: connections of some VMMs cannot end in one
    /// direction alone, so a word says itself where it ends.
    #[must_use]
    pub fn is_whole(bytes: &[u8]) -> bool {
        bytes.contains(&b'\n')
    }

    /// Reads what came on a connection, to the word's end or the connection's. Nothing for what is no word.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        [Self::Ready, Self::Reboot].into_iter().find(|word| word.bytes() == bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_what_they_have_always_been() {
        assert_eq!(AgentWord::parse(b""), Some(AgentWord::Ready));
        assert_eq!(AgentWord::parse(b"reboot\n"), Some(AgentWord::Reboot));
        assert!(AgentWord::is_whole(AgentWord::Reboot.bytes()));
        assert!(AgentWord::Reboot.bytes().len() < AgentWord::ROOM);
    }

    #[test]
    fn what_is_nearly_a_word_is_none() {
        for bytes in [&b"reboot"[..], b"reboot\n\n", b"REBOOT\n", b" reboot\n", b"\n", b"reboot\0", &[0; 16]]
        {
            assert_eq!(AgentWord::parse(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(AgentWord::parse(&bytes).is_some(), bytes.is_empty() || bytes == b"reboot\n");
        }
    }
}
