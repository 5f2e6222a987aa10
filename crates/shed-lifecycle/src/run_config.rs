//! How the programs of a shed's image are to be run, as the guest is told.
//!
//! A boot and the adoption of a machine read it from the shed's own link to its image, which never changes. An image of
//! which nothing is known is as good as any, so nothing here keeps a shed from running.

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{RunConfig, Trailer};
use shed_protocol::ImageConfig;
use shed_types::ShedName;

/// Reads it; `None` when the image says nothing, or nothing readable.
pub(crate) async fn read(shed: &ShedName, image: Utf8PathBuf) -> Option<ImageConfig> {
    let name = shed.clone();
    let reading = tokio::task::spawn_blocking(move || read_now(&name, &image));
    reading.await.unwrap_or_else(|error| {
        tracing::error!(%shed, %error, "the look at the image broke off");
        None
    })
}

fn read_now(shed: &ShedName, image: &Utf8Path) -> Option<ImageConfig> {
    let trailer = match Trailer::read(image) {
        Ok(trailer) => trailer?,
        Err(error) => {
            tracing::warn!(
                %shed, %image, %error,
                "what the image says of its programs cannot be read; they run as if it said nothing"
            );
            return None;
        }
    };
    let RunConfig { user, env, entrypoint, cmd, working_dir } = trailer.config;
    let (config, cut) = ImageConfig { user, env, entrypoint, cmd, working_dir }.bounded();
    for what in cut {
        tracing::warn!(%shed, %image, "the image's config is too long; the shed goes without {what}");
    }
    Some(config)
}
