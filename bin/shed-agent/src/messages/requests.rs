//! The answers to the host's requests.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;
use shed_protocol::{
    CredentialTaken, Envelope, GENERATION, HealthRequest, HelloReply, HelloRequest, Identify, LogsOpened,
    PowerOff, SYSTEM_CREDENTIALS, SYSTEM_CREDENTIALS_TAKEN, SYSTEM_HEALTH, SYSTEM_HELLO, SYSTEM_IDENTIFY,
    SYSTEM_LOGS_CLOSE, SYSTEM_LOGS_NEXT, SYSTEM_LOGS_OPEN, SYSTEM_POWER_OFF, WatchCredentials,
};
use shed_types::error_chain;

use crate::{
    clock, files, health, identify,
    journal::readers::{LogsError, Readers},
    log, power_off,
    state::State,
};

/// An answer, and what is done once it is on its way.
pub(super) struct Outcome {
    pub(super) reply: Envelope,
    /// How often health is told from now on.
    pub(super) pace: Option<Duration>,
    pub(super) then: Option<Afterwards>,
}

/// What is done when the answer is on its way. Dropping it does it: a host that has heard the answer may close the channel
/// before this side looks again, and what was promised is done all the same.
#[derive(Debug)]
pub(super) struct Afterwards(pub(super) fn());

impl Drop for Afterwards {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Shortest and longest time between two events of health: measuring is work, too, and what is silent for longer is no
/// heartbeat.
const PACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3600));

/// Answers one request. Failures are answered, too, with a payload `{"error": "…"}`.
pub(super) async fn answer(request: &Envelope, state: &State, readers: &Readers) -> Outcome {
    let reply = |reply| Outcome { reply, pace: None, then: None };
    match request.namespace.as_str() {
        SYSTEM_HELLO => reply(with(request, |_: HelloRequest| request.reply(&hello(state)))),
        SYSTEM_HEALTH => match request.parse::<Option<HealthRequest>>() {
            Ok(asked) => {
                let HealthRequest { every_ms, extensions, now } = asked.unwrap_or_default();
                if let Some(now) = now
                    && let Err(error) = clock::step(now)
                {
                    log::info(&format!("the clock cannot be stepped: {error}"));
                }
                if let Some(namespaces) = extensions {
                    state.extensions.want(namespaces);
                }
                let pace = every_ms.map(Duration::from_millis);
                let pace = pace.map(|pace| pace.clamp(PACE.0, PACE.1));
                Outcome { reply: request.reply(&health::report(state)), pace, then: None }
            }
            Err(error) => reply(refuse(request, &error.to_string())),
        },
        SYSTEM_IDENTIFY => reply(match request.parse::<Identify>() {
            Ok(identity) => match identify::apply(&identity, state).await {
                Ok(()) => {
                    state.identified.cancel();
                    request.reply(&json!({}))
                }
                Err(error) => {
                    log::failed(&error);
                    refuse(request, &error_chain(&error))
                }
            },
            Err(error) => refuse(request, &error.to_string()),
        }),
        SYSTEM_LOGS_OPEN => reply(match request.parse() {
            Ok(asked) => match readers.open(asked).await {
                Ok(()) => request.reply(&LogsOpened::default()),
                Err(LogsError::Refused(refusal)) => request.reply(&LogsOpened { refusal: Some(refusal) }),
                Err(error) => refuse(request, &error_chain(&error)),
            },
            Err(error) => refuse(request, &error.to_string()),
        }),
        SYSTEM_LOGS_NEXT => reply(match request.parse() {
            Ok(asked) => match readers.next(&asked).await {
                Ok(entries) => request.reply(&entries),
                Err(error) => refuse(request, &error_chain(&error)),
            },
            Err(error) => refuse(request, &error.to_string()),
        }),
        SYSTEM_LOGS_CLOSE => reply(with(request, |asked| {
            readers.close(&asked);
            request.reply(&json!({}))
        })),
        SYSTEM_CREDENTIALS => reply(match request.parse::<WatchCredentials>() {
            Ok(asked) => {
                let home = files::owner(state).home;
                request.reply(&state.credentials.watch(asked, home, &state.outbox).await)
            }
            Err(error) => refuse(request, &error.to_string()),
        }),
        SYSTEM_CREDENTIALS_TAKEN => reply(with(request, |taken: CredentialTaken| {
            state.credentials.taken(&taken);
            request.reply(&json!({}))
        })),
        SYSTEM_POWER_OFF => {
            let then = Some(Afterwards(power_off::begin));
            Outcome { reply: request.reply(&PowerOff {}), pace: None, then }
        }
        other => reply(refuse(request, &format!("this agent does not know {other:?}"))),
    }
}

fn hello(state: &State) -> HelloReply {
    HelloReply {
        generation: GENERATION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: Default::default(),
        boot_id: state.boot_id.clone(),
        started_at: state.started_at,
    }
}

fn with<T: DeserializeOwned>(request: &Envelope, answer: impl FnOnce(T) -> Envelope) -> Envelope {
    match request.parse() {
        Ok(payload) => answer(payload),
        Err(error) => refuse(request, &error.to_string()),
    }
}

fn refuse(request: &Envelope, reason: &str) -> Envelope {
    request.reply(&json!({ "error": reason }))
}
