//! Requests to registries: which connections they use, where redirects may lead, how long an answer may take.
//!
//! Redirects are followed here and not by reqwest, because every address is checked before it is asked and the login
//! goes to the registry's own only.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header, redirect};
use tokio::{sync::OnceCell, time::timeout};

use crate::{
    Patience,
    blocking::blocking,
    error::{RequestError, Said},
    login::Grant,
    repository::{Repository, host_of, is_loopback},
    retry::retry_after,
};

/// How many redirects in a row are followed; storage behind a registry needs one.
const MAX_REDIRECTS: u32 = 5;

/// Longest body of an error that is read, in bytes.
const MAX_ERROR: u64 = 64 << 10;

/// The connections to all hosts.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pair: OnceCell<Pair>,
}

#[derive(Debug)]
struct Pair {
    /// To this host: no proxy can reach it.
    near: Client,
    far: Client,
}

impl Clients {
    /// Returns the connections for an address.
    async fn for_url(&self, url: &Url, patience: &Patience) -> Result<&Client, RequestError> {
        let connect = patience.connect;
        // Reading the certificates of this host takes a while.
        let make = || blocking(move || Pair::new(connect).map_err(RequestError::Setup));
        let pair = self.pair.get_or_try_init(make).await?;
        Ok(if is_loopback(url) { &pair.near } else { &pair.far })
    }
}

impl Pair {
    fn new(connect: Duration) -> reqwest::Result<Self> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("shed/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                .referer(false)
                .connect_timeout(connect)
        };
        Ok(Self { near: builder().no_proxy().build()?, far: builder().build()? })
    }
}

/// What is asked; built anew for every try and redirect.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Adds headers and body.
    pub(crate) build: &'a (dyn Fn(RequestBuilder) -> RequestBuilder + Send + Sync),
    /// How long nothing may happen until the answer begins.
    pub(crate) quiet: Duration,
    /// Counts what the other side took of the body.
    pub(crate) moved: Option<&'a AtomicU64>,
}

/// An answer, and the address that gave it.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) url: Url,
}

impl Clients {
    /// Asks, and follows redirects. The login, if any, is shown to the registry only.
    ///
    /// # Errors
    /// When nobody answers, or a redirect leads where it may not.
    pub(crate) async fn ask(
        &self,
        ask: &Ask<'_>,
        repository: &Repository,
        grant: Option<&Grant>,
        patience: &Patience,
    ) -> Result<Answer, RequestError> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = self.for_url(&url, patience).await?;
            let mut request = (ask.build)(client.request(ask.method.clone(), url.clone()));
            if let Some(grant) = grant.filter(|_| repository.is_own(&url)) {
                request = grant.show(request);
            }
            let response = wait(request.send(), ask, &url).await?;
            let Some(next) = redirection(ask, &response, &url)? else { return Ok(Answer { response, url }) };
            repository.check_named(&next)?;
            url = next;
        }
        Err(RequestError::nonsense(&ask.url, format!("it redirects more than {MAX_REDIRECTS} times")))
    }
}

impl Clients {
    /// Asks one address and no other: for requests that carry a login by themselves.
    ///
    /// # Errors
    /// When nobody answers, or a redirect does.
    pub(crate) async fn ask_here(
        &self,
        method: Method,
        url: &Url,
        build: &(dyn Fn(RequestBuilder) -> RequestBuilder + Send + Sync),
        patience: &Patience,
    ) -> Result<Answer, RequestError> {
        let ask = Ask { method, url: url.clone(), build, quiet: patience.quiet, moved: None };
        let client = self.for_url(url, patience).await?;
        let request = build(client.request(ask.method.clone(), url.clone()));
        let response = wait(request.send(), &ask, url).await?;
        if response.status().is_redirection() {
            return Err(RequestError::nonsense(url, "it redirects a login to elsewhere"));
        }
        Ok(Answer { response, url: url.clone() })
    }
}

/// Returns where a redirect leads, or nothing for other answers.
fn redirection(ask: &Ask<'_>, response: &Response, url: &Url) -> Result<Option<Url>, RequestError> {
    let reads = ask.method == Method::GET || ask.method == Method::HEAD;
    match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {}
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER if reads => {}
        _ => return Ok(None),
    }
    location(response, url)?
        .map_or_else(|| Err(RequestError::nonsense(url, "it redirects to nowhere")), |next| Ok(Some(next)))
}

/// Reads where `Location` leads.
///
/// # Errors
/// When it is no address.
pub(crate) fn location(response: &Response, url: &Url) -> Result<Option<Url>, RequestError> {
    let Some(value) = response.headers().get(header::LOCATION) else { return Ok(None) };
    let next = value.to_str().ok().and_then(|text| url.join(text).ok());
    next.map(Some).ok_or_else(|| RequestError::nonsense(url, "its Location is no address"))
}

/// Waits for the beginning of an answer, for as long as the body moves.
async fn wait(
    answer: impl Future<Output = reqwest::Result<Response>>,
    ask: &Ask<'_>,
    url: &Url,
) -> Result<Response, RequestError> {
    let moved = || ask.moved.map_or(0, |moved| moved.load(Ordering::Relaxed));
    let mut answer = std::pin::pin!(answer);
    loop {
        let before = moved();
        match timeout(ask.quiet, &mut answer).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => return Err(unreachable(url, error)),
            Err(_) if moved() != before => {}
            Err(_) => return Err(RequestError::Stalled { host: host_of(url), quiet: ask.quiet }),
        }
    }
}

fn unreachable(url: &Url, error: reqwest::Error) -> RequestError {
    let (host, source) = (host_of(url), error.without_url());
    if source.is_connect() {
        RequestError::Unreachable { host, source }
    } else {
        RequestError::Broken { host, source }
    }
}

impl Answer {
    /// Returns the host that answered, for messages.
    pub(crate) fn host(&self) -> String {
        host_of(&self.url)
    }

    /// Returns a header, if it is there and text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// When it is longer than `limit` bytes, breaks off, or takes longer than `patience` allows for silence: small bodies
    /// come at once.
    pub(crate) async fn small_body(
        mut self,
        limit: u64,
        patience: &Patience,
    ) -> Result<Vec<u8>, RequestError> {
        let host = self.host();
        let too_long =
            || RequestError::nonsense(&self.url, format!("its answer is longer than {limit} bytes"));
        if self.response.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        let read =
            async {
                while let Some(piece) = self.response.chunk().await.map_err(|source| {
                    RequestError::Broken { host: host.clone(), source: source.without_url() }
                })? {
                    if (bytes.len() + piece.len()) as u64 > limit {
                        return Err(too_long());
                    }
                    bytes.extend_from_slice(&piece);
                }
                Ok(())
            };
        let stalled = || RequestError::Stalled { host: host.clone(), quiet: patience.quiet };
        timeout(patience.quiet, read).await.unwrap_or_else(|_| Err(stalled()))?;
        Ok(bytes)
    }

    /// Reads why something was refused.
    pub(crate) async fn said(self, patience: &Patience) -> Said {
        let status = self.response.status();
        let pause = self.header(header::RETRY_AFTER).and_then(retry_after);
        let pause = pause.map(|pause| pause.min(patience.longest_asked_pause));
        // A body that does not come says nothing; the status says enough.
        let body = self.small_body(MAX_ERROR, patience).await.unwrap_or_default();
        Said::new(status, &body, pause)
    }
}
