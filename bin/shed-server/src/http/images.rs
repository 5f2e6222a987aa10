//! List, delete and prune images (spec A.6).

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use camino::Utf8PathBuf;
use shed_api::{ErrorCode, Image, ImageList, ImagePruneReport, ImageSource, PrunedBlobs};
use shed_lifecycle::{
    BlobPrune, DeleteImageError, ImagePrune, KnownImage, ListKnownImagesError, PruneImagesError, PrunedImage,
};
use shed_types::ImageName;

use super::{ApiError, App, extract::path_param, openapi::error_responses, query::Query};

error_responses! {
    /// Failures of a list.
    ListErrors: BackendError
}

error_responses! {
    /// Failures of a delete.
    DeleteErrors: ImageNotFound, ImageInUse, BackendError
}

error_responses! {
    /// Failures of a prune.
    PruneErrors: BackendError
}

/// Describes `{name}` in the path of an image.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes what NamedImage reads")]
pub(super) struct ImageNameParam {
    /// Name of the image: letters, digits, `.`, `_` and `-`, beginning with a letter, a digit or `_`. No image that users
    /// may ask for begins with `_`.
    #[param(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", max_length = 128)]
    name: String,
}

/// The image a path names.
#[derive(Debug)]
pub(super) struct NamedImage(ImageName);

impl<S: Send + Sync> FromRequestParts<S> for NamedImage {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = path_param(parts, state, "name", ErrorCode::InvalidRequest).await?;
        let parsed = name.parse().map_err(|error| ApiError::from_chain(ErrorCode::InvalidRequest, &error));
        parsed.map(Self)
    }
}

/// The query of a prune.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRun {
    /// Say what would be removed, and remove nothing.
    #[param(required = false)]
    dry_run: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for DryRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self { dry_run: Query::of(parts)?.flag("dry_run")? })
    }
}

/// List available images
///
/// Those that the config names, cached or not, and those found in the images directory.
#[utoipa::path(
    get,
    path = "/api/images",
    operation_id = "list_images",
    tag = "images",
    responses((status = 200, description = "The images, sorted by name.", body = ImageList), ListErrors)
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<ImageList>, ApiError> {
    let images = app.sheds.images().await?;
    Ok(Json(ImageList { images: images.into_iter().map(known).collect() }))
}

/// Delete a cached image
///
/// Sheds that were made from it keep what they have of it.
#[utoipa::path(
    delete,
    path = "/api/images/{name}",
    operation_id = "delete_image",
    tag = "images",
    params(ImageNameParam),
    responses((status = 204, description = "The image is no longer cached."), DeleteErrors)
)]
pub(super) async fn delete(
    State(app): State<App>,
    NamedImage(name): NamedImage,
) -> Result<StatusCode, ApiError> {
    app.sheds.delete_image(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete the cached image whose name is `prune`
// The path of the prune hides the one with a parameter from every method.
#[utoipa::path(
    delete,
    path = "/api/images/prune",
    operation_id = "delete_image_prune",
    tag = "images",
    responses((status = 204, description = "The image is no longer cached."), DeleteErrors)
)]
pub(super) async fn delete_prune(State(app): State<App>) -> Result<StatusCode, ApiError> {
    let name = "prune".parse().expect("the last part of the path follows the rules of names");
    delete(State(app), NamedImage(name)).await
}

/// Remove cached images that neither the config nor a shed uses
///
/// The image of sheds that name none is never removed. With the images go the blobs that no remaining one was made from.
#[utoipa::path(
    post,
    path = "/api/images/prune",
    operation_id = "prune_images",
    tag = "images",
    params(DryRun),
    responses(
        (status = 200, description = "What was removed or, in a dry run, would be.", body = ImagePruneReport),
        PruneErrors
    )
)]
pub(super) async fn prune(
    State(app): State<App>,
    DryRun { dry_run }: DryRun,
) -> Result<Json<ImagePruneReport>, ApiError> {
    // Nothing is assumed gone: only a prune of the whole system deletes sheds first.
    let ImagePrune { deleted, kept, failures, blobs } = app.sheds.prune_images(&[].into(), dry_run).await?;
    if deleted.is_empty() && !failures.is_empty() && !has_freed(&blobs) {
        let message = format!("no image could be removed: {}", failures.join("; "));
        return Err(ApiError::new(ErrorCode::BackendError, message));
    }
    let mut notes: Vec<_> =
        kept.into_iter().map(|kept| format!("image `{}` stays: {}", kept.name, kept.reason)).collect();
    let blobs = match blobs {
        BlobPrune::None => None,
        BlobPrune::Removed { report, .. } => {
            (report.files > 0).then_some(PrunedBlobs { files: report.files, bytes: report.bytes })
        }
        BlobPrune::Kept { store, reason } => {
            notes.push(format!("the blobs in {store} stay: {reason}"));
            None
        }
    };
    Ok(Json(ImagePruneReport { deleted: deleted.into_iter().map(pruned).collect(), blobs, notes }))
}

const fn has_freed(blobs: &BlobPrune) -> bool {
    match blobs {
        BlobPrune::None | BlobPrune::Kept { .. } => false,
        BlobPrune::Removed { report, .. } => report.files > 0,
    }
}

fn known(image: KnownImage) -> Image {
    Image {
        name: image.name.to_string(),
        path: image.path.map(Utf8PathBuf::into_string),
        docker_ref: image.reference,
        size_bytes: image.size_bytes,
        source: Some(if image.configured { ImageSource::Config } else { ImageSource::Discovered }),
        cached: image.cached,
        pulling: image.pulling,
    }
}

fn pruned(image: PrunedImage) -> Image {
    Image {
        name: image.name.to_string(),
        path: Some(image.path.into_string()),
        docker_ref: image.reference,
        size_bytes: Some(image.logical_bytes),
        source: None,
        // As it was before the prune (spec, the seed's example).
        cached: true,
        pulling: false,
    }
}

impl From<ListKnownImagesError> for ApiError {
    fn from(error: ListKnownImagesError) -> Self {
        Self::from_chain(ErrorCode::BackendError, &error)
    }
}

impl From<DeleteImageError> for ApiError {
    fn from(error: DeleteImageError) -> Self {
        let code = match &error {
            DeleteImageError::NotFound { .. } => ErrorCode::ImageNotFound,
            DeleteImageError::InUse { .. }
            | DeleteImageError::Default { .. }
            | DeleteImageError::Busy { .. }
            | DeleteImageError::Pulling { .. }
            | DeleteImageError::Creating { .. } => ErrorCode::ImageInUse,
            DeleteImageError::ConfigPath { .. } | DeleteImageError::Remove { .. } => ErrorCode::BackendError,
        };
        Self::from_chain(code, &error)
    }
}

impl From<PruneImagesError> for ApiError {
    fn from(error: PruneImagesError) -> Self {
        let code = match &error {
            PruneImagesError::ListImages(_)
            | PruneImagesError::ListSheds(_)
            | PruneImagesError::UnreadableShed { .. }
            | PruneImagesError::ConfigPath { .. } => ErrorCode::BackendError,
        };
        Self::from_chain(code, &error)
    }
}
