//! Takes a shed's place among the running tunnels, and forwards its ports: on the terminal and in the background.

use std::{io, process::ExitCode};

use shed_types::ShedName;

use crate::{
    command_error::{CommandError, Kind},
    config::ConfigStore,
    servers::Server,
    tunnels::{
        carry::{self, End, Ends, Link, Over, Terminal},
        doors::Door,
        file::Settings,
        journal::Journal,
        mapping::{self, Mapping},
        state::{Claim, Entry, TunnelState},
    },
};

/// The tunnels that this process has.
#[derive(Debug)]
pub(super) struct Place {
    state: TunnelState,
    entry: Entry,
    ends: Ends,
}

impl Place {
    /// Takes the place of a shed.
    ///
    /// # Errors
    /// When another process has it.
    pub(super) fn take(
        store: &ConfigStore,
        server: &Server,
        shed: &ShedName,
        profile: String,
        ports: Vec<Mapping>,
        ends: Ends,
    ) -> Result<Self, CommandError> {
        let state = TunnelState::beside(store);
        let entry = Entry::of_this_process(shed, &server.name, profile, ports)?;
        match state.claim(entry.clone())? {
            Claim::Taken => Ok(Self { state, entry, ends }),
            Claim::Held(other) => Err(already_running(&other)),
        }
    }

    /// Forwards the ports to their end, and gives the place back.
    ///
    /// # Errors
    /// When the shed is no more, or the system refuses.
    pub(super) async fn carry(
        mut self,
        doors: Vec<Door>,
        server: &Server,
        settings: Settings,
        mut journal: Journal<'_>,
    ) -> Result<ExitCode, CommandError> {
        let shed = self.entry.shed_name.clone();
        let link = Link::new(&server.entry, &shed, settings);
        let end = carry::carry(doors, link, &mut self.ends, &mut journal).await;
        // An entry that stays is dropped by whoever reads it next.
        let _stays = self.state.release(&self.entry);
        outcome(end, &shed, server)
    }
}

fn outcome(end: io::Result<End>, shed: &ShedName, server: &Server) -> Result<ExitCode, CommandError> {
    match end {
        Ok(End::Signal(signal)) => Ok(ExitCode::from(128 + signal)),
        Ok(End::Over(Over::Deleted)) => Err(CommandError::new(
            Kind::NotFound,
            format!("there is no shed {shed} on {} any more, so its tunnels have ended", server.name),
        )),
        Ok(End::Over(Over::Stopped)) => Err(CommandError::new(
            Kind::Failed,
            format!("shed {shed} on {} does not run any more, so its tunnels have ended", server.name),
        )
        .hinted(format!("start both: shed tunnels start {shed}"))),
        Err(error) => Err(CommandError::new(Kind::Failed, format!("could not lead ports into shed {shed}"))
            .caused_by(error)),
    }
}

/// Watches for the signals that end the tunnels; from here on they do not end this process by themselves.
pub(super) fn watch(terminal: Terminal) -> Result<Ends, CommandError> {
    Ends::listen(terminal)
        .map_err(|error| CommandError::new(Kind::Failed, "could not watch for signals").caused_by(error))
}

/// Says that a shed has tunnels already.
pub(super) fn already_running(entry: &Entry) -> CommandError {
    let shed = &entry.shed_name;
    CommandError::new(Kind::Failed, format!("{}, and nothing is started", describe(entry))).hinted(format!(
        "replace them: shed tunnels start {shed} --replace; or stop them: shed tunnels stop {shed}"
    ))
}

/// Returns what runs already, as the beginning of a sentence.
pub(super) fn describe(entry: &Entry) -> String {
    let Entry { shed_name, server_name, pid, ports, .. } = entry;
    format!(
        "there are tunnels to shed {shed_name} on {server_name} already ({}, process {pid})",
        mapping::list(ports)
    )
}
