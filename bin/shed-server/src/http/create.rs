//! `POST /api/sheds`: the checks, in the order of spec A.4, and the create as JSON or as events.
//!
//! What is wrong with the request itself is answered before anything else, so that it reaches a caller who asked
//! for events as a plain error, too. Whether backend, image and name are to be had is found out afterwards and
//! reaches that caller as an `error` event.
//!
//! A `local_dir` is looked at on this host; the shed's start looks at it again.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use camino::{Utf8Path, Utf8PathBuf};
use shed_api::{CreateShedRequest, ErrorCode};
use shed_lifecycle::{LocalDirError, NewShed, Progress, Started};
use shed_types::{BackendChoice, CpuCount, MemoryMb, Repo, ShedName, error_chain};

use super::{
    ApiError, App, body,
    ending::unless_ending,
    extract::{ReplyForm, parse_name},
    metrics::counted_start,
    openapi::error_responses,
    sse, wire,
};
use crate::metrics::Operation;

/// Longest body of a create, in bytes.
const MAX_BODY: usize = 1 << 20;

/// A request whose values have been checked as far as that needs no look at the sheds.
#[derive(Debug)]
struct Checked {
    name: ShedName,
    repo: Option<Repo>,
    local_dir: Option<Utf8PathBuf>,
    cpus: Option<CpuCount>,
    memory_mb: Option<MemoryMb>,
    image: Option<String>,
    backend: Option<String>,
    no_provision: bool,
}

error_responses! {
    /// Failures of a create.
    CreateErrors:
        InvalidShedName, InvalidRepoUrl, InvalidLocalDir, UnknownImage, BackendNotEnabled, RequestTimeout,
        ShedAlreadyExists, ShedBusy, BodyTooLarge, UnsupportedMediaType, BackendError, ImagePullFailed
}

/// Create a shed and bring it up
///
/// An image in a registry that is not cached is pulled first; other creates of it wait for the same pull. A client that goes
/// away cancels the create, and nothing is left of it but what a later pull continues; once the shed runs, it stays, and its
/// setup goes on. The reply comes when credentials are copied, the repository is cloned and the hooks of its
/// `.shed/provision.yaml` have run; what fails of these is in `warnings` and does not fail the create. With
/// `Accept: text/event-stream` the reply is a stream of events: `progress` any number of times, then `complete` with the
/// shed or `error` with a code and a message. What is wrong with the request itself is a plain error even then.
// Dropping the future of this handler, as hyper does when the client goes away, drops the create and so undoes it, until the
// shed runs.
#[utoipa::path(
    post,
    path = "/api/sheds",
    operation_id = "create_shed",
    tag = "sheds",
    request_body = CreateShedRequest,
    responses(
        (
            status = 200,
            description = "Only when events were asked for: what happens until the shed runs.",
            content((String = "text/event-stream"))
        ),
        (status = 201, description = "The running shed.", body = shed_api::Shed),
        CreateErrors
    )
)]
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let media_type = MediaType::of(&parts.headers)?;
    let body =
        body::read(&parts.headers, body, MAX_BODY).await.map_err(|bad| bad.of("a create", unreadable))?;
    if media_type == MediaType::Form && !is_object(&body) {
        return Err(unsupported("the body is a form"));
    }
    let request = parse(&body)?;
    // A directory that the request names may be on a file system that does not answer.
    let sheds = app.sheds.clone();
    let checked = tokio::task::spawn_blocking(move || check(request, |dir| sheds.check_local_dir(dir)));
    let checked = checked.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    match ReplyForm::of(&parts.headers) {
        ReplyForm::Json => {
            let started = create_checked(app, checked, Progress::silent()).await?;
            Ok((StatusCode::CREATED, Json(wire::started(started))).into_response())
        }
        ReplyForm::Events => {
            let (progress, updates) = Progress::channel();
            let give_up = app.give_up.clone();
            let work = unless_ending(give_up, create_checked(app, checked, progress));
            Ok(sse::respond(work, updates))
        }
    }
}

async fn create_checked(app: App, checked: Checked, progress: Progress) -> Result<Started, ApiError> {
    let work = async { Ok::<_, ApiError>(app.sheds.create(resolve(&app, checked)?, progress).await?) };
    counted_start(&app.metrics, Operation::Create, work).await
}

/// What the body says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MediaType {
    /// JSON, or nothing.
    Json,
    /// What `curl -d` says of everything that it is not told about.
    Form,
}

impl MediaType {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Ok(Self::Json),
            (Some(value), None) => String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase(),
            (Some(_), Some(_)) => return Err(unsupported("the Content-Type is given more than once")),
        };
        match value.split(';').next().unwrap_or_default().trim() {
            "application/json" | "text/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            other if other.ends_with("+json") => Ok(Self::Json),
            other => {
                Err(unsupported(&format!("{:?} is not JSON", other.chars().take(100).collect::<String>())))
            }
        }
    }
}

fn unsupported(reason: &str) -> ApiError {
    let message = format!("{reason}; send a JSON object with `Content-Type: application/json`");
    ApiError::new(ErrorCode::UnsupportedMediaType, message)
}

fn unreadable(reason: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidShedName, format!("invalid request body: {reason}"))
}

fn parse(body: &[u8]) -> Result<CreateShedRequest, ApiError> {
    // serde would read the fields from a list as well, in the order in which they are declared.
    if !is_object(body) {
        return Err(unreadable("it is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| unreadable(&error.to_string()))
}

/// Whether a body is a JSON object, if it is JSON at all.
fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

/// Says whether a directory may be mounted.
trait LookAtDir: FnOnce(&Utf8Path) -> Result<(), LocalDirError> {}
impl<F: FnOnce(&Utf8Path) -> Result<(), LocalDirError>> LookAtDir for F {}

fn check(request: CreateShedRequest, look: impl LookAtDir) -> Result<Checked, ApiError> {
    let name = parse_name(&request.name)?;
    // Clients of the seed's time send empty texts for fields that are not set.
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (repo, local_dir) = (given(request.repo), given(request.local_dir));
    if let Some(dir) = &local_dir {
        check_local_dir(dir, repo.is_some(), look)?;
    }
    let repo = repo.map(|text| parse_repo(&text)).transpose()?;
    // 0 is the default, as in the specification (A.4).
    let sized = |size: Option<i64>| size.filter(|size| *size != 0);
    let out_of_range = |error: shed_types::SizeError| ApiError::from_chain(ErrorCode::InvalidRequest, &error);
    Ok(Checked {
        name,
        repo,
        local_dir: local_dir.map(Utf8PathBuf::from),
        cpus: sized(request.cpus).map(CpuCount::try_from).transpose().map_err(out_of_range)?,
        memory_mb: sized(request.memory_mb).map(MemoryMb::try_from).transpose().map_err(out_of_range)?,
        image: given(request.image),
        backend: given(request.backend),
        no_provision: request.no_provision,
    })
}

fn parse_repo(text: &str) -> Result<Repo, ApiError> {
    text.parse().map_err(|error| {
        let shown = Repo::mask(text);
        ApiError::new(ErrorCode::InvalidRepoUrl, format!("{shown:?} is not a repository: {error}"))
    })
}

fn check_local_dir(text: &str, with_repo: bool, look: impl LookAtDir) -> Result<(), ApiError> {
    let bad = |problem: &str| {
        Err(ApiError::new(ErrorCode::InvalidLocalDir, format!("local_dir {text:?} {problem}")))
    };
    if with_repo {
        return bad("and repo exclude each other; give one of them");
    }
    match look(Utf8Path::new(text)) {
        Ok(()) => Ok(()),
        Err(error) => bad(&format!("cannot be mounted: {}", error_chain(&error))),
    }
}

/// Finds out whether the server has what was asked for.
fn resolve(app: &App, checked: Checked) -> Result<NewShed, ApiError> {
    if let Some(text) = &checked.backend {
        let refused = |problem: String| ApiError::new(ErrorCode::BackendNotEnabled, problem);
        let choice: BackendChoice = text.parse().map_err(|error| refused(format!("{error}")))?;
        let own = app.info.backend.as_str();
        if choice.kind().is_some_and(|kind| kind.as_str() != own) {
            return Err(refused(format!(
                "this server runs {own}, not {text}; use --backend {own}, or leave it out"
            )));
        }
    }
    let image = checked.image.as_deref().map(|text| app.sheds.parse_image(text)).transpose();
    let image = image.map_err(|error| ApiError::from_chain(ErrorCode::UnknownImage, &error))?;
    Ok(NewShed {
        name: checked.name,
        image,
        cpus: checked.cpus,
        memory_mb: checked.memory_mb,
        repo: checked.repo,
        local_dir: checked.local_dir,
        no_provision: checked.no_provision,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Values for any field: good ones, near misses, other types.
    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-z][a-z0-9-]{0,70}",
            "\\PC{0,20}",
            "(/|\\.\\.|[a-z,]|\u{0}){0,8}",
            "(https|ssh|file|ext):{0,2}/{0,2}[a-z@:/.-]{0,20}",
            Just("detect".to_owned()),
            Just(String::new()),
        ];
        prop_oneof![
            text.prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            (0_i64..40).prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
            Just(json!([])),
            Just(json!({"a": [{}]})),
        ]
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let key = prop_oneof![
            prop::sample::select(vec![
                "name",
                "repo",
                "image",
                "backend",
                "local_dir",
                "cpus",
                "memory_mb",
                "no_provision"
            ])
            .prop_map(str::to_owned),
            "\\PC{0,10}",
        ];
        let object = prop::collection::vec((key, value()), 0..9)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect()).to_string().into_bytes())
            .boxed();
        let broken =
            (object.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut text, at, byte)| {
                let at = at.index(text.len());
                text[at] = byte;
                text
            });
        prop_oneof![4 => object, 2 => broken, 1 => prop::collection::vec(any::<u8>(), 0..200)]
    }

    #[test]
    fn fuzz_create_body() {
        shed_testkit::fuzz("create body", &body(), |body| {
            match parse(&body).and_then(|request| check(request, |_| Ok(()))) {
                Ok(checked) => {
                    let text: Value = serde_json::from_slice(&body).unwrap();
                    assert_eq!(text["name"], checked.name.as_str());
                    assert!(
                        checked.repo.is_none_or(|repo| text["repo"] == repo.clone_url() || repo.is_ssh())
                    );
                    assert!(checked.image.is_none_or(|image| !image.is_empty()));
                    assert!(checked.cpus.is_none_or(|cpus| text["cpus"] == cpus.get()));
                }
                Err(error) => {
                    assert_eq!(error.code.status(), 400, "{error:?}");
                    assert!(error.message.len() < 20_000 && !error.message.is_empty());
                }
            }
        });
    }

    #[test]
    fn what_the_document_says_of_a_repository_is_what_is_accepted() {
        let document: Value = serde_json::from_str(&crate::http::document()).unwrap();
        let field = &document["components"]["schemas"]["CreateShedRequest"]["properties"]["repo"];
        let pattern = field["pattern"].as_str().unwrap();
        let strategy = proptest::string::string_regex(pattern.trim_matches(['^', '$'])).unwrap();
        shed_testkit::fuzz("repository", &strategy, |repo: String| {
            assert!(repo.is_empty() || repo.len() > 2048 || repo.parse::<Repo>().is_ok(), "{repo:?}");
        });
    }

    fn headers(types: &[&[u8]]) -> HeaderMap {
        let values = types.iter().map(|text| (CONTENT_TYPE, HeaderValue::from_bytes(text).unwrap()));
        values.collect()
    }

    #[test]
    fn json_is_taken_by_any_of_its_names_and_what_curl_says() {
        for (text, kind) in [
            ("application/json", MediaType::Json),
            ("Application/JSON ; charset=utf-8", MediaType::Json),
            ("application/vnd.shed+json", MediaType::Json),
            ("application/x-www-form-urlencoded", MediaType::Form),
        ] {
            assert_eq!(MediaType::of(&headers(&[text.as_bytes()])), Ok(kind), "{text}");
        }
        assert_eq!(MediaType::of(&headers(&[])), Ok(MediaType::Json));
        for types in [
            &[&b"text/xml"[..]][..],
            &[b"multipart/form-data; boundary=x"],
            &[b"text/plain"],
            &[b""],
            &[b"application/jsonx"],
            &[b"\xff"],
            &[b"application/json", b"application/json"],
        ] {
            let error = MediaType::of(&headers(types)).unwrap_err();
            assert_eq!(error.code, ErrorCode::UnsupportedMediaType, "{types:?}");
            assert!(error.message.contains("application/json"), "{}", error.message);
        }
    }
}
