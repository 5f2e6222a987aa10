//! How much guests may remember of a shared directory: a choice of the configuration, which every system can read.

/// How long the guest may go on with what it knows of names, sizes and contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShareCache {
    /// Not at all: what one side does the other sees at once. Files can be mapped into memory all the same.
    #[default]
    None,
    /// Names and sizes for a second, contents until the file is opened again.
    Auto,
    /// Names and sizes for a day, contents not at all: for directories that only the guest changes.
    Metadata,
    /// Everything for a day: for directories that only the guest changes.
    Always,
}

impl ShareCache {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::None, Self::Auto, Self::Metadata, Self::Always];

    /// Returns the choice as it is written in server.yaml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Metadata => "metadata",
            Self::Always => "always",
        }
    }
}
