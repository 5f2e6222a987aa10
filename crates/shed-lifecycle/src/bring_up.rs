//! Has a shed run, whatever it is doing: for those who only want to use it.
//!
//! The SSH server calls it, for which a stopped shed is one that starts when somebody comes. It asks for a start as
//! everybody does and waits for what stands in the way; it refuses nothing that waiting can cure.

use shed_types::ShedName;

use crate::{Progress, ShedStatus, Sheds, StartShedError, Started, driver::Until};

impl Sheds {
    /// Returns when the shed runs, after starting it if need be. `waits` is told once what it was found to be, if that is not running.
    ///
    /// What excludes a start, a create or a stop in progress, is awaited. Returns how the start went if there was one.
    /// Its startup hook is not waited for: whoever comes may want to look at that.
    ///
    /// # Errors
    /// When there is no such shed, or its start fails.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting; a start that has begun goes on.
    pub async fn bring_up(
        &self,
        name: &ShedName,
        waits: impl FnOnce(ShedStatus),
    ) -> Result<Option<Started>, StartShedError> {
        let not_found = || StartShedError::NotFound { shed: name.clone() };
        let mut waits = Some(waits);
        loop {
            let mut view = self.watch(name).ok_or_else(not_found)?;
            let status = view.borrow_and_update().status;
            match status {
                ShedStatus::Running => return Ok(None),
                ShedStatus::Stopped | ShedStatus::Starting | ShedStatus::Stopping => {
                    if let Some(tell) = waits.take() {
                        tell(status);
                    }
                }
                ShedStatus::Broken => {}
            }
            match self.start_until(name, Progress::silent(), Until::Running).await {
                Ok(started) => return Ok(Some(started)),
                Err(StartShedError::AlreadyRunning { .. }) => return Ok(None),
                Err(StartShedError::Busy { .. }) => {}
                Err(
                    error @ (StartShedError::NotFound { .. }
                    | StartShedError::Broken { .. }
                    | StartShedError::Boot(_)
                    | StartShedError::ShuttingDown),
                ) => return Err(error),
            }
            // The sender goes with the shed: a create that failed, a delete that is done.
            if view.wait_for(|now| now.status != status).await.is_err() {
                return Err(if self.ending() { StartShedError::ShuttingDown } else { not_found() });
            }
        }
    }
}
