//! A service on the loopback that speaks as much of STS's query protocol as AssumeRole needs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use jiff::{SignedDuration, Timestamp};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

/// How the service answers.
#[derive(Clone)]
pub(super) enum Behaviour {
    /// With credentials that end so many seconds from now.
    Gives(i64),
    /// With an error of STS.
    Refuses(StatusCode, &'static str, String),
    /// With this text and status.
    Says(StatusCode, String),
    /// Not before it is let go.
    Holds(Arc<Notify>),
    /// Never.
    Hangs,
}

/// What came in, in order.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) form: HashMap<String, String>,
    pub(super) authorization: String,
}

struct Inside {
    behaviour: Mutex<Behaviour>,
    calls: Mutex<Vec<Call>>,
    came: Notify,
}

/// A running service; it ends with this.
pub(super) struct FakeSts {
    pub(super) url: String,
    inside: Arc<Inside>,
    task: JoinHandle<()>,
}

impl Drop for FakeSts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeSts {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let inside = Arc::new(Inside {
            behaviour: Mutex::new(behaviour),
            calls: Mutex::default(),
            came: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/", post(answer)).with_state(Arc::clone(&inside));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inside, task }
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.inside.behaviour.lock().unwrap() = behaviour;
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.inside.calls.lock().unwrap().clone()
    }

    /// Waits until somebody has asked.
    pub(super) async fn called(&self) {
        self.inside.came.notified().await;
    }
}

async fn answer(State(inside): State<Arc<Inside>>, headers: HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let authorization = headers.get(header::AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
    let call = Call { form, authorization: authorization.to_owned() };
    let role = call.form["RoleArn"].clone();
    let number = {
        let mut calls = inside.calls.lock().unwrap();
        calls.push(call);
        calls.len()
    };
    inside.came.notify_one();
    let behaviour = inside.behaviour.lock().unwrap().clone();
    let (status, text) = match behaviour {
        Behaviour::Gives(seconds) => (StatusCode::OK, credentials(&role, number, seconds)),
        Behaviour::Refuses(status, code, message) => (status, error(code, &message)),
        Behaviour::Says(status, text) => (status, text),
        Behaviour::Holds(gate) => {
            gate.notified().await;
            (StatusCode::OK, credentials(&role, number, 3600))
        }
        Behaviour::Hangs => {
            tokio::time::sleep(Duration::MAX).await;
            (StatusCode::OK, String::new())
        }
    };
    (status, [(header::CONTENT_TYPE, "text/xml")], text).into_response()
}

fn credentials(role: &str, number: usize, seconds: i64) -> String {
    let end = Timestamp::now().saturating_add(SignedDuration::from_secs(seconds)).unwrap();
    let end = end.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>{role}/s</Arn><AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>hunter{number}</SecretAccessKey>\
         <SessionToken>token{number}</SessionToken><Expiration>{end}</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>c6104cbe</RequestId></ResponseMetadata></AssumeRoleResponse>"
    )
}

fn error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error><RequestId>c6104cbe</RequestId></ErrorResponse>"
    )
}
