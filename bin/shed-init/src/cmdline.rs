//! The kernel command line: the few words of it that are for shed-init.

use std::path::PathBuf;

/// What the command line asks of shed-init.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cmdline {
    /// `shed.init=PATH`: run this as PID 1, whatever the image holds. For tests.
    pub(crate) init: Option<PathBuf>,
}

impl Cmdline {
    /// Reads the words for shed-init out of the text of /proc/cmdline; the last one of a kind wins.
    pub(crate) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for word in text.split_ascii_whitespace() {
            if let Some(path) = word.strip_prefix("shed.init=").filter(|path| path.starts_with('/')) {
                found.init = Some(PathBuf::from(path));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_words_are_read_and_the_last_wins() {
        let parsed = Cmdline::parse(
            "quiet init=/bin/false shed.init=/a console=ttyS0 shed.init=/b shed.init=relative\n",
        );
        assert_eq!(parsed.init, Some(PathBuf::from("/b")));
        assert_eq!(Cmdline::parse(""), Cmdline::default());
    }
}
