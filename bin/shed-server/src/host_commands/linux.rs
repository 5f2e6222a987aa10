//! The commands that change a Linux host: the user whom they are for is found, and the rooms that do the work are called.

use anyhow::bail;
pub(crate) use shed_server::account::UserName;
use shed_server::{
    account::Account,
    backends,
    config::{self, Config},
    service::{self, How, Manager, Place, Unit},
    setup::{self, NotRoot},
    step::{Outcome, Step},
};

use super::{InstallArgs, SetupArgs, UninstallArgs, WhoArgs, program, say, source, tell};

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
fn who(args: &WhoArgs) -> anyhow::Result<(Account, Config)> {
    let account = Account::chosen(args.user.as_ref())?;
    let surroundings = account.surroundings()?;
    let file = config::locate(args.config.as_deref(), &surroundings)?;
    let config = config::load(file.as_deref(), &surroundings)?;
    Ok((account, config))
}
