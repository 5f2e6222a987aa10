//! The two waits for a request's head (spec A.1): a client may keep a connection idle for a while between two requests,
//! and has less time once it begins to send one, or has just connected.
//!
//! hyper has one timer for both. It asks for it when the wait begins, and looks at it each time that something has come
//! and the head is not complete; so the timer can change its mind when the first byte is there.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

use super::wire::Watch;

/// From the first byte of a head, or from the accept, to the head's end.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of a request to the first byte of the next.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Gives hyper the timer of one connection.
#[derive(Debug, Clone)]
pub(super) struct HeadTimer {
    watch: Arc<Watch>,
}

impl HeadTimer {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self { watch }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _head_timeout: Duration) -> Pin<Box<dyn Sleep>> {
        self.watch.wait_begins();
        let idle = self.watch.has_served();
        let time = if idle { IDLE_TIMEOUT } else { HEAD_TIMEOUT };
        Box::pin(HeadSleep {
            watch: Arc::clone(&self.watch),
            idle,
            sleep: Box::pin(tokio::time::sleep(time)),
        })
    }

    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(HEAD_TIMEOUT)
    }
}

/// Ends when the client has taken too long.
#[derive(Debug)]
struct HeadSleep {
    watch: Arc<Watch>,
    /// Nothing of the head has come, and the longer wait holds.
    idle: bool,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.idle && self.watch.has_heard() {
            self.idle = false;
            self.sleep.as_mut().reset(tokio::time::Instant::now() + HEAD_TIMEOUT);
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl Sleep for HeadSleep {}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;

    async fn waited(timer: &HeadTimer) -> Duration {
        let begun = Instant::now();
        timer.sleep_until(std::time::Instant::now()).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_ten_seconds_and_the_pause_before_it_two_minutes() {
        let watch = Arc::new(Watch::default());
        let timer = HeadTimer::new(Arc::clone(&watch));
        assert_eq!(waited(&timer).await, HEAD_TIMEOUT, "a client that has just connected");
        watch.request_begins();
        assert_eq!(waited(&timer).await, IDLE_TIMEOUT);

        let begun = Instant::now();
        let mut sleep = timer.sleep(HEAD_TIMEOUT);
        assert!(futures::poll!(&mut sleep).is_pending());
        advance(Duration::from_secs(50)).await;
        // hyper looks again after each read.
        watch.hears();
        assert!(futures::poll!(&mut sleep).is_pending());
        advance(Duration::from_secs(5)).await;
        watch.hears();
        sleep.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(60), "more bytes give no more time");
        assert!(watch.has_heard());

        let _next = timer.sleep(HEAD_TIMEOUT);
        assert!(!watch.has_heard(), "what came belongs to the request before");
    }
}
