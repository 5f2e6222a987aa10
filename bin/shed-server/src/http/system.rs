//! `GET /api/system/df` and `POST /api/system/prune`: the host's disk (spec A.7).

use std::{collections::BTreeSet, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use shed_api::{
    DiskSize, ErrorCode, FileKind, ImageUsage, PruneAction, PruneKind, PruneReport, PruneScope, PruneTotals,
    PrunedItem, ServerInfo, ShedUsage, SkippedItem, SystemUsage, UsageTotals,
};
use shed_image::SidecarKind;
use shed_lifecycle::{
    FileRole, FileUsage, PruneError, PruneOutcome, PruneRequest, PruneSubject, Pruned, Skipped, Space, Usage,
};
use shed_state::CONSOLE_LOG;
use shed_types::{GoDuration, ImageName};

use super::{
    ApiError, App,
    openapi::{OnlyCommon, error_responses},
    query::{Query, invalid},
    wire,
};

/// Age from which stopped sheds are deleted when a request says nothing (spec A.7).
const DEFAULT_UNTIL: Duration = Duration::from_secs(72 * 60 * 60);

/// What is left of a log that is cut when a request says nothing, or 0 (spec A.7), in bytes.
const DEFAULT_LOG_TAIL: u64 = 5 << 20;

/// The most that is left of a log that is cut (spec A.7), in bytes.
const MAX_LOG_TAIL: u64 = 64 << 20;

/// Stands in every report of a prune.
const ATTRIBUTED: &str = "physical bytes are attributed (stat.Blocks*512); clones and hardlinks, such as each shed's link to \
                          its image, may report bytes that are not reclaimed";

error_responses! {
    /// Failures of a prune.
    PruneErrors: BackendError
}

/// Show what takes disk space
///
/// Images and the blobs they were made from, kernels, initramfs, sheds, and files that belong to no image any more. What could not be looked at is named in
/// the notes.
#[utoipa::path(
    get,
    path = "/api/system/df",
    operation_id = "system_df",
    tag = "system",
    responses((status = 200, description = "What everything takes at this moment.", body = SystemUsage), OnlyCommon)
)]
pub(super) async fn df(State(app): State<App>) -> Json<SystemUsage> {
    Json(usage(app.sheds.usage().await, &app.info))
}

/// Free disk space
///
/// Deletes stopped sheds, cached images that neither the configuration nor a shed uses, blobs that no image needs, and files of conversions that
/// never ended; cuts console logs in place. Running sheds are never deleted. With `dry_run` the report says what would be
/// done, and nothing is. What failed while other things were done is a note that begins with `partial failure:`.
#[utoipa::path(
    post,
    path = "/api/system/prune",
    operation_id = "system_prune",
    tag = "system",
    params(PruneQuery),
    responses((status = 200, description = "What was done or, in a dry run, would be.", body = PruneReport), PruneErrors)
)]
pub(super) async fn prune(
    State(app): State<App>,
    Asked { scopes, request, until }: Asked,
) -> Result<Json<PruneReport>, ApiError> {
    let dry_run = request.dry_run;
    let outcome = app.sheds.prune(request).await?;
    Ok(Json(report(outcome, &app.info, dry_run, scopes, until)))
}

/// The query of a prune.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "its fields describe the query, which `Asked` reads")]
pub(super) struct PruneQuery {
    /// What to look at; repeat it for more than one. Without any: `images`, `instances` and `orphans`.
    #[param(required = false, style = Form, explode, min_items = 1)]
    scope: Vec<PruneScope>,
    /// Say what would be done, and do nothing.
    #[param(required = false, default = false)]
    dry_run: bool,
    /// Stopped sheds that were used within this time stay; `0s` deletes all of them. A duration as Go writes it: numbers
    /// with the units `h`, `m`, `s`, `ms`, `us` and `ns`.
    #[param(
        required = false,
        default = "72h",
        example = "72h",
        pattern = "^(0|([0-9]{1,5}(\\.[0-9]{1,9})?h|[0-9]{1,7}(\\.[0-9]{1,9})?m|[0-9]{1,9}(\\.[0-9]{1,9})?s|[0-9]{1,12}(\\.[0-9]{1,9})?ms|[0-9]{1,15}(\\.[0-9]{1,9})?us|[0-9]{1,18}ns){1,8})$"
    )]
    until: String,
    /// What is left of a log that is cut, in bytes; 0 means 5 MiB, and more than 64 MiB are not left.
    #[param(required = false, minimum = 0, default = 0)]
    log_tail_bytes: i64,
}

/// A checked [`PruneQuery`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// In the order of reports.
    scopes: Vec<PruneScope>,
    request: PruneRequest,
    until: GoDuration,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Self::read(&Query::of(parts)?)
    }
}

impl Asked {
    fn read(query: &Query) -> Result<Self, ApiError> {
        let mut named = BTreeSet::new();
        for text in query.all("scope") {
            let scope = PruneScope::from_wire(text);
            let _again = named
                .insert(scope.ok_or_else(|| {
                    invalid("scope", text, "it must be images, instances, logs or orphans")
                })?);
        }
        if named.is_empty() {
            named.extend(PruneScope::DEFAULT);
        }
        let dry_run = query.flag("dry_run")?;
        let until = match query.one("until")? {
            None => DEFAULT_UNTIL,
            Some(text) => until(text)?,
        };
        let log_tail_bytes = match query.one("log_tail_bytes")? {
            None => DEFAULT_LOG_TAIL,
            Some(text) => log_tail(text)?,
        };
        let scopes: Vec<_> = PruneScope::ALL.into_iter().filter(|scope| named.contains(scope)).collect();
        let request = PruneRequest {
            scopes: scopes.iter().copied().map(lifecycle_scope).collect(),
            dry_run,
            until,
            log_tail_bytes,
        };
        Ok(Self { scopes, request, until: GoDuration::saturating_from(until) })
    }
}

fn until(text: &str) -> Result<Duration, ApiError> {
    let duration: GoDuration =
        text.parse().map_err(|error| invalid("until", text, &format!("it is no duration: {error}")))?;
    duration.to_duration().ok_or_else(|| invalid("until", text, "it must not be negative"))
}

fn log_tail(text: &str) -> Result<u64, ApiError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if !plain {
        return Err(invalid("log_tail_bytes", text, "it must be a number of bytes that is not negative"));
    }
    // An int64, as the document says.
    let bytes: i64 = text.parse().map_err(|_| {
        invalid("log_tail_bytes", text, &format!("it must be a number of bytes up to {}", i64::MAX))
    })?;
    Ok(match bytes.unsigned_abs() {
        0 => DEFAULT_LOG_TAIL,
        bytes => bytes.min(MAX_LOG_TAIL),
    })
}

const fn lifecycle_scope(scope: PruneScope) -> shed_lifecycle::PruneScope {
    match scope {
        PruneScope::Images => shed_lifecycle::PruneScope::Images,
        PruneScope::Instances => shed_lifecycle::PruneScope::Instances,
        PruneScope::Logs => shed_lifecycle::PruneScope::Logs,
        PruneScope::Orphans => shed_lifecycle::PruneScope::Orphans,
    }
}

impl From<PruneError> for ApiError {
    fn from(error: PruneError) -> Self {
        let code = match &error {
            PruneError::Failed { .. } => ErrorCode::BackendError,
            PruneError::ShuttingDown => ErrorCode::ShuttingDown,
        };
        Self::from_chain(code, &error)
    }
}

fn usage(usage: Usage, info: &ServerInfo) -> SystemUsage {
    let [images, sheds, orphans] =
        [usage.images_total(), usage.sheds_total(), usage.orphans_total()].map(size);
    let image = |image: shed_lifecycle::ImageUsage| ImageUsage {
        is_base: image.name == ImageName::configured_base(),
        name: image.name.to_string(),
        path: image.path.into_string(),
        docker_ref: image.reference,
        size: size(image.space),
    };
    let shed = |shed: shed_lifecycle::ShedUsage| ShedUsage {
        total: size(shed.total()),
        name: shed.name.to_string(),
        status: wire::status(shed.status),
        image: shed.image,
        rootfs: file(shed.rootfs),
        console_log: shed.console_log.map(file),
        other_files: shed.other_files.into_iter().map(file).collect(),
    };
    SystemUsage {
        server_name: info.name.clone(),
        backend: info.backend.clone(),
        generated_at: wire::now(),
        images: usage.images.into_iter().map(image).collect(),
        kernel: usage.kernel.map(file),
        initrd: usage.initrd.map(file),
        other_guest_files: usage.other_guest_files.into_iter().map(file).collect(),
        blobs: usage.blobs.map(file),
        sheds: usage.sheds.into_iter().map(shed).collect(),
        orphans: usage.orphans.into_iter().map(file).collect(),
        totals: UsageTotals { images, sheds, orphans, all: [images, sheds, orphans].into_iter().sum() },
        notes: usage.notes,
    }
}

fn file(file: FileUsage) -> shed_api::FileUsage {
    let kind = match file.role {
        FileRole::Rootfs => FileKind::Rootfs,
        FileRole::ConsoleLog => FileKind::ConsoleLog,
        FileRole::Metadata => FileKind::Metadata,
        FileRole::Other => FileKind::Other,
        FileRole::Kernel => FileKind::Kernel,
        FileRole::Initrd => FileKind::Initrd,
        FileRole::Blobs => FileKind::Blobs,
        FileRole::Orphan(SidecarKind::Tmp) => FileKind::Tmp,
        FileRole::Orphan(SidecarKind::Source) => FileKind::Source,
        FileRole::Orphan(SidecarKind::Lock) => FileKind::Lock,
    };
    shed_api::FileUsage { path: file.path.into_string(), size: size(file.space), kind }
}

const fn size(space: Space) -> DiskSize {
    DiskSize { logical_bytes: space.logical_bytes, physical_bytes: space.physical_bytes }
}

fn report(
    outcome: PruneOutcome,
    info: &ServerInfo,
    dry_run: bool,
    scope: Vec<PruneScope>,
    until: GoDuration,
) -> PruneReport {
    let items: Vec<_> = outcome.pruned.into_iter().map(|pruned| item(pruned, dry_run)).collect();
    let freed = items.iter().map(|item| item.freed).sum();
    let failures = outcome.failures.into_iter().map(|failure| format!("partial failure: {failure}"));
    PruneReport {
        dry_run,
        server_name: info.name.clone(),
        scope,
        until: until.to_string(),
        totals: PruneTotals { freed, items: items.len() as u64 },
        items,
        skipped: outcome.skipped.into_iter().map(skipped).collect(),
        notes: std::iter::once(ATTRIBUTED.to_owned()).chain(failures).collect(),
    }
}

fn item(pruned: Pruned, dry_run: bool) -> PrunedItem {
    let action = match pruned.subject {
        PruneSubject::Instance(_)
        | PruneSubject::Image(..)
        | PruneSubject::Blobs(_)
        | PruneSubject::Orphan(..) => PruneAction::Deleted,
        PruneSubject::Log(..) => PruneAction::Truncated,
    };
    let (kind, name, path) = subject(pruned.subject);
    let reason = pruned.reason.map(|reason| reason.text(dry_run));
    PrunedItem { kind, name, path, action, freed: size(pruned.freed), reason }
}

fn skipped(skipped: Skipped) -> SkippedItem {
    let (kind, name, path) = subject(skipped.subject);
    SkippedItem { kind, name, path, reason: skipped.reason.to_string() }
}

fn subject(subject: PruneSubject) -> (PruneKind, Option<String>, Option<String>) {
    match subject {
        PruneSubject::Instance(shed) => (PruneKind::Instance, Some(shed.to_string()), None),
        PruneSubject::Image(name, path) => {
            (PruneKind::Image, Some(name.to_string()), Some(path.into_string()))
        }
        PruneSubject::Blobs(store) => (PruneKind::Blobs, None, Some(store.into_string())),
        PruneSubject::Log(shed, path) => {
            let is_console = path.as_ref().is_none_or(|path| path.file_name() == Some(CONSOLE_LOG));
            let kind = if is_console { PruneKind::ConsoleLog } else { PruneKind::Other };
            (kind, Some(shed.to_string()), path.map(camino::Utf8PathBuf::into_string))
        }
        PruneSubject::Orphan(path, kind) => {
            let kind = match kind {
                SidecarKind::Tmp => PruneKind::Tmp,
                SidecarKind::Source => PruneKind::Source,
                SidecarKind::Lock => PruneKind::Lock,
            };
            (kind, None, Some(path.into_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> Result<Asked, ApiError> {
        Asked::read(&Query::parse(query).unwrap())
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_specification() {
        let asked = asked("").unwrap();
        assert_eq!(asked.scopes, [PruneScope::Images, PruneScope::Instances, PruneScope::Orphans]);
        assert_eq!(asked.until.to_string(), "72h0m0s");
        assert_eq!(asked.request.until, DEFAULT_UNTIL);
        assert_eq!(asked.request.log_tail_bytes, 5 << 20);
        assert!(!asked.request.dry_run);
    }

    #[test]
    fn a_tail_is_the_default_for_zero_and_has_a_limit() {
        let tail =
            |text: &str| asked(&format!("log_tail_bytes={text}")).map(|asked| asked.request.log_tail_bytes);
        assert_eq!(tail("0"), Ok(5 << 20));
        assert_eq!(tail("1"), Ok(1));
        for large in ["67108864", "67108865", "9223372036854775807"] {
            assert_eq!(tail(large), Ok(64 << 20), "{large}");
        }
        assert_eq!(tail("9223372036854775808").unwrap_err().code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn scopes_have_one_order_and_count_once() {
        let scopes = asked("scope=orphans&scope=logs&scope=images&scope=logs").unwrap().scopes;
        assert_eq!(scopes, [PruneScope::Images, PruneScope::Logs, PruneScope::Orphans]);
    }

    #[test]
    fn every_value_that_is_not_to_the_letter_is_refused() {
        for query in [
            "scope",
            "scope=",
            "scope=all",
            "scope=Images",
            "scope=images,logs",
            "scope=images&scope=x",
            "dry_run=",
            "dry_run=1",
            "dry_run=yes",
            "dry_run=true&dry_run=true",
            "until=",
            "until=72",
            "until=-1s",
            "until=-0.000000001s",
            "until=1d",
            "until=%201h",
            "until=3000000h",
            "until=1h&until=1h",
            "log_tail_bytes=",
            "log_tail_bytes=-1",
            "log_tail_bytes=-0",
            "log_tail_bytes=%2B1",
            "log_tail_bytes=01",
            "log_tail_bytes=1.0",
            "log_tail_bytes=1k",
            "log_tail_bytes=1&log_tail_bytes=1",
        ] {
            let error = asked(query).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{query}");
        }
    }

    #[test]
    fn fuzz_prune_query() {
        let value =
            "([a-z0-9]{0,9}|true|images|logs|[-+]?[0-9.]{1,22}(h|m|s|ms|us|\u{b5}s|ns)?|%[0-9a-f]{2}|\\PC)";
        let strategy = format!("((scope|dry_run|until|log_tail_bytes|x)={value}{{0,3}}&?){{0,5}}");
        shed_testkit::fuzz("query of a prune", &strategy.as_str(), |text: String| match asked(&text) {
            Ok(asked) => {
                assert!(!asked.scopes.is_empty() && asked.scopes.len() == asked.request.scopes.len());
                assert!((1..=MAX_LOG_TAIL).contains(&asked.request.log_tail_bytes));
                assert_eq!(asked.until.to_string().parse(), Ok(asked.until));
            }
            Err(error) => assert_eq!(error.code, ErrorCode::InvalidRequest, "{text}"),
        });
    }

    proptest::proptest! {
        /// The pattern of the document is read from the document: it may not allow what is refused.
        #[test]
        fn every_limit_that_the_document_allows_is_accepted(text in documented_until().as_str()) {
            proptest::prop_assert!(until(&text).is_ok(), "{}", text);
        }
    }

    fn documented_until() -> String {
        let document: serde_json::Value = serde_json::from_str(&crate::http::document()).unwrap();
        let parameters = document["paths"]["/api/system/prune"]["post"]["parameters"].as_array().unwrap();
        let until = parameters.iter().find(|parameter| parameter["name"] == "until").unwrap();
        let pattern = until["schema"]["pattern"].as_str().unwrap();
        pattern.trim_start_matches('^').trim_end_matches('$').to_owned()
    }
}
