//! Images as files and directories of other tools: in to the store of blobs, and out of it.

mod docker;
mod import;
mod index;
mod save;
mod source;

pub use import::{ImportError, import};
pub use index::IndexEntry;
pub use save::{SaveError, save};

/// A machine that an image can be for, in the words of the OCI image specification ("Image index", `platform`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// Like `linux`.
    pub os: String,
    /// Like `amd64`.
    pub architecture: String,
    /// Like `v8`; empty means any.
    pub variant: String,
}

impl Platform {
    /// Returns what sheds on this host run: Linux, on the processor of the host.
    #[must_use]
    pub fn of_host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: String::new() }
    }
}

/// The file of an OCI layout that says which images are in it.
const INDEX: &str = "index.json";

/// The file that says that a directory is a layout, and its content (OCI image specification, "oci-layout file").
const LAYOUT: &str = "oci-layout";
const LAYOUT_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Says a tag: the name that skopeo, podman and umoci ask for.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Says a whole reference: what containerd and docker write.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
