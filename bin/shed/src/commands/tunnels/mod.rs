//! `shed tunnels`: ports of this machine that lead into sheds.

mod config;
mod daemon;
mod list;
mod serve;
mod start;
mod stop;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use shed_types::ShedName;

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    config::ConfigStore,
    tunnels::{
        PROFILES,
        file::{ProfileName, ResolveError, Resolved, TunnelsFile, TunnelsFileError},
        mapping::Mapping,
        state::{EndError, StateError},
    },
};

pub(crate) use daemon::run as run_daemon;
pub(super) use stop::stop_those_to;

const AFTER_HELP: &str = "\
Profiles are kept in ~/.shed/tunnels.yaml:

  profiles:                    # for all sheds
    default:
      description: the web server
      ports: [{local: 3000, remote: 3000}]
  sheds:                       # for one; it takes the place of the one for all
    api:
      profiles:
        default: [\"3001:3000\", \"9229\"]

Examples:
  shed tunnels start web                       the ports of its profile `default`
  shed tunnels start web -t 3000 -t 8080:80    these ports
  shed tunnels start web -p default -p db -d   two profiles, in the background
  shed tunnels list
  shed tunnels stop web";

/// Lead ports of this machine into sheds
///
/// What connects to such a port of 127.0.0.1 is connected to a port in the shed. A shed has one set of tunnels at most.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct TunnelsArgs {
    #[command(subcommand)]
    command: TunnelsCommand,
}

#[derive(Debug, Subcommand)]
enum TunnelsCommand {
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Config(config::ConfigArgs),
}

/// Which ports, for `start` and `config`.
#[derive(Debug, Args)]
struct Ports {
    /// Use the ports of this profile; several are joined. Without this and --tunnel it is `default`
    #[arg(short, long = "profile", value_name = "PROFILE")]
    profiles: Vec<ProfileName>,

    /// Lead a local port to one of the shed: 3000, or 8080:80 from 8080 here to 80 there; may be repeated
    #[arg(short, long = "tunnel", value_name = "LOCAL:REMOTE")]
    tunnels: Vec<Mapping>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &TunnelsArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        TunnelsCommand::Start(args) => start::run(context, args),
        TunnelsCommand::Stop(args) => stop::run(context, args),
        TunnelsCommand::List(args) => list::run(context, args),
        TunnelsCommand::Config(args) => config::run(context, args),
    }
}

impl Ports {
    /// Returns the mapping that is meant, and the file it is from.
    fn resolve(&self, store: &ConfigStore, shed: &ShedName) -> Result<(TunnelsFile, Resolved), CommandError> {
        let path = store.beside(PROFILES);
        let file = TunnelsFile::load(&path)?;
        let resolved = file.resolve(shed, &self.profiles, &self.tunnels).map_err(|error| {
            let text = error.to_string();
            match error {
                ResolveError::NoProfile { known, shed, .. } if known.is_empty() => {
                    CommandError::new(Kind::Usage, text).hinted(format!(
                        "name the ports, as in `shed tunnels start {shed} -t 3000`, or write profiles into {path}: \
                         shed tunnels --help"
                    ))
                }
                ResolveError::NoProfile { known, .. } => {
                    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
                    CommandError::new(Kind::Usage, text).hinted(format!("there is {}, in {path}", names.join(", ")))
                }
                ResolveError::NoPorts { .. } => {
                    CommandError::new(Kind::Usage, text).hinted(format!("the profiles are in {path}"))
                }
            }
        })?;
        Ok((file, resolved))
    }
}

impl From<TunnelsFileError> for CommandError {
    fn from(error: TunnelsFileError) -> Self {
        let kind = match &error {
            TunnelsFileError::Read { .. } => Kind::Failed,
            TunnelsFileError::TooLong { .. } | TunnelsFileError::Parse { .. } => Kind::Usage,
        };
        let made = Self::from_error(kind, &error);
        match &error {
            TunnelsFileError::Parse { .. } => made.hinted("see how it is written: shed tunnels --help"),
            TunnelsFileError::Read { .. } | TunnelsFileError::TooLong { .. } => made,
        }
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        let made = Self::from_error(Kind::Failed, &error);
        match &error {
            StateError::Parse { path, .. } | StateError::TooLong { path } => made.hinted(format!(
                "end the tunnels that still run (ps -e -o pid,args | grep 'tunnels'), and remove the file: rm {path}"
            )),
            StateError::Read { .. }
            | StateError::LookUp { .. }
            | StateError::Lock(_)
            | StateError::Write(_) => made,
        }
    }
}

impl From<EndError> for CommandError {
    fn from(error: EndError) -> Self {
        match error {
            EndError::State(error) => error.into(),
            other @ (EndError::Watch { .. } | EndError::Signal { .. } | EndError::Immortal { .. }) => {
                Self::from_error(Kind::Failed, &other)
            }
        }
    }
}
