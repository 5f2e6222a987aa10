//! Which directory of this machine holds the images that a command works on.
//!
//! It is the one that the user names, or that of the selected server when that runs here. Whether it does is guessed from
//! what can be seen: its address is one of this machine's own, and the directory it tells is here.

use std::{fs, net::IpAddr};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Access, access};
use shed_api::{Image, ImageSource};
use shed_client::Timeouts;
use shed_image::{BlobStore, ImageStore};
use shed_types::ImageName;

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    servers::Server,
};

/// What is done with the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Images are made in it.
    Make,
    /// Images are read from it.
    Read,
}

/// An images directory of this machine.
#[derive(Debug)]
pub(crate) struct Place {
    /// The images.
    pub(crate) images: ImageStore,
    /// Their blobs.
    pub(crate) blobs: BlobStore,
    /// The server that makes sheds from them, unless the user has named the directory.
    pub(crate) server: Option<Server>,
}

/// Finds the directory; `flag` names it where the user can.
///
/// # Errors
/// When there is none on this machine, or it cannot be used so.
pub(crate) async fn find(
    context: &Context,
    named: Option<&Utf8Path>,
    flag: &str,
    purpose: Use,
) -> Result<Place, CommandError> {
    if let Some(dir) = named {
        return here(dir, None, purpose).map_err(|reason| {
            CommandError::new(Kind::Failed, format!("cannot use {dir} as a directory of images"))
                .caused_by(reason)
        });
    }
    let server = context.servers()?.selected()?;
    let instead = format!("name a directory of this machine: {flag} DIR");
    let info = server.client(Timeouts::default()).info().await;
    let info = info.map_err(|error| CommandError::from_client(error, &server, None).hinted(&instead))?;
    let elsewhere = |reason: String| {
        CommandError::new(Kind::Failed, reason)
            .hinted("run this on the server's own host, as a user who may write there")
            .hinted(&instead)
    };
    if !is_this_machine(server.entry.host()) {
        return Err(elsewhere(format!("the images of {server} are not on this machine")));
    }
    let Some(dir) = info.images_dir else {
        return Err(elsewhere(format!("{server} does not say where its images are")));
    };
    let failed = format!("cannot use {dir}, where {server} has its images");
    here(Utf8Path::new(&dir), Some(server), purpose).map_err(|reason| elsewhere(failed).caused_by(reason))
}

/// Says why a directory is none for images.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("there is no such directory on this machine")]
    Missing,
    #[error("it is no directory")]
    NoDirectory,
    #[error("it cannot be made: {0}")]
    Make(std::io::Error),
    #[error("it cannot be written: {0}")]
    Write(rustix::io::Errno),
    #[error("it cannot be read: {0}")]
    Read(std::io::Error),
}

fn here(dir: &Utf8Path, server: Option<Server>, purpose: Use) -> Result<Place, Unusable> {
    // Its own user's directory is made; a server's would be another one than the server has.
    if purpose == Use::Make && server.is_none() {
        fs::create_dir_all(dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => Unusable::NoDirectory,
            _ => Unusable::Make(error),
        })?;
    }
    let dir: Utf8PathBuf = dir.canonicalize_utf8().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unusable::Missing,
        std::io::ErrorKind::NotADirectory => Unusable::NoDirectory,
        _ => Unusable::Read(error),
    })?;
    if !dir.is_dir() {
        return Err(Unusable::NoDirectory);
    }
    if purpose == Use::Make {
        access(dir.as_std_path(), Access::WRITE_OK | Access::EXEC_OK).map_err(Unusable::Write)?;
    }
    let images = ImageStore::new(dir);
    Ok(Place { blobs: BlobStore::of(&images), images, server })
}

fn is_this_machine(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Place {
    /// Returns what to tell a user whose new image the server will not take, because its config gives the name to another
    /// one. A server that cannot be asked says nothing.
    pub(crate) async fn mapped_elsewhere(&self, name: &ImageName) -> Option<String> {
        let server = self.server.as_ref()?;
        let images = server.client(Timeouts::default()).images().await.ok()?;
        let ours = self.images.rootfs(name);
        let other = images.into_iter().find(|image| is_other(image, name, &ours))?;
        let what = other.docker_ref.or(other.path).unwrap_or_else(|| "something else".to_owned());
        Some(format!(
            "the config of server {} says that image {name} is {what}; sheds are made from that",
            server.name
        ))
    }
}

fn is_other(image: &Image, name: &ImageName, ours: &Utf8Path) -> bool {
    image.name == name.as_str()
        && image.source == Some(ImageSource::Config)
        && (image.docker_ref.is_some() || image.path.as_deref().is_some_and(|path| path != ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_loopback_are_this_machine_for_sure() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["10.0.0.1", "mini", "localhost.example", "0.0.0.0", "", "::", "1.127.0.0"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn a_name_that_the_config_gives_to_another_image_is_noticed() {
        let name: ImageName = "web".parse().unwrap();
        let other = |json: &str| {
            is_other(&serde_json::from_str(json).unwrap(), &name, Utf8Path::new("/i/web-rootfs.ext4"))
        };
        assert!(other(r#"{"name":"web","source":"config","docker_ref":"ghcr.io/o/web:1","cached":false}"#));
        assert!(other(r#"{"name":"web","source":"config","path":"/srv/web.ext4","cached":true}"#));
        assert!(!other(r#"{"name":"web","source":"config","path":"/i/web-rootfs.ext4","cached":true}"#));
        assert!(!other(r#"{"name":"web","source":"discovered","path":"/i/web-rootfs.ext4","cached":true}"#));
        assert!(!other(r#"{"name":"api","source":"config","path":"/srv/api.ext4","cached":true}"#));
    }
}
