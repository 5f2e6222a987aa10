//! `shed-server pull-images`: gets every image that the config names by reference, before a create waits for one
//! (spec I.4).
//!
//! It may run while a server does, and while another of its kind does: the lock of each image is between them. Of several
//! names for one reference the first is pulled and the others become links to it.

use std::{
    fmt,
    io::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use shed_image::{ImageLimits, ImageOrigin, ImageProgress, ImageStep, ImageStore, ImageWatch};
use shed_lifecycle::{FetchImage, Made, make_image, tell_image_progress};
use shed_types::{BackendKind, ImageName, ImageReference, error_chain};

use crate::{
    backends::{self, ChooseBackendError},
    config::{CommonSection, Config},
};

/// Time between two lines on one step of one image.
const NEWS: Duration = Duration::from_secs(2);

/// Why nothing was pulled at all.
#[derive(Debug, thiserror::Error)]
pub enum PullImagesError {
    #[error(transparent)]
    Backend(#[from] ChooseBackendError),
    #[error("{variant:?} is no key of {backend}.images in server.yaml; there are: {}", list(.known))]
    UnknownVariant {
        /// What was asked for.
        variant: String,
        /// Whose images they are.
        backend: BackendKind,
        known: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What became of each image, a line each.
#[derive(Debug, Default)]
pub struct Pulled {
    lines: Vec<(ImageName, String, Result<String, String>)>,
}

impl Pulled {
    /// Whether every image is there.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(|(_, _, outcome)| outcome.is_ok())
    }
}

/// Gets all images that the config names, or the one of this name.
///
/// # Errors
/// When the config has no such name. What could not be got is in the result.
pub async fn run(
    config: &Config,
    variant: Option<&str>,
    from: &dyn FetchImage,
) -> Result<Pulled, PullImagesError> {
    let kind = backends::decide(config)?.kind;
    let section = backends::section(config, kind);
    let store = ImageStore::new(section.images_dir.clone());
    let mut pulled = Pulled::default();
    for (name, origin) in wanted(section, kind, variant)? {
        let outcome = match &origin {
            ImageOrigin::Path(_) => Ok("used where it is".to_owned()),
            ImageOrigin::Reference(reference) => {
                get(reference, &store, &name, config.image_limits, from).await
            }
        };
        pulled.lines.push((name, origin.to_string(), outcome));
    }
    Ok(pulled)
}

fn wanted(
    section: &CommonSection,
    backend: BackendKind,
    variant: Option<&str>,
) -> Result<Vec<(ImageName, ImageOrigin)>, PullImagesError> {
    let images = &section.images;
    let Some(variant) = variant else {
        let base = section.base_rootfs.clone().map(|origin| (ImageName::configured_base(), origin));
        let named = images.iter().map(|(name, origin)| (name.clone(), origin.clone()));
        let all = base.into_iter().chain(named);
        return Ok(all.filter(|(_, origin)| matches!(origin, ImageOrigin::Reference(_))).collect());
    };
    match images.iter().find(|(name, _)| name.as_str() == variant) {
        Some((name, origin)) => Ok(vec![(name.clone(), origin.clone())]),
        None => Err(PullImagesError::UnknownVariant {
            variant: variant.to_owned(),
            backend,
            known: images.keys().map(ToString::to_string).collect(),
        }),
    }
}

async fn get(
    reference: &ImageReference,
    store: &ImageStore,
    name: &ImageName,
    limits: ImageLimits,
    from: &dyn FetchImage,
) -> Result<String, String> {
    let told = Mutex::new(None);
    let watch = Arc::new(Teller { name: name.clone(), reference: reference.clone(), told });
    match make_image(from, reference, store, name, limits, watch).await {
        Ok(Made::Cached) => Ok("was there".to_owned()),
        Ok(Made::Linked(other)) => Ok(format!("linked to {other}")),
        Ok(Made::Pulled) => Ok("pulled".to_owned()),
        Err(error) => Err(error_chain(&*error)),
    }
}

/// Tells on stderr how far an image is.
#[derive(Debug)]
struct Teller {
    name: ImageName,
    reference: ImageReference,
    told: Mutex<Option<(Instant, ImageStep)>>,
}

impl ImageWatch for Teller {
    fn progress(&self, progress: ImageProgress) {
        let mut told = self.told.lock().expect("no code panics while it holds this lock");
        if told.is_none_or(|(at, step)| progress.step > step || at.elapsed() >= NEWS) {
            *told = Some((Instant::now(), progress.step));
            let news = tell_image_progress(&self.reference, progress);
            // A stderr that is gone is no reason to stop.
            let _gone = writeln!(std::io::stderr(), "{}: {news}", self.name);
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

impl fmt::Display for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return writeln!(f, "server.yaml names no image in a registry");
        }
        let width = self.lines.iter().map(|(name, _, _)| name.as_str().len()).max().unwrap_or(0);
        for (name, origin, outcome) in &self.lines {
            match outcome {
                Ok(text) => writeln!(f, "ok      {name:<width$}  {origin}  {text}")?,
                Err(text) => writeln!(f, "FAILED  {name:<width$}  {origin}  {text}")?,
            }
        }
        Ok(())
    }
}
