//! How far the making of an image is: told by pull, import and conversion, shown by server and CLI.

/// What is being done for an image, in the order in which it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageStep {
    /// Another process makes the image, or removes it; it is waited for.
    Wait,
    /// The registry is asked what the reference means.
    Resolve,
    /// Blobs come from the registry or an archive.
    Download,
    /// The layers are read, to see what the image consists of.
    Unpack,
    /// The file system is written.
    Write,
}

impl ImageStep {
    /// Returns the step in a word, as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Resolve => "resolve",
            Self::Download => "download",
            Self::Unpack => "unpack",
            Self::Write => "write",
        }
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageProgress {
    /// The step.
    pub step: ImageStep,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes in all; 0 while that is not known.
    pub bytes_total: u64,
    /// Layers that are done.
    pub layers_done: u32,
    /// Layers in all; 0 while that is not known.
    pub layers_total: u32,
}

/// Whoever waits for an image.
pub trait ImageWatch: Send + Sync {
    /// Hears how far it is; called often, from any thread, and must not wait.
    fn progress(&self, progress: ImageProgress);

    /// Tells whether nobody wants the image any more; work then ends soon with an error, and leaves only what the next
    /// one continues.
    fn is_cancelled(&self) -> bool;
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl ImageWatch for Unwatched {
    fn progress(&self, _progress: ImageProgress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
