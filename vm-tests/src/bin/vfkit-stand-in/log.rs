//! What the program says to its standard error, as much as `--log-level` lets it.
//!
//! Called from everywhere in it. vfkit's lines look otherwise; nothing reads either.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    Info,
    Debug,
}

/// Says things of its level or a more important one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log(pub(crate) Level);

impl Log {
    pub(crate) fn error(self, text: &str) {
        self.say(Level::Error, "error", text);
    }

    /// A warning, which vfkit shows with its notes.
    pub(crate) fn warn(self, text: &str) {
        self.say(Level::Info, "warning", text);
    }

    pub(crate) fn info(self, text: &str) {
        self.say(Level::Info, "info", text);
    }

    pub(crate) fn debug(self, text: &str) {
        self.say(Level::Debug, "debug", text);
    }

    #[expect(clippy::print_stderr, reason = "this is where the program speaks")]
    fn say(self, level: Level, name: &str, text: &str) {
        if level <= self.0 {
            eprintln!("vfkit: {name}: {text}");
        }
    }
}
