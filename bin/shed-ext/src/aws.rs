//! `shed-aws-proxy`: `GET http://127.0.0.1:499/credentials`, where AWS's own tools look for the credentials of a container
//! (spec J.3).
//!
//! It keeps nothing: the host does, and knows when they end. What it must not be is a way for a page in a browser to read
//! them under a name of its own, so a request for any other host than the loopback is refused.

mod body;

use std::{convert::Infallible, net::Ipv4Addr, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use shed_extensions::aws::{Credentials, NAMESPACE, Request as Ask};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use self::body::{Refusal, credentials, refusal};
use crate::{
    bus::{Bus, LIMIT},
    command_line::Place,
    say,
};

const NAME: &str = "shed-aws-proxy";

/// The one path there is.
const PATH: &str = "/credentials";

/// Connections at a time; those beyond wait until one has gone.
const CONNECTIONS: usize = 32;

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection may take in all: a head, the bus, and a client that reads.
const CONNECTION: Duration = Duration::from_secs(20);

/// Longest head in bytes; hyper takes no less.
const MAX_HEAD: usize = 8192;

/// Pause when no connection can be taken, as with too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process is ended.
pub(crate) async fn serve(place: Place, port: u16) -> ExitCode {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            let hint =
                "its unit gives it the right to, and only one can; see `systemctl status shed-aws-proxy`";
            say::error(NAME, &format!("cannot listen on 127.0.0.1:{port}: {error}; {hint}"));
            return ExitCode::FAILURE;
        }
    };
    if let Ok(address) = listener.local_addr() {
        say::note(NAME, &format!("listens on {address}"));
    }
    if let Err(error) = place.run_dir.make() {
        say::note(NAME, &format!("cannot make the directory of its status: {error}"));
    }
    let Place { bus, run_dir } = place;
    let asking = bus.clone();
    tokio::spawn(async move { run_dir.note_start(NAME, NAMESPACE, &asking).await });
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let bus = Arc::new(bus);
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return ExitCode::FAILURE };
        match listener.accept().await {
            Ok((stream, _)) => {
                let bus = Arc::clone(&bus);
                tokio::spawn(async move {
                    // One that takes longer is hung up on; whoever it was has stopped waiting.
                    let _late = timeout(CONNECTION, connection(stream, &bus)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                say::error(NAME, &format!("cannot take a connection: {error}"));
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, bus: &Bus) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, bus).await) });
    // A client that goes away in the middle is no error of anybody's.
    let _gone = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: &Request<Incoming>, bus: &Bus) -> Response<Full<Bytes>> {
    match check(request) {
        Err(refused) => refused.response(),
        Ok(()) => match bus.ask::<Credentials>(NAMESPACE, &Ask::GetCredentials, LIMIT).await {
            Ok(found) => credentials(&found),
            Err(error) => {
                say::error(NAME, &format!("no credentials: {error}"));
                refusal(&error)
            }
        },
    }
}

/// Refuses every request but the one there is.
fn check<T>(request: &Request<T>) -> Result<(), Refusal> {
    let named = request.uri().host().map(str::to_owned);
    let header = request.headers().get_all(header::HOST);
    let headers: Vec<_> = header.iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let of_loopback = match headers.as_slice() {
        [host] => is_loopback(without_port(host)),
        _ => false,
    };
    if !of_loopback || named.is_some_and(|host| !is_loopback(&host)) {
        return Err(Refusal::Host);
    }
    // Only a browser says that a page asks.
    if request.headers().contains_key(header::ORIGIN) || request.headers().contains_key("sec-fetch-site") {
        return Err(Refusal::Browser);
    }
    if request.uri().path() != PATH {
        return Err(Refusal::Path);
    }
    if request.method() == Method::GET { Ok(()) } else { Err(Refusal::Method) }
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "[::1]") || host.eq_ignore_ascii_case("localhost")
}

/// The host of a Host header, without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, uri: &str, hosts: &[&str]) -> Result<(), Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        check(&request.body(()).unwrap())
    }

    #[test]
    fn only_the_loopback_is_asked_for() {
        for host in ["127.0.0.1:499", "127.0.0.1", "localhost:7", "LocalHost", "[::1]:499", "[::1]"] {
            assert_eq!(checked("GET", PATH, &[host]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:499",
            "127.0.0.1.evil.example",
            "localhost.evil:499",
            "",
            "x:99999",
            "127.0.0.1:",
        ] {
            assert_eq!(checked("GET", PATH, &[host]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(checked("GET", PATH, &[]), Err(Refusal::Host));
        assert_eq!(checked("GET", PATH, &["127.0.0.1", "evil.example"]), Err(Refusal::Host));
        assert_eq!(checked("GET", "http://evil.example/credentials", &["127.0.0.1"]), Err(Refusal::Host));
    }

    #[test]
    fn there_is_one_path_and_one_method_and_no_browser() {
        assert_eq!(checked("GET", "/", &["localhost"]), Err(Refusal::Path));
        assert_eq!(checked("GET", "/credentials/", &["localhost"]), Err(Refusal::Path));
        for method in ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "X"] {
            assert_eq!(checked(method, PATH, &["localhost"]), Err(Refusal::Method), "{method}");
        }
        let page =
            Request::builder().uri(PATH).header("host", "localhost").header("origin", "http://localhost");
        assert_eq!(check(&page.body(()).unwrap()), Err(Refusal::Browser));
    }
}
