//! Waits until a file appears, by the kernel's events and not by looking again and again. Firecracker and vfkit make their
//! sockets themselves, and that they are there is all they say of how far they are.
//!
//! Called while a machine starts. It says that something has a name, not what it is.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

use std::io;

use camino::Utf8Path;

/// Returns when something has this name; at once if something has.
///
/// # Errors
/// When the directory cannot be watched.
pub(crate) async fn appears(path: &Utf8Path) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    // The watch comes before the first look, so that nothing slips between them.
    let watch = system::Watch::new(directory)?;
    while path.symlink_metadata().is_err() {
        watch.changed().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_is_there_and_what_comes_are_both_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("socket");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { appears(&path).await }
        });
        std::fs::write(path.with_file_name("other"), "").unwrap();
        tokio::task::yield_now().await;
        std::fs::write(&path, "").unwrap();
        timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap().unwrap();
        appears(&path).await.unwrap();
        assert!(appears(Utf8Path::new("/no/such/directory/x")).await.is_err());
    }
}
