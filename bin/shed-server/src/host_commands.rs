//! The commands that change the host: their arguments, what must be known before they begin, and how their steps are shown.

use anyhow::bail;
use camino::Utf8PathBuf;
use clap::Args;
#[cfg(target_os = "linux")]
use {
    anyhow::Context as _,
    camino::Utf8Path,
    shed_server::{
        account::{Account, UserName},
        backends,
        config::{self, Config},
        service::{self, How, Manager, Place, Unit},
        setup::{
            self, NotRoot,
            step::{Outcome, Step},
        },
    },
    std::io::Write as _,
};

/// Nobody looks the name up.
#[cfg(not(target_os = "linux"))]
type UserName = String;

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
    /// Take the place of a unit that somebody else wrote
    #[arg(long)]
    force: bool,
    /// Print the unit, and change nothing
    #[arg(long)]
    print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Remove a unit that somebody else wrote, too
    #[arg(long)]
    force: bool,
}

#[cfg(not(target_os = "linux"))]
const ELSEWHERE: &str = "is for Linux; on this system run `shed-server serve` by whatever starts your programs, and \
    `shed-server doctor` to see whether it can run sheds";

#[cfg(not(target_os = "linux"))]
pub(crate) fn setup(_: &SetupArgs) -> anyhow::Result<bool> {
    bail!("`shed-server setup` {ELSEWHERE}")
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn install(_: &InstallArgs) -> anyhow::Result<bool> {
    bail!("`shed-server install` {ELSEWHERE}")
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn uninstall(_: &UninstallArgs) -> anyhow::Result<bool> {
    bail!("`shed-server uninstall` {ELSEWHERE}")
}

#[cfg(target_os = "linux")]
pub(crate) fn setup(args: &SetupArgs) -> anyhow::Result<bool> {
    let program = program()?;
    if !rustix::process::geteuid().is_root() {
        let command = if args.remove { "setup --remove" } else { "setup" };
        return Err(NotRoot { what: "network, groups, directories, capabilities", command, program }.into());
    }
    let (account, config) = who(&args.who)?;
    say(&format_args!("for the server of user {}, by {}\n", account.name, source(&config)));
    let runtime = crate::runtime()?;
    if args.remove {
        return Ok(runtime.block_on(setup::remove(&config, &program, &mut tell)));
    }
    let mut changes = 0_u32;
    let mut count = |step: &Step| {
        changes += u32::from(step.outcome == Outcome::Done);
        tell(step);
    };
    let good = runtime.block_on(setup::run(&config, &account, &program, &mut count));
    say(&match (good, changes) {
        (false, _) => "not all of it is ready: do what stands behind the arrows, and run this again\n",
        (true, 0) => "nothing had to be changed\n",
        (true, _) => {
            "ready: `shed-server doctor` as that user looks at all of it, `shed-server install --now` makes it a service\n"
        }
    });
    Ok(good)
}

#[cfg(target_os = "linux")]
pub(crate) fn install(args: &InstallArgs) -> anyhow::Result<bool> {
    let (account, config) = who(&args.who)?;
    let place = Place::of_process(&account);
    if place.manager() == Manager::User && !account.is_this_process() {
        bail!("only root can install a service that runs as {}: run it with sudo", account.name);
    }
    let kind = backends::decide(&config)?.kind;
    let section = backends::section(&config, kind);
    let unit = Unit {
        manager: place.manager(),
        program: program()?,
        config: config.file.clone(),
        user: account.name.clone(),
        backend: kind,
        directories: vec![section.images_dir.clone(), section.instance_dir.clone()],
        data_home: account.surroundings()?.data_home,
    };
    let text = unit.text()?;
    if args.print {
        crate::print(&text)?;
        return Ok(true);
    }
    say(&format_args!("for the server of user {}, by {}\n", account.name, source(&config)));
    let how = How { now: args.now, force: args.force };
    Ok(service::install(&unit, &text, &place, &account, how, &mut tell))
}

#[cfg(target_os = "linux")]
pub(crate) fn uninstall(args: &UninstallArgs) -> anyhow::Result<bool> {
    let place = Place::of_process(&Account::chosen(None)?);
    let good = service::uninstall(&place, args.force, &mut tell);
    if good {
        say(
            &"sheds, images and machines that run stay; `sudo shed-server setup --remove` removes their network\n",
        );
    }
    Ok(good)
}

/// Finds the user and reads the configuration that the user's server reads.
#[cfg(target_os = "linux")]
fn who(args: &WhoArgs) -> anyhow::Result<(Account, Config)> {
    let account = Account::chosen(args.user.as_ref())?;
    let surroundings = account.surroundings()?;
    let file = config::locate(args.config.as_deref(), &surroundings)?;
    let config = config::load(file.as_deref(), &surroundings)?;
    Ok((account, config))
}

/// Returns this program's path, as long as there is a file.
#[cfg(target_os = "linux")]
fn program() -> anyhow::Result<Utf8PathBuf> {
    let path = std::env::current_exe().context("this program's path is not known")?;
    let path = Utf8PathBuf::try_from(path).context("this program's path is no text")?;
    if !path.is_file() {
        bail!("this program is not at {path} any more; run the new one");
    }
    Ok(path)
}

#[cfg(target_os = "linux")]
fn source(config: &Config) -> &Utf8Path {
    config.file.as_deref().unwrap_or(Utf8Path::new("the defaults of the configuration"))
}

#[cfg(target_os = "linux")]
fn tell(step: &Step) {
    say(step);
}

/// Shows a line. A stdout that is gone is no reason to leave the work half done.
#[cfg(target_os = "linux")]
fn say(text: &dyn std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _gone = write!(out, "{text}").and_then(|()| out.flush());
}
