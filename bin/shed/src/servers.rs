//! Which server a command talks to, and on which of several a shed is.
//!
//! The order (spec G): `--server` wins; else where the shed was last seen; else the default server; else whichever
//! other server has it. In the common case the first guess is right and its request is the command's own, so
//! finding costs nothing.

use std::fmt;

use futures::future::join_all;
use jiff::Timestamp;
use shed_api::{ErrorCode, ShedStatus};
use shed_client::{Client, ClientError, Timeouts};
use shed_types::ShedName;

use crate::{
    command_error::{CommandError, Kind},
    config::{CachedShed, ClientConfig, ConfigStore, ServerEntry, ServerName},
    ui::Ui,
};

/// How it is that a server is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is in the config file.
    Configured,
    /// No server is configured, and this machine may have one.
    Assumed,
}

/// A server to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// The client's name for it.
    pub(crate) name: ServerName,
    /// Where it is.
    pub(crate) entry: ServerEntry,
    /// How it is known.
    pub(crate) origin: Origin,
}

/// What to do when the shed is not where it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strayed {
    /// Look on the other servers.
    Search,
    /// Give up: a shed of that name elsewhere may be another one, and must not be deleted for this one.
    Refuse,
}

/// Why a call to a server failed.
pub(crate) trait CallError {
    /// Returns whether that server has no such shed, and another one may.
    fn is_missing_shed(&self) -> bool;

    /// Says it to the user.
    fn explain(self, server: &Server, shed: &ShedName) -> CommandError;
}

impl CallError for ClientError {
    fn is_missing_shed(&self) -> bool {
        self.code() == Some(ErrorCode::ShedNotFound)
    }

    fn explain(self, server: &Server, shed: &ShedName) -> CommandError {
        CommandError::from_client(self, server, Some(shed))
    }
}

/// The servers there are, and which of them the user chose.
#[derive(Debug)]
pub(crate) struct Servers {
    store: ConfigStore,
    config: ClientConfig,
    chosen: Option<ServerName>,
}

impl Server {
    /// Returns a client of the server.
    pub(crate) fn client(&self, timeouts: Timeouts) -> Client {
        Client::new(self.entry.address(), timeouts)
    }

    /// Returns what to do when the server does not answer.
    pub(crate) fn hint(&self) -> String {
        match self.origin {
            Origin::Configured => "see which servers answer: shed server list".to_owned(),
            Origin::Assumed => {
                "start a server on this machine with `shed-server serve`, or add another one: shed server add HOST"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Configured => write!(f, "server {} at {}", self.name, self.entry.url()),
            Origin::Assumed => write!(f, "a server on this machine at {}", self.entry.url()),
        }
    }
}

impl Servers {
    /// Reads the config file.
    ///
    /// # Errors
    /// When it is broken, or has no server of the name in `--server`.
    pub(crate) fn load(store: ConfigStore, chosen: Option<ServerName>) -> Result<Self, CommandError> {
        let config = store.load()?;
        let servers = Self { store, config, chosen };
        if let Some(name) = &servers.chosen {
            servers.named(name)?;
        }
        Ok(servers)
    }

    /// Returns where the config file and the host keys are.
    pub(crate) fn store(&self) -> &ConfigStore {
        &self.store
    }

    /// Returns what the config file says.
    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Returns whether the user has named a server for this command.
    pub(crate) fn is_chosen(&self) -> bool {
        self.chosen.is_some()
    }

    /// Returns all servers by name; this machine's when none is configured.
    pub(crate) fn all(&self) -> Vec<Server> {
        if self.config.servers.is_empty() {
            return vec![Self::assumed()];
        }
        let configured = |(name, entry): (&ServerName, &ServerEntry)| Server {
            name: name.clone(),
            entry: entry.clone(),
            origin: Origin::Configured,
        };
        self.config.servers.iter().map(configured).collect()
    }

    /// Returns the server of `--server`, or else the default.
    ///
    /// # Errors
    /// When there are servers and the config file does not say which is the default.
    pub(crate) fn selected(&self) -> Result<Server, CommandError> {
        match (&self.chosen, &self.config.default_server) {
            (Some(name), _) | (None, Some(name)) => self.named(name),
            (None, None) => {
                let mut all = self.all();
                match (all.pop(), all.is_empty()) {
                    (Some(only), true) => Ok(only),
                    _ => Err(CommandError::new(Kind::Usage, "there are several servers, and none is the default")
                        .hinted("choose one for this command with --server NAME, or for all: shed server set-default NAME")),
                }
            }
        }
    }

    /// Runs `call` on the server that has the shed, looking for it when the first guess is wrong, and remembers
    /// where it was.
    ///
    /// # Errors
    /// What `call` fails with on the server that has the shed, or that none has it.
    pub(crate) async fn on_server_of<T, E: CallError>(
        &self,
        ui: &Ui,
        shed: &ShedName,
        strayed: Strayed,
        call: impl AsyncFn(&Server) -> Result<T, E>,
    ) -> Result<(Server, T), CommandError> {
        let seen = self.chosen.is_none().then(|| self.seen_on(shed)).flatten();
        let first = match &seen {
            Some(server) => server.clone(),
            None => self.selected()?,
        };
        let missing = match call(&first).await {
            Ok(value) => {
                self.remember(ui, shed, &first, None);
                return Ok((first, value));
            }
            Err(error) if error.is_missing_shed() => error,
            Err(error) => return Err(error.explain(&first, shed)),
        };
        let may_search = self.chosen.is_none() && (seen.is_none() || strayed == Strayed::Search);
        let others: Vec<Server> = self.all().into_iter().filter(|server| server.name != first.name).collect();
        if !may_search || others.is_empty() {
            if seen.is_some() {
                self.forget(ui, shed);
            }
            return Err(missing.explain(&first, shed));
        }
        let found = self.search(shed, &first, others).await?;
        match call(&found).await {
            Ok(value) => {
                self.remember(ui, shed, &found, None);
                Ok((found, value))
            }
            Err(error) => Err(error.explain(&found, shed)),
        }
    }

    /// Asks all other servers at once. The default server wins when several have a shed of this name.
    async fn search(
        &self,
        shed: &ShedName,
        first: &Server,
        others: Vec<Server>,
    ) -> Result<Server, CommandError> {
        let asked = join_all(others.into_iter().map(async |server| {
            let answer = server.client(Timeouts::default()).get(shed).await;
            (server, answer)
        }))
        .await;
        let (mut having, mut silent) = (Vec::new(), Vec::new());
        for (server, answer) in asked {
            match answer {
                Ok(_) => having.push(server),
                Err(error) if error.code() == Some(ErrorCode::ShedNotFound) => {}
                Err(error) => silent.push((server, error)),
            }
        }
        if let Some(default) =
            having.iter().find(|server| self.config.default_server.as_ref() == Some(&server.name))
        {
            return Ok(default.clone());
        }
        match (having.len(), having.pop()) {
            (1, Some(server)) => Ok(server),
            (0, _) | (_, None) => match silent.into_iter().next() {
                None => Err(CommandError::new(Kind::NotFound, format!("no server has a shed {shed}"))
                    .hinted("see which sheds there are: shed list --all")),
                Some((server, error)) => Err(CommandError::new(
                    Kind::Unreachable,
                    format!(
                        "server {} has no shed {shed}, and {server} did not say whether it has",
                        first.name
                    ),
                )
                .caused_by(error)
                .hinted("see which servers answer: shed server list")),
            },
            (_, Some(last)) => {
                let names: Vec<String> =
                    having.iter().chain([&last]).map(|server| server.name.to_string()).collect();
                Err(CommandError::new(
                    Kind::Usage,
                    format!("several servers have a shed {shed}: {}", names.join(", ")),
                )
                .hinted("say which one is meant with --server NAME"))
            }
        }
    }

    /// Keeps where a shed is, and its status when it is known. Nothing is written when nothing would change, nor for
    /// a shed on the default server that is found there without a note.
    pub(crate) fn remember(&self, ui: &Ui, shed: &ShedName, server: &Server, status: Option<ShedStatus>) {
        let known = self.config.sheds.get(shed.as_str());
        let same_place = match known {
            Some(known) => known.server == server.name,
            None => self.config.default_server.as_ref() == Some(&server.name),
        };
        if server.origin == Origin::Assumed || (same_place && status.is_none()) {
            return;
        }
        let status = status.map_or_else(String::new, |status| status.as_str().to_owned());
        let seen = CachedShed { server: server.name.clone(), status, updated_at: Some(Timestamp::now()) };
        self.note(ui, |config| {
            config.sheds.insert(shed.to_string(), seen);
        });
    }

    /// Drops what is kept about a shed.
    pub(crate) fn forget(&self, ui: &Ui, shed: &ShedName) {
        if self.config.sheds.contains_key(shed.as_str()) {
            self.note(ui, |config| {
                config.sheds.remove(shed.as_str());
            });
        }
    }

    /// Changes the notes in the config file. The command has done its work, so a failure here is only a warning.
    fn note(&self, ui: &Ui, change: impl FnOnce(&mut ClientConfig)) {
        let written = self.store.update::<(), CommandError>(|config| {
            change(config);
            Ok(())
        });
        if let Err(error) = written {
            let causes = error.causes().into_iter().map(|cause| format!(": {cause}")).collect::<String>();
            ui.warning(&format!("could not note where the shed is: {}{causes}", error.message()));
        }
    }

    /// Returns the server of this name, whichever one the user has chosen.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn named(&self, name: &ServerName) -> Result<Server, CommandError> {
        if let Some(server) = self.all().into_iter().find(|server| server.name == *name) {
            return Ok(server);
        }
        Err(unknown_server(&self.config, name))
    }

    /// Returns the configured server that last had the shed.
    fn seen_on(&self, shed: &ShedName) -> Option<Server> {
        let seen = self.config.sheds.get(shed.as_str())?;
        let entry = self.config.servers.get(&seen.server)?.clone();
        Some(Server { name: seen.server.clone(), entry, origin: Origin::Configured })
    }

    fn assumed() -> Server {
        Server { name: ServerName::local(), entry: ServerEntry::this_machine(), origin: Origin::Assumed }
    }
}

/// Says that no server has this name, and which names there are.
pub(crate) fn unknown_server(config: &ClientConfig, name: &ServerName) -> CommandError {
    let known: Vec<String> = config.servers.keys().map(ToString::to_string).collect();
    let error = CommandError::new(Kind::NotFound, format!("no server is called {name}"));
    if known.is_empty() {
        error.hinted("add it first: shed server add HOST")
    } else {
        error.hinted(format!("the servers are {}; add another one: shed server add HOST", known.join(", ")))
    }
}
