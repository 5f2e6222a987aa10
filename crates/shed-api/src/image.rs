//! Images on the wire (spec A.6).

use serde::{Deserialize, Serialize};

/// Where a server knows an image from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageSource {
    /// Its configuration names it.
    Config,
    /// It lies in the images directory.
    Discovered,
}

impl ImageSource {
    /// Returns the source as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Discovered => "discovered",
        }
    }
}

/// An image that sheds can be made from. Optional fields are left out when they are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// What `image` of a create names.
    pub name: String,
    /// Its file on the server's host; left out when it is not cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What it is made from; left out for an image that exists here only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_ref: Option<String>,
    /// Length of the file in bytes; left out when it is not cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Where it is known from; left out in the report of a prune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ImageSource>,
    /// Whether its file is there.
    pub cached: bool,
    /// Whether it is just being pulled for a create.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pulling: bool,
}

/// Body of `GET /api/images`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageList {
    /// Sorted by name; empty, never null.
    pub images: Vec<Image>,
}

/// Blobs that no image needs: layers, configs and manifests as they were pulled, imported or built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrunedBlobs {
    /// How many.
    pub files: u64,
    /// What they took on the host's disk, in bytes.
    pub bytes: u64,
}

/// Body of the reply to `POST /api/images/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImagePruneReport {
    /// Images that were removed or, in a dry run, would be; sorted by name.
    pub deleted: Vec<Image>,
    /// Blobs that were removed or, in a dry run, would be; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<PrunedBlobs>,
    /// What could not be removed, and why; left out when there is nothing to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_examples_read_and_write_back() {
        crate::golden::check::<ImageList>(include_str!("../fixtures/images.json"));
        crate::golden::check::<ImagePruneReport>(include_str!("../fixtures/images-prune.json"));
    }

    #[test]
    fn pulls_and_blobs_read_and_write_back() {
        crate::golden::check::<ImageList>(include_str!("../fixtures/images-pulling.json"));
        crate::golden::check::<ImagePruneReport>(include_str!("../fixtures/images-prune-blobs.json"));
    }

    #[test]
    fn empty_lists_are_lists() {
        assert_eq!(serde_json::to_string(&ImageList::default()).unwrap(), r#"{"images":[]}"#);
        assert_eq!(serde_json::to_string(&ImagePruneReport::default()).unwrap(), r#"{"deleted":[]}"#);
    }
}
