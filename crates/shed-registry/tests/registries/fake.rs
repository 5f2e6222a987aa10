//! A registry of the test that answers as it is told: well by default, and as a test wants it where that says so.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use shed_image::DigestHasher;
use shed_types::Digest;

/// A request, as the registry saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

impl Seen {
    /// Tells whether it is a request for this.
    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.starts_with(path)
    }
}

/// Answers a request in its own way, or leaves it to the default. Hears how many such requests (same method, same path)
/// there were before.
type Twist = Box<dyn Fn(&Seen, usize) -> Option<Response> + Send + Sync>;

/// What a registry has.
#[derive(Default, Clone)]
pub(crate) struct Content {
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(crate) blobs: HashMap<String, Vec<u8>>,
}

/// The registry.
pub(crate) struct Fake {
    /// Host and port.
    pub(crate) address: String,
    state: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    content: Content,
    twist: Twist,
    seen: Mutex<Vec<Seen>>,
}

impl Content {
    /// Returns an image with these layers, under the tag `v1`.
    pub(crate) fn image(layers: &[Vec<u8>]) -> Self {
        Self::with_config(layers, |diff_ids| {
            format!(
                r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":{diff_ids}}}}}"#
            )
        })
    }

    /// Returns an image with these layers and a config, which is told the layers' digests as a list.
    pub(crate) fn with_config(layers: &[Vec<u8>], config: impl FnOnce(&str) -> String) -> Self {
        let mut content = Self::default();
        let diff_ids: Vec<_> =
            layers.iter().map(|layer| format!("\"{}\"", DigestHasher::sha256_of(layer))).collect();
        let config = content.blob(config(&format!("[{}]", diff_ids.join(","))).into_bytes());
        let layers: Vec<String> = layers.iter().map(|layer| content.blob(layer.clone())).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{}]}}"#,
            layers.join(",")
        );
        let _digest = content.manifest("v1", OCI_MANIFEST, manifest.as_bytes());
        content
    }

    /// Adds a blob and returns its descriptor.
    pub(crate) fn blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = DigestHasher::sha256_of(&bytes).to_string();
        let descriptor = format!(r#"{{"mediaType":"x/y","digest":"{digest}","size":{}}}"#, bytes.len());
        let _before = self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Adds a manifest under a tag and its digest, which it returns.
    pub(crate) fn manifest(&mut self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = DigestHasher::sha256_of(bytes);
        for name in [tag, digest.as_str()] {
            let _before = self.manifests.insert(name.to_owned(), (media_type.to_owned(), bytes.to_vec()));
        }
        digest
    }
}

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Fake {
    /// Starts a registry that behaves.
    pub(crate) async fn good(content: Content) -> Self {
        Self::start(content, |_, _| None).await
    }

    /// Starts a registry that answers some requests in a way of its own.
    pub(crate) async fn start(
        content: Content,
        twist: impl Fn(&Seen, usize) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Inner { content, twist: Box::new(twist), seen: Mutex::default() });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, state, task }
    }

    /// Returns the requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Counts requests.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, path)).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(state): State<Arc<Inner>>, request: Request) -> Response {
    let seen = {
        let text = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
        Seen {
            method: request.method().to_string(),
            path: request.uri().to_string(),
            range: text("range"),
            authorization: text("authorization"),
        }
    };
    // To the end: what is not read would be answered by a broken connection.
    let _body = axum::body::to_bytes(request.into_body(), 1 << 30).await;
    let before = {
        let mut all = state.seen.lock().unwrap();
        let before = all.iter().filter(|other| other.is(&seen.method, &seen.path)).count();
        all.push(seen.clone());
        before
    };
    (state.twist)(&seen, before).unwrap_or_else(|| state.content.answer(&seen))
}

impl Content {
    /// Answers as a registry should.
    pub(crate) fn answer(&self, seen: &Seen) -> Response {
        let Some((_, name)) = seen.path.rsplit_once('/') else {
            return StatusCode::NOT_FOUND.into_response();
        };
        if seen.path.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, bytes)) => {
                    let digest = DigestHasher::sha256_of(bytes).to_string();
                    let headers = [("content-type", media_type.clone()), ("docker-content-digest", digest)];
                    (headers, bytes.clone()).into_response()
                }
                None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            };
        }
        let Some(bytes) = self.blobs.get(name) else { return error(404, "BLOB_UNKNOWN", "blob unknown") };
        let from = seen
            .range
            .as_ref()
            .map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
        match from {
            None => bytes.clone().into_response(),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                (StatusCode::PARTIAL_CONTENT, [("content-range", range)], bytes[from..].to_vec())
                    .into_response()
            }
        }
    }
}

/// Makes an answer as registries write errors.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/json")], body).into_response()
}

/// Makes an answer with a header.
pub(crate) fn with_header(status: u16, name: &'static str, value: &str) -> Response {
    let mut headers = HeaderMap::new();
    let _before = headers.insert(name, value.parse().unwrap());
    (StatusCode::from_u16(status).unwrap(), headers).into_response()
}

/// Makes an answer whose body says that it has `length` bytes, sends these, and breaks off.
pub(crate) fn broken(status: u16, length: usize, bytes: Vec<u8>) -> Response {
    let pieces = futures::stream::iter([Ok(Bytes::from(bytes)), Err(std::io::Error::other("broken"))]);
    let response = Response::builder().status(status).header("content-length", length);
    response.body(Body::from_stream(pieces)).unwrap()
}
