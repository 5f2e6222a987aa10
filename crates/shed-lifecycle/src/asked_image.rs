//! What a caller may name as the image of a new shed: a name, a file of the host, or a reference to a registry
//! (spec I.2).
//!
//! The HTTP layer parses it, the choice of the image acts on it. Which of the three a text is follows from its letters
//! alone, so that no file and no config can make one mean another. Nothing here looks at a file.

use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::DigestHasher;
use shed_types::{ImageName, ImageReference};

/// Longest readable part of a name that is derived from a reference, in characters; image names have at most 128.
const READABLE: usize = 100;

/// How many digits of the reference's digest end a derived name: enough that two references share one by bad luck only.
const DIGITS: usize = 8;

/// An image as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedImage {
    /// What the config says it is, else the file of that name in the images directory.
    Name(ImageName),
    /// An ext4 file of the host, used where it is. Absolute.
    Path(Utf8PathBuf),
    /// An image in a registry. It has a tag, a digest or a slash; a plain word is a name.
    Reference(ImageReference),
}

/// Says why a text asks for no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskedImageError {
    #[error(
        "{text:?} is no path of an image; write it from `/` on, or from `~/` for the home directory of the server's user"
    )]
    Path { text: String },
    #[error(
        "the home directory of the server's user is unknown, so {text:?} leads nowhere; write the path from `/` on"
    )]
    NoHome { text: String },
    #[error(
        "{text:?} is neither the name of an image nor a path nor a reference to a registry like ghcr.io/owner/tools:v1"
    )]
    Neither { text: String },
}

impl AskedImage {
    /// Reads what a caller has written; `home` is what `~` stands for.
    ///
    /// # Errors
    /// When it is none of the three.
    pub fn parse(text: &str, home: Option<&Utf8Path>) -> Result<Self, AskedImageError> {
        let text_owned = || text.to_owned();
        if text.starts_with(['/', '~', '.']) {
            let rest = text.strip_prefix("~/");
            return match (rest, home) {
                _ if text.chars().any(char::is_control) => Err(AskedImageError::Path { text: text_owned() }),
                (Some(rest), Some(home)) => Ok(Self::Path(home.join(rest.trim_start_matches('/')))),
                (Some(_), None) => Err(AskedImageError::NoHome { text: text_owned() }),
                (None, _) if text.starts_with('/') => Ok(Self::Path(text.into())),
                (None, _) => Err(AskedImageError::Path { text: text_owned() }),
            };
        }
        if let Ok(name) = text.parse() {
            return Ok(Self::Name(name));
        }
        // Without one of these it is a name that somebody got wrong.
        let reference = text.parse().ok().filter(|_| text.contains(['/', ':', '@']));
        reference.map(Self::Reference).ok_or_else(|| AskedImageError::Neither { text: text_owned() })
    }
}

impl fmt::Display for AskedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Path(path) => path.fmt(f),
            Self::Reference(reference) => reference.fmt(f),
        }
    }
}

/// Returns the name under which a reference is cached that the config does not name: one that people recognise, and that
/// no other reference has.
pub(crate) fn name_of(reference: &ImageReference) -> ImageName {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
    let readable: String = reference
        .as_str()
        .chars()
        .map(|c| if is_plain(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(READABLE)
        .collect();
    let digest = DigestHasher::sha256_of(reference.as_str().as_bytes());
    let name = format!("{readable}-{}", &digest.hex()[..DIGITS]);
    name.parse().expect("a reference has a letter or digit, and all else was replaced")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<AskedImage, AskedImageError> {
        AskedImage::parse(text, Some("/home/ann".into()))
    }

    #[test]
    fn the_letters_of_a_text_say_which_of_the_three_it_is() {
        let name = |text: &str| Ok(AskedImage::Name(text.parse().unwrap()));
        let reference = |text: &str| Ok(AskedImage::Reference(text.parse().unwrap()));
        let path = |text: &str| Ok(AskedImage::Path(text.into()));
        for text in ["base", "_base", "my.image_v1", "ghcr.io"] {
            assert_eq!(parse(text), name(text));
        }
        for text in
            ["busybox:1", "ghcr.io/owner/tools:v1", "owner/tools", "localhost:5000/a", "[::1]:5000/a:b"]
        {
            assert_eq!(parse(text), reference(text));
        }
        assert_eq!(parse("/srv/x.ext4"), path("/srv/x.ext4"));
        assert_eq!(parse("~/x.ext4"), path("/home/ann/x.ext4"));
        assert_eq!(parse("~//etc/x"), path("/home/ann/etc/x"));
        assert!(parse(&"a".repeat(200)).is_err());
        for text in ["../base", "./x", "~bob/x", "~", "-x", "a b", "", "/a\nb", "owner/Tools"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(matches!(AskedImage::parse("~/x", None), Err(AskedImageError::NoHome { .. })));
    }

    #[test]
    fn a_derived_name_is_readable_and_never_hidden() {
        let name = |text: &str| name_of(&text.parse().unwrap()).to_string();
        assert!(name("ghcr.io/owner/web:v1").starts_with("ghcr.io-owner-web-v1-"));
        assert!(name("[::1]:5000/a").starts_with("1--5000-a-"), "{}", name("[::1]:5000/a"));
        assert_ne!(name("a/b:c"), name("a/b-c"));
    }

    proptest! {
        #[test]
        fn every_reference_has_a_name_of_its_own(texts in prop::collection::btree_set("[a-z0-9]{1,3}(\\.[a-z]{2}:[1-9]{1,4})?(/[a-z0-9]{1,120}([._-][a-z0-9]{1,9})?){1,2}(:[a-zA-Z0-9_.-]{1,9})?", 2)) {
            let references: Vec<ImageReference> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            let names: std::collections::BTreeSet<_> = references.iter().map(name_of).collect();
            prop_assert_eq!(names.len(), references.len());
            prop_assert!(names.iter().all(|name| !name.is_hidden()));
        }
    }
}
