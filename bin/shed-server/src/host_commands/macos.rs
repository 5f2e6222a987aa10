//! The commands that change a Mac: whoever runs them is the user whom they are for, and launchd is spoken to by its program.

use anyhow::{Context as _, bail};
use camino::Utf8PathBuf;
use shed_server::{
    config::{self, Surroundings},
    launchd::{self, Agent, How, Launchctl, Place},
};

use super::{InstallArgs, SetupArgs, UninstallArgs, program, say, source, tell};

/// launchd's program, which the system's volume has and nobody replaces.
const LAUNCHCTL: &str = "/bin/launchctl";

/// Nobody looks the name up: an agent of launchd is always the user's own.
pub(crate) type UserName = String;

pub(crate) fn setup(_: &SetupArgs) -> anyhow::Result<bool> {
    bail!(
        "`shed-server setup` is for Linux; a Mac needs nothing made ready: `shed-server doctor` says what is missing, and \
         `shed-server install --now` has launchd run the server"
    )
}

pub(crate) fn install(args: &InstallArgs) -> anyhow::Result<bool> {
    let home = home(args.who.user.as_deref())?;
    let surroundings = Surroundings::of_process()?;
    let file = config::locate(args.who.config.as_deref(), &surroundings)?;
    let config = config::load(file.as_deref(), &surroundings)?;
    let place = Place::below(&home);
    let agent = Agent {
        program: program()?,
        config: config.file.clone(),
        log: place.log().to_owned(),
        data_home: surroundings.data_home.clone(),
    };
    let text = agent.text()?;
    if args.print {
        crate::print(&text)?;
        return Ok(true);
    }
    say(&format_args!("as an agent of yours, by {}\n", source(&config)));
    let how = How { now: args.now, force: args.force };
    Ok(launchd::install(&text, &place, &launchctl(), how, &mut tell))
}

pub(crate) fn uninstall(args: &UninstallArgs) -> anyhow::Result<bool> {
    let place = Place::below(&home(None)?);
    let good = launchd::uninstall(&place, &launchctl(), args.force, &mut tell);
    if good {
        say(&"sheds, images and machines that run stay\n");
    }
    Ok(good)
}

fn launchctl() -> Launchctl {
    Launchctl::new(LAUNCHCTL, rustix::process::geteuid().as_raw())
}

/// Returns the home of whoever runs this. Root has no agents, and nobody those of others.
fn home(asked: Option<&str>) -> anyhow::Result<Utf8PathBuf> {
    if rustix::process::geteuid().is_root() {
        bail!(
            "on macOS the server is an agent of the user whose sheds they are: run this as that user, without sudo"
        );
    }
    if let Some(name) = asked
        && std::env::var("USER").ok().as_deref() != Some(name)
    {
        bail!(
            "on macOS the server is an agent of the user whose sheds they are: run this as {name}, without --user"
        );
    }
    Surroundings::of_process()?.home.context("HOME is not set; it is where launchd looks for agents")
}
