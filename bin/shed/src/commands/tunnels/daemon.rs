//! The process that `tunnels start -d` leaves behind.

use std::process::ExitCode;

use shed_types::ShedName;

use super::{
    serve::{self, Place},
    start,
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::block_on,
    servers::Server,
    tunnels::{
        PROFILES,
        carry::Terminal,
        doors::Door,
        file::{Settings, TunnelsFile},
        handover::{self, Task},
        journal::{Journal, Log},
        mapping,
        state::TunnelState,
    },
};

/// Carries on in the background what `tunnels start --detach` has begun. Its stderr is the log.
pub(crate) fn run(context: &Context, shed: &ShedName) -> Result<ExitCode, CommandError> {
    let (task, doors, line) = handover::receive().map_err(|error| {
        CommandError::new(Kind::Usage, "this is run by `shed tunnels start --detach`, and by nobody else")
            .caused_by(error)
    })?;
    block_on(async {
        let Prepared { place, doors, server, settings, mut log } = match prepare(context, shed, &task, doors)
            .await
        {
            Ok(prepared) => prepared,
            Err(error) => {
                let causes: String = error.causes().into_iter().map(|cause| format!(": {cause}")).collect();
                line.failed(format!("{}{causes}", error.message()));
                return Err(error);
            }
        };
        line.ready().map_err(|error| {
            CommandError::new(Kind::Failed, "whoever started the tunnels has gone before they were ready")
                .caused_by(error)
        })?;
        log.line(&format!("tunnels to shed {} on {}: {}", shed, server.name, mapping::list(&task.ports)));
        let ended = place.carry(doors, &server, settings, Journal::Log(log)).await;
        if let Ok(mut log) = Log::open(&task.log) {
            match &ended {
                Ok(_signal) => log.line("stopped"),
                Err(error) => log.line(error.message()),
            }
        }
        // All is said.
        Ok(ended.unwrap_or_else(|error| error.exit_code()))
    })
}

/// All that is needed to forward ports.
struct Prepared {
    place: Place,
    doors: Vec<Door>,
    server: Server,
    settings: Settings,
    log: Log,
}

async fn prepare(
    context: &Context,
    shed: &ShedName,
    task: &Task,
    doors: Vec<Door>,
) -> Result<Prepared, CommandError> {
    let failed = |what: &str| {
        let text = format!("could not {what}");
        move |error: std::io::Error| CommandError::new(Kind::Failed, text).caused_by(error)
    };
    // A session of its own has no terminal, and so none that can end it.
    rustix::process::setsid().map_err(std::io::Error::from).map_err(failed("leave the terminal"))?;
    let log = Log::open(&task.log).map_err(failed("open the log"))?;
    let store = context.store()?;
    let settings = TunnelsFile::load(&store.beside(PROFILES))?.ssh;
    let server = context.servers()?.named(&task.server)?;
    let (profile, ports) = (task.profile.clone(), task.ports.clone());
    let ends = serve::watch(Terminal::Left)?;
    let doors =
        start::take_over(&TunnelState::beside(&store), task.replaced.as_ref(), doors, &task.later).await?;
    let place = Place::take(&store, &server, shed, profile, ports, ends)?;
    Ok(Prepared { place, doors, server, settings, log })
}
