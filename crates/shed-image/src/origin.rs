//! Where an image comes from: what the config may say about one, and what `.source` beside a cached one says.
//!
//! The server's config is read into [`ImageOrigin`]; the guest builder and the server agree here on the text of
//! `.source`. Nothing here reads a file.

use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::{ImageName, ImageReference};

/// What a config says an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageOrigin {
    /// An ext4 file of the user's own, used where it is.
    Path(Utf8PathBuf),
    /// An image in a registry, used as it is cached in the images directory.
    Reference(ImageReference),
}

impl fmt::Display for ImageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Reference(reference) => reference.fmt(f),
        }
    }
}

/// Begins the source of an image that was built here from a recipe.
const RECIPE: &str = "recipe:";

/// Returns the source of an image that is built from the recipe of this name.
#[must_use]
pub fn recipe_source(recipe: &ImageName) -> String {
    format!("{RECIPE}{recipe}")
}

/// Returns the source of an image that was built here from the context or archive at `path`.
///
/// The space makes it a text that no reference can be, whatever the path is.
#[must_use]
pub fn build_source(path: &Utf8Path) -> String {
    let path = path.as_str().replace(char::is_control, "?");
    format!("build: {path}")
}

/// Returns the reference an image was made from, unless its source says something else.
#[must_use]
pub fn reference_in_source(source: &str) -> Option<ImageReference> {
    // The name of a recipe would read as a tag.
    if source.starts_with(RECIPE) { None } else { source.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_no_reference() {
        let name: ImageName = "base".parse().unwrap();
        assert!(recipe_source(&name).parse::<ImageReference>().is_ok(), "or this test proves nothing");
        assert_eq!(reference_in_source(&recipe_source(&name)), None);
        assert_eq!(reference_in_source("made by hand, on a Sunday"), None);
        let reference = reference_in_source("ghcr.io/owner/tools:v1").unwrap();
        assert_eq!(reference.to_string(), "ghcr.io/owner/tools:v1");
    }

    #[test]
    fn what_was_built_here_is_no_reference_and_stays_one_line() {
        for path in ["v1", "/srv/web", "", "a\nb", "ghcr.io/owner/tools:v1"] {
            let source = build_source(Utf8Path::new(path));
            assert_eq!(reference_in_source(&source), None, "{source}");
            assert!(!source.contains(char::is_control), "{source:?}");
        }
    }

    #[test]
    fn an_origin_is_written_as_the_config_has_it() {
        let path = ImageOrigin::Path("/srv/x.ext4".into());
        let reference = ImageOrigin::Reference("ghcr.io/owner/tools:v1".parse().unwrap());
        assert_eq!(format!("{path} {reference}"), "/srv/x.ext4 ghcr.io/owner/tools:v1");
    }
}
