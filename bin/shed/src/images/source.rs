//! What `--from` names: an archive or layout on this machine, or an image in a registry.

use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ImageReference;

/// File that every OCI layout has (OCI image specification, "Image layout").
const INDEX: &str = "index.json";

/// Ends of names that are meant to be files: a registry would be asked in vain for a repository of that name.
const ARCHIVES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci"];

/// What an image is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// An OCI layout, or what `docker save` writes.
    Archive {
        /// Where it is.
        path: Utf8PathBuf,
        /// Which of its images; needed when it has several.
        image: Option<String>,
    },
    /// An image in a registry.
    Reference(ImageReference),
}

/// Says why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseSourceError {
    #[error("there is no archive or OCI layout {0}")]
    Missing(String),
    #[error("it is neither an archive or OCI layout on this machine nor a reference to a registry: {0}")]
    Neither(#[from] shed_types::ParseReferenceError),
}

impl FromStr for Source {
    type Err = ParseSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_archive(text) {
            return Ok(Self::Archive { path: text.into(), image: None });
        }
        // As skopeo has it: the path ends before the first colon, the image's name may have more.
        if let Some((path, image)) = text.split_once(':')
            && is_archive(path)
        {
            return Ok(Self::Archive { path: path.into(), image: Some(image.to_owned()) });
        }
        if text.starts_with(['/', '.', '~']) || ARCHIVES.iter().any(|end| text.ends_with(end)) {
            return Err(ParseSourceError::Missing(text.to_owned()));
        }
        Ok(Self::Reference(text.parse()?))
    }
}

/// Whether a path leads to what may be an archive. A directory of any other kind is none: it may have the name of an image.
fn is_archive(path: &str) -> bool {
    let path = Utf8Path::new(path);
    path.is_file() || path.join(INDEX).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_is_an_archive_and_all_else_a_reference() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("x.tar"), "").unwrap();
        std::fs::create_dir(path("layout")).unwrap();
        std::fs::write(path("layout/index.json"), "").unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        for name in ["x.tar", "layout"] {
            let path = path(name);
            let archive = |image: Option<&str>| Source::Archive {
                path: path.clone().into(),
                image: image.map(str::to_owned),
            };
            assert_eq!(path.parse(), Ok(archive(None)));
            assert_eq!(format!("{path}:r.io/a/b:v1").parse(), Ok(archive(Some("r.io/a/b:v1"))));
        }
        for name in ["none.tar", "directory", "directory:v1"] {
            assert!(matches!(path(name).parse::<Source>(), Err(ParseSourceError::Missing(_))), "{name}");
        }
        assert!(matches!("no-such.tar".parse::<Source>(), Err(ParseSourceError::Missing(_))));
        for text in ["debian", "ghcr.io/owner/web:v1"] {
            assert_eq!(text.parse(), Ok(Source::Reference(text.parse().unwrap())));
        }
        for text in ["", "two words", "UPPER"] {
            assert!(matches!(text.parse::<Source>(), Err(ParseSourceError::Neither(_))), "{text:?}");
        }
    }
}
