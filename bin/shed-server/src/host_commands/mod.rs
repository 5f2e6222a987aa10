//! The commands that change the host: their arguments, and how their steps are shown. What must be known before they begin
//! is each system's own.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::io::Write as _;

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use shed_server::{config::Config, step::Step};

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{UserName, install, setup, uninstall};
#[cfg(target_os = "macos")]
pub(crate) use self::macos::{UserName, install, setup, uninstall};

/// Whose server it is, and its configuration.
#[derive(Debug, Args)]
pub(crate) struct WhoArgs {
    /// The user whom the server runs as; left out: whoever ran sudo, else whoever runs this
    #[arg(long, value_name = "NAME")]
    user: Option<UserName>,
    /// The configuration; left out: the first there is of ./server.yaml, the user's ~/.config/shed/server.yaml and
    /// /etc/shed/server.yaml
    #[arg(long, value_name = "FILE", env = "SHED_CONFIG")]
    config: Option<Utf8PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    #[command(flatten)]
    who: WhoArgs,
    /// Take it back: bridge, rules and capability; directories, sheds and groups stay
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    who: WhoArgs,
    /// Start it, too
    #[arg(long)]
    now: bool,
    /// Take the place of a unit, or a list of launchd, that somebody else wrote
    #[arg(long)]
    force: bool,
    /// Print the unit, or launchd's list, and change nothing
    #[arg(long)]
    print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Remove a unit, or a list of launchd, that somebody else wrote, too
    #[arg(long)]
    force: bool,
}

/// Returns this program's path, as long as there is a file.
fn program() -> anyhow::Result<Utf8PathBuf> {
    let path = std::env::current_exe().context("this program's path is not known")?;
    let path = Utf8PathBuf::try_from(path).context("this program's path is no text")?;
    if !path.is_file() {
        bail!("this program is not at {path} any more; run the new one");
    }
    Ok(path)
}

fn source(config: &Config) -> &Utf8Path {
    config.file.as_deref().unwrap_or(Utf8Path::new("the defaults of the configuration"))
}

fn tell(step: &Step) {
    say(step);
}

/// Shows a line. A stdout that is gone is no reason to leave the work half done.
fn say(text: &dyn std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _gone = write!(out, "{text}").and_then(|()| out.flush());
}
