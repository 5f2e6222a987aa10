//! Waiting for conditions, with a deadline and a name for the failure.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Time between two looks at a condition; small against everything a test waits for.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` gives something, and returns it.
///
/// # Errors
/// When `deadline` has passed; the message names `what`.
pub async fn wait_for_some<T, F>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if Instant::now() >= end {
            anyhow::bail!("waited {deadline:?} in vain for {what}");
        }
        sleep(INTERVAL).await;
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// When `deadline` has passed; the message names `what`.
pub async fn wait_for<F>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = bool>,
{
    wait_for_some(what, deadline, || {
        let holds = condition();
        async move { holds.await.then_some(()) }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut looks = 0;
        let value = wait_for_some("the third look", Duration::from_secs(10), || {
            looks += 1;
            std::future::ready((looks == 3).then_some(looks))
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_condition_that_never_holds_is_named() {
        let error = wait_for("pigs to fly", Duration::from_millis(20), || std::future::ready(false))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("pigs to fly"), "{error}");
    }
}
