//! Waits until a file appears, by the kernel's events and not by looking again and again. Firecracker makes its sockets
//! itself, and that they are there is all it says of how far it is.

use std::io;

use camino::Utf8Path;
use rustix::fs::inotify;
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes for one reading of events: many short ones, or a few with the longest name (man 7 inotify).
const EVENTS: usize = 4096;

/// Returns when something has this name; at once if something has.
///
/// # Errors
/// When the directory cannot be watched.
pub(super) async fn appears(path: &Utf8Path) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    // The watch comes before the first look, so that nothing slips between them.
    inotify::add_watch(&events, directory.as_std_path(), inotify::WatchFlags::CREATE)?;
    // SAFETY: an OwnedFd always answers with the same descriptor and keeps it open for as long as it lives, which is inside
    // the AsyncFd, where nobody takes or replaces it.
    let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
    loop {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let mut ready = events.readable().await?;
        let mut buffer = [0_u8; EVENTS];
        while rustix::io::read(ready.get_inner(), &mut buffer).is_ok_and(|length| length > 0) {}
        ready.clear_ready();
    }
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
