//! The answers to the host's requests.

use serde::de::DeserializeOwned;
use serde_json::json;
use shed_protocol::{
    Envelope, GENERATION, HelloReply, HelloRequest, Identify, PowerOff, SYSTEM_HEALTH, SYSTEM_HELLO,
    SYSTEM_IDENTIFY, SYSTEM_POWER_OFF,
};
use shed_types::error_chain;

use crate::{health, identify, log, power_off, state::State};

/// An answer, and what is done once it is on its way.
pub(super) struct Outcome {
    pub(super) reply: Envelope,
    pub(super) then: Option<fn()>,
}

/// Answers one request. Failures are answered, too, with a payload `{"error": "…"}`.
pub(super) async fn answer(request: &Envelope, state: &State) -> Outcome {
    let reply = |reply| Outcome { reply, then: None };
    match request.namespace.as_str() {
        SYSTEM_HELLO => reply(with(request, |_: HelloRequest| request.reply(&hello(state)))),
        SYSTEM_HEALTH => reply(request.reply(&health::report(state))),
        SYSTEM_IDENTIFY => reply(match request.parse::<Identify>() {
            Ok(identity) => match identify::apply(&identity, state).await {
                Ok(()) => request.reply(&json!({})),
                Err(error) => {
                    log::failed(&error);
                    refuse(request, &error_chain(&error))
                }
            },
            Err(error) => refuse(request, &error.to_string()),
        }),
        SYSTEM_POWER_OFF => Outcome { reply: request.reply(&PowerOff {}), then: Some(power_off::begin) },
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
