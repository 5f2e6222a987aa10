//! The command line: global flags, the commands, and what happens around each of them.
//!
//! The doc comments on these types are the help texts; `tests` pin them.

use std::{ffi::OsString, process::ExitCode, time::Instant};

use camino::Utf8PathBuf;
use clap::{ArgAction, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    command_error::CommandError,
    commands,
    config::{ConfigStore, ServerName},
    servers::Servers,
    tunnels::handover,
    ui::{Colour, Format, Ui},
};

/// Exit code of a command line that cannot be understood.
const USAGE: u8 = 2;

/// Explains exit codes and files below the help of `shed`.
const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    the server refused or failed, or something failed on this machine
  2    the command line or the config file is wrong
  3    the server cannot be reached, or its connection broke
  4    there is no such shed, session, image or server
  130  interrupted (128 + the number of the signal)

`shed exec` passes on the exit code of the command it runs: 128 + n after signal n, 127 when there is no such \
command, 126 when it cannot be run. It exits with 255 when it fails itself. `shed console` passes on that of the shell.

Files:
  ~/.shed/config.yaml   the servers, and where each shed was last seen
  ~/.shed/known_hosts   the SSH host keys of the servers
  ~/.shed/tunnels.yaml  profiles of ports for `shed tunnels`
  ~/.shed/sync.yaml     what `shed sync` and `shed create` copy into a shed

Without any server in that file, one on this machine at http://127.0.0.1:8080 is used.

Examples:
  shed create web                      make a shed
  shed console web                     open a shell in it
  shed attach web                      show its tmux session, which goes on without you
  shed exec web -- npm test            run a command in it
  shed list                            see what there is
  shed sessions                        see what goes on in it
  shed status web --watch              see what it uses, and what fails in it
  shed logs web -f                     see what it writes
  shed tunnels start web -t 3000       use its port 3000 as one of this machine
  shed ssh-config --install web        make it known to ssh and editors, as shed-web
  shed stop web && shed start web      its files stay
  shed delete web                      its files do not";

/// Development machines as virtual machines, each in a second or two.
///
/// A shed is a small virtual machine with its own disk, made from an image, for one project or one agent. `shed`
/// asks a shed-server, on this or another machine, to make and run them.
#[derive(Debug, Parser)]
#[command(
    name = "shed",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Talk to this server rather than the default one
    #[arg(short, long, global = true, value_name = "NAME")]
    server: Option<ServerName>,

    /// Show more where there is more to show; twice for all
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    /// Use this config file instead of ~/.shed/config.yaml
    #[arg(short, long, global = true, value_name = "FILE", env = "SHED_CONFIG", hide_env_values = true)]
    config: Option<Utf8PathBuf>,

    /// Write results and errors as JSON
    #[arg(long, global = true)]
    json: bool,

    /// Use no colour, as with NO_COLOR in the environment
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(commands::create::CreateArgs),
    #[command(visible_alias = "ls")]
    List(commands::list::ListArgs),
    Start(commands::start::StartArgs),
    Stop(commands::stop::StopArgs),
    #[command(visible_alias = "rm")]
    Delete(commands::delete::DeleteArgs),
    Console(commands::console::ConsoleArgs),
    Attach(commands::console::AttachArgs),
    Exec(commands::exec::ExecArgs),
    Sessions(commands::sessions::SessionsArgs),
    Status(commands::status::StatusArgs),
    Logs(commands::logs::LogsArgs),
    Tunnels(commands::tunnels::TunnelsArgs),
    SshConfig(commands::ssh_config::SshConfigArgs),
    Sync(commands::sync::SyncArgs),
    Image(commands::image::ImageArgs),
    System(commands::system::SystemArgs),
    Server(commands::server::ServerArgs),
    Version(commands::version::VersionArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// Writes all text.
    pub(crate) ui: Ui,
    /// How often `-v` was given.
    pub(crate) verbosity: u8,
    /// When the client was started.
    pub(crate) started: Instant,
    server: Option<ServerName>,
    config: Option<Utf8PathBuf>,
}

impl Context {
    /// Returns the config file's place.
    ///
    /// # Errors
    /// When neither `--config` nor HOME says where it is.
    pub(crate) fn store(&self) -> Result<ConfigStore, CommandError> {
        Ok(ConfigStore::locate(self.config.as_deref())?)
    }

    /// Returns the servers.
    ///
    /// # Errors
    /// When the config file is broken or has no server of the name in `--server`.
    pub(crate) fn servers(&self) -> Result<Servers, CommandError> {
        Servers::load(self.store()?, self.server.clone())
    }
}

/// Returns the definition of the command line, for help, completions and man pages.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the client.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let started = Instant::now();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some((config, shed)) = handover::asked_for(&arguments) {
        let ui = Ui::new(Format::Text, Colour::Never);
        let context = Context { ui, verbosity: 0, started, server: None, config: Some(config) };
        return finish(&context, commands::tunnels::run_daemon(&context, &shed));
    }
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments),
    };
    let format = if cli.global.json { Format::Json } else { Format::Text };
    let colour = if cli.global.no_color { Colour::Never } else { Colour::Auto };
    let context = Context {
        ui: Ui::new(format, colour),
        verbosity: cli.global.verbose,
        started,
        server: cli.global.server,
        config: cli.global.config,
    };
    finish(&context, dispatch(&context, &cli.command))
}

fn finish(context: &Context, result: Result<ExitCode, CommandError>) -> ExitCode {
    result.unwrap_or_else(|error| {
        context.ui.error(&error);
        error.exit_code()
    })
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    // Help is written while the flags are still being read, so this one is looked for beforehand.
    let colour = if given(arguments, "--no-color") { ColorChoice::Never } else { ColorChoice::Auto };
    let mut command = definition().color(colour);
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    // clap sees conflicts within one level only, and a global flag may stand on any.
    if wants_all(&matches) && matches.contains_id("server") {
        let message = "the argument '--all' cannot be used with '--server <NAME>'";
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    Cli::from_arg_matches_mut(&mut matches)
}

/// Returns whether the command at the end of the line was asked to go to all servers.
fn wants_all(matches: &clap::ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, below)) => wants_all(below),
        None => matches.try_get_one::<bool>("all").is_ok_and(|all| all.copied().unwrap_or_default()),
    }
}

/// Returns whether a flag of `shed` itself was given: before any `--`.
fn given(arguments: &[OsString], flag: &str) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == flag)
}

/// Writes help, or what is wrong with the command line.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if error.use_stderr() && given(arguments, "--json") {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        // What follows the first paragraph is advice to a person.
        let text = text.split("\n\n").next().unwrap_or(text);
        Ui::new(Format::Json, Colour::Never).json_error(text.trim_end());
    } else {
        // Help that nobody reads (`shed --help | head -1`) is no failure.
        let _unread = error.print();
    }
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

fn dispatch(context: &Context, command: &Command) -> Result<ExitCode, CommandError> {
    match command {
        Command::Create(args) => commands::create::run(context, args),
        Command::List(args) => commands::list::run(context, args),
        Command::Start(args) => commands::start::run(context, args),
        Command::Stop(args) => commands::stop::run(context, args),
        Command::Delete(args) => commands::delete::run(context, args),
        Command::Console(args) => commands::console::console(context, args),
        Command::Attach(args) => commands::console::attach(context, args),
        Command::Exec(args) => commands::exec::run(context, args),
        Command::Sessions(args) => commands::sessions::run(context, args),
        Command::Status(args) => commands::status::run(context, args),
        Command::Logs(args) => commands::logs::run(context, args),
        Command::Tunnels(args) => commands::tunnels::run(context, args),
        Command::SshConfig(args) => commands::ssh_config::run(context, args),
        Command::Sync(args) => commands::sync::run(context, args),
        Command::Image(args) => commands::image::run(context, args),
        Command::System(args) => commands::system::run(context, args),
        Command::Server(args) => commands::server::run(context, args),
        Command::Version(args) => commands::version::run(context, args),
        Command::Completions(args) => commands::completions::run(context, args),
        Command::Man(args) => commands::man::run(context, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_stays_what_it_is() {
        fn pin(command: &mut clap::Command, path: &str) {
            let help = command.render_long_help().to_string();
            insta::assert_snapshot!(format!("help-{path}"), help);
            let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
            for name in names.iter().filter(|name| *name != "help") {
                let sub = command.find_subcommand_mut(name).expect("it was listed a line above");
                pin(sub, &format!("{path}-{name}"));
            }
        }
        let mut root = definition().term_width(100).color(ColorChoice::Never);
        root.build();
        pin(&mut root, "shed");
    }

    #[test]
    fn one_server_and_all_servers_exclude_each_other_wherever_they_stand() {
        for command in ["list", "sessions", "image list", "system df", "system prune"] {
            let words: Vec<&str> = command.split(' ').collect();
            for place in 0..=words.len() {
                let mut line = vec!["shed"];
                line.extend(&words[..place]);
                line.extend(["-s", "beta"]);
                line.extend(&words[place..]);
                let one: Vec<OsString> = line.iter().map(OsString::from).collect();
                assert!(parse(&one).is_ok(), "{line:?}");
                line.push("--all");
                let both: Vec<OsString> = line.iter().map(OsString::from).collect();
                assert!(parse(&both).is_err(), "{line:?}");
            }
        }
    }

    #[test]
    fn flags_behind_the_command_of_an_exec_belong_to_it() {
        let line = ["shed", "exec", "web", "-T", "ls", "-l", "--json", "-v"].map(OsString::from);
        let cli = parse(&line).unwrap();
        assert!(!cli.global.json && cli.global.verbose == 0);
        let Command::Exec(args) = cli.command else { panic!("exec was asked for") };
        assert_eq!(args.command, ["ls", "-l", "--json", "-v"]);
    }

    #[test]
    fn a_flag_behind_two_dashes_is_not_ours() {
        let line = ["shed", "exec", "web", "--", "tool", "--json"].map(OsString::from);
        assert!(!given(&line, "--json"));
        assert!(given(&line[..2], "exec"));
    }
}
