//! Work that a file system may hold for ever: it has a thread of its own and a limit, and the agent's only other thread goes
//! on. Called for starting processes, for mounting, and for files that others can put anywhere.

use std::{io, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, time::timeout};

/// Says why the work was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApartError {
    #[error("no thread can be started for it")]
    Thread(#[source] io::Error),
    #[error("the file system does not answer")]
    Stuck,
    #[error("its thread ended")]
    Ended,
}

impl From<ApartError> for io::Error {
    fn from(error: ApartError) -> Self {
        let kind = match &error {
            ApartError::Thread(source) => source.kind(),
            ApartError::Stuck => io::ErrorKind::TimedOut,
            ApartError::Ended => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Does the work in a thread, within the runtime, and waits `limit` for it. What is done later goes to `late`, in that
/// thread, as it does when nobody waits any more.
pub(crate) async fn apart<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Result<T, ApartError> {
    let (tell, told) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("apart".to_owned());
    thread
        .spawn(move || {
            let _within = runtime.enter();
            if let Err(done) = tell.send(work()) {
                late(done);
            }
        })
        .map_err(ApartError::Thread)?;
    match timeout(limit, told).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(ApartError::Ended),
        Err(_) => Err(ApartError::Stuck),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_hangs_holds_nobody_and_its_result_is_not_lost() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let (tell, told) = oneshot::channel();
        let stuck = apart(
            Duration::from_millis(20),
            move || hold.recv().is_err(),
            move |done| {
                let _test_is_over = tell.send(done);
            },
        );
        assert!(matches!(stuck.await, Err(ApartError::Stuck)));
        drop(release);
        assert!(told.await.unwrap());
        assert_eq!(apart(Duration::from_secs(60), || 7, drop).await.unwrap(), 7);
    }
}
