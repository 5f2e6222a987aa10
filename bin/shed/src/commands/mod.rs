//! One file a verb: its flags, and what it does.
//!
//! A command parses nothing (its flags are parsed types), calls the server through `shed-client`, and hands its
//! result to [`crate::ui`].

pub(crate) mod completions;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod exec;
mod fleet;
pub(crate) mod image;
mod join;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod man;
mod send_keys;
pub(crate) mod server;
pub(crate) mod sessions;
pub(crate) mod ssh_config;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod sync;
pub(crate) mod system;
pub(crate) mod tunnels;
pub(crate) mod version;
pub(crate) mod work;

use std::{future::Future, hash::Hash, process::ExitCode};

use futures::future::join_all;

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
};

/// Runs what a command does; one thread is enough for a client.
fn block_on<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        CommandError::new(Kind::Failed, "could not set up what the system needs for networking")
            .caused_by(error)
    })?;
    let result = runtime.block_on(work);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Does the same to each shed or image at once, each once, then reports in the order of the command line. The exit code is
/// that of the first failure.
async fn each<N: Eq + Hash, T>(
    context: &Context,
    names: &[N],
    act: impl AsyncFn(&N) -> Result<T, CommandError>,
    report: impl Fn(&N, T) -> Result<(), CommandError>,
) -> Result<ExitCode, CommandError> {
    let mut names: Vec<&N> = names.iter().collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let results = join_all(names.iter().map(|name| act(name))).await;
    let mut code = ExitCode::SUCCESS;
    let mut failed = false;
    for (name, result) in names.into_iter().zip(results) {
        match result {
            Ok(value) => report(name, value)?,
            Err(error) => {
                context.ui.error(&error);
                if !failed {
                    code = error.exit_code();
                }
                failed = true;
            }
        }
    }
    Ok(code)
}
