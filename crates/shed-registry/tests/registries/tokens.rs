//! Logins with tokens: a real registry that trusts a token server, and a token server of the test.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use shed_image::Unwatched;
use shed_registry::PullError;

use crate::{
    Home, amd64, chain,
    images::{layout, skopeo_copy},
    reference, run,
    server::Server,
};

const PASSWORD: &str = "correct-horse";
const REFRESH: &str = "refresh-battery-staple";

/// A token server that knows one account and a key that the registry trusts.
struct Tokens {
    home: Home,
    /// Each request: method, whom it was given to, and the scopes.
    asked: Mutex<Vec<String>>,
    /// How long tokens live by their own account, in seconds.
    life: u64,
    serial: AtomicU64,
}

impl Tokens {
    /// Makes a token by the rules of Docker's token specification. Who is nobody may only read `open/…`.
    fn token(&self, service: &str, scopes: &[String], somebody: bool) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let access = |scope: &String| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let may = |action: &&str| somebody || (*action == "pull" && name.starts_with("open/"));
            let actions: Vec<&str> = actions.split(',').filter(may).collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        };
        let access: Vec<Value> = scopes.iter().filter_map(access).collect();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed).to_string();
        let claims = json!({
            "iss": "test-issuer", "sub": "user", "aud": service, "exp": now + 3600, "nbf": now - 60, "iat": now,
            "jti": serial, "access": access,
        });
        let dir = &self.home.path;
        let certificate = STANDARD.encode(std::fs::read(dir.join("cert.der")).unwrap());
        let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&head), part(&claims));
        let (input, output) = (format!("text{serial}"), format!("signature{serial}"));
        std::fs::write(dir.join(&input), &text).unwrap();
        let _signed = run("openssl", &["dgst", "-sha256", "-sign", "key.pem", "-out", &output, &input], dir);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(std::fs::read(dir.join(output)).unwrap()))
    }

    fn answer(&self, method: &str, query: &str, login: Option<bool>) -> (StatusCode, Json<Value>) {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            values.entry(key.into_owned()).or_default().push(value.into_owned());
        }
        let login = login.or_else(|| Some(values.get("refresh_token")? == &[REFRESH]));
        let service = values.get("service").map_or(String::new(), |service| service[0].clone());
        let scopes = values.get("scope").cloned().unwrap_or_default();
        let scopes: Vec<String> =
            scopes.iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).collect();
        let who = match login {
            Some(true) => "somebody",
            Some(false) => "impostor",
            None => "nobody",
        };
        self.asked.lock().unwrap().push(format!("{method} {who} {}", scopes.join(" ")));
        if login == Some(false) {
            let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": format!("not {query}")}]});
            return (StatusCode::UNAUTHORIZED, Json(body));
        }
        let token = self.token(&service, &scopes, login == Some(true));
        (StatusCode::OK, Json(json!({"token": token, "expires_in": self.life})))
    }
}

/// Starts a token server, and a registry that trusts it.
async fn start(life: u64) -> (Arc<Tokens>, Server) {
    let home = Home::new();
    let arguments = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=test";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let _made = run("openssl", &arguments, &home.path);
    let _made =
        run("openssl", &["x509", "-in", "cert.pem", "-outform", "DER", "-out", "cert.der"], &home.path);
    let tokens = Arc::new(Tokens { home, asked: Mutex::default(), life, serial: AtomicU64::new(0) });
    let by_get = async |State(tokens): State<Arc<Tokens>>, headers: HeaderMap, RawQuery(query): RawQuery| {
        let good = format!("Basic {}", STANDARD.encode(format!("user:{PASSWORD}")));
        let login = headers.get("authorization").map(|header| *header == *good);
        tokio::task::spawn_blocking(move || tokens.answer("GET", &query.unwrap_or_default(), login))
            .await
            .unwrap()
    };
    let by_post = async |State(tokens): State<Arc<Tokens>>, body: String| {
        tokio::task::spawn_blocking(move || tokens.answer("POST", &body, None)).await.unwrap()
    };
    let app = Router::new().route("/token", get(by_get).post(by_post)).with_state(Arc::clone(&tokens));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = format!("http://{}/token", listener.local_addr().unwrap());
    let _serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let auth = format!(
        "auth: {{token: {{realm: \"{realm}\", service: test-service, issuer: test-issuer, rootcertbundle: {}/cert.pem}}}}\n",
        tokens.home.path
    );
    (tokens, Server::with_auth(&auth))
}

fn auths(server: &Server, entry: &str) -> String {
    format!(r#"{{"auths": {{"{}": {entry}}}}}"#, server.address)
}

fn password(text: &str) -> String {
    format!(r#"{{"auth": "{}"}}"#, STANDARD.encode(format!("user:{text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_with_whatever_login_there_is() {
    let (tokens, server) = start(300).await;
    let source = Home::new();
    let image = layout(&source, &[vec![1; 1000], vec![2; 1000], vec![3; 1000], vec![4; 1000]]);
    let address = &server.address;
    for repository in ["open/image", "closed/image"] {
        let target = format!("docker://{address}/{repository}:v1");
        skopeo_copy(&image, &target, &["--dest-creds", &format!("user:{PASSWORD}")], &source.path);
    }
    tokens.asked.lock().unwrap().clear();
    let heard = || std::mem::take(&mut *tokens.asked.lock().unwrap());

    let home = Home::new();
    let pull = async |home: &Home, repository: &str| {
        let image = reference(&format!("{address}/{repository}:v1"));
        home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await
    };
    let digest = pull(&home, "open/image").await.unwrap();
    assert_eq!(heard(), ["GET nobody repository:open/image:pull"]);
    let text = chain(&pull(&home, "closed/image").await.unwrap_err());
    assert!(text.contains("wants a login") && text.contains("docker login"), "{text}");

    // A config that is broken is told of only where a login is wanted.
    let file = home.docker_config("nonsense");
    let _fine = pull(&Home::new(), "open/image").await.unwrap();
    let _fine = pull(&home, "open/image").await.unwrap();
    let text = chain(&pull(&home, "closed/image").await.unwrap_err());
    assert!(text.contains(file.as_str()), "{text}");

    let _file = home.docker_config(&auths(&server, &password("wrong-horse")));
    let text = chain(&pull(&home, "closed/image").await.unwrap_err());
    assert!(text.contains("did not accept the login") && !text.contains("horse"), "{text}");
    let _file = home.docker_config(&auths(&server, r#"{"identitytoken": "wrong-staple"}"#));
    let text = chain(&pull(&home, "closed/image").await.unwrap_err());
    assert!(text.contains("did not accept the login") && !text.contains("staple"), "{text}");

    let _heard = heard();
    let identity = format!(r#"{{"identitytoken": "{REFRESH}"}}"#);
    for (entry, method) in [(password(PASSWORD), "GET"), (identity, "POST")] {
        let fresh = Home::new();
        let _file = fresh.docker_config(&auths(&server, &entry));
        assert_eq!(pull(&fresh, "closed/image").await.unwrap(), digest);
        assert_eq!(heard(), [format!("{method} somebody repository:closed/image:pull")]);
        let target = reference(&format!("{address}/closed/copy-{}", method.to_lowercase()));
        fresh.registry().push(&digest, &fresh.blobs(), &target, Arc::new(Unwatched)).await.unwrap();
        let scopes: Vec<String> = heard();
        assert_eq!(scopes.len(), 1, "{scopes:?}");
        assert!(scopes[0].contains("-") && scopes[0].contains(":pull,push"), "{scopes:?}");
    }
    // Nobody may not push, and hears why.
    let (nobody, target) = (Home::new(), reference(&format!("{address}/open/copy")));
    let _pulled = pull(&nobody, "open/image").await.unwrap();
    let error =
        nobody.registry().push(&digest, &nobody.blobs(), &target, Arc::new(Unwatched)).await.unwrap_err();
    assert!(chain(&error).contains("wants a login"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_ended_is_asked_for_again() {
    let (tokens, server) = start(0).await;
    let source = Home::new();
    let image = layout(&source, &[vec![1; 1000], vec![2; 1000]]);
    let target = format!("{}/open/image:v1", server.address);
    skopeo_copy(
        &image,
        &format!("docker://{target}"),
        &["--dest-creds", &format!("user:{PASSWORD}")],
        &source.path,
    );
    tokens.asked.lock().unwrap().clear();
    let home = Home::new();
    let result: Result<_, PullError> =
        home.registry().pull(&reference(&target), &amd64(), &home.blobs(), Arc::new(Unwatched)).await;
    let _digest = result.unwrap();
    // The manifest, the config, two layers.
    assert_eq!(tokens.asked.lock().unwrap().len(), 4);
}
