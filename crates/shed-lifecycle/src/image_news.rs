//! How far an image is, in a sentence for people. Called for creates that wait for one, and by `shed-server pull-images`.

use shed_image::{ImageProgress, ImageStep};
use shed_types::ImageReference;

/// Bytes in a megabyte, as registries and disks count them.
const MEGABYTE: u64 = 1_000_000;

/// Says how far the image of a reference is.
#[must_use]
pub fn tell(reference: &ImageReference, at: ImageProgress) -> String {
    let ImageProgress { step, bytes_done, bytes_total, layers_done, layers_total } = at;
    let (done, total) = (bytes_done.div_ceil(MEGABYTE), bytes_total.div_ceil(MEGABYTE));
    let bytes = match (done, total) {
        (0, 0) => String::new(),
        (done, 0) => format!(": {done} MB"),
        (done, total) => format!(": {done} of {total} MB"),
    };
    let layers = match (layers_done, layers_total) {
        (_, 0) => String::new(),
        (done, total) => {
            format!("{} {done} of {total} layers", if bytes.is_empty() { ":" } else { "," })
        }
    };
    match step {
        ImageStep::Wait => {
            format!("Waiting for another process that makes or removes the image of {reference}")
        }
        ImageStep::Resolve => format!("Asking {} for {reference}", reference.registry()),
        ImageStep::Download => format!("Downloading {reference}{bytes}{layers}"),
        ImageStep::Unpack => format!("Reading the layers of {reference}{bytes}{layers}"),
        ImageStep::Write => format!("Writing the file system of {reference}{bytes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_megabytes_and_layers_as_far_as_they_are_known() {
        let reference: ImageReference = "ghcr.io/owner/web:v1".parse().unwrap();
        let say = |step, bytes_done, bytes_total, layers_done, layers_total| {
            tell(&reference, ImageProgress { step, bytes_done, bytes_total, layers_done, layers_total })
        };
        for (said, expected) in [
            (
                say(ImageStep::Download, 120_000_000, 299_999_999, 2, 5),
                "Downloading ghcr.io/owner/web:v1: 120 of 300 MB, 2 of 5 layers",
            ),
            (say(ImageStep::Download, 0, 0, 0, 3), "Downloading ghcr.io/owner/web:v1: 0 of 3 layers"),
            (say(ImageStep::Unpack, 1, 0, 0, 0), "Reading the layers of ghcr.io/owner/web:v1: 1 MB"),
            (say(ImageStep::Resolve, 0, 0, 0, 0), "Asking ghcr.io for ghcr.io/owner/web:v1"),
            (
                say(ImageStep::Write, 0, 5_000_000, 5, 5),
                "Writing the file system of ghcr.io/owner/web:v1: 0 of 5 MB",
            ),
        ] {
            assert_eq!(said, expected);
        }
        assert!(say(ImageStep::Wait, 0, 0, 0, 0).starts_with("Waiting for another process"));
    }
}
