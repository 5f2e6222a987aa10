//! Who asks: from a registry's challenge to what is shown with each request.
//!
//! A registry is first asked without a login, as everybody may. When it answers with a challenge, the login of Docker's
//! config is found out and, for `Bearer`, exchanged for a token. The token server is another host as often as not; it gets
//! the login because the registry says so, and only over a connection that is as good as the registry's own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, RequestBuilder, Url, header};
use serde::Deserialize;

use crate::{
    Patience,
    challenge::Challenge,
    credentials::{CredentialError, DockerConfig, Login},
    error::{RequestError, Said},
    http::{Answer, Clients},
    repository::Repository,
    secret::Secret,
};

/// Longest answer of a token server, in bytes; tokens of some clouds have several thousand.
const MAX_TOKEN: u64 = 256 << 10;

/// How long a token lives when its server does not say (Docker's token specification, `expires_in`).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// Tokens are asked for again at least this often.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// What is shown with each request to one registry.
#[derive(Debug)]
pub(crate) struct Grant {
    shown: Shown,
    /// Whether a login is behind it, and not just anybody.
    has_login: bool,
    /// Until when it is worth showing; for ever if absent.
    until: Option<Instant>,
}

#[derive(Debug)]
enum Shown {
    Password { user: String, password: Secret },
    Token(Secret),
}

impl Grant {
    /// Adds it to a request.
    pub(crate) fn show(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.shown {
            Shown::Password { user, password } => request.basic_auth(user, Some(password.expose())),
            Shown::Token(token) => request.bearer_auth(token.expose()),
        }
    }

    pub(crate) const fn has_login(&self) -> bool {
        self.has_login
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Takes what it shows out of a registry's words.
    pub(crate) fn scrub(&self, said: Said) -> Said {
        match &self.shown {
            Shown::Password { user, password } => scrub_password(said, user, password),
            Shown::Token(token) => said.without(token.expose()),
        }
    }
}

fn scrub_password(said: Said, user: &str, password: &Secret) -> Said {
    let header = STANDARD.encode(format!("{user}:{}", password.expose()));
    said.without(&header).without(password.expose())
}

/// What is known about logging in to one repository for one kind of access.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) grant: Option<Arc<Grant>>,
    /// Why there is no login although the config may mean one: told when the registry insists.
    pub(crate) problem: Option<Arc<CredentialError>>,
}

/// All that finding a grant needs.
pub(crate) struct Porter<'a> {
    pub(crate) clients: &'a Clients,
    pub(crate) patience: &'a Patience,
    pub(crate) config: &'a DockerConfig,
    pub(crate) repository: &'a Repository,
    /// What is wanted, in the words of Docker's token specification, such as `pull,push`.
    pub(crate) actions: &'static str,
}

impl Porter<'_> {
    /// Finds what answers a refusal's challenges, and leaves it in the slot.
    ///
    /// # Errors
    /// When no challenge is understood, a login is wanted and there is none, or no token is given.
    pub(crate) async fn grant(&self, slot: &mut Slot, refusal: Answer) -> Result<Arc<Grant>, RequestError> {
        slot.grant = None;
        let headers = refusal.response.headers().get_all(header::WWW_AUTHENTICATE);
        let texts = headers.iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = texts.flat_map(Challenge::parse).collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or(challenges.first()).cloned() else {
            let reason = "it wants a login, but not in a way that is known (Basic, Bearer)";
            return Err(RequestError::nonsense(&refusal.url, reason));
        };
        let login = self.config.login(self.repository.registry()).await;
        let (login, problem) = match login {
            Ok(login) => (login, None),
            Err(problem) => (None, Some(Arc::new(problem))),
        };
        slot.problem = problem.clone();
        let grant = match challenge {
            Challenge::Basic => match login {
                Some(Login::Password { user, password }) => {
                    Ok(Grant { shown: Shown::Password { user, password }, has_login: true, until: None })
                }
                Some(Login::Identity(_)) => {
                    let host = refusal.host();
                    let said = refusal.said(self.patience).await;
                    Err(self.refused(&host, true, said))
                }
                None => {
                    let host = refusal.host();
                    Err(self.refused(&host, false, refusal.said(self.patience).await))
                }
            },
            Challenge::Bearer { realm, service, scope } => {
                let realm: Url = refusal.url.join(&realm).map_err(|_| {
                    RequestError::nonsense(&refusal.url, "the address of its token server is none")
                })?;
                self.token(realm, service.as_deref(), scope.as_deref(), login).await
            }
        };
        let grant = grant.map_err(|error| match (error, problem) {
            (RequestError::NoLogin { .. }, Some(problem)) => RequestError::Credentials(problem),
            (error, _) => error,
        })?;
        let grant = Arc::new(grant);
        slot.grant = Some(Arc::clone(&grant));
        Ok(grant)
    }

    /// Makes the error of a registry or token server that refuses to let us in.
    fn refused(&self, host: &str, had_login: bool, said: Said) -> RequestError {
        not_let_in(host, self.repository, self.config, had_login, said)
    }

    /// Gets a token (Docker's token specification; for a refresh token its OAuth2 variant).
    async fn token(
        &self,
        realm: Url,
        service: Option<&str>,
        scope: Option<&str>,
        login: Option<Login>,
    ) -> Result<Grant, RequestError> {
        self.repository.check_named(&realm)?;
        // What we know we need, and what the registry thinks it is, where that differs.
        let own = format!("repository:{}:{}", self.repository.path(), self.actions);
        let scopes: Vec<&str> =
            [own.as_str()].into_iter().chain(scope.filter(|&scope| scope != own)).collect();
        let has_login = login.is_some();
        let asked = Instant::now();
        let answer = if let Some(Login::Identity(token)) = &login {
            let form = refresh_form(token, service, &scopes);
            let build = |request: RequestBuilder| {
                let kind = "application/x-www-form-urlencoded";
                request.header(header::CONTENT_TYPE, kind).body(form.clone())
            };
            self.clients.ask_here(Method::POST, &realm, &build, self.patience).await?
        } else {
            let realm = with_query(realm, service, &scopes);
            let build = |request: RequestBuilder| match &login {
                Some(Login::Password { user, password }) => request.basic_auth(user, Some(password.expose())),
                Some(Login::Identity(_)) | None => request,
            };
            self.clients.ask_here(Method::GET, &realm, &build, self.patience).await?
        };
        let status = answer.response.status();
        if !status.is_success() {
            let host = answer.host();
            let said = answer.said(self.patience).await;
            let said = match &login {
                Some(Login::Password { user, password }) => scrub_password(said, user, password),
                Some(Login::Identity(token)) => said.without(token.expose()),
                None => said,
            };
            // OAuth2 says 400 to a token that it does not take any more.
            return Err(if matches!(said.status, 400 | 401 | 403) {
                self.refused(&host, has_login, said)
            } else {
                RequestError::Refused { host, said }
            });
        }
        let url = answer.url.clone();
        let body = answer.small_body(MAX_TOKEN, self.patience).await?;
        let (token, life) = read_token(&body)
            .ok_or_else(|| RequestError::nonsense(&url, "its token server gives no token"))?;
        // Used up to a little before its end, or it could end on the way.
        Ok(Grant { shown: Shown::Token(token), has_login, until: Some(asked + life.mul_f64(0.9)) })
    }
}

/// Returns the body that exchanges a refresh token.
fn refresh_form(token: &Secret, service: Option<&str>, scopes: &[&str]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    let _form = form
        .append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", token.expose())
        .append_pair("client_id", "shed")
        .append_pair("scope", &scopes.join(" "))
        .extend_pairs(service.map(|service| ("service", service)));
    form.finish()
}

/// Returns the address of a token server with what is wanted of it.
fn with_query(mut realm: Url, service: Option<&str>, scopes: &[&str]) -> Url {
    let _query = realm
        .query_pairs_mut()
        .extend_pairs(service.map(|service| ("service", service)))
        .extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
    realm
}

/// Makes the error of a host that does not let us in.
pub(crate) fn not_let_in(
    host: &str,
    repository: &Repository,
    config: &DockerConfig,
    had_login: bool,
    said: Said,
) -> RequestError {
    let (host, registry, config) = (host.to_owned(), repository.registry().to_owned(), config.place());
    if had_login {
        RequestError::BadLogin { host, registry, config, said }
    } else {
        RequestError::NoLogin { host, registry, config, said }
    }
}

/// Reads a token and how long it lives; none is no token, and neither is one that no header can carry.
fn read_token(body: &[u8]) -> Option<(Secret, Duration)> {
    #[derive(Deserialize)]
    struct Body {
        token: Option<Secret>,
        access_token: Option<Secret>,
        expires_in: Option<f64>,
    }
    let Body { token, access_token, expires_in } = serde_json::from_slice(body).ok()?;
    let fit = |token: &Secret| {
        let text = token.expose();
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
    };
    let token = token.filter(fit).or(access_token.filter(fit))?;
    let life = expires_in.map_or(DEFAULT_LIFE, |seconds| {
        Duration::try_from_secs_f64(seconds).unwrap_or_default().min(LONGEST_LIFE)
    });
    Some((token, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_under_both_names_and_odd_ones_refused() {
        let read = |text: &str| {
            read_token(text.as_bytes()).map(|(token, life)| (token.expose().to_owned(), life.as_secs()))
        };
        let token = |text: &str, life| Some((text.to_owned(), life));
        for (body, expected) in [
            (r#"{"token":"a"}"#, token("a", 60)),
            (r#"{"access_token":"b","expires_in":300}"#, token("b", 300)),
            (r#"{"token":"a","access_token":"b","expires_in":1e9}"#, token("a", 3600)),
            (r#"{"token":"","access_token":"b","expires_in":-5}"#, token("b", 0)),
            (r#"{"token":"a b"}"#, None),
            (r#"{"token":"a\r\nX: y"}"#, None),
            (r#"{"expires_in":5}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(read(body), expected, "{body}");
        }
    }

    #[test]
    fn what_is_shown_is_not_printed() {
        let grant =
            Grant { shown: Shown::Token(Secret::new("hunter2".to_owned())), has_login: true, until: None };
        assert!(!format!("{grant:?}").contains("hunter2"));
    }
}
