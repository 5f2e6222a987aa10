//! Work that waits for the disk, on a thread for that.

use tokio::task::{JoinHandle, spawn_blocking};

/// Does blocking work on a thread for it. Dropping the future does not end the work.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    finished(&mut spawn_blocking(work)).await
}

/// Waits for blocking work; its panic is ours.
pub(crate) async fn finished<T>(work: &mut JoinHandle<T>) -> T {
    match work.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // It never began: the runtime ends, and drops this future next.
        Err(_) => std::future::pending().await,
    }
}
