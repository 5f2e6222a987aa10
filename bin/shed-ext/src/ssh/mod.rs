//! `shed-ssh-agent`: an SSH agent on a socket, whose keys are on the user's machine (spec J.3).
//!
//! It lists and signs. Everything else is refused: no key can be put into it or taken out, and it has nothing to lock.

mod client;
pub mod wire;

use std::{
    io, os::unix::net::UnixStream as Connection, path::Path, process::ExitCode, sync::Arc, time::Duration,
};

use rustix::{fs::Mode, process::umask};
use shed_extensions::ssh::NAMESPACE;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::sleep,
};

use crate::{command_line::Place, say};

const NAME: &str = "shed-ssh-agent";

/// File name of the socket (spec J.3).
pub(crate) const SOCKET: &str = "ssh-agent.sock";

/// Clients at a time; those beyond wait until one has gone.
const CLIENTS: usize = 64;

/// Pause when no connection can be taken, as with too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Says why there is no agent.
#[derive(Debug, thiserror::Error)]
enum SocketError {
    #[error("cannot make the directory of {path}: {source}; systemd makes it for the unit {NAME}.service")]
    Directory { path: String, source: io::Error },
    #[error("an SSH agent answers at {path} already; stop it first: systemctl stop {NAME}")]
    Taken { path: String },
    #[error("cannot listen at {path}: {source}; the directory must belong to the user that runs this")]
    Listen { path: String, source: io::Error },
}

/// Serves until the process is told to end.
pub(crate) async fn serve(place: Place) -> ExitCode {
    let path = place.run_dir.file(SOCKET);
    let listener = match place
        .run_dir
        .make()
        .map_err(|source| SocketError::Directory { path: path.display().to_string(), source })
        .and_then(|()| listen(&path))
    {
        Ok(listener) => listener,
        Err(error) => {
            say::error(NAME, &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    say::note(NAME, &format!("listens at {}", path.display()));
    let Place { bus, run_dir } = place;
    let (asking, asked) = (bus.clone(), run_dir.clone());
    tokio::spawn(async move { asked.note_start(NAME, NAMESPACE, &asking).await });
    let accept = async {
        let clients = Arc::new(Semaphore::new(CLIENTS));
        let bus = Arc::new(bus);
        loop {
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let bus = Arc::clone(&bus);
                    tokio::spawn(async move {
                        client::serve(stream, &bus).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    say::error(NAME, &format!("cannot take a connection: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = told_to_end() => {}
    }
    // Without it clients are told that there is no agent, rather than that it does not answer.
    let _gone = std::fs::remove_file(&path);
    ExitCode::SUCCESS
}

/// Listens at the path, which only this user may use from the first moment. A socket that nobody listens at any more is
/// replaced.
fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let shown = || path.display().to_string();
    if Connection::connect(path).is_ok() {
        return Err(SocketError::Taken { path: shown() });
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let bind = || {
        let before = umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&new);
        umask(before);
        let listener = listener?;
        // What is there is replaced in one step: whoever connects meets the old one or the new one.
        std::fs::rename(&new, path)?;
        Ok(listener)
    };
    bind().map_err(|source| {
        let _gone = std::fs::remove_file(&new);
        SocketError::Listen { path: shown(), source }
    })
}

async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Then the signals end the process as they are.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = listen(&path).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert!(matches!(listen(&path), Err(SocketError::Taken { .. })));
        drop(listener);
        listen(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
